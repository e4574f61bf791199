"""Graceful node shutdown: pods end in order of their priority, each group in its time, before the machine goes down.

    logind: PrepareForShutdown ──> node NotReady, new pods refused ──> group by group, lowest priority first ──> lock given back

The machine waits for as long as we hold its inhibitor lock, and no longer than logind allows. ``groups`` decides; ``Shutdown``
carries it out on whatever an ``Inhibitor`` tells.
Source: pkg/kubelet/nodeshutdown (KEP-2000, KEP-2712).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from kaa.api.clock import Clock, format_micro_time, parse_time

from .config import KubeletConfig, Period, Recorder
from .metrics.counters import KubeletMetrics
from .pod_plan import grace_of
from .pod_worker import PodWorker

log = structlog.get_logger(__name__)

REASON = "Terminated"
MESSAGE = "Pod was terminated in response to imminent node shutdown."
REFUSED_MESSAGE = "Pod was rejected as the node is shutting down."
STATUS = "node is shutting down"
STATE_FILE = "graceful_node_shutdown_state"
_NO_TIME = "0001-01-01T00:00:00Z"
_AGAIN_S, _AGAIN_MAX_S = 1.0, 60.0


class Inhibitor(Protocol):
    """What holds the machine up. Failures are OSError."""

    def shutdowns(self, wanted_s: float) -> AsyncIterator[bool]:
        """True when the machine is about to go down, False when it is not after all; a lock is held meanwhile.

        ``wanted_s`` is for how long the machine must be held up. Raises OSError when it cannot be.
        """
        ...

    async def release(self) -> None:
        """Let the machine go down."""
        ...


# -------------------------------------------------------------------------------------------------------- the plan


class Group(msgspec.Struct, frozen=True):
    """Pods, by uid, that end together, and how long they have."""

    priority: int
    seconds: int
    pods: tuple[str, ...] = ()


def groups(periods: Sequence[Period], pods: Iterable[tuple[str, int]]) -> list[Group]:
    """Which of the pods (uid, priority) end when: a pod belongs to the highest period not above its priority.

    One that is below all of them belongs to the lowest. Groups without pods take no time and are left out.
    """
    ordered = sorted(periods, key=lambda one: one.priority)
    bounds = [one.priority for one in ordered]
    members: list[list[str]] = [[] for _ in ordered]
    for uid, priority in pods:
        if ordered:
            members[max(bisect_right(bounds, priority) - 1, 0)].append(uid)
    pairs = zip(ordered, members, strict=True)
    return [Group(period.priority, period.seconds, tuple(found)) for period, found in pairs if found]


def grace(group_s: float, own_s: float) -> float:
    """How long a pod of a group has: what it asks for itself, but no more than the group."""
    return min(group_s, own_s)


# -------------------------------------------------------------------------------------------------------- the shell


class Shutdown:
    """``status`` is why the node is not ready, and empty while it is; ``changed`` is called when it is another."""

    def __init__(
        self,
        clock: Clock,
        config: KubeletConfig,
        recorder: Recorder,
        metrics: KubeletMetrics,
        workers: Mapping[str, PodWorker],
        *,
        node: Callable[[], Any],
        changed: Callable[[], None],
        inhibitor: Inhibitor,
    ) -> None:
        self._clock, self._config, self._recorder, self._metrics = clock, config, recorder, metrics
        self._workers, self._node, self._changed, self._inhibitor = workers, node, changed, inhibitor
        self._state = config.root / STATE_FILE
        self.status = ""

    async def run(self) -> None:
        """Wait for shutdowns until cancelled. A machine without anybody who announces them is asked again and again."""
        await asyncio.to_thread(self._load)
        wanted_s = float(sum(period.seconds for period in self._config.shutdown))
        wait = _AGAIN_S
        while True:
            try:
                async for going_down in self._inhibitor.shutdowns(wanted_s):
                    wait = _AGAIN_S
                    await self._announced(going_down)
                log.warning("nobody announces shutdowns any more")
            except OSError as err:
                log.error("the node cannot be watched for shutdowns", error=str(err))
            await self._clock.sleep(wait)
            wait = min(wait * 2, _AGAIN_MAX_S)

    async def _announced(self, going_down: bool) -> None:
        what = "event" if going_down else "cancellation"
        self._recorder.event(self._node(), "Normal", "NodeShutdown", f"Shutdown manager detected shutdown {what}")
        self.status = STATUS if going_down else ""
        self._changed()
        if going_down:
            try:
                await self.end_pods()
            finally:
                await self._inhibitor.release()

    async def end_pods(self) -> None:
        """All groups, one after the other; a group whose time is up is not waited for any longer."""
        began = self._clock.now()
        self._metrics.graceful_shutdown_start_time_seconds.set(began)
        self._metrics.graceful_shutdown_end_time_seconds.set(0)
        await asyncio.to_thread(self._store, began, None)
        active = [(uid, one.pod.spec.priority or 0) for uid, one in self._workers.items() if not one.finished.is_set()]
        for group in groups(self._config.shutdown, active):
            log.info(
                "pods end: the node shuts down", priority=group.priority, pods=len(group.pods), seconds=group.seconds
            )
            await self._end(group)
        ended = self._clock.now()
        self._metrics.graceful_shutdown_end_time_seconds.set(ended)
        await asyncio.to_thread(self._store, began, ended)

    async def _end(self, group: Group) -> None:
        ending = [self._workers[uid] for uid in group.pods if uid in self._workers]
        for worker in ending:
            worker.shut_down(REASON, MESSAGE, grace(group.seconds, grace_of(worker.pod)))
        done = asyncio.gather(*(worker.finished.wait() for worker in ending))
        timer = asyncio.ensure_future(self._clock.sleep(float(group.seconds)))
        try:
            await asyncio.wait((done, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            done.cancel()
            timer.cancel()
            await asyncio.gather(done, timer, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------ what is kept

    def _load(self) -> None:
        """The last shutdown's times, for the metrics of the life after it."""
        try:
            held = msgspec.json.decode(self._state.read_bytes(), type=dict[str, str])
            started, ended = held.get("startTime", _NO_TIME), held.get("endTime", _NO_TIME)
            for text, gauge in (
                (started, self._metrics.graceful_shutdown_start_time_seconds),
                (ended, self._metrics.graceful_shutdown_end_time_seconds),
            ):
                if text != _NO_TIME:
                    gauge.set(parse_time(text))
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, ValueError) as err:
            log.error("the state of the last shutdown cannot be read", error=str(err))

    def _store(self, began: float, ended: float | None) -> None:
        held = {
            "startTime": format_micro_time(began),
            "endTime": _NO_TIME if ended is None else format_micro_time(ended),
        }
        part = self._state.with_name(self._state.name + ".tmp")
        try:
            self._state.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(msgspec.json.encode(held))
            part.rename(self._state)
        except OSError as err:
            log.error("the state of the shutdown cannot be kept", error=str(err))
