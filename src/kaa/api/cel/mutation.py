"""Types that a mutating policy writes out: ``Object{spec: Object.spec{replicas: 1}}`` and ``JSONPatch{op: 'add', …}``.

    environment = Environment(variables, library.MUTATING, types=mutation.named_type)

An ``Object`` may have any field; that the type of each inner object is named after the way to it is checked once there is
a value, by `check_names`.

Source: apiserver pkg/cel/mutation (typeresolver.go, jsonpatch.go), mutation/dynamic/objects.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from .errors import EvaluationError
from .literals import ObjectValue
from .types import DYN, STRING, ObjectType, Type

ROOT = "Object"
JSON_PATCH = ObjectType("JSONPatch", {"op": STRING, "path": STRING, "from": STRING, "value": DYN})


class _AnyField(Mapping[str, Type]):
    """Any field, of any type."""

    def __getitem__(self, _name: str) -> Type:
        return DYN

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@lru_cache(maxsize=1024)
def named_type(name: str) -> ObjectType | None:
    """The type that a mutating policy means by a name."""
    if name == JSON_PATCH.name:
        return JSON_PATCH
    if name == ROOT or name.startswith(f"{ROOT}."):
        return ObjectType(name, _AnyField())
    return None


def check_names(value: Any, root: str = ROOT) -> None:
    """Raises EvaluationError where objects inside are of other types than the way to them says; it names them all.

    ``root``: the type of the value itself, for a part of an object.
    """
    faults = list(_misnamed(value, root))
    if faults:
        raise EvaluationError("\n".join(faults))


def _misnamed(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, ObjectValue):
        name = value.cel_type.name
        if name != path:
            yield (
                f'unexpected type name "{name}", expected "{path}", which matches field name path from root Object type'
            )
        for key, inner in value.items():
            yield from _misnamed(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _misnamed(inner, path)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _misnamed(inner, path)
