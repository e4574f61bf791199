"""Whole objects inside of custom resources: ``x-kubernetes-embedded-resource``.

Source: apiextensions-apiserver pkg/apiserver/schema/objectmeta.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import fields, names, scheme
from kaa.api.fields import FieldError, Path
from kaa.api.types.meta_v1 import ObjectMeta

from ..validation.meta import validate_meta
from .validation import Check, Schema

_ABSENT: Any = object()
_METADATA = frozenset(field.encode_name for field in msgspec.structs.fields(ObjectMeta))


def known_metadata(value: Any, path: str, unknown: list[str]) -> Any:
    """An embedded object's metadata without fields that no metadata has. What is none at all is left for validation."""
    if not isinstance(value, dict):
        return value
    extra = [name for name in value if name not in _METADATA]
    unknown.extend(f"{path}.{name}" for name in extra)
    return {name: inner for name, inner in value.items() if name in _METADATA} if extra else value


def embedded_faults(schema: Schema) -> Check | None:
    """The check that embedded objects have a kind, an apiVersion and metadata; None where a schema embeds none."""
    below = {
        name: made
        for name, inner in (schema.get("properties") or {}).items()
        if (made := embedded_faults(inner)) is not None
    }
    more, items = schema.get("additionalProperties"), schema.get("items")
    other = embedded_faults(more) if isinstance(more, Mapping) else None
    item = embedded_faults(items) if isinstance(items, Mapping) else None
    embedded = bool(schema.get("x-kubernetes-embedded-resource"))
    if not (below or other or item or embedded):
        return None

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        if isinstance(value, Mapping):
            if embedded:
                faults.extend(_of_an_object(value, path))
            for name, inner in value.items():
                if name in below:
                    below[name](inner, f"{path}.{name}" if path else name, faults)
                elif other is not None:
                    other(inner, f"{path}[{name}]", faults)
        elif isinstance(value, list) and item is not None:
            for n, inner in enumerate(value):
                item(inner, f"{path}[{n}]", faults)

    return check


def _of_an_object(value: Mapping[str, Any], path: str) -> Iterator[FieldError]:
    """Source: apiextensions-apiserver pkg/apiserver/schema/objectmeta/validation.go."""
    at = Path(path)
    for name in ("apiVersion", "kind"):
        given = value.get(name, _ABSENT)
        if given is _ABSENT or given == "":
            yield fields.required(at.child(name))
        elif not isinstance(given, str):
            yield fields.invalid(at.child(name), given, "must be a string")
        elif name == "apiVersion" and given.count("/") > 1:
            yield fields.invalid(at.child(name), given, f"unexpected GroupVersion string: {given}")
        elif name == "kind" and (wrong := names.dns_1035_label(given.lower())):
            detail = "may have mixed case, but should otherwise match: " + ",".join(wrong)
            yield fields.invalid(at.child(name), given, detail)
    if "metadata" in value:
        yield from _of_metadata(value["metadata"], at.child("metadata"))


def _of_metadata(value: Any, path: Path) -> Iterator[FieldError]:
    try:
        metadata = scheme.convert(ObjectMeta, value)
    except scheme.DecodeError as err:
        yield fields.invalid(path, value, str(err))
        return
    named = replace(metadata, name=metadata.name or "fakename")  # it needs none
    yield from validate_meta(
        named, namespaced=bool(metadata.namespace), name_faults=names.path_segment, path=path, free_finalizers=True
    )
