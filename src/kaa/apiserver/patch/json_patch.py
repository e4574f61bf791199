"""JSON Patch (RFC 6902) as upstream applies it.

Ours rather than a library's, for upstream's dialect decides: its limits, its leniency (an absent ``value`` is null, array
positions may count from the end) and its error words. Tests hold it against ``jsonpatch``.

Source: evanphx/json-patch v4; apiserver pkg/endpoints/handlers (patch).
"""

from __future__ import annotations

import re
from typing import Any

from kaa.api.errors import ApiError, BadRequest, Invalid, TooLarge

MAX_OPERATIONS = 10_000
_ABSENT = object()
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


def apply_json_patch(document: dict[str, Any], operations: list[Any]) -> dict[str, Any]:
    """The patched document; the one given stays as it was. Raises 422 when an operation cannot be applied."""
    if len(operations) > MAX_OPERATIONS:
        allowed = f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        raise TooLarge(f"Request entity too large: {allowed}")
    for operation in operations:
        _check(operation)
    root: Any = document
    for operation in operations:
        root = _apply(root, operation)
    if not isinstance(root, dict):
        raise _refused()
    return root


def _check(operation: Any) -> None:
    """Refuse what is no operation at all, before any is applied."""
    if not isinstance(operation, dict):
        word = go_word(operation)
        raise BadRequest(
            f"error decoding patch: json: cannot unmarshal {word} into Go value of type handlers.jsonPatchOp"
        )
    for name in ("op", "from", "path"):
        value = operation.get(name)
        if value is not None and not isinstance(value, str):
            raise BadRequest(
                f"error decoding patch: json: cannot unmarshal {go_word(value)} into Go struct field"
                f" jsonPatchOp.{name} of type string"
            )


def go_word(value: Any) -> str:
    """What Go calls a JSON value."""
    if isinstance(value, bool):
        return "bool"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _refused() -> ApiError:
    error = Invalid("the server rejected our request due to an error in our request")
    error.bare_details = True
    return error


def pointer(text: Any) -> list[str]:
    """The steps of a JSON pointer. What stands before its first slash is not looked at; the document as a whole is no
    place."""
    if not isinstance(text, str) or "/" not in text:
        raise _refused()
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _apply(root: Any, operation: dict[str, Any]) -> Any:
    path, value = operation.get("path"), operation.get("value")
    match operation.get("op"):
        case "add":
            return _set(root, pointer(path), value, insert=True)
        case "replace":
            if path == "":
                return value
            _read(root, pointer(path))
            return _set(root, pointer(path), value, insert=False)
        case "remove":
            return _remove(root, pointer(path))
        case "test":
            found = root if path == "" else _read(root, pointer(path), absent=None)
            if not _equal(found, value):
                raise _refused()
            return root
        case "copy":
            return _set(root, pointer(path), _read(root, pointer(operation.get("from"))), insert=True)
        case "move":
            origin = pointer(operation.get("from"))
            moved = _read(root, origin)
            return _set(_remove(root, origin), pointer(path), moved, insert=True)
    raise _refused()


def _equal(left: Any, right: Any) -> bool:
    """JSON's equality: ``true`` is not 1."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return type(left) is type(right) and bool(left == right)


def _index(items: list[Any], step: str, *, grows: bool = False) -> int:
    """An array position; negative ones count from the end. Where something is added the end itself is a position too,
    and ``-`` a name for it."""
    length = len(items) + grows
    if grows and step == "-":
        return len(items)
    if not _NUMBER.fullmatch(step) or not -length <= int(step) < length:
        raise _refused()
    n = int(step)
    return n if n >= 0 else n + length


def _read(value: Any, steps: list[str], absent: Any = _ABSENT) -> Any:
    for n, step in enumerate(steps):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list):
            value = value[_index(value, step)]
        elif absent is not _ABSENT and isinstance(value, dict) and n == len(steps) - 1:
            return absent
        else:
            raise _refused()
    return value


def _set(value: Any, steps: list[str], new: Any, *, insert: bool) -> Any:
    """``value`` with ``new`` at a place; containers on the way are copied, all else is shared."""
    if not steps:
        return new
    step, rest = steps[0], steps[1:]
    if isinstance(value, dict):
        if rest and step not in value:
            raise _refused()
        return {**value, step: _set(value.get(step), rest, new, insert=insert)}
    if isinstance(value, list):
        made = list(value)
        n = _index(made, step, grows=insert and not rest)
        if rest:
            made[n] = _set(made[n], rest, new, insert=insert)
        elif insert:
            made.insert(n, new)
        else:
            made[n] = new
        return made
    raise _refused()


def _remove(value: Any, steps: list[str]) -> Any:
    if not steps:
        raise _refused()
    step, rest = steps[0], steps[1:]
    if isinstance(value, dict) and step in value:
        if rest:
            return {**value, step: _remove(value[step], rest)}
        return {key: inner for key, inner in value.items() if key != step}
    if isinstance(value, list):
        made = list(value)
        n = _index(made, step)
        if rest:
            made[n] = _remove(made[n], rest)
        else:
            del made[n]
        return made
    raise _refused()
