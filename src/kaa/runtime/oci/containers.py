"""Containers from creation to removal. The runtime owns one ``Containers``; sandboxes are its business, not ours.

Creating writes a bundle and mounts the root; the process comes with starting, as containerd has it, so that a command
that does not exist fails the start. Ends are noticed by pidfd: conmon's, which ends after it wrote down the exit code. A
container whose conmon was killed has lost its output and the witness of its end: it is killed too, as containerd does with
one whose shim is gone.

What is begun is seen through or undone, whoever asked has gone or not; what a killed agent left half way is found out by
what the kernel and the OCI runtime show (``conmon.started``), so that no command runs twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import structlog

from ...api.clock import Clock
from ..base import (
    Container,
    ContainerConfig,
    ContainerState,
    EventKind,
    NotFoundError,
    Resources,
    RuntimeFailure,
)
from ..files import Trash
from . import conmon, mountpoints
from .bundle import Facts, resources_spec
from .cgroups import Cgroups
from .detect import kernel
from .engines import Engine, Engines
from .files import remove_tree, write_atomic
from .grouped import Grouped
from .images import ImageRecord
from .linux import boot_id, in_own_thread, start_time
from .prepare import rewrite_resources, write_bundle
from .snapshots import Snapshots
from .state import ContainerRecord, Folder, ProcessRecord, SandboxRecord
from .users import drop_staged, give_stdio
from .work import ProcessWatch, Threads, run_command, to_its_end

log = structlog.get_logger(__name__)

UNKNOWN_EXIT_CODE = 255
KILLED_EXIT_CODE = 137
START_ERROR_EXIT_CODE = 128
_KILL_WAIT_S = 30.0


@dataclass
class Live:
    """A container in memory: its record, one writer at a time, and what waits for its end."""

    record: ContainerRecord
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    watch: ProcessWatch | None = None
    starting: bool = False  #: its end is noted after its start
    ended_early: bool = False
    orphaned: bool = False  #: its conmon was killed


class Containers:
    """Every container this runtime knows, by id."""

    def __init__(
        self,
        root: Path,
        run_dir: Path,
        clock: Clock,
        engines: Engines,
        snapshots: Snapshots,
        publish: Callable[[EventKind, str, str], None],
        threads: Threads,
        trash: Trash,
    ) -> None:
        self.folder = Folder(root / "containers", ContainerRecord)
        self.trash = trash
        self.bundles = run_dir / "containers"
        self.clock, self.engines, self.snapshots, self.threads = clock, engines, snapshots, threads
        self._publish = publish  #: (what happened, sandbox id, container id)
        self.cgroups = Cgroups()
        #: Where sandboxes go whose maker names no cgroup for them: this runtime's alone, so that it can be removed.
        self.own_cgroup = f"/kaa-runtime-{hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:12]}"
        self.live: Grouped[Live] = Grouped(lambda live: live.record.sandbox_id)
        self._warned_oom = False
        self._laying = threading.Lock()

    def bundle(self, container_id: str) -> Path:
        return self.bundles / container_id

    def get(self, container_id: str) -> Live:
        """Raises NotFoundError. An unambiguous beginning of an id will do."""
        if found := self.live.get(container_id):
            return found
        close = [live for known, live in self.live.items() if container_id and known.startswith(container_id)]
        if len(close) != 1:
            raise NotFoundError(f"container {container_id!r} not found")
        return close[0]

    def _engine(self, record: ContainerRecord) -> Engine:
        return self.engines.of(record.engine)

    def running(self, container_id: str) -> Live:
        live = self.get(container_id)
        if live.record.state is not ContainerState.RUNNING:
            raise RuntimeFailure(f"container {container_id} is not running: it is {live.record.state}")
        return live

    def listed(self, sandbox_id: str = "") -> list[Container]:
        found = self.live.of(sandbox_id) if sandbox_id else self.live.values()
        return [live.record.public() for live in found if live.record.made]

    def within(self, sandbox_id: str) -> list[Live]:
        return self.live.of(sandbox_id)

    # ------------------------------------------------------------------------------------------------ adoption

    async def adopt(self, sandboxes: set[str]) -> None:
        """Take up what an earlier process left: watch what runs, note what ended, sweep what was half made."""
        self.bundles.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.engines.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        for record in await self.threads.run(lambda: list(self.folder.load())):
            self.live[record.id] = live = Live(record)
            try:
                if record.made and record.sandbox_id in sandboxes:
                    if record.launched and record.state is ContainerState.CREATED:
                        await self._finish_start(live)
                    self._adopt(live)
                else:
                    await self._destroy(live)
                    del self.live[record.id]
            except (RuntimeFailure, OSError) as err:  # whoever removes its sandbox comes upon it again
                log.warning("what is left of a container stays for now", container=record.id, error=str(err))
        await self.threads.run(self._sweep)

    async def _finish_start(self, live: Live) -> None:
        """The agent was killed while it started this container: go on where it was, or begin again from creation."""
        record = live.record
        found = await self.threads.run(conmon.started, self._engine(record), self.bundle(record.id), record.id)
        if found is None:
            await self.threads.run(self._abandon, record)
            record.launched = False
            self._save(record)
        else:
            self._started(live, _processes(found), (self.bundle(record.id) / "pid").stat().st_mtime)

    def _adopt(self, live: Live) -> None:
        record = live.record
        if record.state is ContainerState.EXITED:
            live.exited.set()
        elif record.state is ContainerState.RUNNING and live.watch is None:
            self._watch(live)

    def _sweep(self) -> None:
        known = set(self.live)
        for folder in (self.bundles, self.snapshots.writable):
            for entry in folder.iterdir():
                if entry.name not in known:
                    try:
                        conmon.delete(self.engines.maker(entry.name), entry.name)
                        self.snapshots.release(entry.name)
                        drop_staged(self.bundles / entry.name)
                        remove_tree(self.bundles / entry.name)
                    except (RuntimeFailure, OSError) as err:
                        log.warning("a folder of nobody's stays for now", folder=str(entry), error=str(err))

    # ------------------------------------------------------------------------------------------------ creation

    async def create(
        self,
        sandbox: SandboxRecord,
        config: ContainerConfig,
        image: ImageRecord,
        facts: Facts,
        volumes: dict[str, tuple[str, ...]],
    ) -> str:
        """Make the root and the bundle; ``facts`` lack the root, the cgroup, the user and devices, which are found here.

        Args:   volumes: {id of an image that is mounted: its layers}.
        """
        container_id = f"{self.clock.random.getrandbits(256):064x}"
        parent = sandbox.config.cgroup_parent or f"{self.own_cgroup}/{sandbox.id}"
        log_folder = sandbox.config.log_directory
        points = mountpoints.places((*facts.mounts, *config.mounts))
        record = ContainerRecord(
            id=container_id,
            sandbox_id=sandbox.id,
            config=config,
            created_at=self.clock.now(),
            engine=sandbox.config.runtime_handler or self.engines.default.name,
            image_id=image.id,
            image_ref=image.digests[0] if image.digests else image.id,
            chain=(mountpoints.identity(points), *image.chain),
            volumes=volumes,
            stop_signal=config.stop_signal or image.config.stop_signal or "SIGTERM",
            cgroup_path=f"{parent.rstrip('/')}/{container_id}",
            log_path=os.path.join(log_folder, config.log_path) if config.log_path and log_folder else "",
        )
        self.live[container_id] = live = Live(record)
        try:
            async with live.lock:
                await to_its_end(self._make(live, image, facts, points), f"runtime/create {container_id[:12]}")
        except BaseException:
            del self.live[container_id]
            await to_its_end(self._destroy(live), f"runtime/undo {container_id[:12]}")
            raise
        self._tell(EventKind.CREATED, record)
        return container_id

    async def _make(self, live: Live, image: ImageRecord, facts: Facts, points: mountpoints.Places) -> None:
        record = live.record
        self._warn_of_oom(record.config.resources)
        self.folder.save(record)

        def build() -> None:
            namespace = facts.namespaces.get("user")
            with self._laying:  # containers that start together wait for one layer rather than lay it each
                if not self.snapshots.has(record.chain[0]):
                    self.snapshots.lay(record.chain[0], lambda layer: mountpoints.fill(layer, points))
            rootfs = self.snapshots.prepare(record.id, record.chain, facts.users, namespace)
            shown = {
                image_id: self.snapshots.show(record.id, str(number), chain, namespace)
                for number, (image_id, chain) in enumerate(record.volumes.items())
            }
            write_bundle(self.bundle(record.id), rootfs, record, image, facts, shown)
            if record.log_path:
                os.makedirs(os.path.dirname(record.log_path), exist_ok=True)

        await in_own_thread(build)
        record.made = True
        self.folder.save(record)

    def _warn_of_oom(self, resources: Resources) -> None:
        if not self._warned_oom and resources.oom_score_adj < kernel().lowest_oom_score_adj:
            self._warned_oom = True
            log.warning(
                "oom_score_adj is raised: this process may not lower it (no CAP_SYS_RESOURCE)",
                wanted=resources.oom_score_adj,
                used=kernel().lowest_oom_score_adj,
            )

    # ----------------------------------------------------------------------------------------------- lifecycle

    async def start(self, container_id: str) -> None:
        live = self.get(container_id)
        await to_its_end(self._start(live), f"runtime/start {live.record.id[:12]}")

    async def _start(self, live: Live) -> None:
        async with live.lock:
            record = live.record
            if record.state is ContainerState.RUNNING:
                return
            if record.state is not ContainerState.CREATED:
                raise RuntimeFailure(f"container {record.id} cannot start: it is {record.state}")
            live.starting = record.launched = True
            try:
                launched = await self.threads.run(self._launch, record)
                self._started(live, launched)
            except (RuntimeFailure, OSError) as err:
                self._note_end(live, START_ERROR_EXIT_CODE, "StartError", str(err))
                await self.threads.run(self._abandon, record)
                raise RuntimeFailure(str(err)) from err
            finally:
                live.starting = False
            if live.ended_early:
                self._ended(live)

    def _launch(self, record: ContainerRecord) -> tuple[ProcessRecord, ProcessRecord]:
        """Both steps in one thread: each hop through the event loop would cost as much as the start itself."""
        self.folder.save(record)
        config, engine = record.config, self._engine(record)
        launch = conmon.Launch(
            record.id, self.bundle(record.id), record.log_path, config.tty, config.stdin, config.stdin_once
        )
        try:
            made = conmon.launch(engine, launch)
        finally:
            drop_staged(launch.bundle)
        if record.stdio_owner is not None and not config.tty:
            give_stdio(made.pid, record.stdio_owner)
        launched = _processes(made)
        conmon.start(engine, record.id, hooks=bool(config.cdi_devices))
        return launched

    def _abandon(self, record: ContainerRecord) -> None:
        """Take back all of a start that came to nothing, lest it comes to something later."""
        self.cgroups.kill(record.cgroup_path)
        conmon.abandon(self._engine(record), record.id)
        self.cgroups.kill(record.cgroup_path)
        for name in ("pid", "conmon.pid"):
            (self.bundle(record.id) / name).unlink(missing_ok=True)

    def _started(self, live: Live, launched: tuple[ProcessRecord, ProcessRecord], at: float = 0) -> None:
        record = live.record
        record.process, record.conmon = launched
        record.state, record.started_at = ContainerState.RUNNING, at or self.clock.now()
        self._save(record)
        self._tell(EventKind.STARTED, record)
        self._watch(live)

    def _save(self, record: ContainerRecord) -> None:
        """Write down what has happened already. On a full disk it is known to us alone, and found out again by the next."""
        try:
            self.folder.save(record)
        except OSError as err:
            log.warning("state is not saved", container=record.id, state=record.state, error=str(err))

    def _watch(self, live: Live) -> None:
        """Watch conmon, else the container itself, which is killed then; with neither alive it has ended."""
        record = live.record
        for process in (record.conmon, record.process):
            if is_alive(process):
                with contextlib.suppress(ProcessLookupError):
                    live.watch = ProcessWatch(process.pid, lambda: self._ended(live))
                    if process is record.process:
                        log.warning("conmon is gone: its container is killed", container=record.id)
                        live.orphaned = True
                        send(process, signal.SIGKILL)
                    return
        self._ended(live)

    def _ended(self, live: Live) -> None:
        """A watched process is gone: note the end, or turn to the container that conmon left behind."""
        live.watch = None
        if live.starting:
            live.ended_early = True
            return
        record = live.record
        if record.state is not ContainerState.RUNNING:
            return
        found = conmon.read_exit(self.bundle(record.id), record.id)
        if found is None and is_alive(record.process):
            self._watch(live)
            return
        self.cgroups.kill(record.cgroup_path)  # in a shared pid namespace its children would live on
        if found is None and live.orphaned:
            self._note_end(live, KILLED_EXIT_CODE, "Error", "")
        elif found is None:
            self._note_end(live, UNKNOWN_EXIT_CODE, "Unknown", "its end was not seen")
        elif found.oom_killed or self.cgroups.oom_kills(record.cgroup_path):
            self._note_end(live, found.code, "OOMKilled", "", found.at)
        else:
            self._note_end(live, found.code, "Error" if found.code else "Completed", "", found.at)

    def _note_end(self, live: Live, code: int, reason: str, message: str, at: float = 0) -> None:
        record = live.record
        record.state, record.exit_code, record.reason, record.message = ContainerState.EXITED, code, reason, message
        record.finished_at = max(at, record.started_at) or self.clock.now()
        self._save(record)
        live.exited.set()
        self._tell(EventKind.STOPPED, record)

    async def stop(self, container_id: str, grace_s: float) -> None:
        try:
            live = self.get(container_id)
        except NotFoundError:
            return
        async with live.lock:
            running = live.record.state is ContainerState.RUNNING
        if running:  # the lock is free again: a second, more impatient stop must not wait for this one
            await self._stop(live, grace_s)

    async def _stop(self, live: Live, grace_s: float) -> None:
        if grace_s > 0:
            send(live.record.process, signal_number(live.record.stop_signal))
            if await self._exits_within(live, grace_s):
                return
        send(live.record.process, signal.SIGKILL)
        if not await self._exits_within(live, _KILL_WAIT_S / 3):
            await self.threads.run(self.cgroups.kill, live.record.cgroup_path)
            if not await self._exits_within(live, _KILL_WAIT_S):
                raise RuntimeFailure(f"container {live.record.id} does not die")

    async def _exits_within(self, live: Live, seconds: float) -> bool:
        waits = [
            asyncio.create_task(live.exited.wait(), name="runtime/exited"),
            asyncio.create_task(self.clock.sleep(seconds), name="runtime/grace"),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        return live.exited.is_set()

    async def remove(self, container_id: str) -> None:
        try:
            live = self.get(container_id)
        except NotFoundError:
            return
        async with live.lock:
            if live.record.id not in self.live:
                return
            if live.record.state is ContainerState.RUNNING:
                await self._stop(live, 0)
            await self._destroy(live)
            del self.live[live.record.id]
        self._tell(EventKind.DELETED, live.record)

    async def _destroy(self, live: Live) -> None:
        if live.watch:
            live.watch.close()
        await self.threads.run(self._clear, live.record)

    def _clear(self, record: ContainerRecord) -> None:
        ended = record.state is ContainerState.EXITED
        engine, hooks = self._engine(record), bool(record.config.cdi_devices)  # which may be for its end
        if self.reap(record) and ended and not hooks:
            conmon.forget(engine, record.id)
        else:
            conmon.delete(engine, record.id)
        self.snapshots.release(record.id)
        drop_staged(self.bundle(record.id))
        self.trash.put(self.bundle(record.id), root=self.bundles, mounted=False)
        self.folder.forget(record.id)

    def kill_rest(self, record: ContainerRecord) -> bool:
        """Kill what a container's first process left behind: it can, in a shared pid namespace. False while it runs."""
        if not record.cgroup_path or record.state is ContainerState.RUNNING:
            return False
        self.cgroups.kill(record.cgroup_path)
        return True

    def reap(self, record: ContainerRecord) -> bool:
        """Remove the cgroups of a container that has ended, and whoever is left in them. Returns whether they are gone."""
        return self.kill_rest(record) and self.cgroups.remove(record.cgroup_path)

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        live = self.get(container_id)
        async with live.lock:
            record = live.record
            spec = resources_spec(resources, v2=kernel().cgroup_v2, hugetlb=kernel().hugetlb)
            path = self.bundle(record.id) / "update.json"
            if record.state is ContainerState.RUNNING:
                await self.threads.run(write_atomic, path, msgspec.json.encode(spec))
                command = self._engine(record).command("update", "--resources", str(path), record.id)
                await self.threads.run(run_command, command)
                if resources.cpu_quota_us == -1:
                    await self.threads.run(self.cgroups.lift_quota, record.cgroup_path)
            elif record.state is ContainerState.CREATED:
                await self.threads.run(rewrite_resources, self.bundle(record.id) / "config.json", spec)
            record.config = replace(record.config, resources=resources)
            self.folder.save(record)

    async def reopen_log(self, container_id: str) -> None:
        live = self.running(container_id)
        await self.threads.run(conmon.control, self.bundle(live.record.id), conmon.REOPEN_LOG)

    def close(self) -> None:
        for live in self.live.values():
            if live.watch:
                live.watch.close()

    def _tell(self, kind: EventKind, record: ContainerRecord) -> None:
        self._publish(kind, record.sandbox_id, record.id)


# ------------------------------------------------------------------------------------------------------------ helpers


def _processes(launched: conmon.Launched) -> tuple[ProcessRecord, ProcessRecord]:
    """The container's first process and its conmon; one that is gone already is none."""
    boot = boot_id()
    process, monitor = (ProcessRecord(pid, start_time(pid), boot) for pid in (launched.pid, launched.conmon_pid))
    return process, monitor


def is_alive(process: ProcessRecord) -> bool:
    """Whether it is that very process: the same boot, the same start, and no zombie."""
    return bool(process.pid) and process.boot == boot_id() and start_time(process.pid) == process.started


def send(process: ProcessRecord, number: int) -> None:
    """Signal a process through a pidfd, checked after opening, so that a reused pid is never hit."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


def signal_number(name: str) -> int:
    """``SIGTERM``, ``TERM``, ``15`` or ``SIGRTMIN+3``; SIGTERM for what is none."""
    text = name.upper().removeprefix("SIG")
    if text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    base, _, offset = text.partition("+")
    if base == "RTMIN" and offset.isdigit():
        return int(signal.SIGRTMIN) + int(offset)
    found = getattr(signal, f"SIG{text}", signal.SIGTERM)
    return int(found) if isinstance(found, signal.Signals) else int(signal.SIGTERM)
