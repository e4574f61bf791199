"""Pulling from a registry made here: tokens, lies, breaks and refusals."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from registry_lab import World, in_world, make_archive

from kaa.runtime.base import ImageAuth, ImagePullError
from kaa.runtime.oci.build import architecture
from kaa.runtime.oci.remote import parse_challenge

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="layers keep their owners")]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    return in_world(tmp_path)


def test_an_image_is_pulled_and_not_fetched_twice(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        digest = world.registry.load(make_archive(world))
        record = await world.puller.pull(world.name, ImageAuth())
        assert record.names == (world.name,)
        assert record.digests == (f"{world.name[:-2]}@{digest}",)
        assert record.config.user == "33"
        fetched = len(world.registry.requests)
        again = await world.puller.pull(world.name, ImageAuth())
        assert again == record
        assert len(world.registry.requests) - fetched == 2
        by_digest = await world.puller.pull(f"{world.name[:-2]}@{digest}", ImageAuth())
        assert by_digest.id == record.id

    run(body)


def test_two_pulls_of_one_name_share_the_work(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        first, second = await asyncio.gather(*(world.puller.pull(world.name, ImageAuth()) for _ in range(2)))
        assert first == second
        assert len(world.registry.requests) == 3
        assert world.puller.progress(world.name) is None

    run(body)


def test_an_index_gives_this_machines_image(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        digest = world.registry.load(make_archive(world))
        kind = "application/vnd.oci.image.manifest.v1+json"
        size = len(world.registry.blobs[digest])
        entries = [
            {
                "mediaType": kind,
                "digest": f"sha256:{'0' * 64}",
                "size": 1,
                "platform": {"architecture": "z", "os": "linux"},
            },
            {
                "mediaType": kind,
                "digest": digest,
                "size": size,
                "platform": {"architecture": architecture(), "os": "linux"},
            },
        ]
        index = world.registry.put(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
        world.registry.tags["1"] = index
        record = await world.puller.pull(world.name, ImageAuth())
        assert (record.manifest, record.digests) == (digest, (f"{world.name[:-2]}@{index}",))
        world.registry.tags["1"] = world.registry.put(
            json.dumps({"schemaVersion": 2, "manifests": entries[:1]}).encode()
        )
        with pytest.raises(ImagePullError, match="no match for platform in manifest"):
            await world.puller.pull(world.name, ImageAuth())

    run(body)


def test_a_zstd_layer_is_read(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        manifest = json.loads(world.registry.blobs[world.registry.load(make_archive(world))])
        layer = manifest["layers"][0]
        packed = zstandard.compress(gzip.decompress(world.registry.blobs.pop(layer["digest"])))
        layer |= {"digest": world.registry.put(packed), "size": len(packed)}
        world.registry.tags["1"] = world.registry.put(json.dumps(manifest).encode())
        record = await world.puller.pull(world.name, ImageAuth())
        assert world.store.snapshots.has(record.chain[0])

    run(body)


def test_a_mirror_answers_for_its_registry(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world), "latest")
        record = await world.puller.pull("b", ImageAuth())
        assert record.names == ("docker.io/library/b:latest",)
        assert world.registry.requests[0] == "/v2/library/b/manifests/latest"

    run(body)


def test_a_token_is_fetched_with_the_credentials(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.token = "t0"
        with pytest.raises(
            ImagePullError,
            match=r"failed to authorize: failed to fetch anonymous token: unexpected status from GET .*: 401 Unauthorized",
        ):
            await world.puller.pull(world.name, ImageAuth())
        assert (await world.puller.pull(world.name, ImageAuth("u", "p"))).names
        world.registry.token, world.registry.basic = "", "Basic dTpw"
        with pytest.raises(
            ImagePullError,
            match="repository does not exist or may require authorization: authorization failed: no basic auth credentials",
        ):
            await world.puller.pull(world.name, ImageAuth())
        assert (await world.puller.pull(world.name, ImageAuth("u", "p"))).names

    run(body)


def test_a_busy_registry_is_asked_again_when_it_says(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.refuse_times = 2
        await world.puller.pull(world.name, ImageAuth())
        assert world.clock.slept == [7, 7]
        world.registry.refuse_times = 100
        with pytest.raises(ImagePullError, match="429 Too Many Requests"):
            await world.puller.pull(world.name, ImageAuth())

    run(body)


def test_a_broken_download_goes_on_where_it_broke(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.truncate_times = 2
        record = await world.puller.pull(world.name, ImageAuth())
        assert world.store.snapshots.has(record.chain[0])
        ranges = [request.split()[1] for request in world.registry.requests if " " in request]
        assert ranges == ["bytes=1000-", "bytes=2000-"]
        assert world.clock.slept

    run(body)


def test_a_layer_that_never_comes_whole_fails(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        world.registry.load(make_archive(world))
        world.registry.truncate_times = 1000
        with pytest.raises(ImagePullError, match="failed to pull and unpack image"):
            await world.puller.pull(world.name, ImageAuth())

    run(body)


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_bytes_that_are_not_their_digest_are_refused(run: Callable[..., None], part: str) -> None:
    async def body(world: World) -> None:
        digest = world.registry.load(make_archive(world))
        manifest = json.loads(world.registry.blobs[digest])
        digests = {"manifest": digest, "config": manifest["config"]["digest"], "layer": manifest["layers"][0]["digest"]}
        world.registry.lie = digests[part]
        with pytest.raises(
            ImagePullError,
            match=r"failed commit on ref .*: unexpected commit digest sha256:.*, expected sha256:.*: failed precondition",
        ):
            await world.puller.pull(f"{world.name[:-2]}@{digest}", ImageAuth())
        assert not world.store.records

    run(body)


@pytest.mark.parametrize("part", ["config", "layer", "diff_id"])
def test_digests_with_paths_in_them_write_nothing(run: Callable[..., None], part: str) -> None:
    async def body(world: World) -> None:
        victim = world.folder / ("v" * 57)
        victim.write_text("precious")
        bad = f"sha256:{'../' * 20}{victim}"
        manifest = json.loads(world.registry.blobs[world.registry.load(make_archive(world))])
        config = json.loads(world.registry.blobs[manifest["config"]["digest"]])
        if part == "diff_id":
            config["rootfs"]["diff_ids"] = [bad]
            content = json.dumps(config).encode()
            manifest["config"] |= {"digest": world.registry.put(content), "size": len(content)}
        else:
            (manifest["config"] if part == "config" else manifest["layers"][0])["digest"] = bad
        world.registry.tags["1"] = world.registry.put(json.dumps(manifest).encode())
        before = sorted(world.folder.iterdir())
        with pytest.raises(ImagePullError, match="invalid checksum digest format"):
            await world.puller.pull(world.name, ImageAuth())
        assert victim.read_text() == "precious"
        assert sorted(world.folder.iterdir()) == before
        assert not world.store.records

    run(body)


def test_an_unknown_image_is_not_found(run: Callable[..., None]) -> None:
    async def body(world: World) -> None:
        with pytest.raises(ImagePullError, match="not found"):
            await world.puller.pull(world.name, ImageAuth())
        with pytest.raises(ImagePullError, match="failed to parse image name 'UPPER'"):
            await world.puller.pull("UPPER", ImageAuth())
        with pytest.raises(ImagePullError, match=r"dial tcp 127\.0\.0\.1:1: connect: connection refused"):
            await world.puller.pull("127.0.0.1:1/a:1", ImageAuth())

    run(body)


def test_challenges_are_read() -> None:
    text = 'Bearer realm="https://a/t",service="b",scope="repository:x:pull,push"'
    expected = {"realm": "https://a/t", "service": "b", "scope": "repository:x:pull,push"}
    assert parse_challenge(text) == ("bearer", expected)
