"""The volumes of one pod: made before its first container starts, and true to what they show as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from kaa.api.types.core_v1 import Pod

from .pod_host import PodHost, plain_sources
from .pod_plan import PodView
from .retries import Retries
from .stops import Say
from .volumes import VolumeError
from .volumes.manager import Prepared

RETRY_MAX_S = 122.0


class PodVolumes:
    """``ready`` for those who mount them; ``due`` tells when to ``refresh``."""

    def __init__(
        self, host: PodHost, pod: Callable[[], Pod], view: Callable[[], PodView], say: Say, retries: Retries
    ) -> None:
        self._host, self._pod, self._view, self._say, self._retries = host, pod, view, say, retries
        self._prepared: Prepared | None = None
        self._lock = asyncio.Lock()
        self._stale = False
        self._look_at = 0.0  #: when to look again at volumes that an earlier life of ours made

    @property
    def paths(self) -> dict[str, Path]:
        """Where they are, by name; empty while they are not."""
        return self._prepared.paths if self._prepared is not None else {}

    @property
    def again_at(self) -> float | None:
        """When they want to be looked at, if nothing changes."""
        return self._prepared.refresh_at if self._prepared is not None else self._look_at or None

    def changed(self) -> None:
        """Something that they show is another now."""
        self._stale = True

    def time_passed(self) -> None:
        """Whoever waited for ``again_at`` has waited."""
        if self._prepared is not None and self._prepared.refresh_at is not None:
            self._stale |= self._host.clock.now() >= self._prepared.refresh_at

    def due(self, *, unattended: bool) -> bool:
        """Whether to make them true: something in them changed, or nobody follows what is in them yet.

        ``unattended``: the pod runs, and nothing of it is starting, which would make them.
        """
        if self._prepared is not None:
            return self._stale
        return unattended and self._host.clock.now() >= self._look_at

    async def ready(self) -> Prepared:
        """Make them, if nobody has. Raises VolumeError, ApiError."""
        async with self._lock:
            if self._prepared is None:
                await self._prepare()
            assert self._prepared is not None
            return self._prepared

    async def refresh(self) -> None:
        """Make them true; a failure is told, and tried again."""
        self._stale = False
        try:
            async with self._lock:
                await self._prepare()
        except VolumeError as err:
            self._say("Warning", err.reason, str(err))
            again = self._host.clock.now() + self._retries.failed("volumes", at_most_s=RETRY_MAX_S)
            if self._prepared is None:
                self._look_at = again
            elif self._prepared.refresh_at is not None:
                self._prepared.refresh_at = again

    async def _prepare(self) -> None:
        pod = self._pod()
        self._prepared = await self._host.volumes.prepare(pod, plain_sources(self._host, pod, self._view()))

    async def remove(self) -> None:
        """Take them down: nothing of the pod runs, nor will."""
        await self._host.volumes.remove(self._pod().metadata.uid or "")
        self._prepared = None
