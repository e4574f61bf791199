"""``OciRuntime``: the runtime contract on runc or crun, conmon and overlayfs.

Usage::

    runtime = OciRuntime(Path("/var/lib/kaa/runtime"), Path("/run/kaa/runtime"), SystemClock())
    await runtime.start()                     # finds again what an earlier process left
    await runtime.import_images(archive)
    sandbox = await runtime.run_sandbox(SandboxConfig(name="web", namespace="default", uid="1"))

It holds nothing that its containers need: they live on when it is closed or killed. ``root`` keeps images, roots and state
over restarts of the machine, ``run_dir`` (on tmpfs, best) what a restart ends anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from ... import __version__
from ...api.clock import Clock
from ..base import (
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
    Mount,
    NotFoundError,
    PodNetwork,
    PullProgress,
    Resources,
    RuntimeEvent,
    RuntimeFailure,
    RuntimeInfo,
    Sandbox,
    SandboxConfig,
    Security,
    Streams,
)
from ..events import Events
from ..files import Trash, tree_usage
from . import sandbox as namespaces
from .apparmor import AppArmor
from .archive import import_archive
from .bundle import Facts, User
from .containers import Containers, is_alive
from .detect import kernel
from .engines import Engines
from .execs import exec_folder, exec_streams, exec_to_end
from .files import write_atomic
from .grouped import Grouped
from .images import ImageRecord, ImageStore
from .linux import boot_id, in_own_thread, start_time
from .prepare import IMAGE_VOLUME_FAILED
from .registry import Puller
from .snapshots import Snapshots
from .state import Folder, ProcessRecord, SandboxRecord
from .streams import attach_streams, forward_streams
from .users import reachable
from .work import Threads, to_its_end

log = structlog.get_logger(__name__)

CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
_DISK_USAGE_S = 10.0


@dataclass
class _LiveSandbox:
    record: SandboxRecord
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    stopped: bool = False  #: this process took its network down, and whatever ran in it: removing need not do so again
    released: bool = False  #: and let go of its namespaces and cgroups


class OciRuntime:
    """See the module; every verb is documented at the ``Runtime`` contract."""

    def __init__(
        self,
        root: Path,
        run_dir: Path,
        clock: Clock,
        *,
        network: PodNetwork | None = None,
        registries: Path | None = None,
        cdi_folders: tuple[str, ...] = CDI_FOLDERS,
        runtime_binary: str | None = None,
    ) -> None:
        """``registries``: the folder of hosts files; ``cdi_folders``: those of CDI specs, the weightiest last.

        Raises RuntimeFailure when runc (or crun) or conmon is not installed."""
        self.root, self.run_dir, self.clock, self.network = root.absolute(), run_dir.absolute(), clock, network
        self.engines = Engines(self.run_dir, self._shelter, runtime_binary)
        self.trash = Trash(self.root / "trash")
        self.snapshots = Snapshots(self.root, self.trash)
        self.images = ImageStore(self.root / "images", self.snapshots)
        self.threads, self._events = Threads(), Events()
        self.containers = Containers(
            self.root, self.run_dir, clock, self.engines, self.snapshots, self._publish, self.threads, self.trash
        )
        self._handlers = ("", *self.engines)  #: what a RuntimeClass may ask for
        self._monitors = f"{self.containers.own_cgroup}/monitors"  #: the cgroup of every conmon
        self.sandboxes: Grouped[_LiveSandbox] = Grouped(lambda live: live.record.config.uid)
        self._sandbox_folder = Folder(self.root / "sandboxes", SandboxRecord)
        self._images_lock = asyncio.Lock()
        self._disk: dict[str, tuple[float, tuple[int, int]]] = {}
        self._warned_shelter = False
        self._cdi_folders = cdi_folders
        self._apparmor = AppArmor()
        self._puller = Puller(self.images, self.threads, clock, registries)

    # ------------------------------------------------------------------------------------------------- our own life

    async def start(self) -> None:
        """Open the stores and take up what an earlier process left. Call once, before anything else."""
        for folder in (self.root, self.run_dir, self.run_dir / "sandboxes"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        await self.threads.run(self.trash.open)
        await self.threads.run(self.snapshots.open)
        await self.threads.run(self.images.open)
        for record in await self.threads.run(lambda: list(self._sandbox_folder.load())):
            self.sandboxes[record.id] = _LiveSandbox(record)
            if record.made:
                self._adopt(record)
                continue
            try:
                await self._destroy_sandbox(record)
            except (RuntimeFailure, OSError) as err:  # the next start finds it again
                log.warning("a half made sandbox stays for now", sandbox=record.id, error=str(err))
        await self.containers.adopt(set(self.sandboxes))
        await self.threads.run(self._sweep_folders)
        await self._sweep_images()
        if self.network:
            await self.network.keep_only(frozenset(key for key, live in self.sandboxes.items() if live.record.ready))

    def _adopt(self, record: SandboxRecord) -> None:
        whole = namespaces.held(self._folder(record.id), record.config)
        whole = whole and (not record.pause.pid or is_alive(record.pause))
        if record.ready and not whole:
            self._not_ready(record)

    def _not_ready(self, record: SandboxRecord) -> None:
        """Note that a sandbox is none any more. On a full disk only we know; whoever comes after us sees it for himself."""
        record.ready = False
        try:
            self._sandbox_folder.save(record)
        except OSError as err:
            log.warning("state is not saved", sandbox=record.id, error=str(err))

    def _sweep_folders(self) -> None:
        for folder in (self.run_dir / "sandboxes").iterdir():
            if folder.name not in self.sandboxes:
                namespaces.drop_namespaces(folder)
        for pid_file in exec_folder(self.run_dir).glob("*"):  # of an exec whose agent was killed
            pid_file.unlink(missing_ok=True)

    async def close(self) -> None:
        await self._puller.close()
        self.containers.close()
        self._events.close()
        await self.threads.run(self.containers.cgroups.remove, self.containers.own_cgroup)  # stays while something runs
        self.threads.close()
        self.trash.close()

    def _shelter(self, pid: int) -> None:
        try:
            self.containers.cgroups.shelter(self._monitors, pid)
        except OSError as err:
            if not self._warned_shelter:
                self._warned_shelter = True
                log.warning("conmon stays in our cgroup: stopping our service may stop containers", error=str(err))

    async def info(self) -> RuntimeInfo:
        machine = kernel()
        mapped = machine.user_namespaces and self.snapshots.overlay and reachable(self.snapshots.writable)
        features = HandlerFeatures(machine.recursive_read_only, mapped)
        missing = self.network.missing if self.network is not None else ""
        return RuntimeInfo(
            "kaa",
            __version__,
            handlers=self._handlers,
            network_ready=not missing,
            message=missing,
            features=dict.fromkeys(self._handlers, features),
            strict_groups=True,
        )

    def events(self) -> AsyncIterator[RuntimeEvent]:
        return self._events.subscribe()

    # ---------------------------------------------------------------------------------------------------- sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        for live in self.sandboxes.of(config.uid):
            if live.record.made and live.record.ready and _identity(live.record.config) == _identity(config):
                return live.record.id
        if config.runtime_handler not in self._handlers:
            raise RuntimeFailure(
                f'failed to get sandbox runtime: no runtime for "{config.runtime_handler}" is configured'
            )
        record = SandboxRecord(f"{self.clock.random.getrandbits(256):064x}", config, self.clock.now())
        self.sandboxes[record.id] = live = _LiveSandbox(record)
        async with live.lock:
            try:
                await to_its_end(self._make_sandbox(record), f"runtime/sandbox {record.id[:12]}")
            except BaseException:
                await to_its_end(self._destroy_sandbox(record), f"runtime/undo {record.id[:12]}")
                raise
        self._publish(EventKind.STARTED, record.id)
        return record.id

    async def _make_sandbox(self, record: SandboxRecord) -> None:
        self._sandbox_folder.save(record)
        folder = self._folder(record.id)
        await in_own_thread(lambda: _make_folder(folder, record.config))
        if record.config.namespaces.pid == "pod":
            pid = await in_own_thread(lambda: namespaces.start_pause(folder, record.config))
            record.pause = ProcessRecord(pid, start_time(pid), boot_id())
            self._sandbox_folder.save(record)
        if self.network and record.config.namespaces.network != "node":
            record.ips = await self.network.attach(record.id, str(folder / "net"), record.config.ports)
        record.made = record.ready = True
        self._sandbox_folder.save(record)

    async def stop_sandbox(self, sandbox_id: str, *, leaving: bool = False) -> None:
        live = self.sandboxes.get(sandbox_id)
        if live is None:
            return
        async with live.lock:
            await self._stop_sandbox(live, leaving)

    async def _stop_sandbox(self, live: _LiveSandbox, leaving: bool) -> None:
        record = live.record
        left = [c.record.id for c in self.containers.within(record.id) if c.record.state is not ContainerState.EXITED]
        await asyncio.gather(*(self.containers.stop(container_id, 0) for container_id in left))
        if not live.stopped:
            if self.network and record.config.namespaces.network != "node":
                await self.network.detach(record.id)
            if record.config.namespaces.pid != "container":  # the end of its first process ends such a one
                await self.threads.run(self._kill_rest, record)
            live.stopped = True
        if not live.released and not leaving:
            await self.threads.run(self._release_sandbox, record)
            live.released = True
        if record.ready:
            self._not_ready(record)
            self._publish(EventKind.STOPPED, record.id)

    def _kill_rest(self, record: SandboxRecord) -> None:
        """What the containers' first processes left behind, and whoever reaped for them."""
        for live in self.containers.within(record.id):
            self.containers.kill_rest(live.record)
        if record.pause.pid and record.pause.boot == boot_id():
            namespaces.kill_pause(record.pause.pid, record.pause.started)

    def _release_sandbox(self, record: SandboxRecord) -> None:
        """Cgroups of ended containers go first, so that the caller can remove the sandbox's own."""
        for live in self.containers.within(record.id):
            self.containers.reap(live.record)
        namespaces.drop_namespaces(self._folder(record.id))
        self._remove_cgroup(record)

    def _remove_cgroup(self, record: SandboxRecord) -> None:
        """The sandbox's own, unless the caller named one. A container that is still dying keeps it until the next time."""
        if not record.config.cgroup_parent:
            self.containers.cgroups.remove(f"{self.containers.own_cgroup}/{record.id}")

    def _forget_sandbox(self, record: SandboxRecord) -> None:
        self._remove_cgroup(record)
        self._sandbox_folder.forget(record.id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        live = self.sandboxes.get(sandbox_id)
        if live is None:
            return
        async with live.lock:
            if sandbox_id not in self.sandboxes:
                return
            await self._stop_sandbox(live, leaving=False)
            await asyncio.gather(*(self.containers.remove(c.record.id) for c in self.containers.within(sandbox_id)))
            await self.threads.run(self._forget_sandbox, live.record)
            self._publish(EventKind.DELETED, sandbox_id)
            self.sandboxes.pop(sandbox_id, None)

    async def _destroy_sandbox(self, record: SandboxRecord) -> None:
        """Undo what was half made."""
        if self.network and record.config.namespaces.network != "node":
            with contextlib.suppress(RuntimeFailure):
                await self.network.detach(record.id)
        await self.threads.run(self._kill_rest, record)
        await self.threads.run(self._release_sandbox, record)
        await self.threads.run(self._forget_sandbox, record)
        self.sandboxes.pop(record.id, None)

    async def list_sandboxes(self, *, uid: str | None = None) -> list[Sandbox]:
        records = [live.record for live in (self.sandboxes.values() if uid is None else self.sandboxes.of(uid))]
        for record in records:
            if record.ready and record.pause.pid and not is_alive(record.pause):
                self._not_ready(record)
        return [record.public() for record in records if record.made]

    def _folder(self, sandbox_id: str) -> Path:
        return self.run_dir / "sandboxes" / sandbox_id

    def _sandbox(self, sandbox_id: str) -> _LiveSandbox:
        live = self.sandboxes.get(sandbox_id)
        if live is None or not live.record.made:
            raise NotFoundError(f"sandbox {sandbox_id!r} not found")
        return live

    # --------------------------------------------------------------------------------------------------- containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        sandbox = self._sandbox(sandbox_id).record
        if not sandbox.ready:
            raise RuntimeFailure(f"sandbox {sandbox_id} is not ready")
        for live in self.containers.within(sandbox_id):
            record = live.record
            if record.made and (record.config.name, record.config.attempt) == (config.name, config.attempt):
                return record.id
        image = self.images.find(config.image)
        if image is None:
            raise NotFoundError(f"image {config.image!r} not found")
        volumes = {mount.image: self._volume(mount.image) for mount in config.mounts if mount.image}
        facts = replace(self._facts(sandbox, config), apparmor=await self._profile(config.security))
        return await self.containers.create(sandbox, config, image, facts, volumes)

    async def _profile(self, security: Security) -> str:
        """The AppArmor profile of a container. Raises RuntimeFailure."""
        if not self._apparmor.enabled:
            return self._apparmor.profile(security)
        return await self.threads.run(self._apparmor.profile, security)

    def _volume(self, image_id: str) -> tuple[str, ...]:
        """The layers of an image that a container mounts."""
        image = self.images.find(image_id)
        if image is None:
            raise RuntimeFailure(f"{IMAGE_VOLUME_FAILED}: image {image_id!r} not found")
        return image.chain

    def _facts(self, sandbox: SandboxRecord, config: ContainerConfig) -> Facts:
        machine, folder = kernel(), self._folder(sandbox.id)
        return Facts(
            rootfs="",
            cgroup_path="",
            namespaces=self._namespaces(sandbox, config),
            user=User(),
            mounts=tuple(_sandbox_mounts(folder, sandbox.config)),
            hostname=(folder / "hostname").read_text().strip(),
            capabilities=machine.capabilities,
            lowest_oom_score_adj=machine.lowest_oom_score_adj,
            cgroup_v2=machine.cgroup_v2,
            cdi_folders=self._cdi_folders,
            hugetlb=machine.hugetlb,
            users=sandbox.config.namespaces.users,
        )

    def _namespaces(self, sandbox: SandboxRecord, config: ContainerConfig) -> dict[str, str | None]:
        """{OCI kind: path}; the host's are left out."""
        folder = self._folder(sandbox.id)
        names = {"net": "network", "ipc": "ipc", "uts": "uts", "user": "user"}
        found: dict[str, str | None] = {"mount": None}
        found |= {names[name]: str(folder / name) for name in namespaces.wanted_namespaces(sandbox.config)}
        if config.pid_target:
            target = self.containers.running(config.pid_target).record
            found["pid"] = f"/proc/{target.process.pid}/ns/pid"
        elif sandbox.config.namespaces.pid == "pod":
            found["pid"] = f"/proc/{sandbox.pause.pid}/ns/pid"
        elif sandbox.config.namespaces.pid == "container":
            found["pid"] = None
        if kernel().cgroup_v2 and not config.security.privileged:
            found["cgroup"] = None
        return found

    async def start_container(self, container_id: str) -> None:
        await self.containers.start(container_id)

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        await self.containers.stop(container_id, grace_s)

    async def remove_container(self, container_id: str) -> None:
        await self.containers.remove(container_id)

    async def list_containers(self, *, sandbox_id: str = "") -> list[Container]:
        return self.containers.listed(sandbox_id)

    async def container(self, container_id: str) -> Container:
        return self.containers.get(container_id).record.public()

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        await self.containers.update_resources(container_id, resources)

    async def reopen_log(self, container_id: str) -> None:
        await self.containers.reopen_log(container_id)

    async def checkpoint(self, container_id: str, location: str, timeout_s: float) -> None:
        from . import checkpoint

        record = self.containers.running(container_id).record
        bundle, upper = self.containers.bundle(record.id), self.snapshots.upper(record.id)
        now = self.clock.now()
        await self.threads.run(
            checkpoint.take, self.engines.of(record.engine), record, bundle, upper, Path(location), timeout_s, now
        )

    async def exec_sync(self, container_id: str, command: tuple[str, ...], timeout_s: float) -> ExecResult:
        live = self.containers.running(container_id)
        bundle, engine = self.containers.bundle(live.record.id), self.engines.of(live.record.engine)
        owner = live.record.stdio_owner
        return await exec_to_end(engine, self.threads, self.clock, bundle, command, timeout_s, owner)

    async def exec(self, container_id: str, command: tuple[str, ...], *, stdin: bool, tty: bool) -> Streams:
        live = self.containers.running(container_id)
        engine, owner = self.engines.of(live.record.engine), live.record.stdio_owner
        bundle = self.containers.bundle(live.record.id)
        return await exec_streams(engine, self.threads, bundle, command, stdin=stdin, tty=tty, owner=owner)

    async def attach(self, container_id: str, *, stdin: bool, tty: bool) -> Streams:
        live = self.containers.running(container_id)
        return await attach_streams(self.containers.bundle(live.record.id), stdin=stdin)

    async def port_forward(self, sandbox_id: str, port: int) -> Streams:
        sandbox = self._sandbox(sandbox_id).record
        if not sandbox.ready:
            raise RuntimeFailure(f"sandbox {sandbox_id} is not ready")
        own = sandbox.config.namespaces.network != "node"
        return await forward_streams(self._folder(sandbox_id) / "net" if own else None, port)

    # -------------------------------------------------------------------------------------------------------- usage

    async def usage(self) -> list[ContainerUsage]:
        records = [live.record for live in self.containers.live.values() if live.record.started_at]
        alive = [record for record in records if not record.finished_at]
        self._disk = {record.id: self._disk[record.id] for record in alive if record.id in self._disk}
        return await self.threads.run(
            lambda: [use for record in alive if (use := self._usage(record.id, record.cgroup_path))]
        )

    def _usage(self, container_id: str, cgroup_path: str) -> ContainerUsage | None:
        now = self.clock.monotonic()
        found = self.containers.cgroups.usage(cgroup_path, container_id, self.clock.now())
        if found is None:
            return None
        known = self._disk.get(container_id)
        if known is None or now - known[0] >= _DISK_USAGE_S:
            known = self._disk[container_id] = (now, tree_usage(self.snapshots.upper(container_id)))
        return replace(found, rootfs_bytes=known[1][0], rootfs_inodes=known[1][1])

    async def image_fs_bytes(self) -> tuple[int, int]:
        return await self.threads.run(self.snapshots.usage)

    # ------------------------------------------------------------------------------------------------------- images

    async def pull_image(self, reference: str, auth: ImageAuth | None = None) -> Image:
        return (await self._puller.pull(reference, auth or ImageAuth())).public()

    def pull_progress(self, reference: str) -> PullProgress | None:
        return self._puller.progress(reference)

    async def import_images(self, archive: Path, names: Sequence[str] = ()) -> list[Image]:
        """Take in an OCI or docker archive. Raises ImagePullError when it is none, or not what its digests say."""
        async with self._images_lock:
            try:
                found: list[ImageRecord] = await self.threads.run(import_archive, archive, self.images, names)
            except (ValueError, OSError) as err:
                raise ImagePullError(f"cannot import {archive}: {err}") from err
        return [record.public() for record in found]

    async def image(self, reference: str) -> Image | None:
        found = self.images.find(reference)
        return found.public() if found else None

    async def list_images(self) -> list[Image]:
        return [record.public() for record in self.images.records.values()]

    async def remove_image(self, image_id: str) -> None:
        async with self._images_lock:
            if self.images.remove(image_id) and not self._puller.busy:
                await self._sweep_images()

    async def _sweep_images(self) -> None:
        """Drop what no image and no container needs; also what a pull left that ended half way."""
        records = [live.record for live in self.containers.live.values()]
        used = [layer for one in records for chain in (one.chain, *one.volumes.values()) for layer in chain]
        await self.threads.run(self.images.sweep, used)

    def _publish(self, kind: EventKind, sandbox_id: str, container_id: str = "") -> None:
        live = self.sandboxes.get(sandbox_id)
        uid = live.record.config.uid if live is not None else ""
        self._events.publish(RuntimeEvent(kind, sandbox_id, container_id, self.clock.now(), uid))


def _identity(config: SandboxConfig) -> tuple[str, str, str, int]:
    return config.namespace, config.name, config.uid, config.attempt


def _make_folder(folder: Path, config: SandboxConfig) -> None:
    """The sandbox's namespaces and the files that its containers see. Runs in a thread of its own."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    own_name = config.namespaces.network != "node"
    hostname = (config.hostname or config.name) if own_name else os.uname().nodename
    write_atomic(folder / "hostname", f"{hostname}\n".encode(), 0o644)
    write_atomic(folder / "resolv.conf", _resolv_conf(config).encode(), 0o644)
    hosts = Path("/etc/hosts")
    write_atomic(folder / "hosts", hosts.read_bytes() if hosts.exists() else b"127.0.0.1\tlocalhost\n", 0o644)
    namespaces.make_namespaces(folder, config)


def _resolv_conf(config: SandboxConfig) -> str:
    dns = config.dns
    if dns is None:
        host = Path("/etc/resolv.conf")
        return host.read_text() if host.exists() else ""
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {server}" for server in dns.servers]
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def _sandbox_mounts(folder: Path, config: SandboxConfig) -> list[Mount]:
    shm = "/dev/shm" if config.namespaces.ipc == "node" else str(folder / "shm")
    return [
        Mount(str(folder / "hostname"), "/etc/hostname"),
        Mount(str(folder / "hosts"), "/etc/hosts"),
        Mount(str(folder / "resolv.conf"), "/etc/resolv.conf"),
        Mount(shm, "/dev/shm"),
    ]
