"""Events of both groups: ``v1`` is the stored form, ``events.k8s.io/v1`` the same event under other names.

Source: pkg/registry/core/event/strategy.go; pkg/apis/core/validation/events.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types import core_v1, events_v1

from ...validation.common import immutable
from ..strategy import Column, Strategy, TableShape
from ..tables import NAME_COLUMN, column, since

_NOTE_BYTES = 1024
_INSTANCE_BYTES = 128


def _core_cells(obj: core_v1.Event, now: float) -> Sequence[Any]:
    first = since(obj.first_timestamp, now) if obj.first_timestamp else since(obj.event_time, now)
    last = since(obj.last_timestamp, now) if obj.last_timestamp else first
    count = obj.count or 0
    if obj.series is not None:
        last = since(obj.series.last_observed_time, now)
        count = obj.series.count or 0
    elif not count:
        count = 1
    about = obj.involved_object
    target = (about.kind or "").lower()
    if about.name:
        target = f"{target}/{about.name}"
    component = obj.source.component or obj.reporting_component or ""
    instance = obj.source.host or obj.reporting_instance or ""
    source = f"{component}, {instance}" if instance else component
    return (
        last,
        obj.type or "",
        obj.reason or "",
        target,
        about.field_path or "",
        source,
        (obj.message or "").strip(),
        first,
        count,
        obj.metadata.name,
    )


_WORDS = "Last Seen|Type|Reason|Object|Subobject+|Source+|Message|First Seen+|Count+"
COLUMNS = (
    *(column("core/events", word) for word in _WORDS.split("|")),
    Column("Name", "string", "name", NAME_COLUMN.description, 1),
)


def _new_cells(obj: events_v1.Event, now: float) -> Sequence[Any]:
    from ..conversion import event_to_core

    return _core_cells(event_to_core(obj), now)


class CoreEventStrategy(Strategy[core_v1.Event]):
    kind = core_v1.Event
    allows_create_on_update = True
    table = TableShape(COLUMNS, _core_cells)
    field_names = frozenset(
        [
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    )

    def default(self, obj: core_v1.Event) -> core_v1.Event:
        changes: dict[str, Any] = {}
        if obj.reporting_component is None:
            changes["reporting_component"] = ""
        if obj.reporting_instance is None:
            changes["reporting_instance"] = ""
        return replace(obj, **changes) if changes else obj

    def validate(self, obj: core_v1.Event) -> list[FieldError]:
        return list(_namespace(obj.metadata.namespace, obj.involved_object))

    def validate_update(self, new: core_v1.Event, old: core_v1.Event) -> list[FieldError]:
        return self.validate(new)

    def fields(self, obj: core_v1.Event) -> Mapping[str, str]:
        about = obj.involved_object
        return {
            "involvedObject.kind": about.kind or "",
            "involvedObject.namespace": about.namespace or "",
            "involvedObject.name": about.name or "",
            "involvedObject.uid": about.uid or "",
            "involvedObject.apiVersion": about.api_version or "",
            "involvedObject.resourceVersion": about.resource_version or "",
            "involvedObject.fieldPath": about.field_path or "",
            "reason": obj.reason or "",
            "reportingComponent": obj.reporting_component or "",
            "source": obj.source.component or obj.reporting_component or "",
            "type": obj.type or "",
        }


class EventStrategy(Strategy[events_v1.Event]):
    kind = events_v1.Event
    allows_create_on_update = True
    table = TableShape(COLUMNS, _new_cells)

    def default(self, obj: events_v1.Event) -> events_v1.Event:
        return obj if obj.event_time else replace(obj, event_time=None)  # no time is null on the wire, never ""

    def validate(self, obj: events_v1.Event) -> list[FieldError]:
        return [*_namespace(obj.metadata.namespace, obj.regarding), *_new_faults(obj)]

    def validate_update(self, new: events_v1.Event, old: events_v1.Event) -> list[FieldError]:
        found = list(_namespace(new.metadata.namespace, new.regarding))
        for name in (
            "regarding",
            "reporting_controller",
            "reporting_instance",
            "action",
            "reason",
            "type",
            "note",
            "event_time",
        ):
            wire = {"regarding": "involvedObject", "note": "message"}.get(name, _camel(name))
            found += immutable(Path(wire), getattr(new, name), getattr(old, name))
        return found


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _namespace(namespace: str | None, about: core_v1.ObjectReference) -> Iterator[FieldError]:
    """An event lives with what it is about; one about a cluster-wide object lives in ``default``."""
    at = Path("involvedObject").child("namespace")
    if not about.namespace:
        if namespace not in ("default", "kube-system"):
            yield fields.invalid(at, "", "does not match event.namespace")
    elif about.namespace != namespace:
        yield fields.invalid(at, about.namespace, "does not match event.namespace")
    for fault in names.dns_subdomain(namespace or ""):
        yield fields.invalid(Path("namespace"), namespace, fault)


def _new_faults(obj: events_v1.Event) -> Iterator[FieldError]:
    if not obj.event_time:
        yield fields.required(Path("eventTime"))
    if obj.type not in ("Normal", "Warning"):
        yield fields.invalid(Path("type"), obj.type or "", "has invalid value: " + (obj.type or ""))
    if not obj.reporting_controller:
        yield fields.required(Path("reportingController"))
    for fault in names.qualified_name(obj.reporting_controller or "x"):
        yield fields.invalid(Path("reportingController"), obj.reporting_controller, fault)
    if not obj.reporting_instance:
        yield fields.required(Path("reportingInstance"))
    elif len(obj.reporting_instance) > _INSTANCE_BYTES:
        yield fields.invalid(Path("reportingInstance"), "", f"can have at most {_INSTANCE_BYTES} characters")
    for wire, text, limit in (("action", obj.action, 128), ("reason", obj.reason, 128)):
        if not text:
            yield fields.required(Path(wire))
        elif len(text) > limit:
            yield fields.invalid(Path(wire), "", f"can have at most {limit} characters")
    if len(obj.note or "") > _NOTE_BYTES:
        yield fields.invalid(Path("message"), "", f"can have at most {_NOTE_BYTES} characters")


STRATEGY = CoreEventStrategy()
STRATEGIES = (STRATEGY, EventStrategy())
