"""Names of properties that are no CEL identifiers, and how expressions spell them.

``foo-bar`` is ``foo__dash__bar``, ``namespace`` is ``__namespace__``, ``a__b`` is ``a__underscores__b``.

Source: apiserver pkg/cel/escaping.go.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .parser import RESERVED

_SYMBOLS = {"__": "underscores", ".": "dot", "-": "dash", "/": "slash"}
_BY_WORD = {word: symbol for symbol, word in _SYMBOLS.items()}
KEYWORDS = RESERVED | {"true", "false", "null", "in"}
_SPECIAL = re.compile(r"__|[.\-/]")
_ESCAPED = re.compile(r"__([a-zA-Z]+)__")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@lru_cache(maxsize=4096)
def escape(name: str) -> str | None:
    """The property's name in expressions; None where expressions cannot reach it."""
    if name in KEYWORDS:
        return f"__{name}__"
    escaped = _SPECIAL.sub(lambda found: f"__{_SYMBOLS[found.group()]}__", name)
    return escaped if _IDENTIFIER.fullmatch(escaped) else None


def unescape(escaped: str) -> str | None:
    """The property that an expression means; None where no property is spelt so."""
    keyword = _ESCAPED.fullmatch(escaped)
    if keyword and keyword.group(1) in KEYWORDS:
        return keyword.group(1)
    words = [found.group(1) for found in _ESCAPED.finditer(escaped)]
    if any(word not in _BY_WORD for word in words):
        return None
    return _ESCAPED.sub(lambda found: _BY_WORD[found.group(1)], escaped)
