"""Quantities: canonical text, exact values, refusals."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaa.api.quantity import InvalidQuantity, canonical, format_bytes, millis, parse, whole


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1000m", "1"),
        ("0.5", "500m"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1e3", "1e3"),
        ("1000000", "1M"),
        ("0.1Gi", "107374182400m"),
        ("0", "0"),
        ("-1", "-1"),
        (".5", "500m"),
    ],
)
def test_canonical_text(text: str, written: str) -> None:
    assert canonical(text) == written


@pytest.mark.parametrize("text", ["", "x", "1x", "1 ", "--1", "1ki", "1e999999999", "5" * 100])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(InvalidQuantity):
        parse(text)


@given(st.integers(-(10**15), 10**15), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "Gi"]))
def test_canonical_keeps_the_value_and_is_its_own_canonical(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    assert parse(canonical(text)) == parse(text)
    assert canonical(canonical(text)) == canonical(text)


@given(st.integers(0, 2**62))
def test_bytes_survive(count: int) -> None:
    assert parse(format_bytes(count)) == Fraction(count)


def test_rounding_is_up() -> None:
    assert millis("1500u") == 2
    assert whole("1500m") == 2
