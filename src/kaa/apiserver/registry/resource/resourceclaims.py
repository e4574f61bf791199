"""ResourceClaims.

Source: pkg/registry/resource/resourceclaim/strategy.go; ValidateResourceClaim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api.fields import FieldError
from kaa.api.types.resource_v1 import ResourceClaim, ResourceClaimStatus

from ...validation.common import SPEC, immutable
from ...validation.internal import raw
from ..strategy import Strategy
from ..tables import age, shape
from .requests import default_spec, spec_faults


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

    def validate(self, obj: ResourceClaim) -> list[FieldError]:
        return list(spec_faults(obj.spec, SPEC))

    def validate_update(self, new: ResourceClaim, old: ResourceClaim) -> list[FieldError]:
        return [*immutable(SPEC, new.spec, old.spec, raw(new.spec)), *self.validate(new)]


STRATEGY = ResourceClaimStrategy()
