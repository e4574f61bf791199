"""Standing for a lease that the API server gives: a LeaseCandidate that answers when it is asked.

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Candidacy(client, clock, "kube-scheduler", identity=me, version="1.36.0").run())
        await LeaderElector(client, clock, events, "kube-scheduler", identity=me, coordinated=True).run(lead)

Source: kubernetes client-go tools/leaderelection/leasecandidate.go (KEP-4355).
"""

from __future__ import annotations

import asyncio

import structlog
from msgspec.structs import replace

from kaa.api.clock import Clock, format_micro_time, moment_of
from kaa.api.errors import ApiError, NotFound
from kaa.api.types.coordination_v1beta1 import LeaseCandidate, LeaseCandidateSpec
from kaa.api.types.meta_v1 import ObjectMeta

from .client import Client
from .informer import Informer

log = structlog.get_logger(__name__)

STRATEGY = "OldestEmulationVersion"
RETRY_S = 1.0


class Candidacy:
    """``version`` is what the program emulates; ``binary_version`` what it is, where that differs."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        lease: str,
        *,
        identity: str,
        version: str,
        binary_version: str = "",
        namespace: str = "kube-system",
    ) -> None:
        self._client, self._clock = client, clock
        self._identity, self._namespace = identity, namespace
        self._spec = LeaseCandidateSpec(
            lease_name=lease,
            binary_version=binary_version or version,
            emulation_version=version,
            strategy=STRATEGY,
        )

    async def run(self) -> None:
        """Be a candidate until cancelled."""
        asked = asyncio.Event()

        def look(old: LeaseCandidate | None, new: LeaseCandidate | None) -> None:
            if new is None or is_asked(new):
                asked.set()

        selector = f"metadata.name={self._identity}"
        informer = Informer(
            self._client, LeaseCandidate, self._clock, namespace=self._namespace, field_selector=selector
        )
        informer.add_handler(look)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(informer.run(), name="candidacy/informer")
            await informer.synced.wait()
            asked.set()
            tasks.create_task(self._answer(asked), name="candidacy/answers")

    async def _answer(self, asked: asyncio.Event) -> None:
        while True:
            await asked.wait()
            asked.clear()
            try:
                await self._say()
            except (ApiError, OSError, TimeoutError) as err:
                log.debug("candidate not renewed", candidate=self._identity, error=str(err))
                await self._clock.sleep(RETRY_S)
                asked.set()

    async def _say(self) -> None:
        """Say that we are there."""
        now = format_micro_time(self._clock.now())
        try:
            found = await self._client.get(LeaseCandidate, self._identity, self._namespace)
        except NotFound:
            meta = ObjectMeta(name=self._identity, namespace=self._namespace)
            await self._client.create(LeaseCandidate(metadata=meta, spec=replace(self._spec, renew_time=now)))
            return
        spec = replace(self._spec, renew_time=now, ping_time=found.spec.ping_time)
        await self._client.update(replace(found, spec=spec))


def is_asked(candidate: LeaseCandidate) -> bool:
    """Whether somebody asked since it last answered."""
    ping, renew = moment_of(candidate.spec.ping_time), moment_of(candidate.spec.renew_time)
    return ping is not None and (renew is None or ping > renew)
