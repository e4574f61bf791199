"""Strings: ``'a,b'.split(',')``, ``'%d pods'.format([3])`` and more; cel-go's extension in version 2.

Source: cel-go ext/strings.go.
"""

from __future__ import annotations

from typing import Any

from ..declarations import Library, function, member
from ..errors import CostExceeded, EvaluationError
from ..types import DYN, INT, STRING, ListType
from .formatting import format_string

_LONGEST = 2**28
_UPPER = {ord(char): ord(char) - 32 for char in "abcdefghijklmnopqrstuvwxyz"}
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_QUOTED = str.maketrans(
    {
        "\a": "\\a",
        "\b": "\\b",
        "\f": "\\f",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
        "\v": "\\v",
        "\\": "\\\\",
        '"': '\\"',
    }
)
#: Go's unicode.IsSpace
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


def _out_of_range(at: int) -> EvaluationError:
    return EvaluationError(f"index out of range: {at}")


def _char_at(text: str, at: int) -> str:
    if not 0 <= at <= len(text):
        raise _out_of_range(at)
    return text[at : at + 1]


def _index_of(text: str, part: str, start: int = 0) -> int:
    if part == "" and start == 0:
        return 0
    if start < 0 or start > len(text):
        raise _out_of_range(start)
    return text.find(part, start)


def _last_index_of(text: str, part: str, start: int | None = None) -> int:
    """The last place at or before ``start`` where the part begins."""
    if start is None:
        return text.rfind(part)
    if start < 0 or start > len(text):
        raise _out_of_range(start)
    return text.rfind(part, 0, start + len(part))


def _bounded(size: int) -> None:
    """Upstream would build texts of any size, and fail for want of memory."""
    if size > _LONGEST:
        raise CostExceeded


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    if len(new) > len(old):
        found = text.count(old)
        _bounded(len(text) + (found if count < 0 else min(found, count)) * (len(new) - len(old)))
    return text.replace(old, new, count)


def _split(text: str, separator: str, count: int = -1) -> list[str]:
    if count == 0:
        return []
    if count == 1:
        return [text]
    if separator == "":
        pieces = list(text)
        return pieces if count < 0 or len(pieces) <= count else [*pieces[: count - 1], "".join(pieces[count - 1 :])]
    return text.split(separator, count - 1 if count > 0 else -1)


def _substring(text: str, start: int, end: int | None = None) -> str:
    if end is None:
        if not 0 <= start <= len(text):
            raise _out_of_range(start)
        return text[start:]
    if start > end:
        raise EvaluationError(f"invalid substring range. start: {start}, end: {end}")
    for at in (start, end):
        if not 0 <= at <= len(text):
            raise _out_of_range(at)
    return text[start:end]


def _join(items: Any, separator: str = "") -> str:
    if not all(isinstance(item, str) for item in items):
        raise EvaluationError("no such overload")
    _bounded(sum(map(len, items)) + len(separator) * len(items))
    return separator.join(items)


def quote(text: str) -> str:
    """Between double quotes, with escapes that a Go or CEL literal understands."""
    return f'"{text.translate(_QUOTED)}"'


_S2, _S3 = (STRING, STRING), (STRING, STRING, STRING)
_LIST = ListType(STRING)

LIBRARY = Library(
    "strings",
    (
        member("charAt", "string_char_at_int", (STRING, INT), STRING, _char_at),
        member("indexOf", "string_index_of_string", _S2, INT, _index_of),
        member("indexOf", "string_index_of_string_int", (*_S2, INT), INT, _index_of),
        member("lastIndexOf", "string_last_index_of_string", _S2, INT, _last_index_of),
        member("lastIndexOf", "string_last_index_of_string_int", (*_S2, INT), INT, _last_index_of),
        member("lowerAscii", "string_lower_ascii", (STRING,), STRING, lambda text: text.translate(_LOWER)),
        member("upperAscii", "string_upper_ascii", (STRING,), STRING, lambda text: text.translate(_UPPER)),
        member("replace", "string_replace_string_string", _S3, STRING, _replace),
        member("replace", "string_replace_string_string_int", (*_S3, INT), STRING, _replace),
        member("split", "string_split_string", _S2, _LIST, _split),
        member("split", "string_split_string_int", (*_S2, INT), _LIST, _split),
        member("substring", "string_substring_int", (STRING, INT), STRING, _substring),
        member("substring", "string_substring_int_int", (STRING, INT, INT), STRING, _substring),
        member("trim", "string_trim", (STRING,), STRING, lambda text: text.strip(_SPACE)),
        member("join", "list_join", (_LIST,), STRING, _join),
        member("join", "list_join_string", (_LIST, STRING), STRING, _join),
        member("format", "string_format", (STRING, ListType(DYN)), STRING, format_string),
        function("strings.quote", "strings_quote", (STRING,), STRING, quote),
    ),
)
