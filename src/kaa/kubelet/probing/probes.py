"""Startup, liveness and readiness probes: one task each a running container, on the clock.

The idea: a task only counts; what a container's health is follows from its probes' last verdicts (``health``). A probe that
could not be asked (its port has no number, the runtime failed) counts for nothing, neither yes nor no.
Source: pkg/kubelet/prober (worker, prober, prober_manager), pkg/probe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import HTTPGetAction, Pod, Probe
from kaa.runtime.base import Runtime, RuntimeFailure

from ..env import expand
from ..pod_plan import Health, go_duration
from ..tasks import Tasks

Kind = Literal["startup", "liveness", "readiness"]
_OUTPUT_MAX = 10 * 1024
_RETRIES = 3


class ProbeFailed(Exception):
    """The container answered, and the answer is no; or it did not answer at all."""


class ProbeErrored(Exception):
    """The container could not be asked; ``state`` is what upstream calls the result."""

    def __init__(self, message: str, state: str = "unknown") -> None:
        super().__init__(message)
        self.state = state


@dataclass(slots=True)
class _Probed:
    """What is known of one running container."""

    uid: str
    has_readiness: bool
    old: bool  #: it ran before this kubelet did
    started: bool = False
    ready: bool = False
    failed: str = ""
    grace_s: float | None = None
    began: asyncio.Event = field(default_factory=asyncio.Event)
    nudged: asyncio.Event = field(default_factory=asyncio.Event)  #: ask for readiness now


@dataclass(slots=True)
class _Count:
    """Verdicts in a row."""

    last: bool | None = None
    run: int = 0

    def add(self, ok: bool) -> int:
        self.run = self.run + 1 if ok == self.last else 1
        self.last = ok
        return self.run


class Prober:
    """``changed(uid)`` is called when a container's health is another; ``say(pod, container, message)`` on failures, and
    ``warn`` for what upstream warns of."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        changed: Callable[[str], None],
        say: Callable[[Pod, str, str], None],
        *,
        warn: Callable[[Pod, str, str], None] | None = None,
        network: bool = True,
        probed: Callable[[str, str, Pod, bool, float], None] = lambda kind, container, pod, good, seconds: None,
    ) -> None:
        self._probed = probed  #: told every verdict, and how long it took
        self._runtime, self._clock = runtime, clock
        self._changed, self._say, self._warn = changed, say, warn
        self._network = network
        self._since = clock.now()
        self._known: dict[str, _Probed] = {}  #: {container id: what is known of it}
        self._of_pod: dict[str, dict[str, _Probed]] = {}  #: {pod uid: those of its containers}
        self._tasks = Tasks("kubelet/probe")

    def follow(
        self, pod: Pod, spec: Any, container_id: str, ip: str, *, began_at: float = 0, known: Health | None = None
    ) -> None:
        """Probe a running container from now on; once is enough.

        ``known`` is what an earlier kubelet found of it: what had started has, and what was ready is, until its probe says
        otherwise (KEP-4781). A liveness probe begins anew.
        """
        if container_id in self._known:
            return
        probed = _Probed(pod.metadata.uid or "", spec.readiness_probe is not None, began_at < self._since)
        probed.started = spec.startup_probe is None or (known is not None and known.started)
        probed.ready = not probed.has_readiness or (known is not None and known.ready)
        if probed.started:
            probed.began.set()
        self._known[container_id] = self._of_pod.setdefault(probed.uid, {})[container_id] = probed
        kinds: tuple[tuple[Kind, Probe | None], ...] = (
            ("startup", spec.startup_probe if not probed.started else None),
            ("liveness", spec.liveness_probe),
            ("readiness", spec.readiness_probe),
        )
        for kind, probe in kinds:
            if probe is not None:
                work = self._run(pod, spec, container_id, began_at, ip, kind, probe, probed)
                self._tasks.start(f"{container_id}/{kind}", work)

    def forget(self, container_id: str) -> None:
        probed = self._known.pop(container_id, None)
        if probed is not None:
            others = self._of_pod[probed.uid]
            del others[container_id]
            if not others:
                del self._of_pod[probed.uid]
            self._end(container_id, "startup", "liveness", "readiness")

    def ending(self, uid: str) -> None:
        """A pod is being ended: whether its containers live well matters no more, whether they are ready does."""
        for container_id in self._of_pod.get(uid, ()):
            self._end(container_id, "startup", "liveness")

    def nudge(self, uid: str) -> None:
        """A pod was changed: containers that are not ready are asked at once, not when their period is over."""
        for probed in self._of_pod.get(uid, {}).values():
            if not probed.ready:
                probed.nudged.set()

    def _end(self, container_id: str, *kinds: Kind) -> None:
        for kind in kinds:
            self._tasks.cancel(f"{container_id}/{kind}")

    def health(self, container_id: str) -> Health:
        """A container that nobody probes (yet) has started but is not ready until it is followed."""
        probed = self._known.get(container_id)
        if probed is None:
            return Health()
        return Health(probed.started, probed.started and probed.ready, probed.failed, probed.grace_s)

    async def close(self) -> None:
        await self._tasks.close()

    # ------------------------------------------------------------------------------------------------ one probe

    async def _run(
        self,
        pod: Pod,
        spec: Any,
        container_id: str,
        began_at: float,
        ip: str,
        kind: Kind,
        probe: Probe,
        probed: _Probed,
    ) -> None:
        period_s = float(probe.period_seconds or 10)
        if probed.old and self._clock.now() - self._since < period_s:
            await self._clock.sleep(self._clock.random.random() * period_s)  # not all of a node's probes at once
        if kind != "startup":
            await probed.began.wait()
        delay_s = float(probe.initial_delay_seconds or 0)
        await self._clock.sleep(max(began_at + delay_s - self._clock.now(), 0.0) if delay_s else 0.0)
        count = _Count()
        while True:
            due = self._clock.monotonic() + period_s
            probed.nudged.clear()
            asked = self._clock.monotonic()
            ok = await self._verdict(pod, spec, container_id, ip, kind, probe)
            if ok is not None:
                self._probed(kind, spec.name, pod, ok, self._clock.monotonic() - asked)
            if ok is not None and self._counted(pod, probed, kind, probe, count, ok):
                return
            await self._rest(max(due - self._clock.monotonic(), 0.0), probed if kind == "readiness" else None)

    def _counted(self, pod: Pod, probed: _Probed, kind: Kind, probe: Probe, count: _Count, ok: bool) -> bool:
        """Whether that was the last time that a verdict is wanted of this run of the container."""
        run = count.add(ok)
        if run < (probe.success_threshold or 1 if ok else probe.failure_threshold or 3):
            return False
        self._settle(pod, probed, kind, probe, ok=ok)
        return kind == "startup" if ok else kind != "readiness"

    async def _rest(self, seconds: float, probed: _Probed | None) -> None:
        """Until the next time; a probe of readiness may be woken before."""
        if probed is None:
            await self._clock.sleep(seconds)
            return
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        nudged = asyncio.ensure_future(probed.nudged.wait())
        try:
            await asyncio.wait((timer, nudged), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            nudged.cancel()

    def _settle(self, pod: Pod, probed: _Probed, kind: Kind, probe: Probe, *, ok: bool) -> None:
        before = (probed.started, probed.ready, probed.failed)
        match kind:
            case "startup" if ok:
                probed.started = True
                probed.began.set()
            case "readiness":
                probed.ready = ok
            case _ if not ok:
                probed.failed = f"{kind} probe"
                grace = probe.termination_grace_period_seconds
                probed.grace_s = float(grace) if grace is not None else None
        if before != (probed.started, probed.ready, probed.failed):
            self._changed(pod.metadata.uid or "")

    async def _verdict(self, pod: Pod, spec: Any, container_id: str, ip: str, kind: Kind, probe: Probe) -> bool | None:
        """Whether the probe succeeds; None when it could not be asked. What is not good is told."""
        named = kind.capitalize()
        for attempt in range(_RETRIES):
            try:
                warning = await run_probe(self._runtime, spec, container_id, ip, probe, network=self._network)
            except ProbeFailed as err:
                self._say(pod, spec.name, f"{named} probe failed: {err}")
                return False
            except (ProbeErrored, RuntimeFailure, OSError, ValueError) as err:
                if attempt == _RETRIES - 1:
                    state = err.state if isinstance(err, ProbeErrored) else "unknown"
                    self._say(pod, spec.name, f"{named} probe errored and resulted in {state} state: {err}")
            else:
                if warning and self._warn is not None:
                    self._warn(pod, spec.name, f"{named} probe warning: {warning}")
                return True
        return None


async def run_probe(
    runtime: Runtime, spec: Any, container_id: str, ip: str, probe: Probe, *, network: bool = True
) -> str:
    """Ask once. Returns what to warn of, mostly nothing. Raises ProbeFailed and ProbeErrored."""
    timeout_s = float(probe.timeout_seconds or 1)
    if probe.exec is not None:
        known = {variable.name: variable.value or "" for variable in spec.env}
        await _exec(runtime, container_id, tuple(expand(word, known) for word in probe.exec.command), timeout_s)
    elif not network:
        return ""
    elif probe.http_get is not None:
        return await _http(probe.http_get, spec, ip, timeout_s)
    elif probe.tcp_socket is not None:
        host = probe.tcp_socket.host or ip
        await _tcp(host, port_number(spec, probe.tcp_socket.port), timeout_s)
    elif probe.grpc is not None:
        from .grpc import NotServing, check

        try:
            await check(ip, probe.grpc.port, probe.grpc.service or "", timeout_s)
        except NotServing as err:
            raise ProbeFailed(str(err)) from err
    else:
        raise ProbeErrored(f"missing probe handler for container {spec.name}")
    return ""


async def _exec(runtime: Runtime, container_id: str, command: tuple[str, ...], timeout_s: float) -> None:
    try:
        result = await runtime.exec_sync(container_id, command, timeout_s)
    except TimeoutError as err:
        shown = " ".join(command)
        raise ProbeFailed(f'command timed out: "{shown}" timed out after {go_duration(timeout_s)}') from err
    if result.exit_code != 0:
        output = (result.stdout + result.stderr)[:_OUTPUT_MAX]
        raise ProbeFailed(output.decode("utf-8", "replace"))


def port_number(spec: Any, port: int | str) -> int:
    """A port by number or by the name that the container gives it. Raises ProbeErrored."""
    found = port if isinstance(port, int) else 0
    if isinstance(port, str):
        named = [int(declared.container_port) for declared in spec.ports if declared.name == port]
        if not named and not port.isdigit():
            raise ProbeErrored(f'strconv.Atoi: parsing "{port}": invalid syntax')
        found = named[0] if named else int(port)
    if not 0 < found < 65536:
        raise ProbeErrored(f"invalid port number: {found}")
    return found


async def _tcp(host: str, port: int, timeout_s: float) -> None:
    from .http import address, dial_error

    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError as err:
        raise ProbeFailed(f"dial tcp {address(host, port)}: i/o timeout") from err
    except OSError as err:
        raise ProbeFailed(f"dial tcp {address(host, port)}: {dial_error(err)}") from err
    writer.close()


async def _http(action: HTTPGetAction, spec: Any, ip: str, timeout_s: float) -> str:
    """GET; 200 to 299 is success, a redirect that leads to another host is one with a warning."""
    from .http import GetFailed, fetch, target_of

    try:
        answer = await fetch(target_of(action, ip, port_number(spec, action.port), "kube-probe"), timeout_s)
    except GetFailed as err:
        if err.late:
            raise ProbeErrored(str(err), "failure") from err
        raise ProbeFailed(str(err)) from err
    if not 200 <= answer.code < 400:
        raise ProbeFailed(f"HTTP probe failed with statuscode: {answer.code}")
    if answer.code >= 300:
        return f"Probe terminated redirects, Response body: {answer.body.decode('utf-8', 'replace')}"
    return ""
