"""Archives for ``kaa image import`` that are broken or lie: refused with a word, and nothing of them is kept."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaa.runtime.oci.archive import import_archive
from kaa.runtime.oci.build import image_archive
from kaa.runtime.oci.images import ImageStore
from kaa.runtime.oci.snapshots import Snapshots
from kaa.runtime.oci.unpack import LayerError

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="layers keep their owners")]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    snapshots = Snapshots(tmp_path / "store")
    snapshots.open()
    found = ImageStore(tmp_path / "store" / "images", snapshots)
    found.open()
    return found


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {one.name: file.read() for one in tar if (file := tar.extractfile(one)) is not None}


def write(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def refused(store: ImageStore, path: Path, words: str) -> None:
    with pytest.raises(LayerError, match=words):
        import_archive(path, store)
    assert not store.records
    assert not [one for one in store.snapshots.layers.iterdir() if one.name.startswith(".")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 5000,
        gzip.compress(b"x" * 5000, mtime=0)[:-9],
        gzip.compress(b"", mtime=0) + b"x",
        b"\xfd7zXZ\0" + b"x" * 99,
        b"BZh9" + b"x" * 99,
    ],
)
def test_what_is_no_archive(store: ImageStore, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.tar"
    path.write_bytes(content)
    refused(store, path, "not an image archive")


@pytest.mark.parametrize("name", ["index.json", "manifest.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"7", b"\xff", b'{"schemaVersion":2,"manifests":[{}]}', b'[{"Config":"c"}]']
)
def test_documents_that_are_none(store: ImageStore, tmp_path: Path, name: str, content: bytes) -> None:
    path = write(tmp_path / "a.tar", {name: content})
    if (name, content) == ("manifest.json", b"[]"):
        assert import_archive(path, store) == []
    else:
        refused(store, path, ".")


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


Change = Callable[[dict[str, bytes], dict[str, Any], dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda f, m, c: f.pop("blobs/sha256/" + m["config"]["digest"][7:]), "the archive misses", id="no config"
        ),
        pytest.param(
            lambda f, m, c: f.pop("blobs/sha256/" + m["layers"][0]["digest"][7:]), "the archive misses", id="no layer"
        ),
        pytest.param(
            lambda f, m, c: f.update({"blobs/sha256/" + m["config"]["digest"][7:]: b"{}"}),
            "hashes to",
            id="another config",
        ),
        pytest.param(
            lambda f, m, c: f.update({"blobs/sha256/" + m["layers"][0]["digest"][7:]: gzip.compress(bytes(1024))}),
            "hashes to",
            id="another layer",
        ),
        pytest.param(
            lambda f, m, c: m["config"].update(digest="sha256:../../../../etc/passwd"), "invalid checksum", id="a path"
        ),
        pytest.param(lambda f, m, c: m["layers"].append(m["layers"][0]), "mismatched image rootfs", id="a layer more"),
        pytest.param(
            lambda f, m, c: m["layers"][0].update(mediaType="text/plain"),
            "no processor for media-type",
            id="an artifact",
        ),
        pytest.param(lambda f, m, c: m["layers"][0].update(size=-1), "invalid size", id="a negative size"),
        pytest.param(
            lambda f, m, c: m.update(config=None, layers=[], manifests=[]),
            "is for this machine's platform",
            id="an empty index",
        ),
    ],
)
def test_layouts_that_lie(store: ImageStore, tmp_path: Path, change: Change, words: str) -> None:
    files = contents(image_archive(tmp_path / "good.tar", ["x.io/a:1"], files={"f": (b"x", 0o644)}))
    files.pop("manifest.json")
    index = json.loads(files["index.json"])
    manifest = json.loads(files["blobs/sha256/" + index["manifests"][0]["digest"][7:]])
    change(files, manifest, {})
    content = json.dumps(manifest).encode()
    index["manifests"][0]["digest"] = "sha256:" + digest_of(content)
    files["blobs/sha256/" + digest_of(content)] = content
    files["index.json"] = json.dumps(index).encode()
    refused(store, write(tmp_path / "bad.tar", files), words)


def test_links_in_an_archive_lead_nowhere_else(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(json.dumps({"rootfs": {"diff_ids": []}}))
    entry = [{"Config": "c", "RepoTags": ["x.io/a:1"], "Layers": []}]
    for target in (str(tmp_path / "config"), "../" * 20 + str(tmp_path / "config"), "c"):
        path = write(tmp_path / "bad.tar", {"manifest.json": json.dumps(entry).encode()}, {"c": target})
        refused(store, path, "misses|too many links")


def test_names_that_are_none(store: ImageStore, tmp_path: Path) -> None:
    path = image_archive(tmp_path / "a.tar", ["x.io/UPPER:1"], files={"f": (b"x", 0o644)})
    refused(store, path, "must be lowercase")
