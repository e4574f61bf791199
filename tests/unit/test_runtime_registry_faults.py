"""What goes wrong with registries and images: sizes that lie, silence, refusals, and what is for other machines."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from aiohttp import web
from registry_lab import World, in_world, make_archive

from kaa.runtime.base import ImageAuth, ImagePullError
from kaa.runtime.oci.build import architecture
from kaa.runtime.oci.snapshots import apply_layer

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="layers keep their owners")]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    return in_world(tmp_path)


def variant(world: World, change: Callable[[dict[str, Any], dict[str, Any]], None], tag: str = "1") -> str:
    """Another image made of this one: its manifest and config as ``change`` leaves them. The manifest's digest."""
    manifest = json.loads(world.registry.blobs[world.registry.load(make_archive(world))])
    config = json.loads(world.registry.blobs[manifest["config"]["digest"]])
    content = json.dumps(config).encode()
    change(manifest, config)
    if json.dumps(config).encode() != content:
        content = json.dumps(config).encode()
        manifest["config"] |= {"digest": world.registry.put(content), "size": len(content)}
    world.registry.tags[tag] = world.registry.put(json.dumps(manifest).encode())
    return world.registry.tags[tag]


def index(world: World, *entries: dict[str, Any]) -> dict[str, Any]:
    """An entry for an index of entries."""
    content = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return {"digest": world.registry.put(content), "size": len(content)}


def of(world: World, digest: str, **more: Any) -> dict[str, Any]:
    return {"digest": digest, "size": len(world.registry.blobs[digest]), **more}


async def refused(world: World, words: str) -> None:
    """The pull fails with these words, and leaves nothing."""
    with pytest.raises(ImagePullError) as raised:
        await world.puller.pull(world.name, ImageAuth())
    assert str(raised.value).startswith(f'failed to pull and unpack image "{world.name}": ')
    assert re.search(words, str(raised.value)), str(raised.value)
    assert not world.store.records


def test_indexes_in_indexes(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        here = {"architecture": architecture(), "os": "linux"}
        digest = variant(world, lambda manifest, config: None)
        foreign = variant(world, lambda manifest, config: config.update(architecture="z80"))
        inner = index(world, of(world, foreign), of(world, digest))
        middle = index(world, {**inner, "platform": here})
        world.registry.tags["1"] = index(world, {"digest": "sha512:x", "size": 1, "platform": {"os": "linux"}}, middle)[
            "digest"
        ]
        record = await world.puller.pull(world.name, ImageAuth())
        assert record.manifest == digest
        deep = of(world, digest)
        for _ in range(9):
            deep = index(world, deep)
        world.registry.tags["1"] = deep["digest"]
        with pytest.raises(ImagePullError, match="nested too deep"):
            await world.puller.pull(world.name, ImageAuth())
        world.registry.tags["1"] = index(world, *[of(world, foreign)] * 65)["digest"]
        with pytest.raises(ImagePullError, match="too many manifests"):
            await world.puller.pull(world.name, ImageAuth())

    run(body)


def test_an_image_for_another_machine(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        digest = variant(world, lambda manifest, config: config.update(architecture="z80"))
        await refused(world, f"no match for platform in manifest {digest}: not found$")
        variant(world, lambda manifest, config: config.update(os="windows"))
        await refused(world, "no match for platform in manifest sha256:.*: not found$")

    run(body)


@pytest.mark.parametrize(
    "types",
    [
        pytest.param("application/vnd.docker.image.rootfs.diff.tar.gzip", id="docker"),
        pytest.param("application/vnd.oci.image.layer.v1.tar+gzip", id="oci"),
        pytest.param("application/vnd.oci.image.layer.v1.tar+zstd", id="called zstd, is gzip"),
        pytest.param("", id="not said"),
    ],
)
def test_layers_by_their_types(run: Callable[..., None], types: str) -> None:
    async def body(world: World) -> None:
        variant(world, lambda manifest, config: manifest["layers"][0].update(mediaType=types))
        assert (await world.puller.pull(world.name, ImageAuth())).chain

    run(body)


Change = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda m, c: m["layers"][0].update(mediaType="application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
            "failed to get stream processor for application/vnd.cncf.helm.*: no processor for media-type: unknown$",
            id="an artifact",
        ),
        pytest.param(lambda m, c: c.pop("rootfs"), "mismatched image rootfs and manifest layers$", id="no root"),
        pytest.param(lambda m, c: m.pop("config"), "not an image manifest of schema 2$", id="no config"),
        pytest.param(lambda m, c: m.update(schemaVersion=1), "not an image manifest of schema 2$", id="schema 1"),
        pytest.param(
            lambda m, c: m.update(manifests=[]), "expected index but found image$", id="index and image in one"
        ),
        pytest.param(lambda m, c: m["layers"][0].update(size=-1), "invalid size -1", id="a negative size"),
        pytest.param(
            lambda m, c: m["layers"][0].update(size=1 << 70), "no space left on device", id="a size beyond all"
        ),
        pytest.param(lambda m, c: m["layers"][0].update(size=0), "is announced as empty$", id="no size"),
        pytest.param(
            lambda m, c: m["layers"][0].update(size=1 << 60), "no space left on device", id="a size beyond the disk"
        ),
        pytest.param(
            lambda m, c: m["layers"][0].update(size=100),
            r"failed commit on ref .layer-sha256:\w+.: unexpected commit size \d+, expected 100: failed precondition$",
            id="more than announced",
        ),
        pytest.param(
            lambda m, c: m["layers"][0].update(size=90_000),
            r"unexpected commit size \d+, expected 90000: failed precondition$",
            id="less than announced",
        ),
        pytest.param(
            lambda m, c: m["config"].update(size=1 << 40), "larger than a document may be", id="a config beyond all"
        ),
        pytest.param(lambda m, c: c["config"].update(Cmd="sh"), "Expected `array", id="a command that is no list"),
        pytest.param(lambda m, c: c["config"].update(Env=[1]), "Expected `str", id="a variable that is no text"),
        pytest.param(
            lambda m, c: (
                m.update(layers=m["layers"] * 128),
                c["rootfs"].update(diff_ids=c["rootfs"]["diff_ids"] * 128),
            ),
            "max depth exceeded: 128 layers$",
            id="too many layers",
        ),
        pytest.param(
            lambda m, c: c["rootfs"].update(diff_ids=[f"sha256:{'0' * 64}"]),
            "layer unpacks to sha256:",
            id="another root",
        ),
    ],
)
def test_images_that_are_wrong(run: Callable[..., None], change: Change, words: str) -> None:
    async def body(world: World) -> None:
        variant(world, change)  # type: ignore[arg-type]  # what it returns says nothing
        await refused(world, words)

    run(body)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"schemaVersion":2,"config":7}',
        b"<html>",
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_manifests_that_are_none(run: Callable[..., None], content: bytes) -> None:
    async def body(world: World) -> None:
        world.registry.tags["1"] = world.registry.put(content)
        await refused(world, ".")

    run(body)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            web.Response(status=500),
            "unexpected status from GET request to http://.*/v2/a/b/manifests/1: 500 Internal Server Error$",
        ),
        (web.Response(status=403), "unexpected status from GET request to http://.*: 403 Forbidden$"),
        (web.Response(status=404), "/a/b:1: not found$"),
        (web.Response(status=401), "unexpected status from GET request to http://.*: 401 Unauthorized$"),
        (
            web.Response(status=302, headers={"Location": "/v2/a/b/manifests/1"}),
            "Too many redirects|/v2/a/b/manifests/1",
        ),
        (web.Response(body=bytes(17 << 20)), "larger than a document may be$"),
        (
            web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'}),
            "pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth",
        ),
        (
            web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="nonsense"'}),
            "failed to fetch anonymous token",
        ),
        (web.Response(status=401, headers={"WWW-Authenticate": "Negotiate"}), "401 Unauthorized$"),
    ],
)
def test_what_registries_say(run: Callable[..., None], answer: web.Response, words: str) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.answers["1"] = answer
        await refused(world, f'failed to resolve reference "{world.name}": .*{words}')

    run(body)


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "content not found: not found$"), (500, "unexpected status from GET .*: 500 Internal.*$")],
)
def test_layers_that_are_not_there(run: Callable[..., None], status: int, words: str) -> None:
    async def body(world: World) -> None:
        manifest = json.loads(world.registry.blobs[world.registry.load(make_archive(world))])
        world.registry.answers[manifest["layers"][0]["digest"]] = web.Response(status=status)
        await refused(world, f"failed to copy: httpReadSeeker: failed open: {words}")

    run(body)


def test_a_token_that_is_not_enough(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.token = "t0"
        realm = f"http://127.0.0.1:{world.registry.port}/token"
        challenge = f'Bearer realm="{realm}",service="here",scope="repository:a/b:pull",error="insufficient_scope"'
        world.registry.answers["1"] = web.Response(status=401, headers={"WWW-Authenticate": challenge})
        with pytest.raises(ImagePullError) as raised:
            await world.puller.pull(world.name, ImageAuth("u", "p"))
        assert world.registry.requests[1].startswith("/token")
        assert str(raised.value).endswith(
            "pull access denied, repository does not exist or may require authorization: server message: "
            "insufficient_scope: authorization failed"
        )

    run(body)


def test_a_registry_that_falls_silent_is_asked_again(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.stall_times = 1
        record = await world.puller.pull(world.name, ImageAuth())
        assert world.store.snapshots.has(record.chain[0])
        assert any("bytes=" in request for request in world.registry.requests)

    run(body)


def test_a_registry_that_is_silent_for_good(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.stall_times = 1000
        await refused(world, "context deadline exceeded$")

    run(body)


def test_a_registry_without_ranges_begins_again(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.ranges, world.registry.truncate_times = False, 2
        progress: list[tuple[int, int]] = []
        task = asyncio.ensure_future(world.puller.pull(world.name, ImageAuth()))
        while not task.done():
            await asyncio.sleep(0)
            told = world.puller.progress(world.name)
            progress += [(told.done_bytes, told.total_bytes)] if told and told.total_bytes else []
        assert (await task).chain
        assert all(done <= total for done, total in progress)

    run(body)


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("3", 3, 3),
        ("86400", 30, 30),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 30, 30),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0, 0),
        ("soon", 0.1, 1),
    ],
)
def test_how_long_a_busy_registry_is_left_alone(
    run: Callable[..., None], asked: str, least: float, most: float
) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.refuse_times, world.registry.retry_after = 1, asked
        await world.puller.pull(world.name, ImageAuth())
        (slept,) = world.clock.slept
        assert least <= slept <= most

    run(body)


def test_pulls_with_different_credentials_do_not_share_a_file(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        pulls = [world.puller.pull(world.name, ImageAuth(user, "p")) for user in ("", "u", "v")]
        first, *others = await asyncio.gather(*pulls)
        assert all(other == first for other in others)

    run(body)


def test_layers_of_all_kinds_come_four_at_a_time(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        parts = [layer_of(f"f{number}", os.urandom(5000)) for number in range(6)]
        packings = [gzip.compress, zstandard.compress, bytes] * 2
        layers = []
        for plain, pack in zip(parts, packings, strict=True):
            packed = pack(plain)
            layers.append({"digest": world.registry.put(packed), "size": len(packed)})
        diff_ids = [f"sha256:{hashlib.sha256(plain).hexdigest()}" for plain in parts]

        def change(manifest: dict[str, Any], config: dict[str, Any]) -> None:
            manifest["layers"], config["rootfs"]["diff_ids"] = layers, diff_ids

        variant(world, change)
        world.registry.hold = asyncio.Event()
        task = asyncio.ensure_future(world.puller.pull(world.name, ImageAuth()))
        while world.registry.held < 4:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert world.registry.held == 4
        told = world.puller.progress(world.name)
        assert told is not None
        assert (told.status, told.done_bytes, told.total_bytes) == (
            "downloading",
            0,
            sum(layer["size"] for layer in layers),
        )
        world.registry.hold.set()
        record = await task
        assert len(record.chain) == 6
        root = world.folder / "root"
        root.mkdir()
        for chain in record.chain:
            apply_layer(world.store.snapshots.folder(chain) / "fs", root)
        assert sorted(path.name for path in root.iterdir()) == [f"f{number}" for number in range(6)]

    run(body)


def layer_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
