"""CSINodes: the drivers of a node.

Source: pkg/registry/storage/csinode/strategy.go; ValidateCSINode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.storage_v1 import CSINode

from ...validation.common import SPEC
from ..strategy import Strategy
from ..tables import age, shape
from .csidrivers import driver_name_faults

_NODE_ID_LIMIT = 192


def _cells(obj: CSINode, now: float) -> Sequence[Any]:
    return obj.metadata.name, len(obj.spec.drivers), age(obj.metadata, now)


class CSINodeStrategy(Strategy[CSINode]):
    kind = CSINode
    allows_unconditional_update = False
    table = shape("storage/csinodes", "Drivers:integer|Age", _cells)

    def validate(self, obj: CSINode) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: CSINode, old: CSINode) -> list[FieldError]:
        found = list(_faults(new))
        before = {driver.name: driver for driver in old.spec.drivers}
        for driver in new.spec.drivers:
            known = before.get(driver.name)
            if known is not None and (known.node_id, known.topology_keys) != (driver.node_id, driver.topology_keys):
                shown = {"name": driver.name, "nodeID": driver.node_id, "topologyKeys": list(driver.topology_keys)}
                found.append(fields.invalid(SPEC.child("drivers"), shown, "field is immutable"))
        return found


def _faults(obj: CSINode) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, driver in enumerate(obj.spec.drivers):
        at = SPEC.child("drivers").index(n)
        yield from driver_name_faults(at.child("name"), driver.name)
        if driver.name in seen:
            yield fields.duplicate(at.child("name"), driver.name)
        seen.add(driver.name)
        if not driver.node_id:
            yield fields.required(at.child("nodeID"))
        elif len(driver.node_id) > _NODE_ID_LIMIT:
            detail = f"must be {_NODE_ID_LIMIT} characters or less"
            yield fields.invalid(at.child("nodeID"), driver.node_id, detail)
        if driver.allocatable is not None and (driver.allocatable.count or 0) < 0:
            detail = "must be greater than or equal to 0"
            yield fields.invalid(at.child("allocatable", "count"), driver.allocatable.count, detail)
        for key in driver.topology_keys:
            if driver.topology_keys.count(key) > 1:
                yield fields.duplicate(at.child("topologyKeys"), key)
                break


STRATEGY = CSINodeStrategy()
