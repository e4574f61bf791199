"""ResourceClaimTemplates.

Source: pkg/registry/resource/resourceclaimtemplate/strategy.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api.fields import FieldError
from kaa.api.types.resource_v1 import ResourceClaimTemplate

from ...validation.common import SPEC, immutable
from ...validation.internal import raw
from ...view import View
from ..strategy import Strategy
from ..tables import age, shape
from .requests import allow_admin, default_spec, spec_faults


def _cells(obj: ResourceClaimTemplate, now: float) -> Sequence[Any]:
    return obj.metadata.name, age(obj.metadata, now)


class ResourceClaimTemplateStrategy(Strategy[ResourceClaimTemplate]):
    kind = ResourceClaimTemplate
    table = shape("resource/resourceclaimtemplates", "Age", _cells)

    def default(self, obj: ResourceClaimTemplate) -> ResourceClaimTemplate:
        return replace(obj, spec=replace(obj.spec, spec=default_spec(obj.spec.spec)))

    def allocate(
        self, new: ResourceClaimTemplate, old: ResourceClaimTemplate | None, view: View
    ) -> ResourceClaimTemplate:
        """Admin access is for namespaces that allow it."""
        if old is None:
            meta = new.metadata
            allow_admin(self.kind, meta.name or "", meta.namespace or "", new.spec.spec, SPEC.child("spec"), view)
        return new

    def validate(self, obj: ResourceClaimTemplate) -> list[FieldError]:
        return list(spec_faults(obj.spec.spec, SPEC.child("spec")))

    def validate_update(self, new: ResourceClaimTemplate, old: ResourceClaimTemplate) -> list[FieldError]:
        return list(immutable(SPEC, new.spec, old.spec, raw(new.spec)))


STRATEGY = ResourceClaimTemplateStrategy()
