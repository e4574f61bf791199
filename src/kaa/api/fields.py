"""What is wrong with which field: the vocabulary of validation.

Messages are upstream's (apimachinery pkg/util/validation/field). ``Path`` builds ``spec.containers[0].name``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

REQUIRED = "FieldValueRequired"
INVALID = "FieldValueInvalid"
NOT_SUPPORTED = "FieldValueNotSupported"
DUPLICATE = "FieldValueDuplicate"
NOT_FOUND = "FieldValueNotFound"
FORBIDDEN = "FieldValueForbidden"
TOO_LONG = "FieldValueTooLong"
TOO_MANY = "FieldValueTooMany"
INTERNAL = "InternalError"
TYPE_INVALID = "FieldValueTypeInvalid"


class Path:
    """Where a field is. ``Path("spec").child("ports").index(0)`` reads ``spec.ports[0]``.

    Its text is made when a fault is found, which is seldom; validation makes paths all the time.
    """

    __slots__ = ("_parent", "_steps")

    def __init__(self, text: str = "") -> None:
        self._parent: Path | None = None
        self._steps: tuple[str | int, ...] = (text,)

    def child(self, *names: str) -> Path:
        return _below(self, names)

    def index(self, n: int) -> Path:
        return _below(self, (n,))

    def key(self, name: str) -> Path:
        return Path(f"{self}[{name}]")

    def __str__(self) -> str:
        text = str(self._parent) if self._parent is not None else ""
        for step in self._steps:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text


def _below(parent: Path, steps: tuple[str | int, ...]) -> Path:
    made = Path.__new__(Path)
    made._parent, made._steps = parent, steps
    return made


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field at fault. ``body`` is the message without the path, as causes carry it."""

    type: str
    field: str
    body: str

    def __str__(self) -> str:
        return f"{self.field}: {self.body}" if self.field else self.body


def joined(faults: Iterable[FieldError]) -> str:
    """Faults as Go's aggregate prints them: one as it is, more in brackets, none twice."""
    unique = list(dict.fromkeys(map(str, faults)))
    return unique[0] if len(unique) == 1 else f"[{', '.join(unique)}]"


def shown(value: Any) -> str:
    """A value as messages quote it: JSON, with strings in quotes."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    return msgspec.json.encode(value, enc_hook=str, order="sorted" if isinstance(value, Mapping) else None).decode()


def required(path: Path, detail: str = "") -> FieldError:
    return FieldError(REQUIRED, str(path), _joined("Required value", detail))


def invalid(path: Path, value: Any, detail: str) -> FieldError:
    return FieldError(INVALID, str(path), _joined(f"Invalid value: {shown(value)}", detail))


def not_supported(path: Path, value: Any, supported: Iterable[str]) -> FieldError:
    """``supported`` in the order in which the message lists it (upstream sorts enums)."""
    words = ", ".join(shown(word) for word in supported)
    return FieldError(
        NOT_SUPPORTED, str(path), _joined(f"Unsupported value: {shown(value)}", f"supported values: {words}")
    )


def duplicate(path: Path, value: Any) -> FieldError:
    return FieldError(DUPLICATE, str(path), f"Duplicate value: {shown(value)}")


def not_found(path: Path, value: Any) -> FieldError:
    return FieldError(NOT_FOUND, str(path), f"Not found: {shown(value)}")


def forbidden(path: Path, detail: str = "") -> FieldError:
    return FieldError(FORBIDDEN, str(path), _joined("Forbidden", detail))


def too_long(path: Path, limit_bytes: int) -> FieldError:
    return FieldError(TOO_LONG, str(path), f"Too long: may not be more than {limit_bytes} bytes")


def too_many(path: Path, count: int, limit: int) -> FieldError:
    return FieldError(TOO_MANY, str(path), f"Too many: {count}: must have at most {limit} items")


def _joined(head: str, detail: str) -> str:
    return f"{head}: {detail}" if detail else head
