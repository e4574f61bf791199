"""Shared checks: metadata, cron schedules, internal forms, percentages."""

from __future__ import annotations

from typing import Any

import pytest

from kaa.api import names, scheme
from kaa.api.fields import Path
from kaa.api.types.core_v1 import PodSpec
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.apiserver.validation import cron
from kaa.apiserver.validation.common import int_or_percent
from kaa.apiserver.validation.internal import diff, plain
from kaa.apiserver.validation.meta import validate_meta, validate_meta_update


def faults(**metadata: Any) -> list[str]:
    given = scheme.convert(ObjectMeta, {"name": "x", "namespace": "n", **metadata})
    return [str(fault) for fault in validate_meta(given, namespaced=True, name_faults=names.dns_subdomain)]


OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, []),
        ({"name": ""}, ["metadata.name: Required value: name or generateName is required"]),
        ({"annotations": {"UPPER.example.com/Key": ""}}, []),
        ({"annotations": {"a": "x" * 262144}}, ["metadata.annotations: Too long: may not be more than 262144 bytes"]),
        (
            {"finalizers": ["mine"]},
            [
                'metadata.finalizers: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified'
            ],
        ),
        ({"finalizers": ["example.com/mine", "orphan"]}, []),
        (
            {"ownerReferences": [{**OWNER, "uid": ""}]},
            ['metadata.ownerReferences[0].uid: Invalid value: "": must not be empty'],
        ),
    ],
    ids=[
        "fine",
        "no name",
        "upper-case annotation",
        "too much",
        "bare finalizer",
        "good finalizers",
        "owner without uid",
    ],
)
def test_metadata(metadata: dict[str, Any], expected: list[str]) -> None:
    assert faults(**metadata) == expected


def test_two_controllers_are_one_too_many() -> None:
    assert (
        "Only one reference can have Controller set to true"
        in faults(ownerReferences=[OWNER, {**OWNER, "name": "q"}])[0]
    )


def test_uid_does_not_change() -> None:
    found = validate_meta_update(ObjectMeta(name="x", uid="b"), ObjectMeta(name="x", uid="a"))
    assert [str(fault) for fault in found] == ['metadata.uid: Invalid value: "b": field is immutable']


def test_no_finalizer_is_added_to_what_goes() -> None:
    old = ObjectMeta(name="x", deletion_timestamp="2026-01-01T00:00:00Z", finalizers=("a.b/c",))
    new = ObjectMeta(name="x", deletion_timestamp="2026-01-01T00:00:00Z", finalizers=("a.b/c", "d.e/f"))
    assert 'found new finalizers []string{"d.e/f"}' in validate_meta_update(new, old)[0].body


@pytest.mark.parametrize(
    "schedule", ["*/5 * * * *", "@daily", "@every 1h30m", "0 0 1,15 JAN-mar mon", "1-9/2 ? * * *", "TZ=UTC 0 0 * * *"]
)
def test_schedule_is_read(schedule: str) -> None:
    assert cron.fault(schedule) == ""


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("a * * * *", 'failed to parse int from a: strconv.Atoi: parsing "a": invalid syntax'),
        ("@sometimes", "unrecognized descriptor: @sometimes"),
    ],
)
def test_schedule_at_fault(schedule: str, why: str) -> None:
    assert cron.fault(schedule) == why


@pytest.mark.parametrize(
    ("value", "well"), [(0, True), (-1, False), ("25%", True), ("0%", True), ("x%", False), ("5", False)]
)
def test_count_or_percentage(value: int | str, well: bool) -> None:
    assert (not list(int_or_percent(Path("x"), value))) is well


def test_internal_form_keeps_host_fields_in_the_security_context() -> None:
    spec = scheme.convert(PodSpec, {"containers": [{"name": "c", "image": "i"}], "hostNetwork": True})
    shown = plain(spec)
    assert shown["SecurityContext"]["HostNetwork"] is True
    assert list(shown)[:3] == ["Volumes", "InitContainers", "Containers"]
    assert shown["Containers"][0]["Stdin"] is False


def test_diff_shows_three_lines_around() -> None:
    one = scheme.convert(PodSpec, {"containers": []})
    other = scheme.convert(PodSpec, {"containers": [], "nodeName": "n"})
    assert '- "NodeName": "",\n+ "NodeName": "n",' in diff(one, other)
