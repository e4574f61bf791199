"""What upstream's conformance suite expects of containers: paths from their environment, and last words from their logs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from kubelet_world import World
from msgspec.structs import replace

from kaa.api.types.core_v1 import Node, VolumeMount
from kaa.api.values import Quantity
from kaa.kubelet.container_config import MESSAGE_POLICY, _inner
from kaa.kubelet.env import ConfigError
from kaa.kubelet.messages import termination_message
from kaa.runtime.base import Container, ContainerState

STAMP = "2026-11-21T11:06:28.263313487+00:00 stdout"


@pytest.mark.parametrize("known", [{}, {"NAME": ""}], ids=["unknown", "empty"])
def test_a_sub_path_waits_for_the_values_in_it(known: dict[str, str]) -> None:
    mount = VolumeMount(name="v", mount_path="/v", sub_path_expr="$(NAME)/$(OTHER)")
    with pytest.raises(ConfigError, match="missing value for NAME"):
        _inner(mount, {**known, "OTHER": "x"})
    assert _inner(mount, {"NAME": "a", "OTHER": "x"}) == "a/x"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (f"{STAMP} P DONE\n", "DONE"),
        (f"{STAMP} F DONE\n", "DONE\n"),
        (f"{STAMP} F one\n{STAMP} P tw\n{STAMP} P o\n", "one\ntwo"),
        ("", ""),
    ],
    ids=["no line's end", "a line", "lines and parts", "nothing"],
)
def test_last_words_are_as_they_were_said(tmp_path: Path, log: str, message: str) -> None:
    path = tmp_path / "0.log"
    path.write_text(log)
    container = Container(
        id="1",
        image="",
        image_id="",
        image_ref="",
        created_at=0,
        sandbox_id="s",
        name="c",
        attempt=0,
        state=ContainerState.EXITED,
        exit_code=1,
        log_path=str(path),
        annotations={MESSAGE_POLICY: "FallbackToLogsOnError"},
    )
    assert termination_message(container, tmp_path) == message


def test_extended_resources_of_others_stay_and_are_allocatable(tmp_path: Path) -> None:
    async def play() -> None:
        async with World(tmp_path) as world:
            node = world.client.objects[Node, "", "n1"]
            capacity = {**node.status.capacity, "scheduling.k8s.io/foo": Quantity("5")}
            world.client.put(replace(node, status=replace(node.status, capacity=capacity)))
            await world.kubelet.node.report()
            status = world.client.objects[Node, "", "n1"].status
            assert status.capacity["scheduling.k8s.io/foo"] == status.allocatable["scheduling.k8s.io/foo"] == "5"
            assert status.capacity["pods"] == "110"
            without = {name: amount for name, amount in status.capacity.items() if name != "scheduling.k8s.io/foo"}
            world.client.put(replace(node, status=replace(status, capacity=without)))
            await world.kubelet.node.report()
            assert "scheduling.k8s.io/foo" not in world.client.objects[Node, "", "n1"].status.allocatable

    asyncio.run(play())
