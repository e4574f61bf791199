"""The image store: which images there are, under which names, made of which layers.

Manifests and configs are kept as blobs under their digests. Layers are kept unpacked only (``snapshots``); a packed copy
would double the disk for nothing that the runtime ever reads. The index is one small file, replaced whole.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..base import Image
from .files import remove_tree, write_atomic
from .manifest import check_digest
from .reference import parse_reference
from .snapshots import Snapshots, chain_ids


class ImageConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """The part of an image's config that says how to run it."""

    user: str | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str | None = None
    stop_signal: str | None = None
    volumes: dict[str, Any] | None = None
    labels: dict[str, str] | None = None


class ImageRootfs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] = ()


class ImageDocument(msgspec.Struct, frozen=True):
    """An image's config blob; its digest is the image's id."""

    architecture: str = ""
    os: str = ""
    config: ImageConfig | None = None
    rootfs: ImageRootfs = ImageRootfs()


class ImageRecord(msgspec.Struct, frozen=True):
    """An image in the store. ``chain`` are its layers, lowest first."""

    id: str
    manifest: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    size_bytes: int
    chain: tuple[str, ...]
    config: ImageConfig

    def public(self) -> Image:
        return Image(self.id, self.names, self.digests, self.size_bytes, self.config.user or "")


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def decode_config(content: bytes) -> ImageDocument:
    """Raises ValueError on a config that is none."""
    found = msgspec.json.decode(content, type=ImageDocument)
    for diff_id in found.rootfs.diff_ids:
        check_digest(diff_id)
    return found


class ImageStore:
    """Names and digests to images. Methods that touch the disk block, shortly."""

    def __init__(self, root: Path, snapshots: Snapshots) -> None:
        self.root, self.snapshots = root, snapshots
        self.blobs = root / "blobs" / "sha256"
        self.records: dict[str, ImageRecord] = {}  #: {image id: record}
        self._lock = threading.Lock()  # imports and pulls end in different threads

    def open(self) -> None:
        """Read the index; an image that lost a layer is forgotten, so that the next pull brings it whole again."""
        self.blobs.mkdir(parents=True, exist_ok=True)
        remove_tree(self.root / "downloads")
        index = self.root / "index.json"
        if index.exists():
            found = msgspec.json.decode(index.read_bytes(), type=list[ImageRecord])
            self.records = {
                record.id: record for record in found if all(self.snapshots.has(layer) for layer in record.chain)
            }

    def add(
        self, manifest: bytes, config: bytes, size_bytes: int, names: Sequence[str], digests: Sequence[str]
    ) -> ImageRecord:
        """Enter an image whose layers are unpacked. Names move to it from whatever bore them."""
        with self._lock:
            return self._add(manifest, config, size_bytes, names, digests)

    def _add(
        self, manifest: bytes, config: bytes, size_bytes: int, names: Sequence[str], digests: Sequence[str]
    ) -> ImageRecord:
        document, image_id = decode_config(config), digest_of(config)
        for content in (manifest, config):
            path = self.blobs / digest_of(content).partition(":")[2]
            if not path.exists():
                write_atomic(path, content)
        for other in list(self.records.values()):
            if other.id != image_id and set(names) & set(other.names):
                kept = tuple(name for name in other.names if name not in names)
                self.records[other.id] = msgspec.structs.replace(other, names=kept)
        old = self.records.get(image_id)
        record = ImageRecord(
            id=image_id,
            manifest=digest_of(manifest),
            names=_merged(old.names if old else (), names),
            digests=_merged(old.digests if old else (), digests),
            size_bytes=size_bytes,
            chain=chain_ids(document.rootfs.diff_ids),
            config=document.config or ImageConfig(),
        )
        self.records[image_id] = record
        self._save()
        return record

    def find(self, reference: str) -> ImageRecord | None:
        """By image id, whole or shortened, by name, or by ``name@digest``."""
        bare = reference.removeprefix("sha256:")
        if f"sha256:{bare}" in self.records:
            return self.records[f"sha256:{bare}"]
        named = self._by_name(reference)
        if named is None and re.fullmatch(r"[0-9a-f]{6,63}", bare):
            found = [record for record in self.records.values() if record.id.startswith(f"sha256:{bare}")]
            return found[0] if len(found) == 1 else None
        return named

    def _by_name(self, reference: str) -> ImageRecord | None:
        try:
            wanted = parse_reference(reference)
        except ValueError:
            return None
        for record in self.records.values():
            if wanted.digest:
                if f"{wanted.name}@{wanted.digest}" in record.digests:
                    return record
            elif str(wanted) in record.names:
                return record
        return None

    def remove(self, reference: str) -> bool:
        """Forget an image by id, or one of its names (the image too when that was the last). False when unknown."""
        with self._lock:
            record = self.find(reference)
            if record is None:
                return False
            by_id = record.id.startswith(f"sha256:{reference.removeprefix('sha256:')}")
            rest = () if by_id or "@" in reference else tuple(set(record.names) - {str(parse_reference(reference))})
            if rest:
                self.records[record.id] = msgspec.structs.replace(record, names=tuple(sorted(rest)))
            else:
                del self.records[record.id]
            self._save()
            return True

    def sweep(self, used: Sequence[str]) -> None:
        """Drop blobs and layers that neither an image nor a container (its chain ids: ``used``) needs."""
        wanted = {
            digest.partition(":")[2] for record in self.records.values() for digest in (record.id, record.manifest)
        }
        for blob in self.blobs.iterdir():
            if blob.name not in wanted and not blob.name.endswith(".part"):
                blob.unlink()
        self.snapshots.sweep_layers([*used, *(layer for record in self.records.values() for layer in record.chain)])

    def _save(self) -> None:
        write_atomic(self.root / "index.json", msgspec.json.encode(list(self.records.values())))


def _merged(old: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*old, *new]))
