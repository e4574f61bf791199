"""JSON Patch (RFC 6902) as upstream applies it.

Ours rather than a library's, for upstream's dialect decides: its limits, its leniency (``remove`` of an absent member is
an error, ``add`` beyond an array's end too) and its error words. Tests hold it against ``jsonpatch``.
"""

from __future__ import annotations

from typing import Any

from kaa.api.errors import ApiError, BadRequest

MAX_OPERATIONS = 10_000
_ABSENT = object()


def apply_json_patch(document: dict[str, Any], operations: list[Any]) -> dict[str, Any]:
    """The patched document; the one given stays as it was. Raises 422 when an operation cannot be applied."""
    if len(operations) > MAX_OPERATIONS:
        message = f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        raise ApiError(message, code=413, reason="RequestEntityTooLarge")
    root: Any = document
    for operation in operations:
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise BadRequest("error decoding patch: an operation is no object with a path")
        root = _apply(root, operation)
    if not isinstance(root, dict):
        raise _refused()
    return root


def _refused() -> ApiError:
    error = ApiError("the server rejected our request due to an error in our request", code=422, reason="Invalid")
    error.bare_details = True
    return error


def pointer(text: str) -> list[str]:
    """The steps of a JSON pointer."""
    if text == "":
        return []
    if not text.startswith("/"):
        raise _refused()
    return [step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/")]


def _apply(root: Any, operation: dict[str, Any]) -> Any:
    steps = pointer(operation["path"])
    match operation.get("op"):
        case "add":
            return _set(root, steps, _value(operation), insert=True)
        case "replace":
            _read(root, steps)
            return _set(root, steps, _value(operation), insert=False)
        case "remove":
            return _remove(root, steps)
        case "test":
            if _read(root, steps, absent=None) != operation.get("value"):
                raise _refused()
            return root
        case "copy":
            return _set(root, steps, _read(root, pointer(_origin(operation))), insert=True)
        case "move":
            origin = pointer(_origin(operation))
            value = _read(root, origin)
            return _set(_remove(root, origin), steps, value, insert=True)
    raise _refused()


def _value(operation: dict[str, Any]) -> Any:
    if "value" not in operation:
        raise _refused()
    return operation["value"]


def _origin(operation: dict[str, Any]) -> str:
    origin = operation.get("from")
    if not isinstance(origin, str):
        raise _refused()
    return origin


def _index(items: list[Any], step: str, *, end: bool) -> int:
    """An array position; ``-`` and the length are allowed where something is added."""
    if end and step == "-":
        return len(items)
    if not step.isascii() or not step.isdigit() or (len(step) > 1 and step[0] == "0"):
        raise _refused()
    n = int(step)
    if n > len(items) or (n == len(items) and not end):
        raise _refused()
    return n


def _read(value: Any, steps: list[str], absent: Any = _ABSENT) -> Any:
    for n, step in enumerate(steps):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list):
            value = value[_index(value, step, end=False)]
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
        n = _index(made, step, end=insert and not rest)
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
        n = _index(made, step, end=False)
        if rest:
            made[n] = _remove(made[n], rest)
        else:
            del made[n]
        return made
    raise _refused()
