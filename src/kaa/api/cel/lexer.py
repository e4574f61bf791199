"""Source text to tokens.

Source: CEL specification "Syntax"; cel-go parser/gen/CEL.g4 and parser/unescape.go.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import Issue


class Token(NamedTuple):
    """``kind`` is an operator's own text, or IDENTIFIER, NUM_INT, NUM_UINT, NUM_FLOAT, STRING, BYTES or <EOF>."""

    kind: str
    text: str
    position: int


KEYWORDS = frozenset(("in", "true", "false", "null"))
END = "<EOF>"

_ESCAPE = r"\\[abfnrtv\"'\\?`]|\\[xX][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}|\\[0-3][0-7]{2}"
_RAW = r"[rR]\"\"\"(?:.|\n)*?\"\"\"|[rR]'''(?:.|\n)*?'''|[rR]\"[^\"\n\r]*\"|[rR]'[^'\n\r]*'"
_COOKED = (
    rf'"""(?:{_ESCAPE}|[^\\])*?"""|\'\'\'(?:{_ESCAPE}|[^\\])*?\'\'\''
    rf'|"(?:{_ESCAPE}|[^\\"\n\r])*"|\'(?:{_ESCAPE}|[^\\\'\n\r])*\''
)
_TOKEN = re.compile(
    rf"""
    (?P<space>[\t \r\n\f]+|//[^\n]*)
  | (?P<BYTES>[bB](?:{_RAW}|{_COOKED}))
  | (?P<STRING>{_RAW}|{_COOKED})
  | (?P<NUM_FLOAT>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?)
  | (?P<NUM_UINT>0x[0-9a-fA-F]+[uU]|[0-9]+[uU])
  | (?P<NUM_INT>0x[0-9a-fA-F]+|[0-9]+)
  | (?P<IDENTIFIER>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<ESC_IDENTIFIER>`[A-Za-z0-9_.\-/ ]+`)
  | (?P<operator>==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]{{}}])
    """,
    re.VERBOSE,
)


def tokens(source: str) -> tuple[list[Token], list[tuple[int, str]]]:
    """The tokens, ended by <EOF>, and what was no token: (position, message) each."""
    found: list[Token] = []
    faults: list[tuple[int, str]] = []
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            length = _unrecognized(source, at)
            faults.append((at, f"Syntax error: token recognition error at: '{_shown(source[at : at + length])}'"))
            at += length
            continue
        kind, text = str(match.lastgroup), match.group()
        if kind == "operator" or (kind == "IDENTIFIER" and text in KEYWORDS):
            found.append(Token(text, text, at))
        elif kind != "space":
            found.append(Token(kind, text, at))
        at = match.end()
    found.append(Token(END, END, len(source)))
    return found, faults


#: a string as far as it goes, and the character that breaks it off
_BROKEN_STRING = re.compile(
    rf"([\"'])(?:{_ESCAPE}|(?!\1)[^\\\n\r])*"
    r"(?:\\(?:[xX][0-9a-fA-F]?|u[0-9a-fA-F]{0,3}|U[0-9a-fA-F]{0,7}|[0-3][0-7]?)?)?(?:.|\n)?"
)


def _unrecognized(source: str, at: int) -> int:
    """How much of the source the lexer gives up on at once."""
    broken = _BROKEN_STRING.match(source, at)
    if broken is not None:
        return broken.end() - at
    if source[at] in "|&=" and at + 1 < len(source):
        return 2
    return 1


def _shown(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


_SIMPLE = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", "'": "'", '"': '"', "`": "`", "?": "?",
}  # fmt: skip
_ESCAPED = re.compile(
    r"\\(?:([abfnrtv\"'\\?`])|([xX])([0-9a-fA-F]{2})|[uU]([0-9a-fA-F]{8}|[0-9a-fA-F]{4})|([0-3][0-7]{2}))"
)


class BadLiteral(ValueError):
    """A string or bytes literal whose escapes mean nothing."""


def _body(text: str) -> tuple[str, bool]:
    """What stands between the quotes, and whether it is raw."""
    raw = text[0] in "rR"
    if raw:
        text = text[1:]
    width = 3 if text[:3] in ('"""', "'''") and len(text) >= 6 else 1
    return text[width:-width].replace("\r\n", "\n").replace("\r", "\n"), raw


def string_value(text: str) -> str:
    body, raw = _body(text)
    if raw or "\\" not in body:
        return body

    def char(found: re.Match[str]) -> str:
        simple, _, hexadecimal, point, octal = found.groups()
        if simple:
            return _SIMPLE[simple]
        code = int(octal, 8) if octal else int(hexadecimal or point, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise BadLiteral("invalid unicode code point")
        return chr(code)

    return _ESCAPED.sub(char, body)


def bytes_value(text: str) -> bytes:
    body, raw = _body(text[1:])
    if raw or "\\" not in body:
        return body.encode("utf-8", "surrogatepass")
    out, at = bytearray(), 0
    for found in _ESCAPED.finditer(body):
        out += body[at : found.start()].encode("utf-8", "surrogatepass")
        simple, _, hexadecimal, point, octal = found.groups()
        if point:
            raise BadLiteral("illegal escape sequence in byte literal: \\u and \\U are not allowed")
        out.append(ord(_SIMPLE[simple]) if simple else int(octal, 8) if octal else int(hexadecimal, 16))
        at = found.end()
    out += body[at:].encode("utf-8", "surrogatepass")
    return bytes(out)


def issue_at(source: str, position: int, message: str) -> Issue:
    """The fault at an offset, as line and column."""
    before = source[:position]
    return Issue(before.count("\n") + 1, position - (before.rfind("\n") + 1), message)
