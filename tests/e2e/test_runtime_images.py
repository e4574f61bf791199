"""Archives and registries that others made: skopeo and Debian's docker-registry."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaa.api.clock import SystemClock
from kaa.runtime.base import ImageAuth, ImagePullError
from kaa.runtime.oci.archive import import_archive
from kaa.runtime.oci.build import busybox_archive, image_archive
from kaa.runtime.oci.images import ImageStore
from kaa.runtime.oci.registry import Puller
from kaa.runtime.oci.snapshots import Snapshots
from kaa.runtime.oci.unpack import LayerError
from kaa.runtime.oci.work import Threads

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not os.access("/bin/busybox", os.X_OK), reason="needs root and busybox-static"
    ),
]
needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="needs skopeo")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    snapshots = Snapshots(tmp_path / "store")
    snapshots.open()
    found = ImageStore(tmp_path / "store" / "images", snapshots)
    found.open()
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return busybox_archive(
        tmp_path / "busybox.tar", ["docker.io/library/busybox:latest", "docker.io/library/busybox:1"]
    )


def skopeo(*words: str) -> None:
    subprocess.run(["skopeo", "--insecure-policy", *words], check=True, capture_output=True)


def test_one_image_of_many_names_is_one(store: ImageStore, archive: Path) -> None:
    (first,) = import_archive(archive, store)
    (again,) = import_archive(archive, store)
    assert first == again
    assert first.names == ("docker.io/library/busybox:latest", "docker.io/library/busybox:1")
    (renamed,) = import_archive(archive, store, ["quay.io/me/box:2"])
    assert renamed.id == first.id
    assert "quay.io/me/box:2" in renamed.names


@needs_skopeo
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_skopeos_archives_are_read(store: ImageStore, archive: Path, tmp_path: Path, kind: str) -> None:
    skopeo("copy", f"oci-archive:{archive}:latest", f"{kind}:{tmp_path}/copy.tar:docker.io/library/copy:3")
    (record,) = import_archive(tmp_path / "copy.tar", store)
    (original,) = import_archive(archive, store)
    assert record.names == ("docker.io/library/copy:3",)
    assert record.chain == original.chain
    assert store.snapshots.has(record.chain[0])


def test_a_name_moves_to_the_newer_image(store: ImageStore, tmp_path: Path) -> None:
    name = "docker.io/library/app:latest"
    (old,) = import_archive(image_archive(tmp_path / "1.tar", [name], files={"a": (b"1", 0o644)}), store)
    (new,) = import_archive(image_archive(tmp_path / "2.tar", [name], files={"a": (b"2", 0o644)}), store)
    found = store.find("app")
    assert found is not None
    assert found.id == new.id
    assert store.records[old.id].names == ()
    again = ImageStore(store.root, store.snapshots)
    again.open()
    assert again.records == store.records
    assert store.remove(old.id)
    store.sweep([])
    assert not store.snapshots.has(old.chain[0])
    assert store.snapshots.has(new.chain[0])
    store.remove("app")
    store.sweep(new.chain)
    assert store.snapshots.has(new.chain[0])
    assert not list(store.blobs.iterdir())


def test_archives_that_lie_are_refused(store: ImageStore, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x" * 2000)
    with pytest.raises(LayerError, match="not an image archive"):
        import_archive(tmp_path / "text", store)
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(LayerError, match=r"neither index.json nor manifest.json"):
        import_archive(tmp_path / "empty.tar", store)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bent.tar").write_bytes(data)
    with pytest.raises(LayerError):
        import_archive(tmp_path / "bent.tar", store)
    assert not store.records


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (tmp_path / "registry.yml").write_text(json.dumps(config))
    server = subprocess.Popen(
        ["docker-registry", "serve", str(tmp_path / "registry.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@needs_skopeo
@pytest.mark.skipif(not shutil.which("docker-registry"), reason="needs docker-registry")
def test_a_real_registry_is_pulled_from(store: ImageStore, archive: Path, registry: str, tmp_path: Path) -> None:
    (tmp_path / "hosts" / "docker.io").mkdir(parents=True)
    (tmp_path / "hosts" / "docker.io" / "hosts.toml").write_text(f'[host."http://{registry}"]')
    skopeo("copy", "--dest-tls-verify=false", f"oci-archive:{archive}:latest", f"docker://{registry}/library/busybox:1")

    async def main() -> None:
        threads = Threads()
        puller = Puller(store, threads, SystemClock(), tmp_path / "hosts")
        try:
            record = await puller.pull("busybox:1", ImageAuth())
            assert record.names == ("docker.io/library/busybox:1",)
            direct = await puller.pull(f"{registry}/library/busybox:1", ImageAuth())
            assert direct.id == record.id
            with pytest.raises(ImagePullError, match="not found"):
                await puller.pull(f"{registry}/library/nothing:1", ImageAuth())
        finally:
            await puller.close()
            threads.close()

    asyncio.run(main())
