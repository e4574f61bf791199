"""Ranges of ids of pods with user namespaces: one each, noted on disk, asked of the runtime only where it can."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from kubelet_world import World, make_pod

from kaa.kubelet.config import KubeletConfig
from kaa.kubelet.config_file import ConfigFileError, configured
from kaa.kubelet.env import ConfigError
from kaa.kubelet.userns import UserNamespaces, parse_subids
from kaa.runtime.base import HandlerFeatures, IdMap, RuntimeInfo

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def test_every_pod_has_a_range_of_its_own(tmp_path: Path) -> None:
    spaces = UserNamespaces(tmp_path)
    first, second = make_pod("a"), make_pod("b")
    assert spaces.of(first) == (IdMap(0, 65536, 65536),)
    assert spaces.of(second) == (IdMap(0, 131072, 65536),)
    assert spaces.of(first) == (IdMap(0, 65536, 65536),)
    ids = [{"hostId": 131072, "containerId": 0, "length": 65536}]
    noted = json.loads((tmp_path / "pods/uid-b/userns").read_text())
    assert noted == {"uidMappings": ids, "gidMappings": ids}

    again = UserNamespaces(tmp_path)
    assert again.of(make_pod("c")) == (IdMap(0, 196608, 65536),)
    assert again.of(second) == (IdMap(0, 131072, 65536),)
    again.release("uid-a")
    assert again.of(make_pod("d")) == (IdMap(0, 65536, 65536),)


def test_no_range_is_left(tmp_path: Path) -> None:
    spaces = UserNamespaces(tmp_path, 1 << 31)
    spaces.of(make_pod("a"))
    with pytest.raises(ConfigError, match="could not find an empty slot to allocate a user namespace"):
        spaces.of(make_pod("b"))


def test_subordinate_ids_of_the_kubelet() -> None:
    assert parse_subids("0: kubelet 65536 2147483648\n") == (65536, 2147483648)
    with pytest.raises(ConfigError, match="it must contain only one line"):
        parse_subids("0: kubelet 1 2\n1: kubelet 3 4\n")
    with pytest.raises(ConfigError, match="invalid line"):
        parse_subids("0: kubelet 1\n")


def test_a_pod_without_the_nodes_users(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            world.client.put(make_pod(host_users=False))
            world.client.put(make_pod("plain"))
            await world.rest()
            made = {one.name: world.runtime._configs[one.id] for one in await world.runtime.list_sandboxes()}
            assert made["web"].namespaces.users == (IdMap(0, 65536, 65536),)
            assert made["plain"].namespaces.users == ()
            world.client.ask_delete("web", world.clock.now())
            await world.until(lambda: not world.exists())
            world.client.put(make_pod("next", host_users=False))
            await world.rest()
            [sandbox] = await world.runtime.list_sandboxes(uid="uid-next")
            assert world.runtime._configs[sandbox.id].namespaces.users == (IdMap(0, 65536, 65536),)

    asyncio.run(go())


def test_a_handler_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def info() -> RuntimeInfo:
        return RuntimeInfo("old", "1", features={"": HandlerFeatures()})

    async def go() -> None:
        async with World(tmp_path) as world:
            monkeypatch.setattr(world.runtime, "info", info)
            world.client.put(make_pod(host_users=False))
            await world.rest()
            text = 'Failed to create pod sandbox: RuntimeClass handler "" does not support user namespaces'
            assert ("web", "FailedCreatePodSandBox", text) in world.events.said

    asyncio.run(go())


def test_ids_per_pod_of_the_configuration() -> None:
    config, _ = configured(KubeletConfig("n"), HEAD + "userNamespaces: {idsPerPod: 131072}\n")
    assert config.ids_per_pod == 131072
    with pytest.raises(ConfigFileError, match=r"userNamespaces.idsPerPod must be a multiple of 65536"):
        configured(KubeletConfig("n"), HEAD + "userNamespaces: {idsPerPod: 70000}\n")
