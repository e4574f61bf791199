"""Getting an image for a pod: pull policy, who may have what is there, every credential in turn, back-off after failures.

Source: pkg/kubelet/images/image_manager.go, puller.go; pkg/kubelet/kuberuntime/kuberuntime_image.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Pod, Secret
from kaa.client.pace import Rate
from kaa.runtime.base import Image, Runtime, RuntimeFailure

from ..metrics.images import ImageMetrics
from .keyring import Credential, Keyring, add_files, add_secrets
from .names import go_seconds, parse_reference, pull_policy, repository, with_tag
from .records import PullRecords, Verification, access_of

log = structlog.get_logger(__name__)

BACKOFF_FIRST_S, BACKOFF_MAX_S = 10.0, 300.0
#: How long ErrImagePull stands before ImagePullBackOff takes its place.
SHOW_ERROR_S = 2.0
#: Says an event: (type, reason, message).
Say = Callable[[str, str, str], None]
#: How errors begin for which the CRI has a name. {name: what is said of it}. Source: cri-api pkg/errors.
_NAMED = {
    "RegistryUnavailable": "the registry is unavailable",
    "SignatureValidationFailed": "the signature validation failed",
}


class ImageError(Exception):
    """No image. ``reason`` and the message go to the container's ``waiting``; ``retry_at`` says when to try again."""

    def __init__(self, reason: str, message: str, retry_at: float) -> None:
        super().__init__(message)
        self.reason, self.message, self.retry_at = reason, message, retry_at


class Providers(Protocol):
    """Programs that are asked for credentials."""

    async def add(self, ring: Keyring, repository: str, pod: Pod) -> None:
        """Add what they give for an image of a pod. Never fails: one that says no gives nothing."""
        ...


class _Backoff:
    """How long a pod waits between pulls of an image: doubling, forgotten after twice the most."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[
            str, tuple[float, float, str]
        ] = {}  #: {pod uid / image: (wait_s, failed_at on the monotonic clock, reason: error)}

    def failed(self, key: str, words: str) -> None:
        now = self._clock.monotonic()
        wait, at, _ = self._held.get(key, (0.0, now, ""))
        fresh = now - at > 2 * BACKOFF_MAX_S
        self._held[key] = (BACKOFF_FIRST_S if fresh or not wait else min(2 * wait, BACKOFF_MAX_S), now, words)

    def holds(self, key: str) -> tuple[float, str] | None:
        """(until when, the last error) while it is too early to try again."""
        wait, at, words = self._held.get(key, (0.0, 0.0, ""))
        left = at + wait - self._clock.monotonic()
        return (self._clock.now() + left, words) if wait and left > 0 else None

    def over(self, key: str) -> None:
        self._held.pop(key, None)

    def release(self, user: str) -> None:
        for key in [key for key in self._held if key.startswith(f"{user}/")]:
            del self._held[key]


class Images:
    """Pulls for the pods of a node."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        root: Path,
        *,
        serialize: bool = False,
        parallel: int = 0,
        rate: tuple[float, int] = (0.0, 0),
        verification: Verification | None = None,
        node_files: Sequence[Path] = (),
        providers: Providers | None = None,
        metrics: ImageMetrics | None = None,
    ) -> None:
        """``root``: the folder of the pulls' records; ``parallel``: how many at once, 0 for any number.

        ``rate``: (pulls a second, burst), 0 for any; ``node_files``: docker configs whose credentials every pod may use.
        """
        self._runtime, self._clock = runtime, clock
        self._limit = asyncio.Semaphore(1) if serialize else (asyncio.Semaphore(parallel) if parallel else None)
        self._rate = Rate(clock, *rate)
        self._backoff = _Backoff(clock)
        self._records = PullRecords(root, clock, verification or Verification())
        self._node_files, self._providers = node_files, providers
        self._metrics = metrics or ImageMetrics(clock)
        self._opening, self._is_open = asyncio.Lock(), False

    async def ensure(self, image: str, policy: str | None, secrets: Iterable[Secret], *, pod: Pod, say: Say) -> Image:
        """The image, in the store, for a pod that may have it. Raises ImageError."""
        reference = self._checked(image, say)
        await self._open()
        chosen = pull_policy(image, policy)
        present = await self._present(image, reference, chosen, say)
        if present is None and chosen == "Never":
            raise self._never(f'Container image "{image}" is not present with pull policy of Never', say)
        credentials = list[Credential]()
        if present is None or self._records.must_pull(image, present.id, ()):
            credentials = await self._credentials(image, secrets, pod)
        pulls = present is None or self._records.must_pull(image, present.id, credentials)
        self._metrics.ensured(chosen, present=None if chosen == "Always" else present is not None, pulls=pulls)
        if present is not None:
            if not pulls:
                there = "already present on machine and can be accessed by the pod"
                say("Normal", "Pulled", f'Container image "{image}" {there}')
                return present
            if chosen == "Never":
                lacks = "does not have the proper credentials to access the image"
                raise self._never(f'Container image "{image}" is present with pull policy of Never but {lacks}', say)
        return await self._pull(image, reference, credentials, f"{pod.metadata.uid}/{image}", say)

    def _checked(self, image: str, say: Say) -> str:
        """The reference with its tag. Raises ImageError for what is no name."""
        try:
            parse_reference(image)
        except ValueError as err:
            message = f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": {err}'
            say("Warning", "InspectFailed", message)
            raise ImageError("InvalidImageName", message, self._clock.now() + BACKOFF_MAX_S) from err
        return with_tag(image)

    async def _open(self) -> None:
        """Read the records, once."""
        async with self._opening:
            if not self._is_open:
                await asyncio.to_thread(self._records.open, await self._runtime.list_images())
                self._is_open = True

    async def _present(self, image: str, reference: str, policy: str, say: Say) -> Image | None:
        """What the node has, where the policy asks for that."""
        if policy == "Always":
            return None
        try:
            return await self._runtime.image(reference)
        except RuntimeFailure as err:
            message = f'Failed to inspect image "{image}": {err}'
            say("Warning", "InspectFailed", message)
            raise ImageError("ImageInspectError", message, self._clock.now() + BACKOFF_FIRST_S) from err

    def _never(self, message: str, say: Say) -> ImageError:
        say("Warning", "ErrImageNeverPull", message)
        return ImageError("ErrImageNeverPull", message, self._clock.now() + BACKOFF_FIRST_S)

    async def _credentials(self, image: str, secrets: Iterable[Secret], pod: Pod) -> list[Credential]:
        """All that may open the image: the pod's secrets first, then the node's own files, then what programs give."""
        name, found = repository(image), list[Credential]()
        ring = Keyring()
        add_secrets(ring, secrets)
        found += ring.lookup(name)
        if self._node_files:
            ring = Keyring()
            await asyncio.to_thread(add_files, ring, self._node_files)
            found += ring.lookup(name)
        if self._providers is not None:
            ring = Keyring()
            await self._providers.add(ring, name, pod)
            found += ring.lookup(name)
        return found

    # -------------------------------------------------------------------------------------------------------- pulling

    async def _pull(self, image: str, reference: str, credentials: list[Credential], key: str, say: Say) -> Image:
        self._check_backoff(image, key, say)
        self._records.began(image)
        try:
            pulled, used = await self._pulled(image, reference, credentials, key, say)
        except BaseException:
            self._records.failed(image)
            raise
        try:
            self._records.ended(image, pulled.id, access_of(used))
        except OSError as err:  # its intent stands: the next pod must show credentials of its own
            log.error("an image's pull is not recorded", image=image, error=str(err))
        return pulled

    async def _pulled(
        self, image: str, reference: str, credentials: list[Credential], key: str, say: Say
    ) -> tuple[Image, Credential | None]:
        say("Normal", "Pulling", f'Pulling image "{image}"')
        asked = self._clock.monotonic()
        try:
            began, (pulled, used) = await self._in_turn(lambda: self._with_each(reference, credentials))
        except RuntimeFailure as err:
            say("Warning", "Failed", f'Failed to pull image "{image}": {err}')
            reason, message = named(image, str(err))
            self._backoff.failed(key, f"{reason}: {message}")
            raise ImageError(reason, message, self._clock.now() + SHOW_ERROR_S) from err
        self._backoff.over(key)
        now = self._clock.monotonic()
        took, waited = go_seconds(now - began), go_seconds(now - asked)
        size = f"Image size: {pulled.size_bytes} bytes."
        say("Normal", "Pulled", f'Successfully pulled image "{image}" in {took} ({waited} including waiting). {size}')
        return pulled, used

    async def _in_turn(
        self, pull: Callable[[], Awaitable[tuple[Image, Credential | None]]]
    ) -> tuple[float, tuple[Image, Credential | None]]:
        """(when it began, what it gave), when as few others pull as was asked for."""
        if self._limit is None:
            return self._clock.monotonic(), await pull()
        async with self._limit:
            return self._clock.monotonic(), await pull()

    async def _with_each(self, reference: str, credentials: list[Credential]) -> tuple[Image, Credential | None]:
        """The image, and the credential that opened it. Raises RuntimeFailure with what was said to all of them."""
        refusals: dict[str, None] = {}
        for credential in credentials or (None,):
            if not self._rate.take():
                refusals["pull QPS exceeded"] = None
                continue
            try:
                return await self._runtime.pull_image(reference, credential.auth if credential else None), credential
            except RuntimeFailure as err:
                refusals[str(err)] = None
        words = list(refusals)
        raise RuntimeFailure(words[0] if len(words) == 1 else f"[{', '.join(words)}]")

    def _check_backoff(self, image: str, key: str, say: Say) -> None:
        held = self._backoff.holds(key)
        if held is not None:
            text = f'Back-off pulling image "{image}"'
            say("Normal", "BackOff", text)
            raise ImageError("ImagePullBackOff", f"{text}: {held[1]}", held[0])

    # ------------------------------------------------------------------------------------------------------ forgetting

    def release(self, user: str) -> None:
        """A pod is gone."""
        self._backoff.release(user)

    async def forget(self, known: frozenset[str], since: float) -> None:
        """Images were removed: drop the records of all that were not among the ids ``known`` at ``since``."""
        await self._open()
        await asyncio.to_thread(self._records.forget, known, since)


def named(image: str, error: str) -> tuple[str, str]:
    """(reason, message) of a failed pull: the CRI has names for some. Source: evalCRIPullErr."""
    for name, words in _NAMED.items():
        if error.startswith(name):
            return name, f"image pull failed for {image} because {words}{error.removeprefix(name)}"
    return "ErrImagePull", error
