"""Startup, liveness and readiness probes: one task each a running container, on the clock.

The idea: a task only counts; what a container's health is follows from its probes' last verdicts (``health``).
Source: pkg/kubelet/prober, pkg/probe.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import HTTPGetAction, Pod, Probe
from kaa.runtime.base import Runtime, RuntimeFailure

from .pod_plan import Health
from .tasks import Tasks

Kind = Literal["startup", "liveness", "readiness"]
_BODY_MAX = 10 * 1024


class ProbeFailed(Exception):
    """The container answered, and the answer is no; or it did not answer at all."""


@dataclass(slots=True)
class _Probed:
    """What is known of one running container."""

    has_startup: bool
    has_readiness: bool
    started: bool = False
    ready: bool = False
    failed: str = ""
    grace_s: float | None = None
    began: asyncio.Event = field(default_factory=asyncio.Event)


class Prober:
    """``changed(uid)`` is called when a container's health is another; ``say(pod, container, message)`` on failures."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        changed: Callable[[str], None],
        say: Callable[[Pod, str, str], None],
        *,
        network: bool = True,
        probed: Callable[[str, str, Pod, bool, float], None] = lambda kind, container, pod, good, seconds: None,
    ) -> None:
        self._probed = probed  #: told every verdict, and how long it took
        self._runtime, self._clock = runtime, clock
        self._changed, self._say = changed, say
        self._network = network
        self._known: dict[str, _Probed] = {}
        self._tasks = Tasks("kubelet/probe")

    def follow(self, pod: Pod, spec: Any, container_id: str, ip: str) -> None:
        """Probe a running container from now on; once is enough."""
        if container_id in self._known:
            return
        probed = _Probed(spec.startup_probe is not None, spec.readiness_probe is not None)
        probed.started = not probed.has_startup
        probed.ready = not probed.has_readiness
        if probed.started:
            probed.began.set()
        self._known[container_id] = probed
        kinds: tuple[tuple[Kind, Probe | None], ...] = (
            ("startup", spec.startup_probe),
            ("liveness", spec.liveness_probe),
            ("readiness", spec.readiness_probe),
        )
        for kind, probe in kinds:
            if probe is not None:
                work = self._run(pod, spec, container_id, ip, kind, probe, probed)
                self._tasks.start(f"{container_id}/{kind}", work)

    def forget(self, container_id: str) -> None:
        if self._known.pop(container_id, None) is not None:
            for kind in ("startup", "liveness", "readiness"):
                self._tasks.cancel(f"{container_id}/{kind}")

    def health(self, container_id: str) -> Health:
        """A container that nobody probes (yet) has started but is not ready until it is followed."""
        probed = self._known.get(container_id)
        if probed is None:
            return Health()
        return Health(probed.started, probed.started and probed.ready, probed.failed, probed.grace_s)

    async def close(self) -> None:
        await self._tasks.close()

    async def _run(
        self, pod: Pod, spec: Any, container_id: str, ip: str, kind: Kind, probe: Probe, probed: _Probed
    ) -> None:
        if kind != "startup":
            await probed.began.wait()
        await self._clock.sleep(float(probe.initial_delay_seconds or 0))
        good = bad = 0
        while True:
            asked = self._clock.monotonic()
            message = await self._verdict(pod, spec, container_id, ip, probe)
            self._probed(kind, spec.name, pod, message is None, self._clock.monotonic() - asked)
            if message is None:
                good, bad = good + 1, 0
                if good >= (probe.success_threshold or 1):
                    self._settle(pod, probed, kind, ok=True)
                    if kind == "startup":
                        return
            else:
                good, bad = 0, bad + 1
                self._say(pod, spec.name, f"{kind.capitalize()} probe failed: {message}")
                if bad >= (probe.failure_threshold or 3):
                    self._settle(pod, probed, kind, ok=False, probe=probe)
                    if kind != "readiness":
                        return
            await self._clock.sleep(float(probe.period_seconds or 10))

    def _settle(self, pod: Pod, probed: _Probed, kind: Kind, *, ok: bool, probe: Probe | None = None) -> None:
        before = (probed.started, probed.ready, probed.failed)
        match kind:
            case "startup" if ok:
                probed.started = True
                probed.began.set()
            case "readiness":
                probed.ready = ok
            case _ if not ok:
                probed.failed = f"{kind} probe"
                grace = probe.termination_grace_period_seconds if probe is not None else None
                probed.grace_s = float(grace) if grace is not None else None
        if before != (probed.started, probed.ready, probed.failed):
            self._changed(pod.metadata.uid or "")

    async def _verdict(self, pod: Pod, spec: Any, container_id: str, ip: str, probe: Probe) -> str | None:
        """None when the probe succeeds, else why not."""
        try:
            await run_probe(self._runtime, spec, container_id, ip, probe, network=self._network)
        except ProbeFailed as err:
            return str(err)
        except (RuntimeFailure, OSError, ValueError) as err:
            return str(err)
        return None


async def run_probe(
    runtime: Runtime, spec: Any, container_id: str, ip: str, probe: Probe, *, network: bool = True
) -> None:
    """Ask once. Raises ProbeFailed."""
    timeout_s = float(probe.timeout_seconds or 1)
    if probe.exec is not None:
        await _exec(runtime, container_id, probe.exec.command, timeout_s)
    elif not network:
        return
    elif probe.http_get is not None:
        await http_get(probe.http_get, spec, ip, timeout_s)
    elif probe.tcp_socket is not None:
        host = probe.tcp_socket.host or ip
        await _tcp(host, port_number(spec, probe.tcp_socket.port), timeout_s)
    elif probe.grpc is not None:
        from .probe_grpc import check

        await check(ip, probe.grpc.port, probe.grpc.service or "", timeout_s)


async def _exec(runtime: Runtime, container_id: str, command: tuple[str, ...], timeout_s: float) -> None:
    try:
        result = await runtime.exec_sync(container_id, command, timeout_s)
    except TimeoutError as err:
        raise ProbeFailed(f'command timed out: "{" ".join(command)}" timed out after {timeout_s:g}s') from err
    if result.exit_code != 0:
        output = (result.stdout + result.stderr)[:_BODY_MAX]
        raise ProbeFailed(output.decode("utf-8", "replace"))


def port_number(spec: Any, port: int | str) -> int:
    """A port by number or by the name that the container gives it."""
    if isinstance(port, int):
        return port
    if port.isdigit():
        return int(port)
    for declared in spec.ports:
        if declared.name == port:
            return int(declared.container_port)
    raise ProbeFailed(f"couldn't find port: {port!r} in container {spec.name}")


async def _tcp(host: str, port: int, timeout_s: float) -> None:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError as err:
        raise ProbeFailed(f"dial tcp {shown}: i/o timeout") from err
    except OSError as err:
        raise ProbeFailed(f"dial tcp {shown}: {_dial_error(err)}") from err
    writer.close()


def _dial_error(err: OSError) -> str:
    named = {
        111: "connect: connection refused",
        113: "connect: no route to host",
        101: "connect: network is unreachable",
    }
    return named.get(err.errno or 0, f"connect: {(err.strerror or str(err)).lower()}")


async def http_get(action: HTTPGetAction, spec: Any, ip: str, timeout_s: float) -> None:
    """GET; 200 to 399 is success. Redirects to another host count as success, as upstream's warning does."""
    port = port_number(spec, action.port)
    host = action.host or ip
    scheme = (action.scheme or "HTTP").lower()
    path = action.path or "/"
    path = path if path.startswith("/") else "/" + path
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    url = f'Get "{scheme}://{shown}{path}"'
    try:
        async with asyncio.timeout(timeout_s):
            code = await _request(host, port, scheme, path, shown, action)
    except TimeoutError as err:
        raise ProbeFailed(f"{url}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)") from err
    except OSError as err:
        raise ProbeFailed(f"{url}: dial tcp {shown}: {_dial_error(err)}") from err
    except (ValueError, EOFError) as err:
        raise ProbeFailed(f"{url}: EOF") from err
    if not 200 <= code < 400:
        raise ProbeFailed(f"HTTP probe failed with statuscode: {code}")


async def _request(host: str, port: int, scheme: str, path: str, shown: str, action: HTTPGetAction) -> int:
    context: ssl.SSLContext | None = None
    if scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        headers = {"Host": shown, "User-Agent": "kube-probe/1.36", "Accept": "*/*", "Connection": "close"}
        headers.update({h.name: h.value for h in action.http_headers})
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
        writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        status = await reader.readline()
        parts = status.split()
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/"):
            raise ValueError("malformed HTTP response")
        return int(parts[1])
    finally:
        writer.close()
