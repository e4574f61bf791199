"""The objects of flow control, kept as they must be.

The bootstrap objects come back when they are deleted; the mandatory ones, and those that are to follow the server
(``apf.kubernetes.io/autoupdate-spec``), regain their specs; each FlowSchema says whether its level exists.

Source: pkg/registry/flowcontrol/ensurer; apiserver pkg/util/flowcontrol apf_controller.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from msgspec.structs import replace

from kaa.api.clock import Clock, format_time
from kaa.api.errors import ApiError
from kaa.api.types.flowcontrol_v1 import (
    FlowSchema,
    FlowSchemaCondition,
    FlowSchemaStatus,
    PriorityLevelConfiguration,
)
from kaa.client.client import Client

from ..bootstrap.flow import flow_schemas, priority_levels
from ..bootstrap.objects import due
from ..cacher import Cacher
from ..hearing import Hearer, rest
from .control import MANDATORY

log = structlog.get_logger(__name__)

EVERY_S = 60.0
#: Changes come together: they are looked at this long after the first.
SETTLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    create: tuple[Any, ...] = ()
    update: tuple[Any, ...] = ()
    statuses: tuple[FlowSchema, ...] = ()


def plan(view: Cacher, now: float) -> Plan:
    """What to write."""
    wanted: list[Any] = [*priority_levels(), *flow_schemas(now)]
    create, update = due(wanted, view)
    mended = {(type(one), one.metadata.name) for one in update}
    for one in wanted:
        held: Any = view.get(type(one), one.metadata.name or "")
        altered = one.metadata.name in MANDATORY and held is not None and held.spec != one.spec
        if altered and (type(one), one.metadata.name) not in mended:
            update.append(replace(held, spec=one.spec))
    levels = {one.metadata.name for one in view.list(PriorityLevelConfiguration)}
    return Plan(tuple(create), tuple(update), tuple(_statuses(view.list(FlowSchema), levels, now)))


def _statuses(schemas: Iterable[FlowSchema], levels: set[str | None], now: float) -> Iterable[FlowSchema]:
    for schema in schemas:
        status = schema.status or FlowSchemaStatus()
        held = next((one for one in status.conditions if one.type == "Dangling"), None)
        wanted = _dangling(schema, levels, held, now)
        if held is None or replace(held, last_transition_time=wanted.last_transition_time) != wanted:
            others = tuple(one for one in status.conditions if one.type != "Dangling")
            yield replace(schema, status=replace(status, conditions=(*others, wanted)))


def _dangling(
    schema: FlowSchema, levels: set[str | None], held: FlowSchemaCondition | None, now: float
) -> FlowSchemaCondition:
    level = schema.spec.priority_level_configuration.name
    found = level in levels
    status = "False" if found else "True"
    moved = held is None or held.status != status
    return FlowSchemaCondition(
        type="Dangling",
        status=status,
        reason="Found" if found else "NotFound",
        message=f'This FlowSchema references the PriorityLevelConfiguration object named "{level}"'
        + (" and it exists" if found else " but there is no such object"),
        last_transition_time=format_time(now) if moved or held is None else held.last_transition_time,
    )


async def keep(view: Cacher, client: Client, clock: Clock) -> None:
    """Write what is due, after each change and every minute, until cancelled."""
    changed = asyncio.Event()
    kinds = (FlowSchema, PriorityLevelConfiguration)
    hearers = [Hearer(view, kind, lambda change: changed.set()) for kind in kinds]
    try:
        while True:
            changed.clear()
            found = plan(view, clock.now())
            await _write(client.create, found.create)
            await _write(client.update, found.update)
            await _write(client.update_status, found.statuses)
            await rest(changed, clock, EVERY_S)
            await clock.sleep(SETTLE_S)
    finally:
        for hearer in hearers:
            hearer.stop()


async def _write(write: Callable[[Any], Any], objects: Iterable[Any]) -> None:
    for obj in objects:
        try:
            await write(obj)
        except ApiError as err:  # somebody was first: the change is heard of
            log.info("an object of flow control was not written", name=obj.metadata.name, error=str(err))
