"""Image archives: an OCI layout in a tar, what ``docker save`` writes, or both in one file.

Layers go from the archive straight into snapshots, hashed on the way; no copy is made in between.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec

from .images import ImageRecord, ImageStore, decode_config, digest_of
from .manifest import MAX_DOCUMENT_BYTES, Descriptor, Manifest, check_layers, choose_platform, decode_manifest
from .reference import parse_reference
from .snapshots import chain_ids
from .unpack import ByteSource, LayerError

#: What the standard library's reader makes of archives that are none.
_BROKEN = (
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    LookupError,
    ArithmeticError,
    RecursionError,
    ValueError,
)
_NESTED = 8  #: how deep indexes may lie in indexes
_NAME, _TAG = "io.containerd.image.name", "org.opencontainers.image.ref.name"


class DockerEntry(msgspec.Struct, frozen=True, rename="pascal"):
    """One image of a docker archive's ``manifest.json``."""

    config: str
    repo_tags: tuple[str, ...] | None = None
    layers: tuple[str, ...] = ()


def import_archive(path: Path, store: ImageStore, names: Sequence[str] = ()) -> list[ImageRecord]:
    """Take every image of an archive into the store. Blocks.

    Args:   names: given to the image instead of its own; only when the archive holds one.
    Raises: LayerError (a ValueError) for archives that are none, or lie.
    """
    try:
        with tarfile.open(path) as archive:
            found = list(_Archive(archive, store).images())
            if names and len({record.id for record, _ in found}) != 1:
                raise LayerError("names can be given to an archive of one image only")
            return [store.add(*parts) for parts in _entries(found, names)]
    except LayerError:
        raise
    except _BROKEN as err:
        raise LayerError(f"{path} is not an image archive: {err}") from err


class _Pending(msgspec.Struct, frozen=True):
    """An image whose layers are unpacked, before it gets its names."""

    id: str
    manifest: bytes
    config: bytes
    size_bytes: int


def _entries(
    found: Sequence[tuple[_Pending, Sequence[str]]], names: Sequence[str]
) -> Iterator[tuple[bytes, bytes, int, list[str], list[str]]]:
    """One entry an image, with all its names; the digests are those of its manifest under each repository."""
    by_id: dict[str, tuple[_Pending, list[str]]] = {}
    for image, own in found:
        by_id.setdefault(image.id, (image, []))[1].extend(own)
    for image, own in by_id.values():
        references = [parse_reference(name) for name in (names or own)]
        digest = digest_of(image.manifest)
        tags = [f"{reference.name}:{reference.tag}" for reference in references if reference.tag]
        digests = [f"{reference.name}@{digest}" for reference in references]
        yield image.manifest, image.config, image.size_bytes, list(dict.fromkeys(tags)), list(dict.fromkeys(digests))


class _Archive:
    def __init__(self, archive: tarfile.TarFile, store: ImageStore) -> None:
        self.archive, self.store = archive, store
        self.members = {member.name.removeprefix("./"): member for member in archive.getmembers()}

    def images(self) -> Iterator[tuple[_Pending, Sequence[str]]]:
        named = self._docker_names()
        if "index.json" in self.members:
            index = decode_manifest(self.read("index.json"))
            yield from self._indexed(index.manifests or (), named)
        elif "manifest.json" in self.members:
            for entry in self._docker_entries():
                yield self._docker(entry), entry.repo_tags or ()
        else:
            raise LayerError("not an image archive: neither index.json nor manifest.json is in it")

    def _indexed(
        self, entries: Sequence[Descriptor], named: dict[str, Sequence[str]]
    ) -> Iterator[tuple[_Pending, Sequence[str]]]:
        for entry in entries:
            content, manifest = self._manifest(entry)
            image = self._unpacked(content, manifest)
            yield image, self._names(entry) or named.get(image.id, ())

    def _manifest(self, entry: Descriptor) -> tuple[bytes, Manifest]:
        """What an entry names, or what is for this machine in the indexes that it leads to."""
        for _ in range(_NESTED):
            content = self.blob(entry.digest)
            manifest = decode_manifest(content)
            if not manifest.is_index:
                return content, manifest
            choice = choose_platform(manifest.manifests or ())
            if choice is None:
                raise LayerError("no image in the archive is for this machine's platform")
            entry = choice
        raise LayerError("the archive's indexes are nested too deep")

    @staticmethod
    def _names(entry: Descriptor) -> list[str]:
        notes = entry.annotations or {}
        name = notes.get(_NAME) or notes.get(_TAG, "")
        return [name] if _NAME in notes or "/" in name or ":" in name else []

    def _unpacked(self, content: bytes, manifest: Manifest) -> _Pending:
        assert manifest.config is not None  # it is no index
        config = self.blob(manifest.config.digest)
        diff_ids = decode_config(config).rootfs.diff_ids
        check_layers(manifest.layers, diff_ids)
        for layer, diff_id, chain in zip(manifest.layers, diff_ids, chain_ids(diff_ids), strict=True):
            if not self.store.snapshots.has(chain):
                self.store.snapshots.unpack(
                    chain, self.open(_blob_path(layer.digest)), digest=layer.digest, diff_id=diff_id
                )
        return _Pending(digest_of(config), content, config, manifest.size_bytes + len(content))

    def _docker(self, entry: DockerEntry) -> _Pending:
        """``docker save`` names no layer digests: the diff ids of the config vouch for them, and make the manifest."""
        config = self.read(entry.config)
        diff_ids = decode_config(config).rootfs.diff_ids
        layers = [Descriptor(size=1)] * len(entry.layers)
        check_layers(layers, diff_ids)
        layers = []
        for name, diff_id, chain in zip(entry.layers, diff_ids, chain_ids(diff_ids), strict=True):
            if not self.store.snapshots.has(chain):
                self.store.snapshots.unpack(chain, self.open(name), diff_id=diff_id)
            layers.append(Descriptor("application/vnd.oci.image.layer.v1.tar", diff_id, self.member(name).size))
        manifest = Manifest(
            schema_version=2,
            media_type="application/vnd.oci.image.manifest.v1+json",
            config=Descriptor("application/vnd.oci.image.config.v1+json", digest_of(config), len(config)),
            layers=tuple(layers),
        )
        content = msgspec.json.encode(manifest)
        return _Pending(digest_of(config), content, config, manifest.size_bytes + len(content))

    def _docker_entries(self) -> list[DockerEntry]:
        return msgspec.json.decode(self.read("manifest.json"), type=list[DockerEntry])

    def _docker_names(self) -> dict[str, Sequence[str]]:
        """{image id: names} of the docker manifest, for layouts that carry both."""
        if "manifest.json" not in self.members:
            return {}
        return {digest_of(self.read(entry.config)): entry.repo_tags or () for entry in self._docker_entries()}

    def member(self, name: str) -> tarfile.TarInfo:
        """A file of the archive; ``docker save`` links layers that two images share."""
        for _ in range(4):
            entry = self.members.get(name.removeprefix("./"))
            if entry is None:
                raise LayerError(f"the archive misses {name}")
            if not (entry.issym() or entry.islnk()):
                return entry
            name = str(Path(name).parent / entry.linkname) if entry.issym() else entry.linkname
            name = "/".join(_squeezed(name))
        raise LayerError(f"the archive has too many links at {name}")

    def open(self, name: str) -> ByteSource:
        file = self.archive.extractfile(self.member(name))
        if file is None:
            raise LayerError(f"{name} in the archive is no file")
        return cast(ByteSource, file)

    def read(self, name: str) -> bytes:
        if self.member(name).size > MAX_DOCUMENT_BYTES:
            raise LayerError(f"{name} in the archive is too large for a document")
        return self.open(name).read()

    def blob(self, digest: str) -> bytes:
        content = self.read(_blob_path(digest))
        if digest_of(content) != digest:
            raise LayerError(f"blob {digest} of the archive hashes to {digest_of(content)}")
        return content


def _squeezed(name: str) -> list[str]:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)
