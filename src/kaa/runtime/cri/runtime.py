"""``CriRuntime``: the runtime contract on whatever serves the CRI, as a kubelet drives it.

Usage::

    runtime = CriRuntime("unix:///run/containerd/containerd.sock", SystemClock(), owner="kaa")
    await runtime.start()
    sandbox = await runtime.run_sandbox(SandboxConfig(name="web", namespace="default", uid="1"))

Nothing is kept here that the runtime does not know: another process finds the same sandboxes. The network is the runtime's
own (CNI). ``owner`` sets our sandboxes apart from those of others at the same runtime: only ours are listed, so that only
ours are ever taken for orphans.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import msgspec
import structlog

from ...api.clock import Clock
from ..base import (
    Container,
    ContainerConfig,
    ContainerUsage,
    ExecResult,
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
)
from ..events import Events
from . import convert
from . import messages as cri
from .channel import REQUEST_TIMEOUT_S, Channel, DeadlineError, NotServedError
from .events import CREATED, ENDED, GONE, RUNNING, Key, Tracker
from .streams import CriStreams, ForwardStreams, command_streams, forward_streams

log = structlog.get_logger(__name__)

RELIST_S = 1.0  # without events from the runtime, as the kubelet's generic PLEG
RELIST_WITH_EVENTS_S = 10.0
_START_TIMEOUT_S = 10.0
_STAGES = {cri.CREATED: CREATED, cri.RUNNING: RUNNING}


class CriRuntime:
    """See the module; every verb is documented at the ``Runtime`` contract."""

    def __init__(self, endpoint: str, clock: Clock, *, owner: str = "") -> None:
        self._channel, self._clock, self._owner = Channel(endpoint), clock, owner
        self._labels = convert.own_labels(owner)
        self._events, self._tracker = Events(), Tracker()
        self._relist_now, self._told = asyncio.Event(), False
        self._tasks: list[asyncio.Task[None]] = []
        self._ips: dict[str, tuple[str, ...]] = {}  #: {ready sandbox id: its addresses, which stay}
        self._given: dict[str, Resources] = {}  #: {container id: what it was last given by us}
        self._image_ids: dict[str, str] = {}  #: {reference: image id}
        self._pulling: dict[str, int] = {}
        self._sandbox_image = ""  #: what the runtime makes sandboxes of, when it tells

    # ------------------------------------------------------------------------------------------------- our own life

    async def start(self, *, pod_cidr: str = "") -> None:
        """Meet the runtime. ``pod_cidr`` is for runtimes that write their CNI configuration from it.

        Raises RuntimeFailure: nobody answers, or it is none that we can drive.
        """
        try:
            await self._channel.call("Version", cri.Empty(), cri.VersionResponse, timeout_s=_START_TIMEOUT_S)
        except NotServedError as err:
            raise RuntimeFailure(f"{self._channel.endpoint} does not serve the CRI v1: {err}") from err
        await self._check_cgroups()
        if pod_cidr:
            await self.update_pod_cidr(pod_cidr)
        told = await self._channel.call("Status", cri.StatusRequest(verbose=True), cri.StatusResponse)
        self._sandbox_image = _sandbox_image(told)
        await self._relist()
        for work, name in ((self._follow(), "events"), (self._keep_relisting(), "relist")):
            self._tasks.append(asyncio.create_task(work, name=f"runtime/cri-{name}"))

    async def update_pod_cidr(self, pod_cidr: str) -> None:
        """Tell the runtime the node's range of pods, for its CNI configuration."""
        wanted = cri.RuntimeConfig(cri.NetworkConfig(pod_cidr))
        await self._channel.do("UpdateRuntimeConfig", cri.UpdateRuntimeConfigRequest(wanted))

    async def _check_cgroups(self) -> None:
        try:
            told = await self._channel.call("RuntimeConfig", cri.Empty(), cri.RuntimeConfigResponse)
        except NotServedError:
            return  # older than the verb: what it does with a cgroup's path shows when it is given one
        if told.linux is not None and told.linux.cgroup_driver == cri.SYSTEMD:
            raise RuntimeFailure(
                f"{self._channel.endpoint} uses the systemd cgroup driver, kaa the cgroupfs one: set"
                " SystemdCgroup = false (containerd) or cgroup_manager = cgroupfs (CRI-O)"
            )

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._events.close()
        await self._channel.close()

    async def info(self) -> RuntimeInfo:
        version, status = await asyncio.gather(
            self._channel.call("Version", cri.Empty(), cri.VersionResponse),
            self._channel.call("Status", cri.Empty(), cri.StatusResponse),
        )
        conditions = {one.type: one for one in status.status.conditions}
        runtime, network = (conditions.get(f"{kind}Ready", cri.RuntimeCondition()) for kind in ("Runtime", "Network"))
        if not runtime.status:
            raise RuntimeFailure(runtime.message or runtime.reason or "the container runtime is not ready")
        return RuntimeInfo(
            name=version.runtime_name,
            version=version.runtime_version,
            handlers=tuple(handler.name for handler in status.runtime_handlers) or ("",),
            features=convert.features(status.runtime_handlers),
            strict_groups=status.features.supplemental_groups_policy,
            network_ready=network.status,
            message="" if network.status else f"NetworkReady=false reason:{network.reason} message:{network.message}",
        )

    # -------------------------------------------------------------------------------------------------------- events

    def events(self) -> AsyncIterator[RuntimeEvent]:
        return self._events.subscribe()

    def _saw(self, key: Key, stage: int) -> None:
        for kind in self._tracker.saw(key, stage):
            self._events.publish(RuntimeEvent(kind, key.sandbox_id, key.container_id, self._clock.now()))

    async def _relist(self) -> None:
        self._tracker.begin()
        sandboxes, containers = await asyncio.gather(self._sandboxes(), self._containers())
        found = {Key(one.id): RUNNING if one.state == cri.SANDBOX_READY else ENDED for one in sandboxes}
        found |= {Key(one.pod_sandbox_id, one.id): _STAGES.get(one.state, ENDED) for one in containers}
        for key, kind in self._tracker.relisted(found):
            self._events.publish(RuntimeEvent(kind, key.sandbox_id, key.container_id, self._clock.now()))
        for kept in (self._ips, self._given):
            for gone in set(kept) - {key.container_id or key.sandbox_id for key in found}:
                kept.pop(gone, None)

    async def _keep_relisting(self) -> None:
        silent = True
        while True:
            await self._until_due(RELIST_WITH_EVENTS_S if self._told else RELIST_S)
            try:
                await self._relist()
                silent = True
            except RuntimeFailure as err:
                if silent:
                    log.warning("containers cannot be listed", error=str(err))
                silent = False

    async def _until_due(self, seconds: float) -> None:
        """Until an event of the runtime, or for so long."""
        waits = [
            asyncio.create_task(self._relist_now.wait(), name="runtime/cri-event"),
            asyncio.create_task(self._clock.sleep(seconds), name="runtime/cri-period"),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._relist_now.clear()

    async def _follow(self) -> None:
        """An event of the runtime means: look again. One that sends none is looked at more often."""
        while True:
            try:
                async for _ in self._channel.stream("GetContainerEvents", cri.Empty(), cri.ContainerEvent):
                    self._told = True
                    self._relist_now.set()
            except NotServedError:
                return
            except RuntimeFailure as err:
                log.warning("runtime events ended", error=str(err))
            self._told = False
            await self._clock.sleep(RELIST_S)

    # ---------------------------------------------------------------------------------------------------- sandboxes

    async def run_sandbox(self, config: SandboxConfig) -> str:
        wanted = convert.sandbox_message(config, self._owner)
        for found in await self._sandboxes(uid=config.uid):
            if found.metadata == wanted.metadata and found.state == cri.SANDBOX_READY:
                return found.id
        asked = cri.RunPodSandboxRequest(wanted, config.runtime_handler)
        made = await self._channel.call("RunPodSandbox", asked, cri.Id, timeout_s=2 * REQUEST_TIMEOUT_S)
        self._saw(Key(made.id), RUNNING)
        return made.id

    async def stop_sandbox(self, sandbox_id: str, *, leaving: bool = False) -> None:
        await _unless_gone(self._channel.do("StopPodSandbox", cri.Id(sandbox_id)))
        self._ips.pop(sandbox_id, None)
        for key in self._tracker.members(sandbox_id):
            self._saw(key, ENDED)
        if self._tracker.knows(Key(sandbox_id)):
            self._saw(Key(sandbox_id), ENDED)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self.stop_sandbox(sandbox_id)
        await _unless_gone(self._channel.do("RemovePodSandbox", cri.Id(sandbox_id)))
        for key in (*self._tracker.members(sandbox_id), Key(sandbox_id)):
            self._saw(key, GONE)

    async def list_sandboxes(self, *, uid: str | None = None) -> list[Sandbox]:
        rows = [row for row in await self._sandboxes(uid=uid or "") if uid in (None, row.metadata.uid)]
        ips = await asyncio.gather(*(self._addresses(row) for row in rows))
        return [convert.sandbox(row, own) for row, own in zip(rows, ips, strict=True)]

    async def _sandboxes(self, sandbox_id: str = "", *, uid: str = "") -> list[cri.PodSandbox]:
        """The CRI's rows. An id must be whole: runtimes take its beginning too."""
        labels = self._labels | ({convert.UID: uid} if uid else {})
        asked = cri.ListPodSandboxRequest(cri.PodSandboxFilter(sandbox_id, labels))
        told = await self._channel.call("ListPodSandbox", asked, cri.ListPodSandboxResponse)
        return [row for row in told.items if sandbox_id in ("", row.id)]

    async def _addresses(self, row: cri.PodSandbox) -> tuple[str, ...]:
        if row.state != cri.SANDBOX_READY:
            return ()
        if row.id not in self._ips:
            try:
                found = await self._channel.call("PodSandboxStatus", cri.Id(row.id), cri.PodSandboxStatusResponse)
            except NotFoundError:
                return ()
            self._ips[row.id] = convert.addresses(found.status)
        return self._ips[row.id]

    # --------------------------------------------------------------------------------------------------- containers

    async def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        row = next(iter(await self._sandboxes(sandbox_id)), None) if sandbox_id else None
        if row is None:
            raise NotFoundError(f"sandbox {sandbox_id!r} not found")
        if convert.sandbox(row, ()).state is not SandboxState.READY:
            raise RuntimeFailure(f"sandbox {sandbox_id} is not ready")
        for found in await self._containers(sandbox_id=sandbox_id):
            if found.metadata == cri.ContainerMetadata(config.name, config.attempt):
                return found.id
        image = await self.image(config.image)
        if image is None:
            raise NotFoundError(f"image {config.image!r} not found")
        sandbox = convert.sandbox_config(row)
        if sandbox.log_directory and config.log_path:
            folder = (Path(sandbox.log_directory) / config.log_path).parent
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        wanted = convert.container_message(config, image, sandbox.namespaces, self._owner)
        asked = cri.CreateContainerRequest(sandbox_id, wanted, convert.sandbox_message(sandbox, self._owner))
        made = (await self._channel.call("CreateContainer", asked, cri.Id)).id
        self._given[made] = config.resources
        self._saw(Key(sandbox_id, made), CREATED)
        return made

    async def start_container(self, container_id: str) -> None:
        try:
            await self._channel.do("StartContainer", cri.Id(container_id))
        except RuntimeFailure:
            row = next(iter(await self._containers(container_id=container_id)), None)
            if row is None:
                raise
            self._saw(Key(row.pod_sandbox_id, row.id), _STAGES.get(row.state, ENDED))
            if row.state != cri.RUNNING:
                raise
        else:
            self._saw(await self._key(container_id), RUNNING)

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        timeout = convert.whole_seconds(grace_s)
        asked = cri.StopContainerRequest(container_id, timeout)
        stopping = self._channel.call("StopContainer", asked, cri.Empty, timeout_s=timeout + REQUEST_TIMEOUT_S)
        if await _unless_gone(stopping):
            self._saw(await self._key(container_id), ENDED)

    async def remove_container(self, container_id: str) -> None:
        key = await self._key(container_id)
        await _unless_gone(self._channel.do("RemoveContainer", cri.Id(container_id)))
        if key.sandbox_id:
            self._saw(key, GONE)
        self._given.pop(container_id, None)

    async def list_containers(self, *, sandbox_id: str = "") -> list[Container]:
        rows = await self._containers(sandbox_id=sandbox_id)
        found = await asyncio.gather(*(self._described(row) for row in rows))
        return [one for one in found if one is not None]

    async def container(self, container_id: str) -> Container:
        """With its pid, which a list does not tell: a runtime says it only among all that it knows."""
        row = next(iter(await self._containers(container_id=container_id)), None) if container_id else None
        found = await self._described(row, verbose=True) if row else None
        if found is None:
            raise NotFoundError(f"container {container_id!r} not found")
        return found

    async def _described(self, row: cri.Container, *, verbose: bool = False) -> Container | None:
        """None for one that went while we asked."""
        try:
            told = await self._channel.call(
                "ContainerStatus", cri.ContainerStatusRequest(row.id, verbose), cri.ContainerStatusResponse
            )
        except NotFoundError:
            return None
        image_id = await self._image_id(told.status.image_id or row.image_id or row.image_ref)
        return convert.container(row, told.status, image_id, self._given.get(row.id), _pid(told))

    async def _containers(self, *, sandbox_id: str = "", container_id: str = "") -> list[cri.Container]:
        """The CRI's rows, by whole ids as with sandboxes."""
        asked = cri.ListContainersRequest(cri.ContainerFilter(container_id, sandbox_id, self._labels))
        told = await self._channel.call("ListContainers", asked, cri.ListContainersResponse)
        return [
            row for row in told.containers if container_id in ("", row.id) and sandbox_id in ("", row.pod_sandbox_id)
        ]

    async def _key(self, container_id: str) -> Key:
        sandbox_id = self._tracker.sandbox_of(container_id)
        if not sandbox_id:
            row = next(iter(await self._containers(container_id=container_id)), None)
            sandbox_id = row.pod_sandbox_id if row else ""
        return Key(sandbox_id, container_id)

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        asked = cri.UpdateContainerResourcesRequest(container_id, convert.resources_message(resources))
        await self._channel.do("UpdateContainerResources", asked)
        self._given[container_id] = resources

    async def reopen_log(self, container_id: str) -> None:
        await self._channel.do("ReopenContainerLog", cri.Id(container_id))

    # -------------------------------------------------------------------------------------------- commands, streams

    async def checkpoint(self, container_id: str, location: str, timeout_s: float) -> None:
        timeout = convert.whole_seconds(timeout_s)
        asked = cri.CheckpointContainerRequest(container_id, location, timeout)
        await self._channel.do("CheckpointContainer", asked)

    async def exec_sync(self, container_id: str, command: tuple[str, ...], timeout_s: float) -> ExecResult:
        timeout = convert.whole_seconds(timeout_s)
        asked = cri.ExecSyncRequest(container_id, command, timeout)
        limit = timeout + REQUEST_TIMEOUT_S if timeout else None
        try:
            done = await self._channel.call("ExecSync", asked, cri.ExecSyncResponse, timeout_s=limit)
        except DeadlineError as err:
            raise TimeoutError(f"command timed out after {timeout_s:g}s") from err
        return ExecResult(done.exit_code, done.stdout, done.stderr)

    async def exec(self, container_id: str, command: tuple[str, ...], *, stdin: bool, tty: bool) -> CriStreams:
        asked = cri.ExecRequest(container_id, command, tty=tty, stdin=stdin, stdout=True, stderr=not tty)
        return await command_streams((await self._channel.call("Exec", asked, cri.Id)).id, stdin=stdin, tty=tty)

    async def attach(self, container_id: str, *, stdin: bool, tty: bool) -> CriStreams:
        asked = cri.AttachRequest(container_id, stdin, tty, stdout=True, stderr=not tty)
        return await command_streams((await self._channel.call("Attach", asked, cri.Id)).id, stdin=stdin, tty=tty)

    async def port_forward(self, sandbox_id: str, port: int) -> ForwardStreams:
        asked = cri.PortForwardRequest(sandbox_id, (port,))
        return await forward_streams((await self._channel.call("PortForward", asked, cri.Id)).id, port)

    async def usage(self) -> list[ContainerUsage]:
        asked = cri.ListContainerStatsRequest(cri.ContainerStatsFilter(label_selector=self._labels))
        told = await self._channel.call("ListContainerStats", asked, cri.ListContainerStatsResponse)
        found = (convert.usage(one) for one in told.stats)
        return [one for one in found if one is not None]

    # ------------------------------------------------------------------------------------------------------- images

    async def pull_image(self, reference: str, auth: ImageAuth | None = None) -> Image:
        asked = cri.PullImageRequest(cri.ImageSpec(reference, reference), convert.auth_message(auth))
        self._pulling[reference] = self._pulling.get(reference, 0) + 1
        try:
            pulled = await self._channel.call("PullImage", asked, cri.Id, timeout_s=None)
        except RuntimeFailure as err:
            raise ImagePullError(str(err)) from err
        finally:
            self._pulling[reference] -= 1
            if not self._pulling[reference]:
                del self._pulling[reference]
        found = await self.image(pulled.id)
        if found is None:
            raise ImagePullError(f"image {reference!r} was pulled, and removed at once")
        return found

    def pull_progress(self, reference: str) -> PullProgress | None:
        """That it runs is all that the CRI tells of a pull."""
        return PullProgress("pulling") if reference in self._pulling else None

    async def image(self, reference: str) -> Image | None:
        asked = cri.ImageRequest(cri.ImageSpec(reference))
        found = (await self._channel.call("ImageStatus", asked, cri.ImageStatusResponse)).image
        return convert.image(found) if found else None

    async def _image_id(self, reference: str) -> str:
        """``sha256:…`` of what a runtime calls an image by; the reference itself once the image is gone."""
        if reference.startswith("sha256:") or not reference:
            return reference
        if reference not in self._image_ids:
            found = await self.image(reference)
            if found is None:
                return reference
            self._image_ids[reference] = found.id
        return self._image_ids[reference]

    async def list_images(self) -> list[Image]:
        told, rows = await asyncio.gather(
            self._channel.call("ListImages", cri.Empty(), cri.ListImagesResponse),
            self._channel.call("ListContainers", cri.ListContainersRequest(), cri.ListContainersResponse),
        )
        foreign = [row for row in rows.containers if self._owner and row.labels.get(convert.OWNER) != self._owner]
        needed = {self._sandbox_image, *(row.image_id or row.image_ref for row in foreign)}
        return [
            convert.image(one, pinned=bool(needed & {one.id, *one.repo_tags, *one.repo_digests})) for one in told.images
        ]

    async def remove_image(self, image_id: str) -> None:
        await _unless_gone(self._channel.do("RemoveImage", cri.ImageRequest(cri.ImageSpec(image_id))))
        self._image_ids.clear()

    async def image_fs_bytes(self) -> tuple[int, int]:
        told = await self._channel.call("ImageFsInfo", cri.Empty(), cri.ImageFsInfoResponse)
        both = (*told.image_filesystems, *told.container_filesystems)
        return sum(one.used_bytes.value for one in both), sum(one.inodes_used.value for one in both)


async def _unless_gone(work: Awaitable[object]) -> bool:
    """Whether there was something to do it to."""
    try:
        await work
    except NotFoundError:
        return False
    return True


def _sandbox_image(told: cri.StatusResponse) -> str:
    """containerd says it in its configuration, and pins the image itself since 1.7; CRI-O always did."""
    settings = msgspec.json.decode(told.info.get("config", "{}"))
    image = settings.get("sandboxImage")
    return image if isinstance(image, str) else ""


def _pid(told: cri.ContainerStatusResponse) -> int:
    """The pid of a running container, from the JSON that containerd and CRI-O answer with when asked for all."""
    if told.status.state != cri.RUNNING or "info" not in told.info:
        return 0
    pid = msgspec.json.decode(told.info["info"]).get("pid")
    return pid if isinstance(pid, int) else 0
