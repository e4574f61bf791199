"""Regular expressions: RE2's syntax, and no more time than the text is long."""

from __future__ import annotations

import time

import pytest

from kaa.api.cel.regex import BadPattern, compiled, find, find_all, matcher


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("a.c", "xabcx", True),
        ("^a.c$", "xabcx", False),
        ("(?i)ABC", "abc", True),
        ("^.$", "é", True),
        ("^é{2}$", "éé", True),
        ("", "", True),
        ("^$", "a", False),
        ("a\\nb", "a\nb", True),
        ("^(" + "|".join(f"word{n}" for n in range(2000)) + ")$", "word1999", True),
        ("^(" + "|".join(f"word{n}" for n in range(2000)) + ")$", "word2000", False),
    ],
)
def test_matching(pattern: str, text: str, matches: bool) -> None:
    assert matcher(pattern)(text) is matches


@pytest.mark.parametrize("pattern", ["[", "(", "a{2,1}", "(?=a)", "\\1", "a**", "(?P<n"])
def test_what_is_no_expression(pattern: str) -> None:
    with pytest.raises(BadPattern, match="error parsing regexp"):
        compiled(pattern)


def test_finding() -> None:
    assert find("abc 123", "[0-9]+") == "123"
    assert find("abc", "x") == ""
    assert find_all("é1é2é3", "é[0-9]") == ["é1", "é2", "é3"]
    assert find_all("1 2 3", "[0-9]", 2) == ["1", "2"]
    assert find_all("1 2 3", "[0-9]", 0) == []


def test_no_expression_takes_long() -> None:
    began = time.process_time()
    assert not matcher("^(a+)+$")("a" * 10_000 + "!")
    assert not matcher("(x+x+)+y")("x" * 10_000)
    assert time.process_time() - began < 1
