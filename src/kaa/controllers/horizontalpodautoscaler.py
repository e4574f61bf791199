"""HorizontalPodAutoscalers: as many replicas as the metrics ask for, within the limits that are set.

A look every 15 seconds: read the target's scale, ask each metric for a number (``autoscaling_replicas``), take the greatest,
let windows and rates have their say (``autoscaling_behavior``), and write the scale. What was recommended and done lately is
remembered in this process alone, as upstream does.

Source: API concepts "Horizontal Pod Autoscaling"; kubernetes pkg/controller/podautoscaler/horizontal.go; texts are upstream's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from msgspec.structs import replace

from kaa.api import quantity, selectors
from kaa.api.errors import ApiError, NotFound
from kaa.api.resources import Resource
from kaa.api.selectors import Selector, SelectorError
from kaa.api.types.autoscaling_v1 import Scale
from kaa.api.types.autoscaling_v2 import (
    HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerStatus,
    HPAScalingRules,
    MetricSpec,
    MetricStatus,
)
from kaa.api.types.core_v1 import Pod
from kaa.api.values import Time
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .autoscaling_behavior import Memory, Stamped, decide
from .autoscaling_metrics import ApiMetrics, MetricsSource
from .autoscaling_proposals import Proposal, Proposals
from .autoscaling_replicas import NoMetrics, Tolerance
from .controller import Context, Controller
from .served import Served

log = structlog.get_logger(__name__)

SYNC_S = 15.0
ABLE, ACTIVE, LIMITED = "AbleToScale", "ScalingActive", "ScalingLimited"
REASONS = {
    "Resource": "FailedGetResourceMetric",
    "ContainerResource": "FailedGetContainerResourceMetric",
    "Pods": "FailedGetPodsMetric",
    "Object": "FailedGetObjectMetric",
    "External": "FailedGetExternalMetric",
}


class Unscalable(Exception):
    """Nothing more can be done in this look; conditions and events say why."""


@dataclass(slots=True)
class Look:
    """What one look found out, on its way to a status."""

    hpa: HorizontalPodAutoscaler
    now: str
    conditions: list[HorizontalPodAutoscalerCondition] = field(default_factory=list)
    metrics: tuple[MetricStatus, ...] = ()
    current: int | None = None
    desired: int = 0
    scaled: bool = False

    def say(self, type: str, value: bool, reason: str, message: str) -> None:
        """Set a condition; it keeps its time unless its value changes."""
        status = "True" if value else "False"
        old = next((c for c in self.conditions if c.type == type), None)
        since = old.last_transition_time if old is not None and old.status == status else Time(self.now)
        new = HorizontalPodAutoscalerCondition(
            type=type, status=status, reason=reason, message=message, last_transition_time=since
        )
        self.conditions = [new if c is old else c for c in self.conditions] if old else [*self.conditions, new]

    def status(self) -> HorizontalPodAutoscalerStatus:
        old = self.hpa.status
        return HorizontalPodAutoscalerStatus(
            conditions=tuple(self.conditions),
            current_metrics=self.metrics or None,
            current_replicas=self.current,
            desired_replicas=self.desired,
            last_scale_time=Time(self.now) if self.scaled else old.last_scale_time if old is not None else None,
            observed_generation=old.observed_generation if old is not None else None,
        )


def tolerance_of(hpa: HorizontalPodAutoscaler) -> Tolerance:
    """How far from its target usage may be: what the behaviour says, or a tenth."""

    def of(rules: HPAScalingRules | None) -> float:
        given = rules.tolerance if rules is not None else None
        return Tolerance().up if given is None else float(quantity.parse(given))

    behavior = hpa.spec.behavior
    return Tolerance(of(behavior.scale_down), of(behavior.scale_up)) if behavior is not None else Tolerance()


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the metrics asked for together. ``replicas`` is None when nothing may be done."""

    replicas: int | None
    metric: str
    error: str


def gather(proposals: Sequence[Proposal | NoMetrics], current: int) -> Gathered:
    """The greatest of the proposals. When some metrics failed, the others may scale up, but never down."""
    made = [each for each in proposals if isinstance(each, Proposal)]
    failed = [each for each in proposals if isinstance(each, NoMetrics)]
    error = ""
    if failed:
        error = f"invalid metrics ({len(failed)} invalid out of {len(proposals)}), first error is: {failed[0]}"
    best: Proposal | None = None
    for each in made:
        if best is None or best.replicas == 0 or each.replicas > best.replicas:
            best = each
    if best is None or (failed and best.replicas < current):
        return Gathered(None, "", error)
    return Gathered(best.replicas, best.metric, error)


class HorizontalPodAutoscalers(Controller[Key]):
    """Keys are autoscalers. ``metrics`` is where usage is read: the metrics APIs, unless a test says otherwise."""

    name = "horizontal-pod-autoscaler"

    def __init__(self, context: Context, served: Served, metrics: MetricsSource | None = None) -> None:
        super().__init__(context)
        self.served = served
        self.pods = self.watch(Pod)
        self.autoscalers = self.watch(HorizontalPodAutoscaler, self._on_autoscaler)
        self.proposals = Proposals(metrics or ApiMetrics(self.client), served)
        self._memories: dict[Key, Memory] = {}
        self._selectors: dict[Key, Selector] = {}

    def _on_autoscaler(self, old: HorizontalPodAutoscaler | None, new: HorizontalPodAutoscaler | None) -> None:
        if new is None:
            assert old is not None
            self._memories.pop(key_of(old), None)
            self._selectors.pop(key_of(old), None)
        elif old is None or old.spec != new.spec or old.metadata.uid != new.metadata.uid:
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> float | None:
        hpa = self.autoscalers.by_key(key)
        if hpa is None or hpa.metadata.deletion_timestamp is not None:
            return None
        look = Look(hpa, self.now(), list(hpa.status.conditions) if hpa.status else [])
        if hpa.status is not None:
            look.current, look.desired = hpa.status.current_replicas, hpa.status.desired_replicas
        try:
            await self._look(key, look)
        except Unscalable as err:
            log.debug("autoscaler cannot scale", autoscaler=str(key), why=str(err))
        await self._write(look)
        return SYNC_S

    async def _write(self, look: Look) -> None:
        status = look.status()
        if status == look.hpa.status:
            return
        try:
            written = await self.client.update_status(replace(look.hpa, status=status))
        except NotFound:
            return
        await self.autoscalers.shows(written.metadata.resource_version)

    async def _look(self, key: Key, look: Look) -> None:
        hpa, row = look.hpa, self._row(look)
        scale = await self._scale(look, row)
        current = scale.spec.replicas or 0
        memory = self._memories.setdefault(key, Memory([Stamped(self.clock.now(), current)]))
        least = 1 if hpa.spec.min_replicas is None else hpa.spec.min_replicas
        why = ""
        if not current and least:
            text = "scaling is disabled since the replica count of the target is zero"
            look.say(ACTIVE, False, "ScalingDisabled", text)
            wanted = 0
        elif current > hpa.spec.max_replicas:
            wanted, why = hpa.spec.max_replicas, "Current number of replicas above Spec.MaxReplicas"
        elif current < least:
            wanted, why = least, "Current number of replicas below Spec.MinReplicas"
        else:
            wanted, why = await self._by_metrics(key, look, scale, memory, least)
        look.current, look.desired = current, wanted
        if wanted != current:
            await self._rescale(look, row, scale, wanted, why, memory)

    # ---------------------------------------------------------------------------------------------- the target

    def _row(self, look: Look) -> Resource[Any]:
        target = look.hpa.spec.scale_target_ref
        version = target.api_version or "v1"
        row = self.served.by_kind(version, target.kind)
        if row is None:
            raise self._no_scale(look, f'no matches for kind "{target.kind}" in group "{version.rpartition("/")[0]}"')
        return row

    async def _scale(self, look: Look, row: Resource[Any]) -> Scale:
        target, namespace = look.hpa.spec.scale_target_ref, look.hpa.metadata.namespace
        try:
            scale = await self.client.call(row, target.name, "scale", None, Scale, namespace, verb="get")
        except (ApiError, OSError, TimeoutError) as err:
            raise self._no_scale(look, str(err)) from err
        text = "the HPA controller was able to get the target's current scale"
        look.say(ABLE, True, "SucceededGetScale", text)
        return scale

    def _no_scale(self, look: Look, error: str) -> Unscalable:
        self.events.event(look.hpa, "Warning", "FailedGetScale", error)
        text = f"the HPA controller was unable to get the target's current scale: {error}"
        look.say(ABLE, False, "FailedGetScale", text)
        return Unscalable(error)

    async def _rescale(
        self, look: Look, row: Resource[Any], scale: Scale, wanted: int, why: str, memory: Memory
    ) -> None:
        hpa, current = look.hpa, scale.spec.replicas or 0
        name = hpa.spec.scale_target_ref.name
        asked = replace(scale, spec=replace(scale.spec, replicas=wanted))
        try:
            await self.client.call(row, name, "scale", asked, Scale, hpa.metadata.namespace, verb="update")
        except (ApiError, OSError, TimeoutError) as err:
            text = f"New size: {wanted}; reason: {why}; error: {err}"
            self.events.event(hpa, "Warning", "FailedRescale", text)
            look.say(
                ABLE, False, "FailedUpdateScale", f"the HPA controller was unable to update the target scale: {err}"
            )
            look.desired = hpa.status.desired_replicas if hpa.status is not None else 0
            raise Unscalable(str(err)) from err
        text = f"the HPA controller was able to update the target scale to {wanted}"
        look.say(ABLE, True, "SucceededRescale", text)
        self.events.event(hpa, "Normal", "SuccessfulRescale", f"New size: {wanted}; reason: {why}")
        look.scaled = True
        behavior = hpa.spec.behavior
        rules = (behavior.scale_up, behavior.scale_down) if behavior is not None else ()
        longest = max((p.period_seconds for r in rules if r is not None for p in r.policies), default=0)
        if longest:
            memory.scaled(self.clock.now(), current, wanted, longest)

    # ---------------------------------------------------------------------------------------------- the metrics

    async def _by_metrics(self, key: Key, look: Look, scale: Scale, memory: Memory, least: int) -> tuple[int, str]:
        """The number to set, and why."""
        hpa, current = look.hpa, scale.spec.replicas or 0
        found = await self._gather(key, look, scale)
        if found.replicas is None:
            look.current = current
            self.events.event(hpa, "Warning", "FailedComputeMetricsReplicas", found.error)
            raise Unscalable(found.error)
        metric, desired = found.metric, found.replicas
        why = f"{metric} above target" if desired > current else "All metrics below target"
        verdict = decide(
            memory,
            hpa.spec.behavior,
            current=current,
            desired=desired,
            least=least,
            most=hpa.spec.max_replicas,
            now=self.clock.now(),
        )
        look.say(ABLE, True, *verdict.able)
        look.say(LIMITED, verdict.is_limited, *verdict.limited)
        return verdict.replicas, why

    async def _gather(self, key: Key, look: Look, scale: Scale) -> Gathered:
        selector = self._selector(key, look, scale)
        pods = self.pods.in_namespace(key.namespace, selector)
        self._refuse_ambiguity(key, look, selector, pods)
        proposals: list[Proposal | NoMetrics] = []
        failed: MetricSpec | None = None
        for spec in look.hpa.spec.metrics:
            proposal = await self._propose(look, spec, scale, selector, pods)
            if isinstance(proposal, NoMetrics) and failed is None:
                failed = spec
            proposals.append(proposal)
        look.metrics = tuple(each.status if isinstance(each, Proposal) else MetricStatus(type="") for each in proposals)
        current = scale.spec.replicas or 0
        found = gather(proposals, current)
        if found.replicas is not None:
            text = f"the HPA was able to successfully calculate a replica count from {found.metric}"
            look.say(ACTIVE, True, "ValidMetricFound", text)
        elif failed is not None:
            first = next(each for each in proposals if isinstance(each, NoMetrics))
            text = f"the HPA was unable to compute the replica count: {first.__cause__ or first}"
            look.say(ACTIVE, False, REASONS.get(failed.type, "InvalidMetricSourceType"), text)
        return found

    async def _propose(
        self, look: Look, spec: MetricSpec, scale: Scale, selector: Selector, pods: Sequence[Pod]
    ) -> Proposal | NoMetrics:
        try:
            return await self.proposals.of(
                spec, look.hpa, scale, selector, pods, tolerance_of(look.hpa), self.clock.now()
            )
        except NoMetrics as err:
            reason = REASONS.get(spec.type, "InvalidMetricSourceType")
            self.events.event(look.hpa, "Warning", reason, str(err.__cause__ or err))
            return err

    def _selector(self, key: Key, look: Look, scale: Scale) -> Selector:
        text = (scale.status.selector if scale.status is not None else None) or ""
        if not text:
            self.events.event(look.hpa, "Warning", "SelectorRequired", "selector is required")
            look.say(ACTIVE, False, "InvalidSelector", "the HPA target's scale is missing a selector")
            raise Unscalable("selector is required")
        try:
            found = self._selectors[key] = selectors.parse_labels(text)
        except SelectorError as err:
            text = f"couldn't convert selector into a corresponding internal selector object: {err}"
            self.events.event(look.hpa, "Warning", "InvalidSelector", text)
            look.say(ACTIVE, False, "InvalidSelector", text)
            raise Unscalable(text) from err
        return found

    def _refuse_ambiguity(self, key: Key, look: Look, selector: Selector, pods: Sequence[Pod]) -> None:
        """Two autoscalers over the same pods would undo each other's work: neither does any."""
        labels = [pod.metadata.labels for pod in pods]
        over = [
            other
            for other, theirs in self._selectors.items()
            if other.namespace == key.namespace and (other == key or any(map(theirs.matches, labels)))
        ]
        if len(over) > 1:
            names = " ".join(f"{{{each.namespace} {each.name}}}" for each in sorted(over))
            text = f"pods by selector {selector} are controlled by multiple HPAs: [{names}]"
            self.events.event(look.hpa, "Warning", "AmbiguousSelector", text)
            look.say(ACTIVE, False, "AmbiguousSelector", text)
            raise Unscalable(text)
