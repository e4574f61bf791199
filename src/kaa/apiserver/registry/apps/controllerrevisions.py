"""ControllerRevisions: snapshots of a template, never changed.

Source: pkg/registry/apps/controllerrevision; ValidateControllerRevision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaa.api import fields
from kaa.api.fields import FieldError, Path
from kaa.api.types.apps_v1 import ControllerRevision

from ...validation.common import ROOT, immutable, not_negative
from ..strategy import Strategy
from ..tables import NONE, age, shape


def _cells(obj: ControllerRevision, now: float) -> Sequence[Any]:
    owner = next((one for one in obj.metadata.owner_references if one.controller), None)
    name = NONE
    if owner is not None:
        group = owner.api_version.partition("/")[0] if "/" in owner.api_version else ""
        kind = owner.kind.lower()
        name = f"{kind}.{group}/{owner.name}" if group else f"{kind}/{owner.name}"
    return obj.metadata.name, name, obj.revision, age(obj.metadata, now)


class ControllerRevisionStrategy(Strategy[ControllerRevision]):
    kind = ControllerRevision
    table = shape("apps/controllerrevisions", "Controller|Revision|Age", _cells)

    def validate(self, obj: ControllerRevision) -> list[FieldError]:
        found = list(not_negative(ROOT, "revision", obj.revision))
        if obj.data is None:
            found.append(fields.required(Path("data"), "data is mandatory"))
        return found

    def validate_update(self, new: ControllerRevision, old: ControllerRevision) -> list[FieldError]:
        return [*self.validate(new), *immutable(Path("data"), new.data, old.data)]


STRATEGY = ControllerRevisionStrategy()
