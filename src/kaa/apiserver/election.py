"""Coordinated leader election: of those who could hold a lease, the API server chooses one.

Candidates say what they are in LeaseCandidates. Where a lease has no holder, or one that is not the best, they are asked
whether they are there (``pingTime``); who answers (``renewTime``) stands for election. Of equal standing is chosen the
oldest emulated version, then the oldest program, then the oldest candidate: after an upgrade the new version leads when no
old one is left. A holder that lives is only told whom to make way for (``preferredHolder``).

The idea: nothing is remembered. Each look goes by the Lease and the candidates alone. Holders are ``client.leases``'.

Source: pkg/controlplane/controller/leaderelection (KEP-4355). Otherwise than upstream: who let the lease run out is not
waited for, and a lease is looked at when it runs out, so a lost leader is replaced then and not ten seconds later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from kaa.api.cel.errors import EvaluationError
from kaa.api.cel.library.semvers import SemverValue, parse, rank
from kaa.api.clock import Clock, format_micro_time, moment_of
from kaa.api.errors import ApiError, Conflict, NotFound
from kaa.api.types.coordination_v1 import Lease, LeaseSpec
from kaa.api.types.coordination_v1beta1 import LeaseCandidate
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta, Preconditions
from kaa.client.client import Client
from kaa.client.workqueue import Claim, Key, WorkQueue

from .cacher import Cacher
from .hearing import Hearer
from .watchers import Change

log = structlog.get_logger(__name__)

OLDEST = "OldestEmulationVersion"
LOOK_AGAIN_S = 5.0
#: How long candidates may take to answer, and how long an answer holds.
ELECTION_S = 5.0
#: What a holder has to take up its lease.
LEASE_S = 5
#: A candidate that has not been heard of for so long is none, and collected; after half of it it is asked.
CANDIDATE_S = 30 * 60.0
_NONE = SemverValue(0, 0, 0)


class NoElection(Exception):
    """Nobody can be chosen; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, and after how many seconds to look again."""

    ping: tuple[LeaseCandidate, ...] = ()
    lease: Lease | None = None
    again_s: float | None = LOOK_AGAIN_S


def plan(key: Key, lease: Lease | None, candidates: Sequence[LeaseCandidate], now: float) -> Plan:
    """The next step of an election, or none. Raises NoElection."""
    standing = [one for one in candidates if not is_stale(one, now)]
    if not standing:
        return Plan(again_s=None)
    if not _is_needed(lease, standing, now):
        return Plan(again_s=_until_expiry(lease, now))
    voters = _without_the_lost(lease, standing, now)
    asked = [one for one in voters if _at(one.spec.ping_time) > _at(one.spec.renew_time)]
    waiting = [one for one in asked if _at(one.spec.ping_time) + ELECTION_S > now]
    silent = [one for one in voters if one not in asked and _at(one.spec.renew_time) + ELECTION_S <= now]
    if silent:
        return Plan(ping=tuple(silent))
    if waiting:
        return Plan(again_s=max(0.0, min(_at(one.spec.ping_time) for one in waiting) + ELECTION_S - now))
    present = [one for one in voters if _at(one.spec.renew_time) + ELECTION_S > now]
    if not present:
        raise NoElection("no available candidates")
    return Plan(lease=_elected(key, lease, present, now))


def is_stale(candidate: LeaseCandidate, now: float) -> bool:
    return _at(candidate.spec.renew_time) + CANDIDATE_S < now


def best(candidates: Sequence[LeaseCandidate]) -> LeaseCandidate | None:
    """Whom the strategy ``OldestEmulationVersion`` chooses; None where nobody says its versions."""
    known = [one for one in candidates if _version(one.spec.emulation_version) and _version(one.spec.binary_version)]
    return min(known, key=_standing, default=None)


def strategy_of(candidates: Sequence[LeaseCandidate]) -> str:
    """What the newest programs among them want. Raises NoElection when they do not agree."""
    first, *others = candidates
    for other in others:
        mine, its = (rank(_version(one.spec.binary_version) or _NONE) for one in (first, other))
        if mine < its:
            first = other
        elif mine == its and first.spec.strategy != other.spec.strategy:
            raise NoElection(
                f'candidates "{first.metadata.name}", "{other.metadata.name}" at same binary version but received'
                f" differing strategies {first.spec.strategy}, {other.spec.strategy}"
            )
    return first.spec.strategy


def is_expired(lease: Lease, now: float) -> bool:
    spec = lease.spec
    return not spec.renew_time or spec.lease_duration_seconds is None or _expiry(lease) < now


def _is_needed(lease: Lease | None, candidates: Sequence[LeaseCandidate], now: float) -> bool:
    if lease is None or is_expired(lease, now) or not lease.spec.holder_identity:
        return True
    if any(_at(one.spec.renew_time) + CANDIDATE_S / 2 < now for one in candidates):
        return True
    if strategy_of(candidates) != OLDEST:
        return False
    found = best(candidates)
    return found is not None and found.metadata.name != lease.spec.holder_identity


def _without_the_lost(
    lease: Lease | None, candidates: Sequence[LeaseCandidate], now: float
) -> Sequence[LeaseCandidate]:
    """Those whose answer counts: not the one that has let the lease run out, while there are others."""
    if lease is None or not is_expired(lease, now):
        return candidates
    return [one for one in candidates if one.metadata.name != lease.spec.holder_identity] or candidates


def _elected(key: Key, lease: Lease | None, present: Sequence[LeaseCandidate], now: float) -> Lease | None:
    """The Lease as it must be; None where it is so. Another strategy than ours leaves the holder to others."""
    strategy = strategy_of(present)
    chosen = best(present) if strategy == OLDEST else None
    if strategy == OLDEST and chosen is None:
        raise NoElection("no candidate says its versions")
    holder = chosen.metadata.name if chosen is not None else None
    given = LeaseSpec(
        holder_identity=holder,
        strategy=strategy,
        lease_duration_seconds=LEASE_S,
        renew_time=format_micro_time(now),
    )
    if lease is None:
        return Lease(metadata=ObjectMeta(name=key.name, namespace=key.namespace), spec=given)
    spec = replace(lease.spec, strategy=strategy)
    if holder is not None and (not spec.holder_identity or is_expired(lease, now)):
        spec = replace(given, lease_transitions=spec.lease_transitions)
    elif holder is not None and holder != spec.holder_identity:
        spec = replace(spec, preferred_holder=holder)
    return None if spec == lease.spec else replace(lease, spec=spec)


def _until_expiry(lease: Lease | None, now: float) -> float:
    """When to look at a lease that is held."""
    assert lease is not None
    return min(LOOK_AGAIN_S, max(0.0, _expiry(lease) - now) + 0.001)


def _expiry(lease: Lease) -> float:
    return _at(lease.spec.renew_time) + (lease.spec.lease_duration_seconds or 0)


def _at(time: str | None) -> float:
    """Seconds since 1970; what is no time is long ago."""
    return moment_of(time) or 0.0


def _version(text: str | None) -> SemverValue | None:
    try:
        return parse(text or "", normalize=True)
    except EvaluationError:
        return None


def _standing(one: LeaseCandidate) -> tuple[object, ...]:
    versions = (rank(_version(text) or _NONE) for text in (one.spec.emulation_version, one.spec.binary_version))
    return *versions, one.metadata.creation_timestamp or "", one.metadata.name or ""


class Elections:
    """Keys are leases. Runs where LeaseCandidates are served."""

    def __init__(self, view: Cacher, client: Client, clock: Clock) -> None:
        self._view, self._client, self._clock = view, client, clock
        self._queue: WorkQueue[Key] = WorkQueue(clock)

    async def run(self) -> None:
        """Hold elections until cancelled."""
        hearers = [Hearer(self._view, LeaseCandidate, self._on_candidate), Hearer(self._view, Lease, self._on_lease)]
        try:
            for one in self._view.list(LeaseCandidate):
                self._queue.add(_lease_of(one))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._queue.run(), name="elections/queue")
                tasks.create_task(self._work(), name="elections/work")
                tasks.create_task(self._collect(), name="elections/collector")
        finally:
            for hearer in hearers:
                hearer.stop()

    def _on_candidate(self, change: Change) -> None:
        one: LeaseCandidate = change.entry.object()
        if _at(one.spec.ping_time) <= _at(one.spec.renew_time):  # else it has just been asked
            self._queue.add(_lease_of(one))

    def _on_lease(self, change: Change) -> None:
        namespace, _, name = change.entry.key.partition("/")
        if self._candidates(Key(namespace, name)):
            self._queue.add(Key(namespace, name))

    def _candidates(self, key: Key) -> list[LeaseCandidate]:
        return [one for one in self._view.list(LeaseCandidate, key.namespace) if one.spec.lease_name == key.name]

    async def _work(self) -> None:
        while True:
            async with self._queue.claim() as claim:
                await self._settle(claim)

    async def _settle(self, claim: Claim[Key]) -> None:
        try:
            claim.done(await self._step(claim.key))
        except NoElection as err:
            log.warning("no leader elected", lease=str(claim.key), why=str(err))
            claim.done(LOOK_AGAIN_S)
        except (Conflict, NotFound):
            claim.done(0)  # somebody was first: look at what there is now
        except (ApiError, OSError) as err:
            log.warning("election failed", lease=str(claim.key), error=str(err))
            claim.retry(err)
        except Exception as err:
            log.exception("election failed", lease=str(claim.key))
            claim.retry(err)

    async def _step(self, key: Key) -> float | None:
        now = self._clock.now()
        found = plan(key, self._view.get(Lease, key.name, key.namespace), self._candidates(key), now)
        for one in found.ping:
            await self._client.update(replace(one, spec=replace(one.spec, ping_time=format_micro_time(now))))
        if found.lease is not None and found.lease.metadata.uid:
            await self._client.update(found.lease)
        elif found.lease is not None:
            await self._client.create(found.lease)
        return found.again_s

    async def _collect(self) -> None:
        """Candidates that nobody has heard of for long go."""
        while True:
            now = self._clock.now()
            for one in [each for each in self._view.list(LeaseCandidate) if is_stale(each, now)]:
                meta = one.metadata
                options = DeleteOptions(preconditions=Preconditions(resource_version=meta.resource_version))
                try:
                    await self._client.delete(LeaseCandidate, meta.name or "", meta.namespace, options=options)
                except (Conflict, NotFound):
                    continue  # it has been heard of, or is gone
                except ApiError as err:
                    log.warning("candidate not collected", candidate=meta.name, error=str(err))
            await self._clock.sleep(CANDIDATE_S)


def _lease_of(one: LeaseCandidate) -> Key:
    return Key(one.metadata.namespace or "", one.spec.lease_name)
