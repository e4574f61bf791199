"""The containers of one pod that are being stopped: preStop hook, turn, signal, in the grace that there is.

    begin ── Killing ── preStop hook ── its turn ── signal ── kill ──> ended

Asked again for less grace, only the signal is repeated. A container whose turn has not come (a sidecar, while others run) has
its hook run at once and waits with the signal, as long as there is grace.
Source: pkg/kubelet/kuberuntime killContainer, kuberuntime_termination_order.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from kaa.runtime.base import RuntimeFailure

from .pod_host import PodHost
from .pod_plan import MIN_GRACE_S, StopContainer
from .probing import hooks
from .tasks import Tasks

log = structlog.get_logger(__name__)


class Say(Protocol):
    """Takes events of a pod, or of one of its containers."""

    def __call__(self, type: str, reason: str, message: str, *, container: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class PreStop:
    """A container's hook. ``ends_with_it``: what it runs is a process in the container, and ends with that if not before."""

    run: Callable[[], Coroutine[Any, Any, None]]
    ends_with_it: bool


class Stops:
    """``due`` {container id: when its grace is over}, ``held`` and ``again`` are what plans go by."""

    def __init__(self, host: PodHost, tasks: Tasks, say: Say, backed_off: Callable[[str], float]) -> None:
        self._host, self._tasks, self._say, self._backed_off = host, tasks, say, backed_off
        self.due: dict[str, float] = {}
        self.again: frozenset[str] = frozenset()  #: ids of those that are stopped for another run
        self._turns: dict[str, asyncio.Event] = {}
        self._told: set[str] = set()  #: ids of those that were asked to end

    @property
    def held(self) -> frozenset[str]:
        """Ids of those whose signal waits for their turn."""
        return frozenset(self._turns)

    def begin(self, action: StopContainer, hook: PreStop | None) -> None:
        """Stop a container beside the turns of its pod."""
        key, due = action.container_id, self._host.clock.now() + action.grace_s
        if self._its_turn(key) and not action.held and self.due.get(key, due) <= due + 1.0:
            return  # it was only waiting for this
        self.due[key] = due
        if action.again:
            self.again |= {key}
        if action.held:
            self._turns[key] = asyncio.Event()
        self._tasks.cancel(f"stop/{key}")
        self._tasks.start(f"stop/{key}", self._stop(action, hook))

    async def stop(self, action: StopContainer, hook: PreStop | None) -> None:
        """Stop a container, here and now."""
        self.due[action.container_id] = self._host.clock.now() + action.grace_s
        await self._stop(action, hook)

    def seen(self, known: Collection[str], running: Collection[str]) -> None:
        """What the runtime shows: ids of the pod's containers, and of those that run."""
        for key in [*self.due, *self._turns]:
            if key not in running:
                self.due.pop(key, None)
                self._its_turn(key)
        self.again &= frozenset(known)
        self._told &= frozenset(known)

    def _its_turn(self, container_id: str) -> bool:
        """Let a stop go on that waits for its turn; whether there was one."""
        turn = self._turns.pop(container_id, None)
        if turn is not None:
            turn.set()
        return turn is not None

    async def _stop(self, action: StopContainer, hook: PreStop | None) -> None:
        key, clock = action.container_id, self._host.clock
        due, began, turn = self.due[key], clock.monotonic(), self._turns.get(key)
        first = key not in self._told
        self._told.add(key)
        if first:
            self._say("Normal", "Killing", action.message, container=action.name)

        def left() -> float:
            return action.grace_s - (clock.monotonic() - began)

        running: asyncio.Future[None] | None = None
        try:
            if first and hook is not None and action.grace_s > 0:
                running = asyncio.ensure_future(hook.run())
                await self._await_hook(action.name, hook, running, left())
            if turn is not None:
                await hooks.within(clock, left(), turn.wait())
                self._its_turn(key)
            await self._host.runtime.stop_container(key, max(left(), min(MIN_GRACE_S, action.grace_s)))
        except RuntimeFailure as err:
            self._say("Warning", "FailedKillPod", f"error killing pod: {err}")
            await clock.sleep(self._backed_off(key))
        finally:
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            if self.due.get(key) == due:
                del self.due[key]

    async def _await_hook(self, name: str, hook: PreStop, running: asyncio.Future[None], left_s: float) -> None:
        """As long as there is grace. What takes longer goes on until its container is stopped."""
        try:
            in_time = await hooks.within(self._host.clock, left_s, asyncio.shield(running))
            failed = not in_time and hook.ends_with_it
        except hooks.HookFailed as err:  # what it said may be a secret: it goes to the log alone
            log.warning("PreStopHook failed", container=name, error=str(err))
            failed = True
        if failed:
            self._say("Warning", "FailedPreStopHook", "PreStopHook failed", container=name)
