"""What fuzzing found: each input once broke its reader."""

from __future__ import annotations

from typing import Any

import pytest

from kaa.api import protobuf, yaml
from kaa.apiserver.validation import cron


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"a: !!timestamp soon", {"a": "soon"}),
        (b"a: !!binary aGk=", {"a": "hi"}),
        (b"!!set {a, b}", {"a": None, "b": None}),
        (b"!!omap [a: 1]", [{"a": 1}]),
        (b"!!pairs [a: 1]", [{"a": 1}]),
    ],
)
def test_tags_that_json_has_no_types_for(text: bytes, value: Any) -> None:
    assert yaml.load(text) == value


def test_a_broken_binary() -> None:
    with pytest.raises(yaml.YAMLError):
        yaml.load(b"a: !!binary a")


def test_a_protobuf_head_with_a_field_that_nobody_knows() -> None:
    head = b"\n\x02v1\x12\x03Pod" + b"\x28\x01"  # field 5, a number
    meta, raw = protobuf.decode(b"k8s\x00" + b"\n" + bytes([len(head)]) + head + b"\x12\x00")
    assert (meta.kind, meta.api_version, raw) == ("Pod", "v1", b"")


@pytest.mark.parametrize(
    ("number", "why"),
    [("9" * 5000, "value out of range"), ("\u0661", "invalid syntax"), ("1_0", "invalid syntax")],
    ids=["5000 digits", "an Arabic digit", "an underscore"],
)
def test_numbers_of_a_schedule(number: str, why: str) -> None:
    assert cron.fault(f"{number} * * * *").endswith(f'parsing "{number}": {why}')
