"""A node whose pods have no network yet: who needs none runs, all others say what they wait for, and begin once it is there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_pod

from kaa.api.types.core_v1 import Node
from kaa.runtime.base import RuntimeFailure, RuntimeInfo

WHY = "NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"


def test_pods_wait_for_their_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = False

    async def go() -> None:
        nonlocal there
        async with World(tmp_path) as world:
            real = world.runtime.run_sandbox

            async def run_sandbox(config: Any) -> str:
                if not there and config.namespaces.network == "pod":
                    raise RuntimeFailure("cni plugin not initialized")
                return await real(config)

            async def info() -> RuntimeInfo:
                return RuntimeInfo("r", "1", network_ready=there, message="" if there else WHY)

            monkeypatch.setattr(world.runtime, "run_sandbox", run_sandbox)
            monkeypatch.setattr(world.runtime, "info", info)
            world.client.put(make_pod())
            world.client.put(make_pod("host", host_network=True))
            await world.advance(30)

            text = f"network is not ready: container runtime network not ready: {WHY}"
            assert {message for who, reason, message in world.events.said if reason == "NetworkNotReady"} == {text}
            assert set(world.events.reasons("web")) == {"NetworkNotReady"}
            assert "Started" in world.events.reasons("host")
            status = world.client.objects[Node, "", "n1"].status
            ready = next(one for one in status.conditions if one.type == "Ready")
            shown = f"container runtime network not ready: {WHY}"
            assert (ready.status, ready.reason, ready.message) == ("False", "KubeletNotReady", shown)

            there = True
            world.kubelet.network_changed()
            await world.rest()
            assert "Started" in world.events.reasons("web"), "at once, without its back-off"

    asyncio.run(go())


def test_another_fault_is_told_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:

            async def run_sandbox(config: Any) -> str:
                raise RuntimeFailure("no IP addresses available")

            monkeypatch.setattr(world.runtime, "run_sandbox", run_sandbox)
            world.client.put(make_pod())
            await world.rest()
            text = "Failed to create pod sandbox: no IP addresses available"
            assert ("web", "FailedCreatePodSandBox", text) in world.events.said

    asyncio.run(go())
