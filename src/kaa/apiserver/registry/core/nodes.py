"""Nodes.

Source: pkg/registry/core/node/strategy.go; ValidateNode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError
from kaa.api.types.core_v1 import DaemonEndpoint, Node, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo

from ...validation.common import NO_CIDR, SPEC, STATUS, amount, faults_of, network_of, one_of
from ...validation.resources import resource_name
from ..strategy import Strategy
from ..tables import NONE, age, shape

_ROLE = "node-role.kubernetes.io/"
_OLD_ROLE = "kubernetes.io/role"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

BLANK_STATUS = NodeStatus(
    daemon_endpoints=NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=0)),
    node_info=NodeSystemInfo(
        architecture="",
        boot_id="",
        container_runtime_version="",
        kernel_version="",
        kube_proxy_version="",
        kubelet_version="",
        machine_id="",
        operating_system="",
        os_image="",
        system_uuid="",
    ),
)


def _cells(obj: Node, now: float) -> Sequence[Any]:
    status = obj.status or BLANK_STATUS
    info = status.node_info
    return (
        obj.metadata.name,
        _state(obj),
        _roles(obj) or NONE,
        age(obj.metadata, now),
        info.kubelet_version,
        _address(status, "InternalIP"),
        _address(status, "ExternalIP"),
        info.os_image or "<unknown>",
        info.kernel_version or "<unknown>",
        info.container_runtime_version or "<unknown>",
    )


def _state(obj: Node) -> str:
    ready = next((c.status for c in (obj.status or BLANK_STATUS).conditions if c.type == "Ready"), None)
    word = {"True": "Ready", None: "Unknown"}.get(ready, "NotReady")
    return f"{word},SchedulingDisabled" if obj.spec.unschedulable else word


def _roles(obj: Node) -> str:
    found = set()
    for key, value in obj.metadata.labels.items():
        if key.startswith(_ROLE) and len(key) > len(_ROLE):
            found.add(key[len(_ROLE) :])
        elif key == _OLD_ROLE and value:
            found.add(value)
    return ",".join(sorted(found))


def _address(status: NodeStatus, kind: str) -> str:
    return next((address.address for address in status.addresses if address.type == kind), NONE)


class NodeStrategy(Strategy[Node]):
    kind = Node
    field_names = frozenset(("spec.unschedulable",))
    table = shape(
        "core/nodes",
        "Status|Roles|Age|Version|Internal-IP+|External-IP+|OS-Image+|Kernel-Version+|Container-Runtime+",
        _cells,
    )

    def default(self, obj: Node) -> Node:
        changes: dict[str, Any] = {}
        spec = obj.spec
        if obj.status is None:
            changes["status"] = BLANK_STATUS
        elif obj.status.capacity and not obj.status.allocatable:
            changes["status"] = replace(obj.status, allocatable=obj.status.capacity)
        if spec.pod_cidr and not spec.pod_cidrs:
            changes["spec"] = replace(spec, pod_cidrs=(spec.pod_cidr,))
        elif spec.pod_cidrs and not spec.pod_cidr:
            changes["spec"] = replace(spec, pod_cidr=spec.pod_cidrs[0])
        return replace(obj, **changes) if changes else obj

    def prepare_update(self, new: Node, old: Node) -> Node:
        return replace(new, status=old.status)

    def validate(self, obj: Node) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: Node, old: Node) -> list[FieldError]:
        return [*_changes(new, old), *_taints(new)]

    def validate_status_update(self, new: Node, old: Node) -> list[FieldError]:
        return list(_status(new))

    def fields(self, obj: Node) -> Mapping[str, str]:
        return {"spec.unschedulable": "true" if obj.spec.unschedulable else "false"}


def _faults(obj: Node) -> Iterator[FieldError]:
    yield from _taints(obj)
    yield from _status(obj)
    for n, text in enumerate(obj.spec.pod_cidrs):
        if network_of(text) is None:
            yield fields.invalid(SPEC.child("podCIDRs").index(n), text, NO_CIDR)
    if len(obj.spec.pod_cidrs) > 2:
        detail = "may specify no more than one CIDR for each IP family"
        yield fields.invalid(SPEC.child("podCIDRs"), list(obj.spec.pod_cidrs), detail)


def _taints(obj: Node) -> Iterator[FieldError]:
    seen: set[tuple[str, str]] = set()
    for n, taint in enumerate(obj.spec.taints):
        at = SPEC.child("taints").index(n)
        yield from faults_of(at.child("key"), taint.key, names.qualified_name(taint.key))
        faults = names.label_value(taint.value or "")
        if faults:
            yield fields.invalid(at.child("value"), taint.value, ";".join(faults))
        if taint.effect not in _EFFECTS:
            yield from one_of(at, "effect", taint.effect, _EFFECTS, needed=True)
        if (taint.key, taint.effect) in seen:
            found = fields.duplicate(at, _shown(taint))
            yield replace_detail(found, "taints must be unique by key and effect pair")
        seen.add((taint.key, taint.effect))


def _shown(taint: Any) -> dict[str, Any]:
    return {"key": taint.key, "value": taint.value or "", "effect": taint.effect}


def replace_detail(fault: FieldError, detail: str) -> FieldError:
    return FieldError(fault.type, fault.field, f"{fault.body}: {detail}")


def _status(obj: Node) -> Iterator[FieldError]:
    status = obj.status or BLANK_STATUS
    for wire, listed in (("capacity", status.capacity), ("allocatable", status.allocatable)):
        for name in sorted(listed):
            at = STATUS.child(wire)
            yield from resource_name(at.key(name), name)
            yield from amount(at.key(name), name, listed[name])
    seen: set[tuple[str, str]] = set()
    for n, address in enumerate(status.addresses):
        if (address.type, address.address) in seen:
            yield fields.duplicate(
                STATUS.child("addresses").index(n), {"type": address.type, "address": address.address}
            )
        seen.add((address.type, address.address))


def _changes(new: Node, old: Node) -> Iterator[FieldError]:
    if old.spec.pod_cidrs and new.spec.pod_cidrs != old.spec.pod_cidrs:
        detail = 'node updates may not change podCIDR except from "" to valid'
        yield fields.forbidden(SPEC.child("podCIDRs"), detail)
    if old.spec.provider_id and new.spec.provider_id != old.spec.provider_id:
        detail = 'node updates may not change providerID except from "" to valid'
        yield fields.forbidden(SPEC.child("providerID"), detail)


STRATEGY = NodeStrategy()
