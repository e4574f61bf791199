"""YAML with go-yaml's types."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaa.api import yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", True),
        ("y", True),
        ("No", False),
        ("012", 10),
        ("0x1F", 31),
        ("-5", -5),
        ("1_000", 1000),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("2001-01-01", "2001-01-01"),
        ("1:30", "1:30"),
        ("~", None),
        ("'on'", "on"),
        ("1.2.3", "1.2.3"),
        ("089", 89),
        ("10.0.0.1", "10.0.0.1"),
        ("yesterday", "yesterday"),
    ],
)
def test_plain_words(text: str, value: object) -> None:
    assert yaml.load(f"a: {text}") == {"a": value}


def test_keys_are_text() -> None:
    assert yaml.load("on: 1\n2: x\nnull: z\n") == {"true": 1, "2": "x", "null": "z"}


def test_merge_keys_are_followed() -> None:
    assert yaml.load("a: &x {b: 1}\nc:\n  <<: *x\n  d: 2\n")["c"] == {"b": 1, "d": 2}


def test_documents_in_one_text() -> None:
    assert yaml.load_all("a: 1\n---\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "text", ["a: [", "\tx: 1", "a: b: c", "!!python/object:os.system {}", "[" * 5000, "? [a]\n: 1"]
)
def test_what_is_no_document(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        yaml.load(text)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(yaml.YAMLError):
        yaml.load(data)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("[" + ",".join(["*a{before}"] * 10) + "]", id="aliases"),
        pytest.param("{{<<: [" + ",".join(["*a{before}"] * 10) + "], k{n}: 1}}", id="merges"),
    ],
)
def test_a_few_lines_do_not_swell(line: str) -> None:
    first = "a0: &a0 [x,x,x]" if "<<" not in line else "a0: &a0 {x: 1, y: 2}"
    lines = [first, *(f"a{n}: &a{n} " + line.format(before=n - 1, n=n) for n in range(1, 12))]
    with pytest.raises(yaml.YAMLError, match="document contains excessive aliasing"):
        yaml.load("\n".join(lines))


def test_aliases_and_merges_of_ordinary_size() -> None:
    text = "base: &b {a: 1, b: [1, 2]}\nother: {<<: *b, a: 2}\nmany: [" + ",".join(["*b"] * 50) + "]"
    value = yaml.load(text)
    assert value["other"] == {"a": 2, "b": [1, 2]}
    assert value["many"] == [{"a": 1, "b": [1, 2]}] * 50
