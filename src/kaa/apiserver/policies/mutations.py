"""What a MutatingAdmissionPolicy's expressions give: an object to apply, or a list of patch operations.

``Object{spec: Object.spec{replicas: 3}}`` names each object by the path to it, since its schema is not looked at when
compiling; ``JSONPatch{op: "add", path: "/x", value: 1}`` is one operation.

Source: apiserver pkg/cel/mutation (dynamic.go, typeresolver.go); pkg/admission/plugin/policy/mutating/patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kaa.api.cel import DYN, STRING, EvaluationError, ObjectType, Type
from kaa.api.cel.structs import to_json

from ..patch.documents import WrongDocument, fields_of, merged, path_text
from ..patch.field_sets import SELF, FieldSet
from ..patch.json_patch import apply_json_patch
from ..patch.type_view import KeyedListNode, ListNode, MapNode, Node, StructNode

Json = dict[str, Any]
ROOT = "Object"


class MutationFailed(Exception):
    """A mutation cannot be made; the text says why."""


class _AnyFields(Mapping[str, Type]):
    """Every name is a field, of any type: what an object may hold is found out when it is applied."""

    def __getitem__(self, name: str) -> Type:
        return DYN

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


_ANY_FIELDS = _AnyFields()
JSON_PATCH = ObjectType("JSONPatch", {"op": STRING, "path": STRING, "from": STRING, "value": DYN})


def type_named(name: str) -> ObjectType | None:
    """The object type that an expression writes out by name."""
    if name == JSON_PATCH.name:
        return JSON_PATCH
    return ObjectType(name, _ANY_FIELDS) if name == ROOT or name.startswith(f"{ROOT}.") else None
