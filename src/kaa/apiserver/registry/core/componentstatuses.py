"""ComponentStatuses: what the server says of its peers; nothing is stored.

Source: pkg/printers/internalversion/printers.go (printComponentStatus).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaa.api.types.core_v1 import ComponentStatus

from ..strategy import Strategy
from ..tables import shape


def _cells(obj: ComponentStatus, now: float) -> Sequence[Any]:
    healthy = next((condition for condition in obj.conditions if condition.type == "Healthy"), None)
    if healthy is None:
        return obj.metadata.name, "Unknown", "", ""
    status = {"True": "Healthy", "False": "Unhealthy"}.get(healthy.status, "Unknown")
    return obj.metadata.name, status, healthy.message or "", healthy.error or ""


class ComponentStatusStrategy(Strategy[ComponentStatus]):
    kind = ComponentStatus
    table = shape("core/componentstatuses", "Status|Message|Error", _cells)


STRATEGY = ComponentStatusStrategy()
