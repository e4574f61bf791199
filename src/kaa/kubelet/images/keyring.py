"""Which credentials are good for an image: those whose location matches its repository, the most specific first.

A location is ``[scheme://]host[:port][/path]``; the host may have globs, one a label (``*.example.com``), the port must be the
same, and the path is a prefix of the repository's. Of many that match, all are tried.
Source: pkg/credentialprovider/keyring.go, config.go; pkg/credentialprovider/secrets.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kaa.api.types.core_v1 import Secret
from kaa.runtime.base import ImageAuth

_HUB = "index.docker.io"


class Owner(msgspec.Struct, frozen=True):
    """The secret or service account that credentials came from."""

    uid: str
    namespace: str
    name: str


class Credential(msgspec.Struct, frozen=True):
    """What to show a registry, and whose it is; with neither owner it is the node's, which every pod may use."""

    auth: ImageAuth
    secret: Owner | None = None
    account: Owner | None = None

    @property
    def hash(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self.auth)).hexdigest()


class Keyring:
    """Credentials by location, in the order in which they were added within one location."""

    def __init__(self) -> None:
        self._held: dict[str, list[Credential]] = {}  #: {location without scheme: credentials}

    def add(self, entries: Mapping[str, Any], *, secret: Owner | None = None, account: Owner | None = None) -> None:
        """The entries of a docker config: {location: {auth, username, password, …}}. What is no entry is passed over."""
        for where, entry in entries.items():
            auth, place = read_entry(entry), _location(where)
            if auth is not None and place is not None:
                self._held.setdefault(place, []).append(Credential(auth, secret, account))

    def lookup(self, repository: str) -> list[Credential]:
        """All that may open a repository, in the order to try them in."""
        places = [place for place in sorted(self._held, reverse=True) if matches(place, repository)]
        if not places and _is_hub(repository) and _HUB in self._held:
            places = [_HUB]
        return [credential for place in places for credential in self._held[place]]


def matches(pattern: str, repository: str) -> bool:
    """Whether a location is the repository's or one above it; neither has a scheme. Source: URLsMatch."""
    try:
        wanted, found = urlsplit(f"//{pattern}"), urlsplit(f"//{repository}")
        labels, others = _labels(wanted.netloc, wanted.port), _labels(found.netloc, found.port)
        if wanted.port != found.port or len(labels) != len(others) or not found.path.startswith(wanted.path):
            return False
    except ValueError:  # a port that is none
        return False
    return all(fnmatchcase(own, label) for label, own in zip(labels, others, strict=True))


def _labels(netloc: str, port: int | None) -> list[str]:
    return (netloc.rpartition(":")[0] if port is not None else netloc).strip("[]").split(".")


def _location(where: str) -> str | None:
    """Without scheme, and without the API version that docker's own files end in; None when it is no location."""
    try:
        parts = urlsplit(where if where.startswith(("https://", "http://")) else f"https://{where}")
        port = parts.port  # asked for, to see whether it is a number
    except ValueError:
        return None
    del port
    path = parts.path[3:] if parts.path.startswith(("/v1/", "/v2/")) else parts.path
    return parts.netloc + (path if path != "/" else "")


def _is_hub(repository: str) -> bool:
    first, slash, _ = repository.partition("/")
    if not slash or first in ("docker.io", _HUB):
        return bool(first)
    return bool(first) and "." not in first and ":" not in first


# ------------------------------------------------------------------------------------------------------------ sources


def add_secrets(ring: Keyring, secrets: Iterable[Secret]) -> None:
    """What pull secrets hold, in their order."""
    for secret in secrets:
        meta = secret.metadata
        ring.add(_secret_entries(secret), secret=Owner(meta.uid or "", meta.namespace or "", meta.name or ""))


def add_files(ring: Keyring, paths: Iterable[Path]) -> None:
    """What the first of the node's docker configs that can be read holds. Blocks, shortly."""
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        entries = _config_entries(content)
        if entries is not None:
            ring.add(entries)
            return


def _secret_entries(secret: Secret) -> Mapping[str, Any]:
    """{location: entry} of a dockerconfigjson or dockercfg secret; a malformed one holds nothing."""
    for key, nested in ((".dockerconfigjson", True), (".dockercfg", False)):
        if key in secret.data:
            try:
                content = base64.b64decode(secret.data[key])
            except binascii.Error:
                return {}
            return (_config_entries(content) if nested else _entries(content)) or {}
    return {}


def _config_entries(content: bytes) -> Mapping[str, Any] | None:
    found = _entries(content)
    return None if found is None else _dict(found.get("auths"))


def _entries(content: bytes) -> Mapping[str, Any] | None:
    try:
        return _dict(msgspec.json.decode(content))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def read_entry(entry: Any) -> ImageAuth | None:
    """An entry's credentials: ``auth`` (base64 of ``user:password``, padded or not) over ``username`` and ``password``."""
    if not isinstance(entry, dict):
        return None
    username, password = _text(entry, "username"), _text(entry, "password")
    if packed := _text(entry, "auth"):
        try:
            username, colon, password = base64.b64decode(packed + "=" * (-len(packed) % 4)).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        if not colon:
            return None
    made = ImageAuth(username, password, _text(entry, "identitytoken"), _text(entry, "registrytoken"))
    return made if made != ImageAuth() else None


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""
