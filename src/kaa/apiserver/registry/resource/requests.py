"""Requests for devices: what claims and their templates share.

Source: pkg/apis/resource/validation; pkg/apis/resource/v1/defaults.go; pkg/registry/resource (AuthorizedForAdmin).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.errors import Invalid
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import Namespace
from kaa.api.types.resource_v1 import (
    DeviceClaimConfiguration,
    DeviceConstraint,
    DeviceRequest,
    DeviceSubRequest,
    ExactDeviceRequest,
    ResourceClaimSpec,
)

from ...validation import devices
from ...validation.common import faults_of
from ...validation.devices import each, unique
from ...view import View

_MODES = ("All", "ExactCount")
_MOST_ALTERNATIVES = 8
_MOST_CONSTRAINTS = 32
_MOST_TOLERATIONS = 16
_ADMIN_LABEL = "resource.kubernetes.io/admin-access"
NO_ADMIN = (
    "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
)


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


def allow_admin(kind: Any, name: str, namespace: str, spec: ResourceClaimSpec, path: Path, view: View) -> None:
    """Raises Invalid for a request with admin access where the namespace does not allow it."""
    asking = [n for n, each in enumerate(spec.devices.requests) if each.exactly and each.exactly.admin_access]
    if asking and not admin_allowed(namespace, view):
        at = path.child("devices", "requests")
        faults = [fields.forbidden(at.index(n).child("exactly", "adminAccess"), NO_ADMIN) for n in asking]
        raise Invalid.of("resource.k8s.io", kind.KIND, name, faults)


def admin_allowed(namespace: str, view: View) -> bool:
    found = view.get(Namespace, namespace)
    return found is not None and found.metadata.labels.get(_ADMIN_LABEL) == "true"


def request_names(requests: Sequence[DeviceRequest]) -> set[str]:
    """What constraints, configuration and results may refer to: requests, and alternatives with their request's name."""
    alternatives = (f"{each.name}/{sub.name}" for each in requests for sub in each.first_available)
    return {*(each.name for each in requests), *alternatives}


def spec_faults(spec: ResourceClaimSpec, path: Path) -> Iterator[FieldError]:
    at, known = path.child("devices"), request_names(spec.devices.requests)
    yield from each(at.child("requests"), spec.devices.requests, devices.MOST_REQUESTS, _request)
    yield from unique(at.child("requests"), (request.name for request in spec.devices.requests))

    def constraint(given: DeviceConstraint, where: Path) -> Iterator[FieldError]:
        yield from _constraint(given, where, known)

    def configuration(given: DeviceClaimConfiguration, where: Path) -> Iterator[FieldError]:
        yield from devices.references(where.child("requests"), given.requests, known)
        yield from devices.configuration(given.opaque, where)

    yield from each(at.child("constraints"), spec.devices.constraints, _MOST_CONSTRAINTS, constraint)
    yield from each(at.child("config"), spec.devices.config, devices.MOST_CONFIGS, configuration)


def _request(request: DeviceRequest, path: Path) -> Iterator[FieldError]:
    yield from _name(request.name, path)
    if request.exactly is not None and request.first_available:
        detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"
        yield fields.invalid(path, None, detail)
    elif request.exactly is not None:
        yield from _exact(request.exactly, path.child("exactly"))
    elif request.first_available:
        at = path.child("firstAvailable")
        yield from each(at, request.first_available, _MOST_ALTERNATIVES, _alternative)
        yield from unique(at, (sub.name for sub in request.first_available))
    else:
        yield fields.required(path, "exactly one of `exactly` or `firstAvailable` is required")


def _alternative(given: DeviceSubRequest, path: Path) -> Iterator[FieldError]:
    yield from _name(given.name, path)
    yield from _exact(given, path)


def _name(name: str, path: Path) -> Iterator[FieldError]:
    if not name:
        yield fields.required(path.child("name"))
    else:
        yield from faults_of(path.child("name"), name, names.dns_label(name))


def _exact(given: ExactDeviceRequest | DeviceSubRequest, path: Path) -> Iterator[FieldError]:
    yield from devices.class_name(path, given.device_class_name)
    yield from devices.selectors(path.child("selectors"), given.selectors)
    if given.allocation_mode not in _MODES:
        yield fields.not_supported(path.child("allocationMode"), given.allocation_mode or "", _MODES)
    elif given.allocation_mode == "ExactCount" and (given.count or 0) <= 0:
        yield fields.invalid(path.child("count"), given.count or 0, "must be greater than zero")
    elif given.allocation_mode == "All" and given.count:
        detail = f"must not be specified when allocationMode is '{given.allocation_mode}'"
        yield fields.invalid(path.child("count"), given.count, detail)
    yield from each(path.child("tolerations"), given.tolerations, _MOST_TOLERATIONS, devices.toleration)


def _constraint(given: DeviceConstraint, path: Path, known: set[str]) -> Iterator[FieldError]:
    yield from devices.references(path.child("requests"), given.requests, known)
    if given.match_attribute is not None:
        yield from devices.full_name(path.child("matchAttribute"), given.match_attribute)
    elif given.distinct_attribute is not None:
        yield from devices.full_name(path.child("distinctAttribute"), given.distinct_attribute)
    else:
        detail = 'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set'
        yield fields.required(path, detail)
