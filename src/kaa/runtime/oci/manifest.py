"""Manifests and indexes, OCI's and Docker's alike, and the choice of a platform among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from .build import architecture

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ACCEPT = ", ".join([*MANIFEST_TYPES, *INDEX_TYPES])
MAX_DOCUMENT_BYTES = 16 << 20  #: of manifests, indexes and configs
#: More do not fit in the options of an overlay, nor would any builder make them. Source: Docker's limit.
MAX_LAYERS = 127
_LAYER_TYPE = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?"
    r"|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.gzip|\.zstd)?)"
)


class Platform(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A pointer to a blob: what it is, its digest, its size."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """A manifest or an index: an index has ``manifests``, a manifest ``config`` and ``layers``."""

    schema_version: int = 0
    media_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] | None = None

    @property
    def is_index(self) -> bool:
        return self.manifests is not None

    @property
    def size_bytes(self) -> int:
        return sum(layer.size for layer in self.layers) + (self.config.size if self.config else 0)


def decode_manifest(content: bytes) -> Manifest:
    """Raises ValueError on anything that is neither a manifest (schema 2) nor an index, and on digests that are none.

    What is both is neither: two readers would see two images. Source: containerd core/images ValidateMediaType.
    """
    found = msgspec.json.decode(content, type=Manifest)
    if found.schema_version != 2 or (found.manifests is None and found.config is None):
        raise ValueError("not an image manifest of schema 2")
    if found.manifests is not None and (found.config is not None or found.layers):
        raise ValueError("media-type: expected index but found image")
    for part in (*([found.config] if found.config else ()), *found.layers):
        check_digest(part.digest)
        if part.size < 0:
            raise ValueError(f"invalid size {part.size} of {part.digest}")
    return found


def check_layers(layers: Sequence[Descriptor], diff_ids: Sequence[str]) -> None:
    """Whether layers can be made a root, as the config tells. Raises ValueError, in containerd's words where it has some."""
    if len(diff_ids) != len(layers):
        raise ValueError("mismatched image rootfs and manifest layers")
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"max depth exceeded: {len(layers)} layers")
    for layer in layers:
        if layer.media_type and not _LAYER_TYPE.fullmatch(layer.media_type):
            wrong = f"failed to get stream processor for {layer.media_type[:100]}"
            raise ValueError(f"{wrong}: no processor for media-type: unknown")
        if not layer.size:
            raise ValueError(f"layer {layer.digest} is announced as empty")


def check_digest(digest: str) -> None:
    """Files and folders are named by digests, so one with a path in it must go no further. Raises ValueError."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"invalid checksum digest format: {digest!r}")


class HasPlatform(Protocol):
    @property
    def architecture(self) -> str: ...

    @property
    def os(self) -> str: ...


def runs_here(image: HasPlatform, machine: str = "") -> bool:
    """Whether a config is for this machine; one that does not say is."""
    return image.os in ("", "linux") and image.architecture in ("", machine or architecture())


def candidates(entries: Sequence[Descriptor], machine: str = "") -> list[Descriptor]:
    """The manifests that may be for this machine, best first: of its architecture, then those that name no platform."""
    machine = machine or architecture()
    fitting = [
        entry
        for entry in entries
        if entry.platform is not None and entry.platform.os == "linux" and entry.platform.architecture == machine
    ]
    fitting.sort(key=lambda entry: -_variant_rank(machine, entry.platform))
    return [*fitting, *(entry for entry in entries if entry.platform is None)]


def choose_platform(entries: Sequence[Descriptor], machine: str = "") -> Descriptor | None:
    """The best manifest for this machine."""
    found = candidates(entries, machine)
    return found[0] if found else None


def _variant_rank(machine: str, platform: Platform | None) -> int:
    """The best variant this machine is sure to run: v8 on arm64, up to v7 on arm, the plain one elsewhere."""
    variant = platform.variant if platform else ""
    best = {"arm64": ["v8", ""], "arm": ["v7", "", "v6", "v5"]}.get(machine, ["", "v1"])
    return -best.index(variant) if variant in best else -len(best)
