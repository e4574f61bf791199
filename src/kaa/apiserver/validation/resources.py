"""Resource requirements and resource lists.

Source: pkg/apis/core/validation/validation.go (ValidateResourceRequirements, ValidateContainerResourceName).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from kaa.api import fields, names, quantity
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import Container, ResourceRequirements
from kaa.api.values import Quantity

from .common import amount, is_extended_resource, is_native_resource

_CONTAINER = frozenset(("cpu", "memory", "ephemeral-storage"))
_STANDARD = frozenset(
    [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
        "requests.storage",
        "services.nodeports",
        "services.loadbalancers",
    ]
)


def is_huge_page(name: str) -> bool:
    return name.startswith("hugepages-")


def is_overcommit_allowed(name: str) -> bool:
    return is_native_resource(name) and not is_huge_page(name)


def is_standard_resource(name: str) -> bool:
    return name in _STANDARD or is_huge_page(name) or name.startswith("requests.hugepages-")


def container_resource_name(path: Path, name: str) -> Iterator[FieldError]:
    yield from resource_name(path, name)
    if "/" not in name:
        if name not in _CONTAINER and not is_huge_page(name):
            yield fields.invalid(path, name, "must be a standard resource for containers")
    elif not is_native_resource(name) and not is_extended_resource(name):
        yield fields.invalid(path, name, "doesn't follow extended resource name standard")


def resource_name(path: Path, name: str) -> Iterator[FieldError]:
    """A standard resource or a qualified name."""
    faults = names.qualified_name(name)
    for fault in faults:
        yield fields.invalid(path, name, fault)
    if not faults and "/" not in name and not is_standard_resource(name):
        yield fields.invalid(path, name, "must be a standard resource type or fully qualified")


def quota_resource_name(path: Path, name: str) -> Iterator[FieldError]:
    yield from resource_name(path, name)
    if "/" not in name and name not in _QUOTA and not is_huge_page(name) and not name.startswith(_QUOTA_PREFIXES):
        yield fields.invalid(path, name, "must be a standard resource for quota")


_QUOTA = _STANDARD - {"storage"}
_QUOTA_PREFIXES = ("requests.hugepages-", "count/")


def requirements(given: ResourceRequirements, path: Path, claims: frozenset[str] = frozenset()) -> Iterator[FieldError]:
    """Requests and limits; ``claims`` are the names of the pod's resource claims."""
    limits, requests = given.limits, given.requests
    if limits:
        at = path.child("limits")
        for name in sorted(limits):
            yield from container_resource_name(at, name)
            yield from amount(at.key(name), name, limits[name])
    if requests:
        at = path.child("requests")
        for name in sorted(requests):
            yield from container_resource_name(at, name)
            yield from amount(at.key(name), name, requests[name])
            yield from _against_limit(name, requests[name], limits.get(name), path)
    if any(is_huge_page(name) for name in (*limits, *requests)) and not {"cpu", "memory"} & {*limits, *requests}:
        yield fields.forbidden(path, "HugePages require cpu or memory")
    seen: set[tuple[str, str]] = set()
    for n, claim in enumerate(given.claims):
        at = path.child("claims").index(n)
        if not claim.name:
            yield fields.required(at.child("name"))
            continue
        if (claim.name, claim.request or "") in seen or (claim.name, "") in seen:
            yield fields.duplicate(at, claim.name)
        seen.add((claim.name, claim.request or ""))
        if claim.name not in claims:
            yield fields.not_found(at.child("name"), claim.name)


def _against_limit(name: str, request: str, limit: str | None, path: Path) -> Iterator[FieldError]:
    if limit is None:
        if not is_overcommit_allowed(name):
            yield fields.required(path.child("limits"), "Limit must be set for non overcommitable resources")
        return
    wanted, most = quantity.parse(request), quantity.parse(limit)
    if wanted != most and not is_overcommit_allowed(name):
        yield fields.invalid(path.child("requests"), request, f"must be equal to {name} limit of {limit}")
    elif wanted > most:
        yield fields.invalid(path.child("requests"), request, f"must be less than or equal to {name} limit of {limit}")


def is_pod_level_resource(name: str) -> bool:
    return name in ("cpu", "memory") or name.startswith("hugepages-")


def together(
    containers: Sequence[Container], inits: Sequence[Container], side: Literal["requests", "limits"] = "requests"
) -> Mapping[str, Quantity]:
    """What containers ask for together, or may use: the running ones add up, an init container only has to fit beside sidecars."""
    total: dict[str, Any] = {}
    sidecars: dict[str, Any] = {}
    peak: dict[str, Any] = {}
    for one in inits:
        for name, text in getattr(one.resources, side).items():
            value = quantity.parse(text)
            if one.restart_policy == "Always":
                sidecars[name] = sidecars.get(name, 0) + value
                peak[name] = max(peak.get(name, 0), sidecars[name])
            else:
                peak[name] = max(peak.get(name, 0), sidecars.get(name, 0) + value)
    for one in containers:
        for name, text in getattr(one.resources, side).items():
            total[name] = total.get(name, 0) + quantity.parse(text)
    names = total.keys() | peak.keys()
    amounts = {name: max(total.get(name, 0) + sidecars.get(name, 0), peak.get(name, 0)) for name in names}
    return {
        name: quantity.format_millis(int(value * 1000)) if name == "cpu" else quantity.format_bytes(int(value))
        for name, value in sorted(amounts.items())
    }
