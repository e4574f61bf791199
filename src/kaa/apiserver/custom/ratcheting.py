"""What an update left as it was stands, even if the schema no longer allows it.

A fault at a place counts when the value there changed, and so did each value around it. What cannot be found again in the
old object, such as items of lists without keys, counts as changed.

Source: KEP-4008; apiextensions-apiserver pkg/apiserver/validation/ratcheting.go; apiserver pkg/cel/common/equality.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kaa.api.fields import FieldError

from ..validation.common import same

Schema = Mapping[str, Any]
_ABSENT: Any = object()
_INDEX = re.compile(r"\[(\d+)\]\.?")
#: faults of anyOf, oneOf, allOf, not and of numbers' formats name their place in the message alone
_PLACE = re.compile(r'Invalid value: "": (?:"([^"]*)" must (?:not )?validate |.* with format \w+ in (.*)$)')


def is_old(fault: FieldError, schema: Schema, new: Any, old: Any) -> bool:
    """Whether an update left the value of a fault, or one around it, as it was."""
    named = _PLACE.match(fault.body)
    left = (named[1] or named[2] or "") if named else fault.field.removeprefix("<nil>")
    while True:
        if old is _ABSENT:
            return False
        if same(new, old):
            return True
        found = _step(left, schema, new, old)
        if found is None:
            return False
        left, schema, new, old = found


def _step(left: str, schema: Schema, new: Any, old: Any) -> tuple[str, Schema, Any, Any] | None:
    """One step along a path: what is left of it, and what is there. None at its end, or where nothing is."""
    if isinstance(new, list):
        index = _INDEX.match(left)
        if index is None or int(index[1]) >= len(new):
            return None
        item = new[int(index[1])]
        return left[index.end() :], schema.get("items") or {}, item, _found_again(item, schema, old)
    if not isinstance(new, Mapping) or schema.get("x-kubernetes-map-type") == "atomic":
        return None
    name = max((name for name in new if _leads(name, left)), key=len, default=None)
    if name is None:
        return None
    more = schema.get("additionalProperties")
    inner = (schema.get("properties") or {}).get(name, more if isinstance(more, Mapping) else {})
    return (
        left[len(name) :].removeprefix("."),
        inner,
        new[name],
        old.get(name, _ABSENT) if isinstance(old, Mapping) else _ABSENT,
    )


def _leads(name: str, left: str) -> bool:
    return left.startswith(name) and left[len(name) : len(name) + 1] in ("", ".", "[")


def _found_again(item: Any, schema: Schema, old: Any) -> Any:
    """The old item with the same keys."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if schema.get("x-kubernetes-list-type") != "map" or not keys or not isinstance(old, list):
        return _ABSENT
    if not isinstance(item, Mapping):
        return _ABSENT
    wanted = [item.get(key) for key in keys]
    return next((one for one in old if isinstance(one, Mapping) and [one.get(key) for key in keys] == wanted), _ABSENT)
