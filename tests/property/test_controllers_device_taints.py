"""Evictions from tainted devices: the first taint that is due decides, and tolerating more never makes it earlier."""

from __future__ import annotations

from math import inf

from device_lab import DRIVER, make_claim, request
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kaa.api.clock import format_time
from kaa.api.types.resource_v1 import (
    AllocationResult,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    DeviceTaint,
    DeviceToleration,
    ResourceClaim,
    ResourceClaimStatus,
)
from kaa.controllers.devicetainteviction import drives_off_at

NOW = 1_000
TAINTS = st.builds(
    lambda key, effect, added: DeviceTaint(key=key, effect=effect, time_added=format_time(added) if added else None),
    st.sampled_from("ab"),
    st.sampled_from(("NoExecute", "NoSchedule", "None")),
    st.sampled_from((None, 100, 900)),
)
TOLERATIONS = st.builds(
    lambda key, effect, seconds: DeviceToleration(
        key=key, operator="Exists", effect=effect, toleration_seconds=seconds if effect == "NoExecute" else None
    ),
    st.sampled_from((None, "a", "b")),
    st.sampled_from((None, "NoExecute", "NoSchedule")),
    st.sampled_from((None, -5, 0, 50, 500)),
)
DEVICES = st.dictionaries(st.sampled_from("xyz"), st.lists(TAINTS, max_size=3))
GIVEN = st.lists(st.tuples(st.sampled_from("xyz"), st.lists(TOLERATIONS, max_size=3)), max_size=3)


def claim_of(given_devices: list[tuple[str, list[DeviceToleration]]]) -> ResourceClaim:
    results = tuple(
        DeviceRequestAllocationResult(request="r", driver=DRIVER, pool="p", device=name, tolerations=tuple(tolerations))
        for name, tolerations in given_devices
    )
    allocation = AllocationResult(devices=DeviceAllocationResult(results=results))
    return replace(make_claim("c", request("r")), status=ResourceClaimStatus(allocation=allocation))


def due(given_devices: list[tuple[str, list[DeviceToleration]]], devices: dict[str, list[DeviceTaint]]) -> float:
    return drives_off_at([claim_of(given_devices)], lambda driver, pool, name: devices.get(name, ()), NOW)


@given(devices=DEVICES, chosen=GIVEN)
def test_each_taint_of_each_device_may_drive_off_alone(
    devices: dict[str, list[DeviceTaint]], chosen: list[tuple[str, list[DeviceToleration]]]
) -> None:
    alone = [
        due([(name, tolerations)], {name: [taint]}) for name, tolerations in chosen for taint in devices.get(name, ())
    ]
    assert due(chosen, devices) == min(alone, default=inf)


@given(devices=DEVICES, chosen=GIVEN)
def test_only_no_execute_drives_off(
    devices: dict[str, list[DeviceTaint]], chosen: list[tuple[str, list[DeviceToleration]]]
) -> None:
    serious = {name: [t for t in taints if t.effect == "NoExecute"] for name, taints in devices.items()}
    assert due(chosen, devices) == due(chosen, serious)
    bare = [(name, list[DeviceToleration]()) for name, _ in chosen]
    assert (due(bare, devices) == inf) == (not any(serious.get(name) for name, _ in chosen))
    assert due(bare, devices) <= due(chosen, devices), "who tolerates something stays no shorter"


@given(devices=DEVICES, chosen=GIVEN)
def test_a_toleration_for_ever_keeps_all(
    devices: dict[str, list[DeviceTaint]], chosen: list[tuple[str, list[DeviceToleration]]]
) -> None:
    every = DeviceToleration(operator="Exists")
    assert due([(name, [*tolerations, every]) for name, tolerations in chosen], devices) == inf
