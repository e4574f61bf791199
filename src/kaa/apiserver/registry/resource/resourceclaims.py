"""ResourceClaims.

Source: pkg/registry/resource/resourceclaim/strategy.go; ValidateResourceClaim, ValidateResourceClaimStatusUpdate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api.fields import FieldError
from kaa.api.types.resource_v1 import ResourceClaim, ResourceClaimStatus

from ...validation.common import SPEC, immutable
from ...validation.internal import raw
from ...view import View
from ..strategy import Strategy
from ..tables import age, shape
from .allocations import allow_admin_results, status_faults, without_lost_devices
from .requests import allow_admin, default_spec, spec_faults


def _cells(obj: ResourceClaim, now: float) -> Sequence[Any]:
    words = []
    if obj.metadata.deletion_timestamp is not None:
        words.append("deleted")
    if obj.status.allocation is not None:
        words.append("allocated")
        if obj.status.reserved_for:
            words.append("reserved")
    return obj.metadata.name, ",".join(words) or "pending", age(obj.metadata, now)


class ResourceClaimStrategy(Strategy[ResourceClaim]):
    kind = ResourceClaim
    table = shape("resource/resourceclaims", "State|Age", _cells)

    def default(self, obj: ResourceClaim) -> ResourceClaim:
        spec = default_spec(obj.spec)
        return obj if spec is obj.spec else replace(obj, spec=spec)

    def prepare_create(self, obj: ResourceClaim) -> ResourceClaim:
        return replace(obj, status=ResourceClaimStatus())

    def prepare_status_update(self, new: ResourceClaim, old: ResourceClaim) -> ResourceClaim:
        new = super().prepare_status_update(new, old)
        return replace(new, status=without_lost_devices(new.status, old.status))

    def allocate(self, new: ResourceClaim, old: ResourceClaim | None, view: View) -> ResourceClaim:
        """Admin access is for namespaces that allow it."""
        name, namespace = new.metadata.name or "", new.metadata.namespace or ""
        if old is None:
            allow_admin(self.kind, name, namespace, new.spec, SPEC, view)
        else:
            allow_admin_results(new, old, view)
        return new

    def validate(self, obj: ResourceClaim) -> list[FieldError]:
        return list(spec_faults(obj.spec, SPEC))

    def validate_update(self, new: ResourceClaim, old: ResourceClaim) -> list[FieldError]:
        return list(immutable(SPEC, new.spec, old.spec, raw(new.spec)))

    def validate_status_update(self, new: ResourceClaim, old: ResourceClaim) -> list[FieldError]:
        return list(status_faults(new, old))


STRATEGY = ResourceClaimStrategy()
