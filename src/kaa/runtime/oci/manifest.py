"""Manifests and indexes, OCI's and Docker's alike, and the choice of a platform among them."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    """Raises ValueError on anything that is neither a manifest (schema 2) nor an index, and on digests that are none."""
    found = msgspec.json.decode(content, type=Manifest)
    if found.schema_version != 2 or (found.manifests is None and found.config is None):
        raise ValueError("not an image manifest of schema 2")
    for part in (*([found.config] if found.config else ()), *found.layers):
        check_digest(part.digest)
    return found


def check_digest(digest: str) -> None:
    """Files and folders are named by digests, so one with a path in it must go no further. Raises ValueError."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"invalid checksum digest format: {digest!r}")


def choose_platform(entries: Sequence[Descriptor], machine: str = "") -> Descriptor | None:
    """The manifest for this machine: exact architecture on linux first, then one that names no platform."""
    machine = machine or architecture()
    fitting = [
        entry
        for entry in entries
        if entry.platform is not None and entry.platform.os == "linux" and entry.platform.architecture == machine
    ]
    if fitting:
        return max(fitting, key=lambda entry: _variant_rank(machine, entry.platform))
    unnamed = [entry for entry in entries if entry.platform is None]
    return unnamed[0] if unnamed else None


def _variant_rank(machine: str, platform: Platform | None) -> int:
    """The best variant this machine is sure to run: v8 on arm64, up to v7 on arm, the plain one elsewhere."""
    variant = platform.variant if platform else ""
    best = {"arm64": ["v8", ""], "arm": ["v7", "", "v6", "v5"]}.get(machine, ["", "v1"])
    return -best.index(variant) if variant in best else -len(best)
