"""What a MutatingAdmissionPolicy's expressions give: an object to apply, or a list of patch operations.

``Object{spec: Object.spec{replicas: 3}}`` names each object by the path to it, since its schema is not looked at when
compiling; ``JSONPatch{op: "add", path: "/x", value: 1}`` is one operation.

Source: apiserver pkg/admission/plugin/policy/mutating/patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kaa.api.cel import EvaluationError
from kaa.api.cel.literals import ObjectValue
from kaa.api.cel.mutation import ROOT, check_names
from kaa.api.cel.structs import to_json
from kaa.api.errors import ApiError

from ..patch.documents import WrongDocument, fields_of, merged
from ..patch.json_patch import apply_json_patch
from ..patch.type_view import ListNode, MapNode, Node, StructNode
from ..webhooks.dispatch import misfit

Json = dict[str, Any]


class MutationFailed(Exception):
    """A mutation cannot be made; the text says why."""


# ------------------------------------------------------------------------------------------------------ apply


def applied(node: Node, document: Json, sent: Any) -> Json:
    """A document with an ``Object{…}`` merged in, as an apply merges. Raises MutationFailed."""
    if not isinstance(sent, Mapping):
        raise MutationFailed(f"unsupported return type from ApplyConfiguration expression: {type(sent).__name__}")
    _checked(sent)
    plain = _json(sent)
    try:
        fields_of(node, plain)
    except WrongDocument as err:
        why = f"failed to convert patch object to typed object: {err}"
        raise MutationFailed(f"error applying patch: {why}") from None
    whole = sorted(_wholes(node, plain, ""))
    if whole:
        why = f"may not mutate atomic arrays, maps or structs: {', '.join(whole)}"
        raise MutationFailed(f"error applying patch: invalid ApplyConfiguration: {why}")
    made: Json = merged(node, document, plain)
    return made


def _checked(value: Any, path: str = ROOT) -> None:
    """Raises MutationFailed when an object is not named by the path to it."""
    try:
        check_names(value, path)
    except EvaluationError as err:
        raise MutationFailed(f"type mismatch: {err}") from None


def _wholes(node: Node, value: Any, path: str) -> Iterator[str]:
    """The places where a value sets what can only be set whole: to set a part of it would lose the rest."""
    if isinstance(value, dict):
        if not isinstance(node, (StructNode, MapNode)):
            yield path
            return
        for name, inner in value.items():
            yield from _wholes(node.child(name), inner, f"{path}.{name}")
    elif isinstance(value, list):
        if not isinstance(node, ListNode):
            yield path
            return
        for n, item in enumerate(value):
            yield from _wholes(node.item, item, f"{path}[{n}]")


# ------------------------------------------------------------------------------------------------------ patches


def patched(document: Json, operations: Any) -> Json:
    """A document with patch operations applied; the same one when a ``test`` among them fails. Raises MutationFailed."""
    if not isinstance(operations, Sequence) or isinstance(operations, str):
        raise MutationFailed("unsupported return type from JSONPatch expression: expected a list of JSONPatch")
    made = document
    for operation in operations:
        plain = _json(operation)
        value = operation.get("value") if isinstance(operation, Mapping) else None
        if isinstance(value, ObjectValue):
            _checked(value, value.cel_type.name)
        try:
            made = apply_json_patch(made, [plain])
        except ApiError:
            if plain.get("op") == "test":
                return document
            raise MutationFailed(f"JSONPath: {misfit(plain)}") from None
    return made


def _json(value: Any) -> Json:
    try:
        made: Json = to_json(value)
    except EvaluationError as err:
        raise MutationFailed(str(err)) from None
    return made
