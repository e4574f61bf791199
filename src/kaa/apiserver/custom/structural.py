"""A structural schema as a tree that drops unknown fields and nulls that may not be, and fills in defaults.

A tree is built once a version and walks plain JSON values. Values are never changed: what stays the same is shared, and a
value that is whole is answered with itself.

Source: apiextensions-apiserver pkg/apiserver/schema/{pruning,defaulting}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .embedded import known_metadata

Schema = Mapping[str, Any]
_NONE: Any = object()
_OF_OBJECTS = frozenset({"apiVersion", "kind", "metadata"})


class Structural:
    """One schema of the tree."""

    __slots__ = (
        "additional",
        "default",
        "drops_null",
        "embedded",
        "fillable",
        "items",
        "keeps",
        "nullable",
        "properties",
    )

    def __init__(self, schema: Schema) -> None:
        self.properties = {name: Structural(inner) for name, inner in (schema.get("properties") or {}).items()}
        more = schema.get("additionalProperties")
        self.additional = Structural(more) if isinstance(more, Mapping) else None
        items = schema.get("items")
        self.items = Structural(items) if isinstance(items, Mapping) else None
        self.keeps = bool(schema.get("x-kubernetes-preserve-unknown-fields")) or more is True
        self.embedded = bool(schema.get("x-kubernetes-embedded-resource"))
        self.nullable = bool(schema.get("nullable"))
        self.default: Any = schema["default"] if schema.get("default") is not None else _NONE
        self.drops_null = not self.nullable and self.default is _NONE
        below = (*self.properties.values(), *filter(None, (self.additional, self.items)))
        #: whether there is any default below
        self.fillable: bool = any(inner.fillable or inner.default is not _NONE for inner in below)

    def pruned(self, value: Any, path: str, unknown: list[str]) -> Any:
        """The value without what the schema does not know; the paths of that go to ``unknown``."""
        if isinstance(value, dict):
            return self._pruned_map(value, path, unknown)
        if isinstance(value, list) and self.items is not None:
            made = [self.items.pruned(item, f"{path}[{n}]", unknown) for n, item in enumerate(value)]
            return value if all(a is b for a, b in zip(value, made, strict=True)) else made
        return value

    def _pruned_map(self, value: dict[str, Any], path: str, unknown: list[str]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        changed = False
        for name, inner in value.items():
            here = f"{path}.{name}" if path else name
            known = self.properties.get(name, self.additional)
            if inner is None and name in self.properties and self.properties[name].drops_null:
                changed = True
            elif self.embedded and name == "metadata":
                made[name] = known_metadata(inner, here, unknown)
                changed = changed or made[name] is not inner
            elif known is not None and not (self.embedded and name in _OF_OBJECTS):
                made[name] = known.pruned(inner, here, unknown)
                changed = changed or made[name] is not inner
            elif self.keeps or (self.embedded and name in _OF_OBJECTS):
                made[name] = inner
            else:
                unknown.append(here)
                changed = True
        return made if changed else value

    def filled(self, value: Any) -> Any:
        """The value with defaults where fields are absent, or null and may not be."""
        if not self.fillable:
            return value
        if isinstance(value, dict):
            return self._filled_map(value)
        if isinstance(value, list) and self.items is not None:
            made = [self._or_default(self.items, item) for item in value]
            return value if all(a is b for a, b in zip(value, made, strict=True)) else made
        return value

    def _filled_map(self, value: dict[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for name, known in self.properties.items():
            inner = value.get(name, _NONE)
            if inner is _NONE:
                if known.default is not _NONE:
                    changes[name] = known.filled(known.default)
                continue
            made = self._or_default(known, inner)
            if made is not inner:
                changes[name] = made
        if self.additional is not None:
            for name, inner in value.items():
                if name not in self.properties:
                    made = self._or_default(self.additional, inner)
                    if made is not inner:
                        changes[name] = made
        return {**value, **changes} if changes else value

    @staticmethod
    def _or_default(known: Structural, value: Any) -> Any:
        if value is None and not known.nullable and known.default is not _NONE:
            return known.filled(known.default)
        return known.filled(value)
