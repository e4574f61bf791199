"""LimitRanger: what a container or claim asks for when it does not say, and how much it may.

Source: plugin/pkg/admission/limitranger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from kaa.api import quantity
from kaa.api.quota import Amounts
from kaa.api.types.core_v1 import (
    Container,
    LimitRange,
    LimitRangeItem,
    PersistentVolumeClaim,
    Pod,
    ResourceRequirements,
)
from kaa.api.values import Quantity

from ..view import View
from .base import Attributes
from .plugin import Passive, refuse
from .pod_resources import pod_amounts, shown

ANNOTATION = "kubernetes.io/limit-ranger"


class LimitRanger(Passive):
    name = "LimitRanger"
    kinds = frozenset({"pods", "persistentvolumeclaims"})

    async def admit(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "CREATE" or not attributes.on("pods"):
            return
        for limit_range in _ranges(attributes, view):
            attributes.object = with_defaults(attributes.object, limit_range)

    async def validate(self, attributes: Attributes, view: View) -> None:
        if not _concerned(attributes):
            return
        faults = [
            fault
            for limit_range in _ranges(attributes, view)
            for item in limit_range.spec.limits
            for fault in _faults(attributes.object, item)
        ]
        if faults:
            unique = list(dict.fromkeys(faults))
            raise refuse(attributes, unique[0] if len(unique) == 1 else "[" + ", ".join(unique) + "]")


def _concerned(attributes: Attributes) -> bool:
    if attributes.operation == "CREATE":
        return attributes.on("pods") or attributes.on("persistentvolumeclaims")
    if attributes.operation == "UPDATE":
        return attributes.on("persistentvolumeclaims") or attributes.on("pods", "", "resize")
    return False


def _ranges(attributes: Attributes, view: View) -> list[LimitRange]:
    return sorted(view.list(LimitRange, attributes.request.namespace), key=lambda r: r.metadata.name or "")


def with_defaults(pod: Pod, limit_range: LimitRange) -> Pod:
    """The pod with what its containers left out, and an annotation that says what was filled."""
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    for item in limit_range.spec.limits:
        if item.type == "Container":
            requests |= item.default_request
            limits |= item.default
    notes: list[str] = []
    containers = tuple(_filled(c, requests, limits, "container", notes) for c in pod.spec.containers)
    inits = tuple(_filled(c, requests, limits, "init container", notes) for c in pod.spec.init_containers)
    if not notes:
        return pod
    said = {ANNOTATION: "LimitRanger plugin set: " + "; ".join(notes)}
    meta = replace(pod.metadata, annotations={**pod.metadata.annotations, **said})
    return replace(pod, metadata=meta, spec=replace(pod.spec, containers=containers, init_containers=inits))


def _filled(
    container: Container,
    requests: Mapping[str, Quantity],
    limits: Mapping[str, Quantity],
    what: str,
    notes: list[str],
) -> Container:
    held = container.resources
    add_requests = {k: v for k, v in requests.items() if k not in held.requests}
    add_limits = {k: v for k, v in limits.items() if k not in held.limits}
    if add_requests:
        notes.append(f"{', '.join(sorted(add_requests))} request for {what} {container.name}")
    if add_limits:
        notes.append(f"{', '.join(sorted(add_limits))} limit for {what} {container.name}")
    if not add_requests and not add_limits:
        return container
    filled = ResourceRequirements(
        claims=held.claims, requests={**held.requests, **add_requests}, limits={**held.limits, **add_limits}
    )
    return replace(container, resources=filled)


def _faults(obj: object, item: LimitRangeItem) -> Iterable[str]:
    if isinstance(obj, PersistentVolumeClaim):
        if item.type == "PersistentVolumeClaim":
            yield from _claim_faults(obj, item)
        return
    assert isinstance(obj, Pod)
    if item.type == "Container":
        for container in (*obj.spec.containers, *obj.spec.init_containers):
            yield from _compare(item, _parsed(container.resources.requests), _parsed(container.resources.limits))
    elif item.type == "Pod":
        requests, limits = pod_amounts(obj)
        yield from _compare(item, requests, limits)


def _parsed(amounts: Mapping[str, Quantity]) -> Amounts:
    return {name: quantity.parse(text) for name, text in amounts.items()}


def _compare(item: LimitRangeItem, requests: Amounts, limits: Amounts) -> Iterable[str]:
    for name, text in sorted(item.min.items()):
        yield from _below(name, text, item.type, requests, limits)
    for name, text in sorted(item.max.items()):
        yield from _above(name, text, item.type, requests, limits)
    for name, text in sorted(item.max_limit_request_ratio.items()):
        yield from _ratio(name, text, item.type, requests, limits)


def _below(name: str, text: Quantity, kind: str, requests: Amounts, limits: Amounts) -> Iterable[str]:
    head, least = f"minimum {name} usage per {kind} is {text}", quantity.parse(text)
    if name not in requests:
        yield f"{head}.  No request is specified"
    elif requests[name] < least:
        yield f"{head}, but request is {shown(name, requests[name])}"
    elif name in limits and limits[name] < least:
        yield f"{head}, but limit is {shown(name, limits[name])}"


def _above(name: str, text: Quantity, kind: str, requests: Amounts, limits: Amounts) -> Iterable[str]:
    head, most = f"maximum {name} usage per {kind} is {text}", quantity.parse(text)
    if name not in limits:
        yield f"{head}.  No limit is specified"
    elif limits[name] > most:
        yield f"{head}, but limit is {shown(name, limits[name])}"
    elif name in requests and requests[name] > most:
        yield f"{head}, but request is {shown(name, requests[name])}"


def _ratio(name: str, text: Quantity, kind: str, requests: Amounts, limits: Amounts) -> Iterable[str]:
    head = f"{name} max limit to request ratio per {kind} is {text}"
    if not requests.get(name):
        yield f"{head}, but no request is specified or request is 0"
    elif not limits.get(name):
        yield f"{head}, but no limit is specified or limit is 0"
    elif limits[name] / requests[name] > quantity.parse(text):
        yield f"{head}, but provided ratio is {float(limits[name] / requests[name]):f}"


def _claim_faults(claim: PersistentVolumeClaim, item: LimitRangeItem) -> Iterable[str]:
    requests = _parsed(claim.spec.resources.requests)
    for name, text in sorted(item.min.items()):
        yield from _below(name, text, item.type, requests, {})
    for name, text in sorted(item.max.items()):
        head = f"maximum {name} usage per {item.type} is {text}"
        if name not in requests:
            yield f"{head}.  No request is specified"
        elif requests[name] > quantity.parse(text):
            yield f"{head}, but request is {shown(name, requests[name])}"
