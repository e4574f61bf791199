"""Regular expressions in RE2's syntax, matched in time linear in the text.

An expression comes from whoever may write a policy, and the text from whoever may write an object: Python's own engine
can be made to run for years by either. google-re2 is imported when the first expression is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .errors import EvaluationError

#: {what RE2 in C++ calls a fault: what Go's regexp/syntax calls it}
_AS_GO_SAYS = {
    "missing ]": "missing closing ]",
    "missing )": "missing closing )",
    "trailing \\": "trailing backslash at end of expression",
    "no argument for repetition operator": "missing argument to repetition operator",
    "invalid repetition size": "invalid repeat count",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "invalid named capture group": "invalid named capture",
}


class BadPattern(ValueError):
    """No regular expression."""


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """The compiled expression. Raises BadPattern with Go's words."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as err:
        said = err.args[0] if err.args else "bad pattern"
        text = said.decode() if isinstance(said, bytes) else str(said)
        fault, _, where = text.partition(": ")
        raise BadPattern(f"error parsing regexp: {_AS_GO_SAYS.get(fault, fault)}: `{where}`") from None


#: larger programs may not fit in the memory that an RE2 set works in, and it would not say so
_SMALL_PROGRAM = 1000


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Tells of a text whether some part of it matches. Raises BadPattern.

    A set of one expression only says that it matches, which is several times quicker than finding out where.
    """
    whole = compiled(pattern)
    if whole.programsize > _SMALL_PROGRAM:
        return lambda text: whole.search(text) is not None
    import re2

    options = re2.Options()
    options.log_errors = False
    one = re2.Set.SearchSet(options)
    one.Add(pattern)
    one.Compile()
    match = one.Match
    return lambda text: bool(match(text))


def _usable(pattern: str) -> Any:
    try:
        return compiled(pattern)
    except BadPattern as err:
        raise EvaluationError(str(err)) from None


def matches(text: str, pattern: str) -> bool:
    """Whether some part of the text matches."""
    try:
        return matcher(pattern)(text)
    except BadPattern as err:
        raise EvaluationError(str(err)) from None


def find(text: str, pattern: str) -> str:
    """The first match, or nothing."""
    found = _usable(pattern).search(text)
    return "" if found is None else found.group(0)


def find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    """Matches that do not overlap, at most ``limit`` of them; below 0 all."""
    found: list[str] = []
    for match in _usable(pattern).finditer(text):
        if 0 <= limit <= len(found):
            break
        found.append(match.group(0))
    return found
