"""JSON Patch (RFC 6902) as upstream applies it.

Ours rather than a library's, for upstream's dialect decides: its limits, its leniency (an absent ``value`` is null, array
positions may count from the end) and its error words. Tests hold it against ``jsonpatch``.

Source: evanphx/json-patch v4; apiserver pkg/endpoints/handlers (patch).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kaa.api.errors import ApiError, BadRequest, Invalid, TooLarge

MAX_OPERATIONS = 10_000
MAX_COPIED = 3 * 1024 * 1024  # bytes that all copies of a patch may add
_ABSENT = object()
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


def apply_json_patch(document: dict[str, Any], operations: list[Any]) -> dict[str, Any]:
    """The patched document; the one given stays as it was. Raises 422 when an operation cannot be applied."""
    if len(operations) > MAX_OPERATIONS:
        allowed = f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        raise TooLarge(f"Request entity too large: {allowed}")
    for operation in operations:
        _check(operation)
    work = _Work(document)
    for operation in operations:
        work.apply(operation)
    if not isinstance(work.root, dict):
        raise _refused()
    return work.root


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


class _Work:
    """A document under change. A container is copied when it is first changed and belongs to this patch from then on, so
    that ten thousand operations on one long list do not copy it ten thousand times."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._own: dict[int, Any] = {}  #: {id: container}
        self._copied = 0  #: bytes that ``copy`` has added

    def apply(self, operation: dict[str, Any]) -> None:
        path, value = operation.get("path"), operation.get("value")
        match operation.get("op"):
            case "add":
                self._put(pointer(path), value, insert=True)
            case "replace":
                self._replace(path, value)
            case "remove":
                self._take(pointer(path))
            case "test":
                found = self.root if path == "" else _read(self.root, pointer(path), absent=None)
                if not _equal(found, value):
                    raise _refused()
            case "copy":
                self._put(pointer(path), self._twin(_read(self.root, pointer(operation.get("from")))), insert=True)
            case "move":
                to, origin = pointer(path), pointer(operation.get("from"))
                self._put(to, self._take(origin), insert=True)
            case _:
                raise _refused()

    def _replace(self, path: Any, value: Any) -> None:
        if path == "":
            self.root = value
            return
        _read(self.root, pointer(path))
        self._put(pointer(path), value, insert=False)

    def _twin(self, value: Any) -> Any:
        """A copy that shares nothing; copies of copies grow fast, so their bytes are counted."""
        data = msgspec.json.encode(value)
        self._copied += len(data)
        if self._copied > MAX_COPIED:
            raise _refused()
        return msgspec.json.decode(data)

    def _owned(self, value: Any) -> Any:
        if id(value) in self._own:
            return value
        if not isinstance(value, (dict, list)):
            raise _refused()
        made = value.copy()
        self._own[id(made)] = made
        return made

    def _parent(self, steps: list[str]) -> Any:
        """The container in which the last step is, ready to be changed."""
        value = self.root = self._owned(self.root)
        for step in steps[:-1]:
            key: Any = step
            if isinstance(value, list):
                key = _index(value, step)
            elif step not in value:
                raise _refused()
            inner = value[key] = self._owned(value[key])
            value = inner
        return value

    def _put(self, steps: list[str], new: Any, *, insert: bool) -> None:
        parent = self._parent(steps)
        if isinstance(parent, dict):
            parent[steps[-1]] = new
            return
        n = _index(parent, steps[-1], grows=insert)
        if insert:
            parent.insert(n, new)
        else:
            parent[n] = new

    def _take(self, steps: list[str]) -> Any:
        parent = self._parent(steps)
        if isinstance(parent, list):
            return parent.pop(_index(parent, steps[-1]))
        if steps[-1] not in parent:
            raise _refused()
        return parent.pop(steps[-1])


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
