"""A runtime that only pretends: no processes, no root, time from the clock. For tests and for nodes by the thousand.

Annotations of the container or of its sandbox say how it behaves; with a container's name behind a dot they speak of one alone:

    simulated.kaa.dev/exit-after: 3s       runs so long, then exits (without it: until it is stopped)
    simulated.kaa.dev/exit-code: "1"       with this code (default 0)
    simulated.kaa.dev/exit-after.setup: 0s
    simulated.kaa.dev/pull-error: text     pulls of its image fail
    simulated.kaa.dev/ignore-stop: "true"  the stop signal is ignored, so that the grace period passes
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from kaa.api.clock import Clock, format_micro_time

from .base import (
    Container,
    ContainerConfig,
    ContainerState,
    ContainerUsage,
    EventKind,
    ExecResult,
    HandlerFeatures,
    Image,
    ImageAuth,
    ImagePullError,
    NotFoundError,
    PullProgress,
    Resources,
    RuntimeEvent,
    RuntimeFailure,
    RuntimeInfo,
    Sandbox,
    SandboxConfig,
    SandboxState,
    Streams,
)

PREFIX = "simulated.kaa.dev/"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long the verbs take, in seconds on the clock."""

    sandbox_s: float = 0.0
    create_s: float = 0.0
    start_s: float = 0.0
    stop_s: float = 0.0
    pull_s: float = 0.0


@dataclass(slots=True)
class _Running:
    """What the simulation knows of a container beyond what it shows."""

    config: ContainerConfig
    behaviour: Mapping[str, str]
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Task[None] | None = None


class SimulatedRuntime:
    """Containers run at once (or after ``latencies``) and end as their annotations say."""

    IMAGE_BYTES = 10_000_000

    def __init__(
        self,
        clock: Clock,
        *,
        pod_range: str = "10.200.0.0/16",
        latencies: Latencies = Latencies(),
        write_logs: bool = False,
    ) -> None:
        self._clock = clock
        self._latencies = latencies
        self._write_logs = write_logs
        self._network = ipaddress.ip_network(pod_range)
        self._used_ips: set[int] = set()
        self._next_ip = 2
        self._made = 0
        self._sandboxes: dict[str, Sandbox] = {}
        self._configs: dict[str, SandboxConfig] = {}
        self._containers: dict[str, Container] = {}
        self._running: dict[str, _Running] = {}
        self._by_sandbox: dict[str, set[str]] = {}
        self._by_uid: dict[str, list[str]] = {}  #: {pod uid: ids of its sandboxes}
        self._images: dict[str, Image] = {}
        self._pulling: set[str] = set()
        self.pull_errors: dict[str, str] = {}  #: {image reference: why its pulls fail}
        self._listeners: list[asyncio.Queue[RuntimeEvent]] = []

    # ------------------------------------------------------------------------------------------------ sandboxes

    async def info(self) -> RuntimeInfo:
        return RuntimeInfo(
            name="simulated",
            version="1.0.0",
            features={"": HandlerFeatures(recursive_read_only=True, user_namespaces=True)},
            strict_groups=True,
        )

    async def run_sandbox(self, config: SandboxConfig) -> str:
        for known in await self.list_sandboxes(uid=config.uid):
            if known.attempt == config.attempt and known.state is SandboxState.READY:
                return known.id
        if self._latencies.sandbox_s:
            await self._clock.sleep(self._latencies.sandbox_s)
        sandbox_id = self._new_id(f"sandbox/{config.uid}/{config.attempt}")
        ips = () if config.namespaces.network == "node" else (self._take_ip(),)
        self._sandboxes[sandbox_id] = Sandbox(
            id=sandbox_id,
            name=config.name,
            namespace=config.namespace,
            uid=config.uid,
            attempt=config.attempt,
            state=SandboxState.READY,
            created_at=self._clock.now(),
            ips=ips,
            labels=dict(config.labels),
            annotations=dict(config.annotations),
            runtime_handler=config.runtime_handler,
        )
        self._configs[sandbox_id] = config
        self._by_sandbox[sandbox_id] = set()
        self._by_uid.setdefault(config.uid, []).append(sandbox_id)
        self._tell(EventKind.STARTED, sandbox_id)
        return sandbox_id

    async def stop_sandbox(self, sandbox_id: str, *, leaving: bool = False) -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        for container_id in list(self._by_sandbox[sandbox_id]):
            self._end(container_id, 137)
        if sandbox.state is SandboxState.READY:
            for ip in sandbox.ips:
                self._used_ips.discard(int(ipaddress.ip_address(ip)))
            self._sandboxes[sandbox_id] = replace(sandbox, state=SandboxState.NOT_READY)
            self._tell(EventKind.STOPPED, sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self.stop_sandbox(sandbox_id)
        for container_id in self._by_sandbox.pop(sandbox_id, set()):
            self._containers.pop(container_id, None)
            self._running.pop(container_id, None)
        self._configs.pop(sandbox_id, None)
        sandbox = self._sandboxes.pop(sandbox_id, None)
        if sandbox is not None:
            self._by_uid[sandbox.uid].remove(sandbox_id)
            if not self._by_uid[sandbox.uid]:
                del self._by_uid[sandbox.uid]
            self._tell(EventKind.DELETED, sandbox_id, uid=sandbox.uid)

    async def list_sandboxes(self, *, uid: str | None = None) -> list[Sandbox]:
        if uid is None:
            return list(self._sandboxes.values())
        return [self._sandboxes[known] for known in self._by_uid.get(uid, ())]

    # ------------------------------------------------------------------------------------------------ containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or sandbox.state is not SandboxState.READY:
            raise NotFoundError(f"no ready sandbox {sandbox_id}")
        image = await self.image(config.image)
        if image is None:
            raise RuntimeFailure(f"no image {config.image}")
        for container_id in self._by_sandbox[sandbox_id]:
            known = self._containers[container_id]
            if (known.name, known.attempt) == (config.name, config.attempt):
                return container_id
        if self._latencies.create_s:
            await self._clock.sleep(self._latencies.create_s)
        container_id = self._new_id(f"{sandbox_id}/{config.name}/{config.attempt}")
        log_path = str(Path(self._configs[sandbox_id].log_directory) / config.log_path) if config.log_path else ""
        self._containers[container_id] = Container(
            id=container_id,
            sandbox_id=sandbox_id,
            name=config.name,
            attempt=config.attempt,
            state=ContainerState.CREATED,
            image=config.image,
            image_id=image.id,
            image_ref=image.repo_digests[0] if image.repo_digests else image.id,
            created_at=self._clock.now(),
            log_path=log_path,
            resources=config.resources,
            volume_images=tuple(mount.image for mount in config.mounts if mount.image),
            labels=dict(config.labels),
            annotations=dict(config.annotations),
        )
        behaviour = {**sandbox.annotations, **config.annotations}
        self._running[container_id] = _Running(config, behaviour)
        self._by_sandbox[sandbox_id].add(container_id)
        self._tell(EventKind.CREATED, sandbox_id, container_id)
        return container_id

    async def start_container(self, container_id: str) -> None:
        container = await self.container(container_id)
        if container.state is not ContainerState.CREATED:
            return
        if self._latencies.start_s:
            await self._clock.sleep(self._latencies.start_s)
        self._made += 1
        started = replace(container, state=ContainerState.RUNNING, started_at=self._clock.now(), pid=self._made)
        self._containers[container_id] = started
        if self._write_logs and container.log_path:
            await asyncio.to_thread(self._log, Path(container.log_path), f"{container.name} started")
        self._tell(EventKind.STARTED, container.sandbox_id, container_id)
        running = self._running[container_id]
        after = self._told(container_id, "exit-after")
        if after:
            code = int(self._told(container_id, "exit-code") or 0)
            running.ending = asyncio.get_running_loop().create_task(
                self._end_after(container_id, parse_seconds(after), code), name=f"simulated/{container_id[:12]}"
            )

    async def _end_after(self, container_id: str, seconds: float, code: int) -> None:
        await self._clock.sleep(seconds)
        self._end(container_id, code)

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        container = self._containers.get(container_id)
        if container is None or container.state is not ContainerState.RUNNING:
            return
        exited = self._running[container_id].exited
        if self._told(container_id, "ignore-stop") == "true":
            await self._first(exited, grace_s)
            self._end(container_id, 137)
            return
        if self._latencies.stop_s:
            await self._first(exited, min(grace_s, self._latencies.stop_s))
        self._end(container_id, 143 if self._latencies.stop_s <= grace_s else 137)

    async def _first(self, exited: asyncio.Event, seconds: float) -> None:
        """Wait for an exit, at most so long."""
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        waiting = asyncio.ensure_future(exited.wait())
        try:
            await asyncio.wait((sleeping, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waiting.cancel()

    async def remove_container(self, container_id: str) -> None:
        self._end(container_id, 137)
        container = self._containers.pop(container_id, None)
        self._running.pop(container_id, None)
        if container is not None:
            self._by_sandbox[container.sandbox_id].discard(container_id)
            self._tell(EventKind.DELETED, container.sandbox_id, container_id)

    def exit(self, container_id: str, code: int = 0, *, reason: str = "") -> None:
        """End a running container from outside, as a crash or an out-of-memory kill would."""
        self._end(container_id, code, reason=reason)

    def _end(self, container_id: str, code: int, *, reason: str = "") -> None:
        container = self._containers.get(container_id)
        if container is None or container.state is not ContainerState.RUNNING:
            return
        self._containers[container_id] = replace(
            container,
            state=ContainerState.EXITED,
            finished_at=self._clock.now(),
            exit_code=code,
            reason=reason or ("Completed" if code == 0 else "Error"),
            pid=0,
        )
        running = self._running[container_id]
        running.exited.set()
        if running.ending is not None and running.ending is not asyncio.current_task():
            running.ending.cancel()
        self._tell(EventKind.STOPPED, container.sandbox_id, container_id)

    async def list_containers(self, *, sandbox_id: str = "") -> list[Container]:
        if sandbox_id:
            return [self._containers[known] for known in self._by_sandbox.get(sandbox_id, ())]
        return list(self._containers.values())

    async def container(self, container_id: str) -> Container:
        found = self._containers.get(container_id)
        if found is None:
            raise NotFoundError(f"no container {container_id}")
        return found

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        container = await self.container(container_id)
        running = self._running[container_id]
        running.config = replace(running.config, resources=resources)
        self._containers[container_id] = replace(container, resources=resources)

    async def reopen_log(self, container_id: str) -> None:
        await self.container(container_id)

    def config(self, container_id: str) -> ContainerConfig:
        """What a container was made of."""
        return self._running[container_id].config

    # ------------------------------------------------------------------------------------------------ streams

    async def checkpoint(self, container_id: str, location: str, timeout_s: float) -> None:
        await self._must_run(container_id)
        raise RuntimeFailure("a simulated container has no processes to checkpoint")

    async def exec_sync(self, container_id: str, command: tuple[str, ...], timeout_s: float) -> ExecResult:
        await self._must_run(container_id)
        if command[:1] == ("false",):
            return ExecResult(exit_code=1)
        return ExecResult(exit_code=0, stdout=" ".join(command).encode() + b"\n")

    async def exec(self, container_id: str, command: tuple[str, ...], *, stdin: bool, tty: bool) -> Streams:
        await self._must_run(container_id)
        return Echo(b"" if stdin else " ".join(command).encode() + b"\n", open_input=stdin)

    async def attach(self, container_id: str, *, stdin: bool, tty: bool) -> Streams:
        await self._must_run(container_id)
        return Echo(b"", open_input=True)

    async def port_forward(self, sandbox_id: str, port: int) -> Streams:
        if sandbox_id not in self._sandboxes:
            raise NotFoundError(f"no sandbox {sandbox_id}")
        return Echo(b"", open_input=True)

    async def _must_run(self, container_id: str) -> None:
        if (await self.container(container_id)).state is not ContainerState.RUNNING:
            raise RuntimeFailure(f"container {container_id} is not running")

    async def usage(self) -> list[ContainerUsage]:
        now = self._clock.now()
        return [
            ContainerUsage(c.id, now, cpu_ns=int((now - c.started_at) * 1e6), memory_bytes=1 << 20, pids=1)
            for c in self._containers.values()
            if c.state is ContainerState.RUNNING
        ]

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        queue: asyncio.Queue[RuntimeEvent] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    # ------------------------------------------------------------------------------------------------ images

    async def pull_image(self, reference: str, auth: ImageAuth | None = None) -> Image:
        if reference in self.pull_errors:
            raise ImagePullError(self.pull_errors[reference])
        self._pulling.add(reference)
        try:
            if self._latencies.pull_s:
                await self._clock.sleep(self._latencies.pull_s)
        finally:
            self._pulling.discard(reference)
        return self.add_image(reference)

    def add_image(self, reference: str) -> Image:
        """Put an image in the store."""
        digest = "sha256:" + hashlib.sha256(reference.encode()).hexdigest()
        name = reference.split("@")[0]
        image = Image(digest, (name,), (f"{name.rsplit(':', 1)[0]}@{digest}",), self.IMAGE_BYTES)
        self._images[reference] = self._images[digest] = image
        return image

    def pull_progress(self, reference: str) -> PullProgress | None:
        return PullProgress("pulling", 0, self.IMAGE_BYTES) if reference in self._pulling else None

    async def image(self, reference: str) -> Image | None:
        return self._images.get(reference)

    async def list_images(self) -> list[Image]:
        return list({image.id: image for image in self._images.values()}.values())

    async def remove_image(self, image_id: str) -> None:
        self._images = {ref: image for ref, image in self._images.items() if image.id != image_id}

    async def image_fs_bytes(self) -> tuple[int, int]:
        count = len({image.id for image in self._images.values()})
        return count * self.IMAGE_BYTES, count * 100

    async def close(self) -> None:
        endings = [r.ending for r in self._running.values() if r.ending is not None and not r.ending.done()]
        for ending in endings:
            ending.cancel()
        await asyncio.gather(*endings, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------ helpers

    def _told(self, container_id: str, what: str) -> str:
        running = self._running[container_id]
        own = running.behaviour.get(f"{PREFIX}{what}.{running.config.name}")
        return own if own is not None else running.behaviour.get(PREFIX + what, "")

    def _tell(self, kind: EventKind, sandbox_id: str, container_id: str = "", *, uid: str = "") -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        event = RuntimeEvent(kind, sandbox_id, container_id, self._clock.now(), sandbox.uid if sandbox else uid)
        for queue in self._listeners:
            queue.put_nowait(event)

    def _new_id(self, seed: str) -> str:
        self._made += 1
        return hashlib.sha256(f"{seed}/{self._made}".encode()).hexdigest()

    def _take_ip(self) -> str:
        base, size = int(self._network.network_address), self._network.num_addresses
        for _ in range(size):
            self._next_ip = self._next_ip + 1 if self._next_ip + 2 < size else 2
            if base + self._next_ip not in self._used_ips:
                self._used_ips.add(base + self._next_ip)
                return str(ipaddress.ip_address(base + self._next_ip))
        raise RuntimeFailure(f"no free address in {self._network}")

    def _log(self, path: Path, line: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{format_micro_time(self._clock.now())} stdout F {line}\n")


class Echo:
    """Streams that give back what they are given."""

    def __init__(self, first: bytes, *, open_input: bool) -> None:
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        if first:
            self._chunks.put_nowait(first)
        if not open_input:
            self._chunks.put_nowait(None)

    async def write(self, data: bytes) -> None:
        self._chunks.put_nowait(data)

    async def close_stdin(self) -> None:
        self._chunks.put_nowait(None)

    async def resize(self, columns: int, rows: int) -> None:
        return None

    async def output(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        while (chunk := await self._chunks.get()) is not None:
            yield "stdout", chunk

    async def wait(self) -> int:
        return 0

    async def close(self) -> None:
        self._chunks.put_nowait(None)


def parse_seconds(text: str) -> float:
    """``1m30s``, ``250ms``, ``2`` as seconds. Raises ValueError."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(n + unit for n, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration")
    return sum(float(n) * _SECONDS[unit] for n, unit in parts)
