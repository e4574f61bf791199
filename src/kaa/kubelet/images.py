"""Getting a container's image: pull policy, credentials, one pull at a time of an image, back-off after failures.

Source: pkg/kubelet/images/image_manager.go, pkg/credentialprovider.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Secret
from kaa.runtime.base import Image, ImageAuth, Runtime, RuntimeFailure

BACKOFF_FIRST_S, BACKOFF_MAX_S = 10.0, 300.0
#: How long ErrImagePull stands before ImagePullBackOff takes its place.
SHOW_ERROR_S = 2.0
#: Says an event: (type, reason, message).
Say = Callable[[str, str, str], None]


class ImageError(Exception):
    """No image. ``reason`` and the message go to the container's ``waiting``; ``retry_at`` says when to try again."""

    def __init__(self, reason: str, message: str, retry_at: float) -> None:
        super().__init__(message)
        self.reason, self.message, self.retry_at = reason, message, retry_at


def with_tag(image: str) -> str:
    """``nginx`` -> ``nginx:latest``: a reference with neither tag nor digest means ``latest``."""
    last = image.rsplit("/", 1)[-1]
    return image if ":" in last or "@" in last else f"{image}:latest"


def pull_policy(image: str, policy: str | None) -> str:
    """The spec's policy; without one Always for ``latest``, IfNotPresent for the rest."""
    if policy:
        return policy
    return "Always" if with_tag(image).endswith(":latest") else "IfNotPresent"


class Images:
    """Pulls for the pods of a node."""

    def __init__(self, runtime: Runtime, clock: Clock, *, serialize: bool = False, parallel: int = 0) -> None:
        self._runtime, self._clock = runtime, clock
        self._limit = asyncio.Semaphore(1) if serialize else (asyncio.Semaphore(parallel) if parallel else None)
        self._backoff: dict[str, tuple[float, float]] = {}  #: {pod uid / image: (wait_s, failed_at)}

    async def ensure(self, image: str, policy: str | None, secrets: Iterable[Secret], *, user: str, say: Say) -> Image:
        """The image, in the store. Raises ImageError."""
        reference = with_tag(image)
        if (
            not reference
            or reference.startswith((":", "/"))
            or any(c.isspace() for c in reference)
            or _upper_name(reference)
        ):
            message = f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": invalid reference format'
            say("Warning", "InspectFailed", message)
            raise ImageError("InvalidImageName", message, self._clock.now() + BACKOFF_MAX_S)
        chosen = pull_policy(image, policy)
        present = await self._runtime.image(reference)
        if present is not None and chosen != "Always":
            say(
                "Normal",
                "Pulled",
                f'Container image "{image}" already present on machine and can be accessed by the pod',
            )
            return present
        if chosen == "Never":
            message = f'Container image "{image}" is not present with pull policy of Never'
            say("Warning", "ErrImageNeverPull", message)
            raise ImageError("ErrImageNeverPull", message, self._clock.now() + BACKOFF_FIRST_S)
        return await self._pull(image, reference, credentials(reference, secrets), f"{user}/{image}", say)

    async def _pull(self, image: str, reference: str, auth: ImageAuth | None, key: str, say: Say) -> Image:
        self._check_backoff(image, key, say)
        say("Normal", "Pulling", f'Pulling image "{image}"')
        asked = self._clock.monotonic()
        try:
            if self._limit is None:
                began, pulled = asked, await self._runtime.pull_image(reference, auth)
            else:
                async with self._limit:
                    began = self._clock.monotonic()
                    pulled = await self._runtime.pull_image(reference, auth)
        except RuntimeFailure as err:
            self._failed(key)
            text = f'Failed to pull image "{image}": {err}'
            say("Warning", "Failed", text)
            say("Warning", "Failed", "Error: ErrImagePull")
            raise ImageError("ErrImagePull", str(err), self._clock.now() + SHOW_ERROR_S) from err
        self._backoff.pop(key, None)
        now = self._clock.monotonic()
        took, waited = go_seconds(now - began), go_seconds(now - asked)
        size = f"Image size: {pulled.size_bytes} bytes."
        say("Normal", "Pulled", f'Successfully pulled image "{image}" in {took} ({waited} including waiting). {size}')
        return pulled

    def _failed(self, key: str) -> None:
        now = self._clock.now()
        wait, at = self._backoff.get(key, (0.0, now))
        fresh = now - at > 2 * BACKOFF_MAX_S
        self._backoff[key] = (BACKOFF_FIRST_S if fresh or not wait else min(2 * wait, BACKOFF_MAX_S), now)

    def _check_backoff(self, image: str, key: str, say: Say) -> None:
        wait, at = self._backoff.get(key, (0.0, 0.0))
        if self._clock.now() < at + wait:
            text = f'Back-off pulling image "{image}"'
            say("Normal", "BackOff", text)
            say("Warning", "Failed", "Error: ImagePullBackOff")
            raise ImageError("ImagePullBackOff", text, at + wait)

    def release(self, user: str) -> None:
        for key in [key for key in self._backoff if key.startswith(f"{user}/")]:
            del self._backoff[key]


def _upper_name(reference: str) -> bool:
    """Whether the repository part has capitals, which no registry takes."""
    name = reference.split("@")[0]
    repository = name.rsplit(":", 1)[0] if ":" in name.rsplit("/", 1)[-1] else name
    host, _, rest = repository.partition("/")
    path = rest if rest and ("." in host or ":" in host or host == "localhost") else repository
    return path != path.lower()


def go_seconds(seconds: float) -> str:
    """As Go prints a Duration rounded to milliseconds: ``0s``, ``12ms``, ``1.204s``, ``1m3.5s``."""
    millis = round(seconds * 1000)
    if millis < 1000:
        return f"{millis}ms" if millis else "0s"
    minutes, rest = divmod(millis, 60_000)
    text = f"{rest / 1000:g}s"
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60}m{text}"
    return f"{minutes}m{text}" if minutes else text


# -------------------------------------------------------------------------------------------------------- credentials


def credentials(reference: str, secrets: Iterable[Secret]) -> ImageAuth | None:
    """The credentials that pull secrets hold for an image's registry; the longest matching path wins."""
    registry, path = split_registry(reference)
    best: tuple[int, ImageAuth] | None = None
    for secret in secrets:
        for where, entry in _entries(secret).items():
            host, prefix = _location(where)
            if host in _aliases(registry) and (not prefix or path == prefix or path.startswith(prefix + "/")):
                auth = _auth(entry)
                if auth is not None and (best is None or len(prefix) > best[0]):
                    best = (len(prefix), auth)
    return best[1] if best else None


def split_registry(reference: str) -> tuple[str, str]:
    """``reg.io:5000/a/b:1`` -> (``reg.io:5000``, ``a/b``); names without a registry are Docker Hub's."""
    name = reference.split("@")[0]
    host, slash, rest = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, rest = "docker.io", name if slash else f"library/{name}"
    return host, rest.rsplit(":", 1)[0] if ":" in rest.rsplit("/", 1)[-1] else rest


def _aliases(registry: str) -> tuple[str, ...]:
    return ("docker.io", "index.docker.io", "registry-1.docker.io") if registry == "docker.io" else (registry,)


def _location(where: str) -> tuple[str, str]:
    bare = where.split("://", 1)[-1].rstrip("/")
    host, _, prefix = bare.partition("/")
    return host, "" if prefix in ("v1", "v2") else prefix


def _entries(secret: Secret) -> dict[str, dict[str, Any]]:
    """{registry: entry} of a dockerconfigjson or dockercfg secret; a malformed one holds nothing."""
    for key, nested in ((".dockerconfigjson", True), (".dockercfg", False)):
        if key not in secret.data:
            continue
        try:
            value = msgspec.json.decode(base64.b64decode(secret.data[key]))
        except (msgspec.DecodeError, binascii.Error):
            return {}
        found = value.get("auths", {}) if nested and isinstance(value, dict) else value
        return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
    return {}


def _auth(entry: dict[str, Any]) -> ImageAuth | None:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if entry.get("auth"):
        try:
            username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    token, registry_token = str(entry.get("identitytoken", "")), str(entry.get("registrytoken", ""))
    made = ImageAuth(username, password, token, registry_token)
    return made if made != ImageAuth() else None
