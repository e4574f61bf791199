"""Static pods: of a folder, a file or a URL; mirrored, one of a name at a time, with an API server or without."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World
from msgspec.structs import replace

from kaa.api.errors import ServiceUnavailable
from kaa.api.types.core_v1 import Node, Pod
from kaa.kubelet.config import KubeletConfig
from kaa.kubelet.config_file import configured
from kaa.kubelet.pod_plan import HASH_ANNOTATION
from kaa.kubelet.static_sources import InvalidPod, PathSource, UrlSource, api_reference, static_pod

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {{name: etcd, namespace: kube-system{meta}}}
spec:
  terminationGracePeriodSeconds: 5
  containers: [{{name: etcd, image: "etcd:{version}"}}]
"""
NAME = ("etcd-n1", "kube-system")


def manifest(version: int = 1, meta: str = "") -> str:
    return MANIFEST.format(version=version, meta=meta)


def play(tmp_path: Path, story: Callable[[World, Path], Awaitable[None]], **config: Any) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()

    async def go() -> None:
        async with World(tmp_path, **{"static_pod_path": folder, **config}) as world:
            await story(world, folder)

    asyncio.run(go())


async def news(world: World) -> None:
    """Inotify tells by the real clock."""
    await asyncio.sleep(0.01)
    await world.advance(2, 0.5)


async def images(world: World) -> list[str]:
    """What containers were made of, as their pods name it."""
    found = await world.runtime.list_containers()
    return [one.annotations[HASH_ANNOTATION].partition("|")[2].partition("|")[0] for one in found]


def test_a_file_becomes_a_pod_and_a_mirror(tmp_path: Path) -> None:
    async def story(world: World, folder: Path) -> None:
        (folder / "broken.yaml").write_text("kind: [")
        (folder / ".hidden.yaml").write_text(manifest(9))
        (folder / "etcd").write_text(manifest())
        await news(world)
        mirror = world.pod(*NAME)
        assert mirror.status.phase == "Running"
        notes = mirror.metadata.annotations
        assert notes["kubernetes.io/config.source"] == "file"
        assert notes["kubernetes.io/config.mirror"] == notes["kubernetes.io/config.hash"]
        assert notes["kubernetes.io/config.seen"].endswith("Z")
        (owner,) = mirror.metadata.owner_references
        assert (owner.kind, owner.name, owner.controller) == ("Node", "n1", True)
        assert mirror.metadata.uid != notes["kubernetes.io/config.hash"]

        await world.client.delete(Pod, *NAME)
        await world.rest()
        assert world.pod(*NAME).status.phase == "Running"
        assert len(await world.runtime.list_containers()) == 1, "its mirror came back, it was never gone"

        world.client.ask_delete(NAME[0], world.clock.now(), namespace=NAME[1])
        await world.rest()
        assert world.pod(*NAME).metadata.deletion_timestamp is None, "a mirror that is deleted gracefully, too"

        (folder / "etcd").unlink()
        await news(world)
        assert not world.exists(*NAME)
        assert await world.runtime.list_sandboxes() == []

    play(tmp_path, story)


def test_a_changed_file_waits_until_the_old_pod_has_ended(tmp_path: Path) -> None:
    async def story(world: World, folder: Path) -> None:
        note = "simulated.kaa.dev/ignore-stop: 'true'"
        (folder / "etcd.yaml").write_text(manifest(1, f", annotations: {{{note}}}"))
        await news(world)
        before = world.pod(*NAME)
        (folder / "etcd.yaml").write_text(manifest(2))
        await news(world)
        assert await images(world) == ["etcd:1"], "it has its grace"
        assert world.pod(*NAME).metadata.uid == before.metadata.uid
        await world.advance(8)
        after = world.pod(*NAME)
        assert await images(world) == ["etcd:2"]
        assert (after.spec.containers[0].image, after.status.phase) == ("etcd:2", "Running")
        assert after.metadata.uid != before.metadata.uid

    play(tmp_path, story)


def test_a_pod_with_a_uid_of_its_own_is_updated_in_place(tmp_path: Path) -> None:
    async def story(world: World, folder: Path) -> None:
        (folder / "etcd.yaml").write_text(manifest(1, ", uid: mine"))
        await news(world)
        (folder / "etcd.yaml").write_text(manifest(2, ", uid: mine"))
        await news(world)
        await world.advance(8)
        assert (await images(world))[-1] == "etcd:2"
        running = [c for c in await world.runtime.list_containers() if c.state == "running"]
        assert [c.attempt for c in running] == [1]
        assert len(await world.runtime.list_sandboxes()) == 1

    play(tmp_path, story)


def test_static_pods_run_without_an_api_server(tmp_path: Path) -> None:
    async def story(world: World, folder: Path) -> None:
        await world.stop()
        world.kubelet = world.make()
        (folder / "etcd.yaml").write_text(manifest())

        async def silence(*_: Any, **__: Any) -> Any:
            raise ServiceUnavailable("nobody is there")

        kept = {name: getattr(world.client, name) for name in ("get", "list", "create", "patch")}
        for name in kept:
            setattr(world.client, name, silence)
        await world.start()
        await world.advance(5)
        assert await images(world) == ["etcd:1"]
        for name, verb in kept.items():
            setattr(world.client, name, verb)
        await world.advance(60, 5)
        assert world.pod(*NAME).status.phase == "Running"

    play(tmp_path, story)


def test_a_node_that_goes_takes_its_mirrors_along(tmp_path: Path) -> None:
    async def story(world: World, folder: Path) -> None:
        (folder / "etcd.yaml").write_text(manifest())
        await news(world)
        await world.client.delete(Node, "n1")
        await world.client.delete(Pod, *NAME)
        await world.advance(30, 10)
        assert not world.exists(*NAME), "there is no node to own it"
        assert len(await world.runtime.list_containers()) == 1

    play(tmp_path, story)


def test_two_files_of_one_name_are_one_pod(tmp_path: Path) -> None:
    async def story(world: World, folder: Path) -> None:
        (folder / "a.yaml").write_text(manifest(1))
        (folder / "b.yaml").write_text(manifest(2))
        await news(world)
        assert await images(world) == ["etcd:1"]
        (folder / "a.yaml").unlink()
        await news(world)
        await world.advance(8)
        assert await images(world) == ["etcd:2"]

    play(tmp_path, story)


# ------------------------------------------------------------------------------------------------ manifests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Job"}, "it holds no Pod of v1"),
        ({"metadata": {}}, "metadata.name: Required value"),
        ({"metadata": {"name": "A_b"}}, 'metadata.name: Invalid value: "A_b"'),
        ({"spec": {"containers": []}}, "spec.containers: Required value"),
        ({"spec": {"containers": [{"name": "a"}]}}, "spec.containers[0].image: Required value"),
        (
            {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}},
            'spec.containers[1].name: Duplicate value: "a"',
        ),
        (
            {"spec": {"containers": [{"name": "a", "image": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}},
            "static pods may not reference secrets",
        ),
        (
            {
                "spec": {
                    "containers": [{"name": "a", "image": "i"}],
                    "volumes": [{"name": "v", "configMap": {"name": "c"}}],
                }
            },
            "static pods may not reference configmaps",
        ),
        ({"spec": {"containers": "none"}}, ""),
    ],
)
def test_what_is_no_static_pod(change: dict[str, Any], message: str) -> None:
    value = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "image": "i"}]},
    }
    with pytest.raises(InvalidPod) as refused:
        static_pod(json.dumps({**value, **change}).encode(), "n1", 0.0)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "resource"),
    [
        ({"serviceAccountName": "a"}, "serviceaccounts"),
        ({"imagePullSecrets": [{"name": "a"}]}, "secrets"),
        ({"volumes": [{"projected": {"sources": [{"secret": {"name": "s"}}]}}]}, "secrets"),
        ({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, "serviceaccounts"),
        ({"volumes": [{"persistentVolumeClaim": {"claimName": "c"}}]}, "persistentvolumeclaims"),
        ({"resourceClaims": [{"name": "a"}]}, "resourceclaims"),
        ({"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "c"}}}]}]}, "configmaps"),
        (
            {
                "volumes": [
                    {"hostPath": {"path": "/"}},
                    {"emptyDir": {}},
                    {"projected": {"sources": [{"downwardAPI": {}}]}},
                ]
            },
            "",
        ),
    ],
)
def test_what_a_static_pod_may_not_need(spec: dict[str, Any], resource: str) -> None:
    assert api_reference(spec) == resource


def test_a_pod_is_known_by_what_it_is_and_where() -> None:
    text = manifest().encode()
    first, same = (static_pod(text, "N1", at, where="/a") for at in (0.0, 9.0))
    assert (first.metadata.name, first.metadata.uid) == ("etcd-n1", same.metadata.uid)
    others = [
        static_pod(text, "n1", 0.0, where=where, source=source) for where, source in (("/b", "file"), ("/a", "http"))
    ]
    assert len({pod.metadata.uid for pod in (first, *others)}) == 3
    assert [len(pod.spec.tolerations) for pod in (first, *others)] == [1, 1, 0], (
        "what a URL gives is evicted as others are"
    )


def test_one_file_may_be_the_path_and_is_read_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    source = PathSource(file, "n1")
    assert source.read(0.0) == []
    file.write_text(manifest())
    (pod,) = source.read(1.0)
    assert source.read(2.0)[0] is pod, "it was not read again"
    file.write_text(manifest(22))
    assert source.read(3.0)[0].spec.containers[0].image == "etcd:22"
    (tmp_path / "folder").mkdir()
    assert PathSource(tmp_path, "n1").read(0.0)[0].metadata.name == "etcd-n1", "folders in it are left alone"


# ------------------------------------------------------------------------------------------------ a URL


def test_a_url_names_pods(tmp_path: Path) -> None:
    answers: list[tuple[int, str]] = []
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        code, text = answers[0]
        writer.write(f"HTTP/1.1 {code} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())
        await writer.drain()
        writer.close()

    async def go() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, World(tmp_path) as world:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/pods?of=me"
            source = UrlSource(url, {"X-Token": ("a", "b")}, "n1", world.clock)

            async def read(code: int, text: str) -> tuple[bool, list[str | None]]:
                answers[:] = [(code, text)]
                return await source.read(), [pod.metadata.name for pod in source.pods]

            assert await read(200, manifest()) == (True, ["etcd-n1"])
            assert await read(200, manifest()) == (False, ["etcd-n1"])
            for code, text in ((500, ""), (200, ""), (200, "kind: Job"), (200, "{")):
                assert await read(code, text) == (False, ["etcd-n1"]), "what it named last stands"
            item = {"metadata": {"name": "b"}, "spec": {"containers": [{"name": "b", "image": "i"}]}}
            both = {"kind": "PodList", "apiVersion": "v1", "items": [item, {**item, "metadata": {"name": "c"}}]}
            assert await read(200, json.dumps(both)) == (True, ["b-n1", "c-n1"])
            assert source.pods[0].metadata.annotations["kubernetes.io/config.source"] == "http"
            assert await read(200, json.dumps({**both, "items": []})) == (True, [])
        assert seen[0].startswith("GET /pods?of=me HTTP/1.1\r\n")
        assert seen[0].count("X-Token: ") == 2

    asyncio.run(go())


def test_a_configuration_names_the_sources() -> None:
    text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
    made, _ = configured(
        KubeletConfig("n1"),
        text
        + "staticPodURL: http://x/\nstaticPodURLHeader: {A: [b]}\nfileCheckFrequency: 30s\nhttpCheckFrequency: 40s\n",
    )
    assert (made.static_pod_url, made.static_pod_headers) == ("http://x/", {"A": ("b",)})
    assert (made.file_check_s, made.http_check_s, made.static_pod_path) == (30.0, 40.0, None)


def test_a_mirror_is_not_made_while_its_node_is_deleted(tmp_path: Path) -> None:
    async def story(world: World, folder: Path) -> None:
        found = world.client.objects[Node, "", "n1"]
        world.client.put(replace(found, metadata=replace(found.metadata, deletion_timestamp="2027-01-01T00:00:00Z")))
        (folder / "etcd.yaml").write_text(manifest())
        await news(world)
        assert not world.exists(*NAME)

    play(tmp_path, story)
