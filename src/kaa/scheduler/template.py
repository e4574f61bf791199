"""What the scheduler reads of a pod, worked out once for all pods that are alike.

The idea: pods of one workload differ only in what scheduling does not look at (name, uid, token volume). A ``Template`` is
the rest; templates are interned, so "same template" is "same object", and counts of pods are kept per template.

Source: kubernetes/kubernetes pkg/api/v1/resource helpers (PodRequests), pkg/scheduler/framework PodInfo.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from weakref import WeakValueDictionary

import msgspec
from msgspec.structs import replace

from kaa.api import quantity
from kaa.api.selectors import NOTHING, Requirement, Selector, from_label_selector
from kaa.api.types.core_v1 import (
    Container,
    ContainerStatus,
    Pod,
    PodAffinityTerm,
    PodStatus,
    ResourceRequirements,
    Volume,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.volume_match import claim_names

#: What a container that asks for nothing is taken to use when nodes are scored (upstream: schedutil).
DEFAULT_CPU_MILLIS = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024
#: What ``spec.resources`` may set for a whole pod.
_POD_LEVEL = ("cpu", "memory")

Amounts = dict[str, int]  #: {resource: cpu in millis, all others in whole units}


@dataclass(frozen=True, slots=True)
class Term:
    """One pod affinity term. Matches pods by labels, in ``namespaces`` or those whose labels ``namespace_selector`` takes."""

    topology_key: str
    selector: Selector
    namespaces: frozenset[str]
    namespace_selector: Selector
    weight: int = 0

    def matches(self, template: Template, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
        """``namespaces``: {namespace: its labels}."""
        return self.covers(template.namespace, namespaces) and self.selector.matches(template.labels)

    def covers(self, namespace: str, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
        return namespace in self.namespaces or self.namespace_selector.matches(namespaces.get(namespace, {}))


@dataclass(frozen=True, slots=True)
class HostPort:
    ip: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Disk:
    """A device that pods of one node share only if the kind allows reading together, and all only read."""

    kind: str
    name: tuple[str, ...]
    read_only: bool


_RESIZES = ("PodResizePending", "PodResizeInProgress")


@dataclass(eq=False, slots=True, weakref_slot=True)
class Template:
    """All that scheduling asks of a pod. Compared by identity: ``Templates.of`` gives alike pods the same one."""

    key: bytes
    pod: Pod  #: one of the pods, for fields that only one plugin reads
    asked_node: str
    namespace: str
    labels: Mapping[str, str]
    priority: int
    terminating: bool
    requests: Amounts
    scored_cpu_millis: int  #: the request, or what is assumed without one
    scored_memory_bytes: int
    host_ports: tuple[HostPort, ...]
    images: tuple[str, ...]
    affinity: tuple[Term, ...]
    anti_affinity: tuple[Term, ...]
    preferred: tuple[Term, ...]  #: of anti-affinity with negative weight
    affine: bool  #: any of the four above
    claims: tuple[tuple[str, bool], ...]  #: names of claims, and whether each is made for this pod alone
    disks: tuple[Disk, ...]  #: devices that may not be shared


class Templates:
    """The templates in use: one goes when the last pod of it does."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[bytes, Template] = WeakValueDictionary()
        self._encode = msgspec.msgpack.Encoder(enc_hook=str).encode

    def of(self, pod: Pod, asked_node: str = "") -> Template:
        """``asked_node``: the node that a pod not yet placed asks for by name. Where a placed pod is, is no wish."""
        pod = while_resizing(pod)
        key = self._encode((asked_node, _telling(pod)))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = build(pod, key, asked_node)
        return found


def _telling(pod: Pod) -> tuple[object, ...]:
    """Every field that any plugin reads. A field read by a plugin and missing here would be a bug."""
    spec, meta = pod.spec, pod.metadata
    owner = next(((o.kind, o.name) for o in meta.owner_references if o.controller), None)
    return (
        meta.namespace,
        sorted(meta.labels.items()),
        meta.deletion_timestamp is not None,
        owner,
        spec.affinity,
        sorted(spec.node_selector.items()) if spec.node_selector else None,
        spec.tolerations,
        spec.topology_spread_constraints,
        spec.priority,
        spec.preemption_policy,
        spec.overhead,
        spec.resources,
        spec.host_network,
        [(c.image, c.ports, c.resources) for c in spec.containers],
        [(c.image, c.ports, c.resources, c.restart_policy) for c in spec.init_containers],
        [_storage(v, meta) for v in spec.volumes],
        _device_claims(pod),
    )


def _device_claims(pod: Pod) -> object:
    """Whether a pod may use a claim depends on who it is; where it is placed already, nothing depends on its claims."""
    if not pod.spec.resource_claims or pod.spec.node_name:
        return None
    return pod.metadata.uid, pod.spec.resource_claims, pod.status.resource_claim_statuses


def _storage(volume: Volume, meta: ObjectMeta) -> object:
    """What of a volume concerns where its pod may go; False for the others."""
    if volume.persistent_volume_claim is not None:
        return volume.persistent_volume_claim
    if volume.ephemeral is not None:
        return volume.name, meta.name, meta.uid
    return volume.csi or volume.gce_persistent_disk or volume.aws_elastic_block_store or volume.iscsi or volume.rbd


def build(pod: Pod, key: bytes, asked_node: str = "") -> Template:
    requests = pod_requests(pod)
    scored = pod_requests(pod, assumed={"cpu": DEFAULT_CPU_MILLIS, "memory": DEFAULT_MEMORY_BYTES})
    affinity, anti, preferred = _terms(pod)
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    return Template(
        key=key,
        pod=pod,
        asked_node=asked_node,
        namespace=pod.metadata.namespace or "",
        labels=pod.metadata.labels,
        priority=pod.spec.priority or 0,
        terminating=pod.metadata.deletion_timestamp is not None,
        requests={name: amount for name, amount in requests.items() if amount},
        scored_cpu_millis=scored["cpu"],
        scored_memory_bytes=scored["memory"],
        host_ports=tuple(_host_ports(pod)),
        images=tuple(normal_image(c.image or "") for c in containers),
        affinity=affinity,
        anti_affinity=anti,
        preferred=preferred,
        affine=bool(affinity or anti or preferred),
        claims=claim_names(pod),
        disks=tuple(_disks(pod)),
    )


# ------------------------------------------------------------------------------------------------------- requests


def amounts_of(quantities: Mapping[str, str]) -> Amounts:
    return {name: quantity.millis(q) if name == "cpu" else quantity.whole(q) for name, q in quantities.items()}


def pod_requests(pod: Pod, *, assumed: Mapping[str, int] | None = None) -> Amounts:
    """What a pod needs at its greediest moment: all containers and sidecars together, or an init container with the
    sidecars started before it; plus overhead. ``assumed`` stands in for what a container does not ask for.
    """
    running: Amounts = {}
    for container in pod.spec.containers:
        _add(running, _requests(container, assumed))
    sidecars: Amounts = {}
    starting: Amounts = {}
    for container in pod.spec.init_containers:
        wanted = _requests(container, assumed)
        if container.restart_policy == "Always":
            _add(running, wanted)
            _add(sidecars, wanted)
            wanted = dict(sidecars)
        else:
            _add(wanted, sidecars)
        _raise_to(starting, wanted)
    _raise_to(running, starting)
    running.update(_pod_level(pod.spec.resources))
    _add(running, amounts_of(pod.spec.overhead))
    return running


def while_resizing(pod: Pod) -> Pod:
    """A pod whose resources are being changed in place, with what may be used until that is done: the more of what it
    has and what it wants. What its node will never give does not count.
    """
    conditions = {c.type: c.reason for c in pod.status.conditions if c.type in _RESIZES}
    if not conditions:
        return pod
    wants = conditions.get("PodResizePending") != "Infeasible"
    known = {one.name: one for one in (*pod.status.container_statuses, *pod.status.init_container_statuses)}

    def sized(containers: tuple[Container, ...]) -> tuple[Container, ...]:
        return tuple(_sized(one, known.get(one.name), wants=wants) for one in containers)

    spec = pod.spec
    made = replace(
        spec,
        containers=sized(spec.containers),
        init_containers=sized(spec.init_containers),
        resources=_most(spec.resources, pod.status, wants=wants) if spec.resources is not None else None,
    )
    return replace(pod, spec=made)


def _sized(container: Container, status: ContainerStatus | None, *, wants: bool) -> Container:
    made = _most(container.resources, status, wants=wants)
    return container if made is container.resources else replace(container, resources=made)


def _most(
    wanted: ResourceRequirements, status: ContainerStatus | PodStatus | None, *, wants: bool
) -> ResourceRequirements:
    """Resources with the most that their requests may come to, by what was given and what is there."""
    if status is None or not status.allocated_resources:
        return wanted
    given = (status.allocated_resources, status.resources.requests if status.resources is not None else {})
    most: dict[str, str] = dict(wanted.requests) if wants else {}
    for source in given:
        for name, amount in source.items():
            if name not in most or quantity.parse(amount) > quantity.parse(most[name]):
                most[name] = amount
    return replace(wanted, requests=most)


def _requests(container: Container, assumed: Mapping[str, int] | None) -> Amounts:
    asked = amounts_of(container.resources.requests)
    return {**assumed, **asked} if assumed else asked


def _pod_level(resources: ResourceRequirements | None) -> Amounts:
    """``spec.resources``: a request set for the whole pod replaces the sum over its containers."""
    if resources is None:
        return {}
    asked = amounts_of(resources.requests)
    return {name: n for name, n in asked.items() if name in _POD_LEVEL or name.startswith("hugepages-")}


def _add(total: Amounts, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _raise_to(total: Amounts, least: Mapping[str, int]) -> None:
    for name, amount in least.items():
        total[name] = max(total.get(name, 0), amount)


# -------------------------------------------------------------------------------------------------- ports, images


def _host_ports(pod: Pod) -> Iterable[HostPort]:
    sidecars = [c for c in pod.spec.init_containers if c.restart_policy == "Always"]
    for container in (*pod.spec.containers, *sidecars):
        for port in container.ports:
            if port.host_port:
                yield HostPort(port.host_ip or "0.0.0.0", port.protocol or "TCP", port.host_port)


def normal_image(name: str) -> str:
    """With a tag, as nodes list their images: ``nginx`` -> ``nginx:latest``."""
    return name if name.rfind(":") > name.rfind("/") else f"{name}:latest"


def _disks(pod: Pod) -> Iterable[Disk]:
    for volume in pod.spec.volumes:
        if (gce := volume.gce_persistent_disk) is not None:
            yield Disk("gce", (gce.pd_name,), bool(gce.read_only))
        elif (ebs := volume.aws_elastic_block_store) is not None:
            yield Disk("ebs", (ebs.volume_id,), False)
        elif (iscsi := volume.iscsi) is not None:
            yield Disk("iscsi", (iscsi.iqn,), bool(iscsi.read_only))
        elif (rbd := volume.rbd) is not None:
            for monitor in rbd.monitors:
                yield Disk("rbd", (monitor, rbd.pool or "rbd", rbd.image), bool(rbd.read_only))


# ------------------------------------------------------------------------------------------------------- affinity


def _terms(pod: Pod) -> tuple[tuple[Term, ...], tuple[Term, ...], tuple[Term, ...]]:
    affinity = pod.spec.affinity
    together = affinity.pod_affinity if affinity else None
    apart = affinity.pod_anti_affinity if affinity else None
    needs = together.required_during_scheduling_ignored_during_execution if together else ()
    shuns = apart.required_during_scheduling_ignored_during_execution if apart else ()
    likes = together.preferred_during_scheduling_ignored_during_execution if together else ()
    dislikes = apart.preferred_during_scheduling_ignored_during_execution if apart else ()
    preferred = [_term(pod, t.pod_affinity_term, t.weight) for t in likes if t.weight]
    preferred += [_term(pod, t.pod_affinity_term, -t.weight) for t in dislikes if t.weight]
    return tuple(_term(pod, t) for t in needs), tuple(_term(pod, t) for t in shuns), tuple(preferred)


def _term(pod: Pod, term: PodAffinityTerm, weight: int = 0) -> Term:
    selector = with_label_keys(
        from_label_selector(term.label_selector), pod.metadata.labels, term.match_label_keys, term.mismatch_label_keys
    )
    own = not term.namespaces and term.namespace_selector is None
    namespaces = frozenset((pod.metadata.namespace or "",)) if own else frozenset(term.namespaces)
    everywhere = from_label_selector(term.namespace_selector)  # None: by its labels, no namespace
    return Term(term.topology_key, selector, namespaces, everywhere, weight)


def with_label_keys(
    selector: Selector, labels: Mapping[str, str], match: Iterable[str], mismatch: Iterable[str] = ()
) -> Selector:
    """``matchLabelKeys``: the pod's own value of a label is demanded (or, mismatching, refused) too."""
    if selector is NOTHING:
        return selector
    extra = [Requirement(key, "In", frozenset((labels[key],))) for key in match if key in labels]
    extra += [Requirement(key, "NotIn", frozenset((labels[key],))) for key in mismatch if key in labels]
    return Selector(selector.requirements + tuple(extra)) if extra else selector


__all__ = ["Disk", "HostPort", "Template", "Templates", "Term", "amounts_of", "normal_image", "pod_requests"]
