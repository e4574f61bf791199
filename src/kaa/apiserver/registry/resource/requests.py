"""Requests for devices: what claims and their templates share.

Source: pkg/apis/resource/validation; pkg/apis/resource/v1/defaults.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.resource_v1 import DeviceRequest, ResourceClaimSpec

from ...validation.common import faults_of

_MODES = ("All", "ExactCount")
_MOST_REQUESTS = 32


def default_spec(spec: ResourceClaimSpec) -> ResourceClaimSpec:
    made = tuple(_default(request) for request in spec.devices.requests)
    return spec if made == spec.devices.requests else replace(spec, devices=replace(spec.devices, requests=made))


def _default(request: DeviceRequest) -> DeviceRequest:
    changes: dict[str, Any] = {}
    if request.exactly is not None:
        changes["exactly"] = _counted(request.exactly)
    if request.first_available:
        changes["first_available"] = tuple(_counted(sub) for sub in request.first_available)
    return replace(request, **changes) if changes else request


def _counted(given: Any) -> Any:
    mode = given.allocation_mode or "ExactCount"
    count = given.count
    if mode == "ExactCount" and not count:
        count = 1
    tolerations = tuple(t if t.operator else replace(t, operator="Equal") for t in given.tolerations)
    return replace(given, allocation_mode=mode, count=count, tolerations=tolerations)


def spec_faults(spec: ResourceClaimSpec, path: Path) -> Iterator[FieldError]:
    at = path.child("devices", "requests")
    if len(spec.devices.requests) > _MOST_REQUESTS:
        yield fields.too_many(at, len(spec.devices.requests), _MOST_REQUESTS)
    seen: set[str] = set()
    for n, request in enumerate(spec.devices.requests):
        here = at.index(n)
        if not request.name:
            yield fields.required(here.child("name"))
        else:
            yield from faults_of(here.child("name"), request.name, names.dns_label(request.name))
        if request.name in seen:
            yield fields.duplicate(here.child("name"), request.name)
        seen.add(request.name)
        if request.exactly is not None and request.first_available:
            yield fields.invalid(
                here,
                request.name,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            )
        elif request.exactly is None and not request.first_available:
            yield fields.required(here, "exactly one of `exactly` or `firstAvailable` is required")
        if request.exactly is not None:
            yield from _exact(request.exactly, here.child("exactly"))
        for m, sub in enumerate(request.first_available):
            yield from _exact(sub, here.child("firstAvailable").index(m))
    for n, constraint in enumerate(spec.devices.constraints):
        for m, name in enumerate(constraint.requests):
            if name.partition("/")[0] not in seen:
                where = path.child("devices", "constraints").index(n).child("requests").index(m)
                detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
                yield fields.invalid(where, name, detail)


def _exact(given: Any, path: Path) -> Iterator[FieldError]:
    if not given.device_class_name:
        yield fields.required(path.child("deviceClassName"))
    else:
        name = given.device_class_name
        yield from faults_of(path.child("deviceClassName"), name, names.dns_subdomain(name))
    if given.allocation_mode not in _MODES:
        yield fields.not_supported(path.child("allocationMode"), given.allocation_mode or "", _MODES)
    elif given.allocation_mode == "ExactCount" and (given.count or 0) <= 0:
        yield fields.invalid(path.child("count"), given.count or 0, "must be greater than zero")
    elif given.allocation_mode == "All" and given.count:
        detail = f"must not be specified when allocationMode is '{given.allocation_mode}'"
        yield fields.invalid(path.child("count"), given.count, detail)
