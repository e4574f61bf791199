"""What a definition says by JSONPath: the columns of tables, selectable fields, and where the replicas are counted.

Source: apiextensions-apiserver pkg/registry/customresource/tableconvertor, selectableFields; KEP-4358.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kaa.api.clock import format_duration, parse_time
from kaa.api.custom import CustomObject
from kaa.api.jsonpath import Find, JSONPathError, compile_path
from kaa.api.types.apiextensions_v1 import CustomResourceColumnDefinition, CustomResourceDefinitionVersion

from ..registry.strategy import Column, TableShape
from ..wire import AGE_DOC, NAME_DOC

_AGE = CustomResourceColumnDefinition(name="Age", type="date", json_path=".metadata.creationTimestamp")
_COLUMN_DOC = "Custom resource definition column (in JSONPath format): "


def table_of(version: CustomResourceDefinitionVersion) -> TableShape[CustomObject]:
    """The table of a version: the name, then its own columns, or the age where it has none or their paths are none."""
    given = version.additional_printer_columns or (_AGE,)
    try:
        cells = [_cell(compile_path(one.json_path), one.type) for one in given]
    except JSONPathError:  # definitions may have such, and are shown as if they had none
        given = (_AGE,)
        cells = [_cell(compile_path(one.json_path), one.type) for one in given]
    columns = [Column("Name", "string", "name", NAME_DOC), *(_column(one) for one in given)]

    def row(obj: CustomObject, now: float) -> Sequence[Any]:
        document = obj.document()
        return [obj.metadata.name, *(cell(document, now) for cell in cells)]

    return TableShape(tuple(columns), row)


def _column(given: CustomResourceColumnDefinition) -> Column:
    if given is _AGE:
        return Column("Age", "date", "", AGE_DOC)
    description = given.description or _COLUMN_DOC + given.json_path
    return Column(given.name, given.type, given.format or "", description, given.priority or 0)


def _cell(find: Find, kind: str) -> Callable[[Any, float], Any]:
    def cell(document: Any, now: float) -> Any:
        found = find(document)
        return _shown(found[0], kind, now) if found else None

    return cell


def _shown(value: Any, kind: str, now: float) -> Any:
    """One value as a cell; what is not of the column's type is not shown."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match kind:
        case "integer":
            return int(value) if number else None
        case "number":
            return float(value) if number else None
        case "boolean":
            return value if isinstance(value, bool) else None
        case "date":
            return _age(value, now) if isinstance(value, str) else None
    return value if isinstance(value, str) else as_text(value)


def _age(value: str, now: float) -> str:
    try:
        return format_duration(now - parse_time(value))
    except ValueError:
        return "<invalid>"


def as_text(value: Any) -> str:
    """A JSON value as Go's JSONPath prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return msgspec.json.encode(value).decode()
    return str(value)


def selectable(version: CustomResourceDefinitionVersion) -> Mapping[str, Find]:
    """{field selector's name: its finder} of a version: ``.spec.color`` is selected as ``spec.color``."""
    return {one.json_path.removeprefix("."): compile_path(one.json_path) for one in version.selectable_fields}


def steps_of(path: str) -> tuple[str, ...]:
    """The field names of a plain path: ``.spec.replicas``."""
    return tuple(part for part in path.split(".") if part)


def value_at(content: Any, steps: Sequence[str]) -> Any:
    """The value at a plain path; None when there is none."""
    for step in steps:
        if not isinstance(content, Mapping) or step not in content:
            return None
        content = content[step]
    return content


def with_value(content: Mapping[str, Any], steps: Sequence[str], value: Any) -> dict[str, Any]:
    """The content with a value at a plain path."""
    made = dict(content)
    if len(steps) == 1:
        made[steps[0]] = value
    else:
        inner = made.get(steps[0])
        made[steps[0]] = with_value(inner if isinstance(inner, Mapping) else {}, steps[1:], value)
    return made
