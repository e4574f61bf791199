"""Another version of objects whose strategy speaks of the version that is stored."""

from __future__ import annotations

from typing import Any

from kaa.api.resources import Resource

from .conversion import convert
from .strategy import Strategy, TableShape


class OtherVersion(Strategy[Any]):
    """How a version is shown; all else is asked of the stored one, since objects are written as that."""

    def __init__(self, resource: Resource[Any], stored: Strategy[Any]) -> None:
        self.kind = resource.type
        shape = stored.table
        if shape is not None:
            cells = shape.cells
            self.table = TableShape(shape.columns, lambda obj, now: cells(convert(obj, stored.resource), now))
