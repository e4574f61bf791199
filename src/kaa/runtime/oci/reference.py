"""Image names as people write them, and the full names that the store and registries use.

Source: the distribution project's reference grammar, and Docker's defaulting of ``docker.io``, ``library/``, ``latest``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_REGISTRY = "docker.io"
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_HEX_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """``docker.io`` + ``library/busybox`` + a tag, a digest, or both (then the digest decides)."""

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Without tag and digest: ``docker.io/library/busybox``."""
        return f"{self.registry}/{self.path}"

    @property
    def wanted(self) -> str:
        """What to ask a registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Read ``[registry/]path[:tag][@digest]`` and fill in what was left out.

    Raises: ValueError, in the words of the distribution grammar.
    """
    if _HEX_ID.fullmatch(text):
        raise ValueError(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, _, digest = text.partition("@")
    if "@" in text and not _DIGEST.fullmatch(digest):
        raise ValueError("invalid reference format")
    registry, path = _split_registry(rest)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise ValueError("invalid reference format")
    if path != path.lower():
        raise ValueError(f"invalid reference format: repository name ({_in_hub(registry, path)}) must be lowercase")
    if not _PATH.fullmatch(path) or not _REGISTRY.fullmatch(registry):
        raise ValueError("invalid reference format")
    path = _in_hub(registry, path)
    if not tag and not digest:
        tag = "latest"
    if len(f"{registry}/{path}") > 255:
        raise ValueError("repository name must not be more than 255 characters")
    return Reference(registry, path, tag, digest)


def _in_hub(registry: str, path: str) -> str:
    return f"library/{path}" if registry == DEFAULT_REGISTRY and "/" not in path else path


def _split_registry(text: str) -> tuple[str, str]:
    """A first part is a registry when it has a dot or a port, or is ``localhost`` or upper case."""
    first, slash, rest = text.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    if not named:
        return DEFAULT_REGISTRY, text
    return (DEFAULT_REGISTRY if first == "index.docker.io" else first), rest
