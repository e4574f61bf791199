"""The status of ResourceClaims: which devices they have, who uses them, what drivers tell of them.

Source: pkg/apis/resource/validation (validateResourceClaimStatusUpdate); pkg/registry/resource/resourceclaim/strategy.go.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.device_claims import MOST_CONSUMERS, MOST_RESULTS
from kaa.api.errors import Invalid
from kaa.api.fields import FieldError, Path
from kaa.api.types.resource_v1 import (
    AllocatedDeviceStatus,
    AllocationResult,
    DeviceAllocationConfiguration,
    DeviceRequestAllocationResult,
    NetworkDeviceData,
    ResourceClaim,
    ResourceClaimConsumerReference,
    ResourceClaimStatus,
)

from ...validation import devices
from ...validation.common import STATUS, conditions, immutable, one_of
from ...validation.devices import each, unique
from ...validation.internal import raw
from ...validation.selectors import node_selector
from ...view import View
from .requests import NO_ADMIN, admin_allowed, request_names

_MOST_CONDITIONS = 8
_MOST_IPS = 16
_DATA_LENGTH = 10 * 1024
_INTERFACE_LENGTH = 256
_HARDWARE_LENGTH = 128
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_UUID = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters"
_SOURCES = ("FromClaim", "FromClass")

_Key = tuple[str, str, str, str]  #: (driver, pool, device, share)


def _key(one: DeviceRequestAllocationResult | AllocatedDeviceStatus) -> _Key:
    return one.driver, one.pool, one.device, one.share_id or ""


def _given(status: ResourceClaimStatus) -> set[_Key]:
    return {_key(one) for one in status.allocation.devices.results} if status.allocation is not None else set()


def without_lost_devices(new: ResourceClaimStatus, old: ResourceClaimStatus) -> ResourceClaimStatus:
    """What was told of devices that a claim has no more goes with them."""
    lost = _given(old) - _given(new)
    return replace(new, devices=tuple(d for d in new.devices if _key(d) not in lost)) if lost and new.devices else new


def allow_admin_results(new: ResourceClaim, old: ResourceClaim, view: View) -> None:
    """Raises Invalid for a new allocation with admin access where the namespace does not allow it."""
    given = new.status.allocation
    if given is None or old.status.allocation is not None:
        return
    asking = [n for n, one in enumerate(given.devices.results) if one.admin_access]
    if asking and not admin_allowed(new.metadata.namespace or "", view):
        at = STATUS.child("allocation", "devices", "results")
        faults = [fields.forbidden(at.index(n).child("adminAccess"), NO_ADMIN) for n in asking]
        raise Invalid.of("resource.k8s.io", new.KIND, new.metadata.name or "", faults)


def status_faults(new: ResourceClaim, old: ResourceClaim) -> Iterator[FieldError]:
    status, before = new.status, old.status
    at = STATUS.child("reservedFor")
    yield from each(at, status.reserved_for, MOST_CONSUMERS, _user)
    yield from unique(at, (user.uid for user in status.reserved_for))
    given = _given(status)

    def device(told: AllocatedDeviceStatus, path: Path) -> Iterator[FieldError]:
        yield from _device(told, path, given)

    yield from each(STATUS.child("devices"), status.devices, len(status.devices), device)
    yield from unique(STATUS.child("devices"), ("/".join(_key(d)).rstrip("/") for d in status.devices))
    if status.reserved_for and status.allocation is None:
        yield fields.forbidden(at, "may not be specified when `allocated` is not set")
    elif new.metadata.deletion_timestamp is not None and set(status.reserved_for) - set(before.reserved_for):
        detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
        yield fields.forbidden(at, detail)
    at = STATUS.child("allocation")
    if status.allocation is not None and before.allocation is not None:
        yield from immutable(at, status.allocation, before.allocation, raw(status.allocation))
    elif status.allocation is not None:
        yield from _allocation(status.allocation, at, request_names(new.spec.devices.requests))


def _user(given: ResourceClaimConsumerReference, path: Path) -> Iterator[FieldError]:
    for name in ("resource", "name", "uid"):
        if not getattr(given, name):
            yield fields.required(path.child(name))


def _allocation(given: AllocationResult, path: Path, known: Collection[str]) -> Iterator[FieldError]:
    def result(one: DeviceRequestAllocationResult, at: Path) -> Iterator[FieldError]:
        yield from devices.reference(at.child("request"), one.request, known)
        yield from devices.driver_name(at.child("driver"), one.driver)
        yield from devices.pool_name(at.child("pool"), one.pool)
        yield from devices.device_name(at.child("device"), one.device)
        yield from devices.binding_conditions(at, one.binding_conditions, one.binding_failure_conditions)
        yield from each(at.child("tolerations"), one.tolerations, len(one.tolerations), devices.toleration)
        yield from _share(one.share_id, at)

    def configuration(one: DeviceAllocationConfiguration, at: Path) -> Iterator[FieldError]:
        yield from one_of(at, "source", one.source, _SOURCES, needed=True)
        yield from devices.references(at.child("requests"), one.requests, known)
        yield from devices.configuration(one.opaque, at)

    at = path.child("devices")
    yield from each(at.child("results"), given.devices.results, MOST_RESULTS, result)
    yield from each(at.child("config"), given.devices.config, 2 * devices.MOST_CONFIGS, configuration)
    if given.node_selector is not None:
        yield from node_selector(given.node_selector, path.child("nodeSelector"))


def _share(share: str | None, path: Path) -> Iterator[FieldError]:
    if share is not None and not _UUID.fullmatch(share):
        yield fields.invalid(path.child("shareID"), share, _NO_UUID)


def _device(told: AllocatedDeviceStatus, path: Path, given: Collection[_Key]) -> Iterator[FieldError]:
    yield from devices.driver_name(path.child("driver"), told.driver)
    yield from devices.pool_name(path.child("pool"), told.pool)
    yield from devices.device_name(path.child("device"), told.device)
    yield from _share(told.share_id, path)
    if _key(told) not in given:
        yield fields.invalid(path, "/".join(_key(told)).rstrip("/"), "must be an allocated device in the claim")
    if len(told.conditions) > _MOST_CONDITIONS:
        yield fields.too_many(path.child("conditions"), len(told.conditions), _MOST_CONDITIONS)
    yield from conditions(path.child("conditions"), told.conditions)
    if told.data is not None:
        yield from devices.json_object(path.child("data"), told.data, _DATA_LENGTH)
    if told.network_data is not None:
        yield from _network(told.network_data, path.child("networkData"))


def _network(told: NetworkDeviceData, path: Path) -> Iterator[FieldError]:
    if len(told.interface_name or "") > _INTERFACE_LENGTH:
        yield fields.too_long(path.child("interfaceName"), _INTERFACE_LENGTH)
    if len(told.hardware_address or "") > _HARDWARE_LENGTH:
        yield fields.too_long(path.child("hardwareAddress"), _HARDWARE_LENGTH)
    yield from each(path.child("ips"), told.ips, _MOST_IPS, _interface_address)
    yield from unique(path.child("ips"), told.ips)


def _interface_address(text: str, path: Path) -> Iterator[FieldError]:
    """An address with its network's length, as it would be written."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        interface = None
    if interface is None or "/" not in text:
        detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"
        yield fields.invalid(path, text, detail)
    elif str(interface) != text:
        yield fields.invalid(path, text, f'must be in canonical form ("{interface}")')
