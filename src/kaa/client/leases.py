"""Leader election on a Lease: of several that could do a job, one does.

    elector = LeaderElector(client, clock, recorder, "kube-controller-manager", identity="host_1234")
    await elector.run(manager.run)     # returns or raises LostLease; whoever loses must stop, and start anew

A holder renews every ``retry_s``; it gives up when it could not for ``renew_s``, which is before others may think it gone
after ``lease_s``. Others judge by their own clock from the moment they saw a renewal, so clocks need not agree.

Source: kubernetes client-go tools/leaderelection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace

from kaa.api.clock import Clock, format_micro_time
from kaa.api.errors import ApiError, NotFound
from kaa.api.types.coordination_v1 import Lease, LeaseSpec
from kaa.api.types.meta_v1 import ObjectMeta

from .client import Client
from .events import EventRecorder

log = structlog.get_logger(__name__)

LEASE_S, RENEW_S, RETRY_S = 15.0, 10.0, 2.0
JITTER = 1.2


class LostLease(Exception):
    """Somebody else leads, or may soon: everything done as leader must end."""


class LeaderElector:
    """One candidate for one lease. ``leading`` says whether it holds it now. ``coordinated``: the API server chooses who
    holds it (see ``candidates``), and a holder makes way for whom it prefers."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        events: EventRecorder | None,
        name: str,
        *,
        identity: str,
        namespace: str = "kube-system",
        lease_s: float = LEASE_S,
        renew_s: float = RENEW_S,
        retry_s: float = RETRY_S,
        coordinated: bool = False,
    ) -> None:
        assert lease_s > renew_s > retry_s * JITTER
        self._client, self._clock, self._events = client, clock, events
        self._name, self._namespace, self.identity = name, namespace, identity
        self._lease_s, self._renew_s, self._retry_s = lease_s, renew_s, retry_s
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._coordinated = coordinated
        self._term_ends = False
        self.leading = False

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then run ``lead`` for as long as it is held. Lets go of it at the end.

        Raises: LostLease when it could not be renewed in time; ``lead`` has been cancelled by then.
        """
        await self._acquire()
        leading = asyncio.ensure_future(lead())
        renewing = asyncio.ensure_future(self._keep())
        try:
            await asyncio.wait((leading, renewing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leading.cancel()
            renewing.cancel()
            await asyncio.gather(leading, renewing, return_exceptions=True)
            await self._release()
        for task in (leading, renewing):
            if not task.cancelled():
                task.result()

    async def _acquire(self) -> None:
        while not await self._try():
            await self._clock.sleep(self._retry_s * (1 + self._clock.random.random() * (JITTER - 1)))
        self._tell("became leader")

    async def _keep(self) -> None:
        renewed = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._retry_s)
            if await self._try():
                renewed = self._clock.monotonic()
            elif self._term_ends or not self.leading or self._clock.monotonic() - renewed >= self._renew_s:
                self._tell("stopped leading")
                raise LostLease(f"{self.identity} no longer holds the lease {self._namespace}/{self._name}")

    async def _try(self) -> bool:
        """Take the lease or renew it; False when that did not succeed, for whatever reason."""
        try:
            async with asyncio.timeout(self._renew_s):
                return await (self._renew_given() if self._coordinated else self._take())
        except (ApiError, OSError, TimeoutError) as err:
            log.debug("lease not taken", lease=self._name, error=str(err))
            return False

    async def _take(self) -> bool:
        now = format_micro_time(self._clock.now())
        spec = LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=int(self._lease_s),
            acquire_time=now,
            renew_time=now,
            lease_transitions=0,
        )
        try:
            lease = await self._client.get(Lease, self._name, self._namespace)
        except NotFound:
            meta = ObjectMeta(name=self._name, namespace=self._namespace)
            self._see(await self._client.create(Lease(metadata=meta, spec=spec)))
            return True
        if self._seen is None or lease.spec != self._seen.spec:
            self._see(lease)
        mine = lease.spec.holder_identity == self.identity
        if not mine:
            self.leading = False
            lasts = lease.spec.lease_duration_seconds or self._lease_s
            if lease.spec.holder_identity and self._clock.monotonic() - self._seen_at < lasts:
                return False
        transitions = lease.spec.lease_transitions or 0
        spec = replace(
            spec,
            acquire_time=lease.spec.acquire_time if mine else now,
            lease_transitions=transitions if mine else transitions + 1,
        )
        self._see(await self._client.update(replace(lease, spec=spec)))
        return True

    async def _renew_given(self) -> bool:
        """Renew the lease that the API server has given us. It is never taken, and left to whom it is meant for."""
        try:
            lease = await self._client.get(Lease, self._name, self._namespace)
        except NotFound:
            return False
        if self._seen is None or lease.spec != self._seen.spec:
            self._see(lease)
        lasts = lease.spec.lease_duration_seconds or self._lease_s
        if not self.leading or self._clock.monotonic() - self._seen_at > lasts:
            return False
        if lease.spec.preferred_holder:
            self._term_ends = True
            return False
        now = format_micro_time(self._clock.now())
        spec = replace(
            lease.spec,
            lease_duration_seconds=int(self._lease_s),
            acquire_time=lease.spec.acquire_time or now,
            renew_time=now,
        )
        self._see(await self._client.update(replace(lease, spec=spec)))
        return True

    def _see(self, lease: Lease) -> None:
        self._seen, self._seen_at = lease, self._clock.monotonic()
        self.leading = lease.spec.holder_identity == self.identity

    async def _release(self) -> None:
        """Let the next one have it at once. If that fails, the next one waits the lease out."""
        if not self.leading or self._seen is None:
            return
        self.leading = False
        now = format_micro_time(self._clock.now())
        spec = LeaseSpec(
            holder_identity="",
            lease_duration_seconds=1,
            acquire_time=now,
            renew_time=now,
            lease_transitions=self._seen.spec.lease_transitions,
            strategy=self._seen.spec.strategy,
        )
        try:
            async with asyncio.timeout(self._retry_s):
                await self._client.update(replace(self._seen, spec=spec))
        except (ApiError, OSError, TimeoutError) as err:
            log.debug("lease not released", lease=self._name, error=str(err))

    def _tell(self, what: str) -> None:
        log.info("leader election", lease=self._name, identity=self.identity, what=what)
        if self._events is not None and self._seen is not None:
            self._events.event(self._seen, "Normal", "LeaderElection", f"{self.identity} {what}")


async def lead_forever(make: Callable[[], LeaderElector], lead: Callable[[], Awaitable[None]]) -> None:
    """Be a candidate until cancelled: ``lead`` runs, made anew, for as long as the lease is held, each time it is."""
    while True:
        try:
            await make().run(lead)
        except LostLease as err:
            log.warning("leadership lost", error=str(err))
        else:
            return
