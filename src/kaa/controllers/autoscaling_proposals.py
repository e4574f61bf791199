"""What each kind of metric asks for: how it is read, what it is called, and how a status shows it.

Source: kubernetes pkg/controller/podautoscaler/horizontal.go (computeStatusFor…); names and texts are upstream's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kaa.api import quantity, selectors
from kaa.api.selectors import Selector
from kaa.api.types.autoscaling_v1 import Scale
from kaa.api.types.autoscaling_v2 import (
    ContainerResourceMetricStatus,
    ExternalMetricSource,
    ExternalMetricStatus,
    HorizontalPodAutoscaler,
    MetricIdentifier,
    MetricSpec,
    MetricStatus,
    MetricTarget,
    MetricValueStatus,
    ObjectMetricSource,
    ObjectMetricStatus,
    PodsMetricSource,
    PodsMetricStatus,
    ResourceMetricStatus,
)
from kaa.api.types.core_v1 import Pod
from kaa.api.values import Quantity

from .autoscaling_metrics import MetricsSource
from .autoscaling_replicas import NoMetrics, PodMetric, Tolerance, Usage, by_ratio, by_share, by_utilization, by_value
from .served import Served


@dataclass(frozen=True, slots=True)
class Proposal:
    """Replicas that one metric asks for, the metric's name in events, and its line of the status."""

    replicas: int
    metric: str
    status: MetricStatus


@dataclass(frozen=True, slots=True)
class Target:
    """What is scaled, as every metric sees it."""

    namespace: str
    scale: Scale
    selector: Selector
    pods: Sequence[Pod]
    tolerance: Tolerance
    now: float

    @property
    def wanted(self) -> int:
        return self.scale.spec.replicas or 0

    @property
    def standing(self) -> int:
        return self.scale.status.replicas if self.scale.status is not None else 0


class Proposals:
    """Asks the metrics of an autoscaler."""

    def __init__(self, metrics: MetricsSource, served: Served) -> None:
        self._metrics, self._served = metrics, served

    async def of(
        self,
        spec: MetricSpec,
        hpa: HorizontalPodAutoscaler,
        scale: Scale,
        selector: Selector,
        pods: Sequence[Pod],
        tolerance: Tolerance,
        now: float,
    ) -> Proposal:
        """Raises NoMetrics with the text for the whole; its cause, if any, is that of this metric alone."""
        target = Target(hpa.metadata.namespace or "", scale, selector, pods, tolerance, now)
        if spec.resource is not None:
            what = f"{spec.resource.name} resource metric"
        elif spec.container_resource is not None:
            what = f"{spec.container_resource.name} container metric"
        elif spec.external is not None:
            what = f"{spec.external.metric.name} external metric"
        else:
            what = "pods metric" if spec.pods is not None else "object metric"
        try:
            return await self._of(spec, target)
        except NoMetrics as err:
            raise NoMetrics(f"failed to get {what} value: {err}") from err

    async def _of(self, spec: MetricSpec, target: Target) -> Proposal:
        if (resource := spec.resource) is not None:
            usage, text, value = await self._resource(resource.name, "", resource.target, target)
            status = MetricStatus(type=spec.type, resource=ResourceMetricStatus(name=resource.name, current=value))
            return Proposal(usage.replicas, text, status)
        if (of := spec.container_resource) is not None:
            usage, text, value = await self._resource(of.name, of.container, of.target, target)
            held = ContainerResourceMetricStatus(name=of.name, container=of.container, current=value)
            return Proposal(usage.replicas, text, MetricStatus(type=spec.type, container_resource=held))
        if spec.pods is not None:
            return await self._pods(spec.pods, target)
        if spec.object is not None:
            return await self._object(spec.object, target)
        if spec.external is not None:
            return await self._external(spec.external, target)
        raise NoMetrics(f'unknown metric source type "{spec.type}"')

    async def _resource(
        self, resource: str, container: str, wanted: MetricTarget, target: Target
    ) -> tuple[Usage, str, MetricValueStatus]:
        raw = wanted.average_value is not None
        if not raw and wanted.average_utilization is None:
            raise NoMetrics(
                "invalid resource metric source: neither an average utilization target nor an average value (usage)"
                " target was set"
            )
        try:
            found = await self._read_resource(resource, container, target)
            if wanted.average_value is not None:
                amount = quantity.millis(wanted.average_value)
                usage = by_value(
                    target.wanted,
                    amount,
                    target.pods,
                    found,
                    now=target.now,
                    resource=resource,
                    tolerance=target.tolerance,
                )
                return usage, f"{resource} resource", MetricValueStatus(average_value=_shown(usage.average))
            usage = by_utilization(
                target.wanted,
                wanted.average_utilization or 1,
                target.pods,
                found,
                resource=resource,
                container=container,
                now=target.now,
                tolerance=target.tolerance,
            )
        except NoMetrics as err:
            raise NoMetrics(f"failed to get {resource} {'usage' if raw else 'utilization'}: {err}") from err.__cause__
        kind = "container resource" if container else "resource"
        text = f"{resource} {kind} utilization (percentage of request)"
        return usage, text, MetricValueStatus(average_utilization=usage.percent, average_value=_shown(usage.average))

    async def _read_resource(self, resource: str, container: str, target: Target) -> dict[str, PodMetric]:
        try:
            found = await self._metrics.resource(resource, target.namespace, str(target.selector), container)
        except NoMetrics as err:
            raise NoMetrics(f"unable to get metrics for resource {resource}: {err}") from err.__cause__
        return dict(found)

    async def _pods(self, source: PodsMetricSource, target: Target) -> Proposal:
        name, wanted = source.metric.name, quantity.millis(source.target.average_value or "1")
        try:
            found = await self._metrics.pods(name, target.namespace, str(target.selector), _selector_of(source.metric))
        except NoMetrics as err:
            raise NoMetrics(f"unable to get metric {name}: {err}") from err.__cause__
        usage = by_value(target.wanted, wanted, target.pods, dict(found), now=target.now, tolerance=target.tolerance)
        value = MetricValueStatus(average_value=_shown(usage.average))
        status = MetricStatus(type="Pods", pods=PodsMetricStatus(metric=source.metric, current=value))
        return Proposal(usage.replicas, f"pods metric {name}", status)

    async def _object(self, source: ObjectMetricSource, target: Target) -> Proposal:
        name, described = source.metric.name, source.described_object
        row = self._served.by_kind(described.api_version or "v1", described.kind)
        plural = (f"{row.plural}.{row.group}" if row.group else row.plural) if row is not None else described.kind
        try:
            usage = await self._metrics.object(name, target.namespace, described, plural, _selector_of(source.metric))
        except NoMetrics as err:
            where = f"{described.kind} {target.namespace}/{described.name}"
            raise NoMetrics(f"unable to get metric {name}: {err} on {where}") from err.__cause__
        replicas, value, each = _shared(usage, source.target, target, "object")
        held = ObjectMetricStatus(metric=source.metric, described_object=described, current=value)
        text = external_name(source.metric) if each else f"{described.kind} metric {name}"
        return Proposal(replicas, text, MetricStatus(type="Object", object=held))

    async def _external(self, source: ExternalMetricSource, target: Target) -> Proposal:
        metric = source.metric
        try:
            usage = sum(await self._metrics.external(metric.name, target.namespace, _selector_of(metric)))
        except NoMetrics as err:
            where = f"{target.namespace}/{metric.name}/{selectors.as_go(metric.selector)}"
            raise NoMetrics(f"unable to get external metric {where}: {err}") from err.__cause__
        replicas, value, _ = _shared(usage, source.target, target, "external")
        held = ExternalMetricStatus(metric=metric, current=value)
        return Proposal(replicas, external_name(metric), MetricStatus(type="External", external=held))


def _shared(usage: int, wanted: MetricTarget, target: Target, kind: str) -> tuple[int, MetricValueStatus, bool]:
    """Replicas by one number for all, how a status shows it, and whether it was a share for each that was wanted."""
    if wanted.average_value is not None:
        share = by_share(target.standing, usage, quantity.millis(wanted.average_value), target.tolerance)
        return share.replicas, MetricValueStatus(average_value=_shown(share.average)), True
    if wanted.value is None:
        raise NoMetrics(f"invalid {kind} metric source: neither a value target nor an average value target was set")
    ratio = usage / quantity.millis(wanted.value)
    replicas = by_ratio(target.wanted, ratio, target.pods, target.tolerance)
    return replicas, MetricValueStatus(value=_shown(usage)), False


def external_name(metric: MetricIdentifier) -> str:
    return f"external metric {metric.name}({selectors.as_go(metric.selector)})"


def _selector_of(metric: MetricIdentifier) -> str:
    return str(selectors.from_label_selector(metric.selector)) if metric.selector is not None else ""


def _shown(millis: int) -> Quantity:
    return quantity.format_millis(millis)
