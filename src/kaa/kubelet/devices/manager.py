"""Device plugins as the kubelet keeps them: who registered, which devices they offer, what containers were given.

A plugin registers at ``device-plugins/kubelet.sock`` (or by a socket in ``plugins_registry``), then streams its devices for
as long as it lives. What pods hold is in a checkpoint, so that it is theirs across restarts of the kubelet; plugins see the
kubelet's socket made anew and register again.
Source: pkg/kubelet/cm/devicemanager (manager.go, endpoint.go, plugin/v1beta1); Device Plugins in the documentation.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from kaa.api import names
from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Container, Pod, ResourceHealth, ResourceStatus
from kaa.runtime import base

from ..env import ConfigError
from ..metrics.hardware import HardwareMetrics
from ..tasks import Tasks
from ..topology.asked import plain_inits
from ..topology.base import Given, Hint, NotGiven
from . import Refused, RpcFailure, checkpoint
from .messages import (
    PLUGIN,
    REGISTRATION,
    VERSION,
    AllocateRequest,
    AllocateResponse,
    ContainerAllocation,
    ContainerPreference,
    Device,
    Empty,
    Ids,
    ListAndWatchResponse,
    Options,
    PluginInfo,
    PreferredAllocationRequest,
    PreferredAllocationResponse,
    RegisterRequest,
)
from .pool import Choice, Owner, Pool, Unavailable, requested
from .rpc import Connection, serve

if TYPE_CHECKING:
    from ..pod_resources.messages import ContainerDevices

log = structlog.get_logger(__name__)

FOLDER = "device-plugins"
GRACE_S = 300.0  #: a plugin that is gone so long takes its resource with it
_START_TIMEOUT_S = 30.0
_ALLOCATE_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 10.0
_SAVE = "checkpoint"
ANYWHERE = Hint()


class _Endpoint:
    """A plugin; one that is gone, or known from a checkpoint alone, has a time since when."""

    def __init__(self, resource: str, connection: Connection | None, stopped_at: float | None = None) -> None:
        self.resource, self.connection, self.stopped_at = resource, connection, stopped_at
        self.options = Options()


class DevicePlugins:
    """A Provider (``topology.base``). Allocations of the last life are known from the start; ``close`` it."""

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        changed: Callable[[], None] = lambda: None,
        health_changed: Callable[[str], None] = lambda uid: None,
        machine_nodes: Sequence[int] | None = None,
        metrics: HardwareMetrics | None = None,
    ) -> None:
        """
        Args:
            root: the kubelet's.
            changed: the node has other devices; health_changed: those of a pod (its uid) are well or ill now.
            machine_nodes: NUMA nodes; None: as the kernel says.
        """
        self.folder = root / FOLDER
        self.pool = Pool()
        self._clock, self._changed, self._health_changed = clock, changed, health_changed
        self._machine_nodes, self._metrics = machine_nodes, metrics or HardwareMetrics(clock)
        self._endpoints: dict[str, _Endpoint] = {}  #: {resource: its plugin}
        self._removed: set[str] = set()  #: resources whose plugin is gone for good
        self._tasks = Tasks("kubelet/device-plugin")
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._writing = asyncio.Lock()
        self._to_write = False
        self._written: checkpoint.Data | None = None
        self._count = 0
        self._restore()

    # ------------------------------------------------------------------------------------------------ own life

    def _restore(self) -> None:
        path = self.folder / checkpoint.FILE
        try:
            found = checkpoint.load(path)
            if found is not None:
                self.pool.restore(found)
        except (ValueError, OSError) as err:
            log.warning("device checkpoint not read: who has which device may be unknown", error=str(err))
            self.pool = Pool()
        now = self._clock.now()
        self._endpoints = {resource: _Endpoint(resource, None, now) for resource in self.pool.seen}
        if self._endpoints:
            self._expire_later()

    async def serve(self, path: Path) -> Any:
        """Answer plugins that register, at a socket. Returns the server, to be stopped."""
        return await serve(path, REGISTRATION, {"Register": (RegisterRequest, self._register)})

    async def close(self) -> None:
        """Let go of the plugins."""
        await self._tasks.close()

    def _save_soon(self) -> None:
        self._to_write = True
        if _SAVE not in self._tasks:
            self._tasks.start(_SAVE, self._save_asked())

    async def _save_asked(self) -> None:
        while self._to_write:
            self._to_write = False
            try:
                await self._save()
            except OSError as err:
                log.error("device checkpoint not written", error=str(err))

    async def _save(self) -> None:
        """Raises OSError."""
        async with self._writing:
            data = self.pool.written()
            if data != self._written:
                await asyncio.to_thread(checkpoint.save, self.folder / checkpoint.FILE, data)
                self._written = data

    # ------------------------------------------------------------------------------------------------ plugins

    async def _register(self, request: RegisterRequest) -> Empty:
        log.info("device plugin registers", resource=request.resource_name, endpoint=request.endpoint)
        self._metrics.device_plugin_registration_total.inc(request.resource_name)
        if request.version != VERSION:
            raise Refused(
                f'requested API version "{request.version}" is not supported by kubelet. Supported version is'
                f' ["{VERSION}"]'
            )
        check_name(request.resource_name)
        await self._connect(request.resource_name, str(self.folder / request.endpoint))
        return Empty()

    async def connect(self, info: PluginInfo, endpoint: str) -> None:
        """A plugin of the folder ``plugins_registry`` came. Raises Refused."""
        if VERSION not in info.versions:
            listed = " ".join(info.versions)
            raise Refused(f"manager version, {VERSION}, is not among plugin supported versions [{listed}]")
        try:
            check_name(info.name)
        except Refused as err:
            raise Refused(f"invalid name of device plugin socket: {err}") from None
        await self._connect(info.name, endpoint)

    async def disconnect(self, name: str, endpoint: str) -> None:
        """It went."""
        found = self._endpoints.get(name)
        if found is not None and found.connection is not None:
            await found.connection.close()  # its stream ends by that, and then it is lost

    async def _connect(self, resource: str, path: str) -> None:
        connection = await Connection.to(path, PLUGIN)
        endpoint = _Endpoint(resource, connection)
        try:
            await connection.dial()
            endpoint.options = await connection.call("GetDevicePluginOptions", Empty(), Options, _ANSWER_TIMEOUT_S)
        except BaseException as err:
            await connection.close()
            if isinstance(err, RpcFailure):
                raise Refused(f"device plugin: failed to get device plugin options: {err}") from err
            raise
        before = self._endpoints.get(resource)
        self._endpoints[resource] = endpoint
        self._removed.discard(resource)
        self._count += 1
        self._tasks.start(f"{resource}/{self._count}", self._follow(endpoint))
        if before is not None and before.connection is not None:
            await before.connection.close()

    async def _follow(self, endpoint: _Endpoint) -> None:
        """Take in what a plugin tells of its devices, until it is gone."""
        assert endpoint.connection is not None
        ended = "the plugin closed it"
        try:
            async for answer in endpoint.connection.stream("ListAndWatch", Empty(), ListAndWatchResponse):
                if self._endpoints.get(endpoint.resource) is endpoint:
                    self._told(endpoint.resource, answer.devices)
        except RpcFailure as err:
            ended = str(err)
        finally:
            await endpoint.connection.close()
        if self._endpoints.get(endpoint.resource) is endpoint:
            log.info("device plugin's stream ended", resource=endpoint.resource, error=ended)
            endpoint.stopped_at = self._clock.now()
            self._tell_pods(self.pool.lost(endpoint.resource))
            self._news()
            self._expire_later()

    def _told(self, resource: str, devices: Sequence[Device]) -> None:
        self._tell_pods(self.pool.tell(resource, devices))
        self._news()

    def _tell_pods(self, uids: Collection[str]) -> None:
        for uid in uids:
            self._health_changed(uid)

    def _news(self) -> None:
        self._save_soon()
        self._changed()

    def _expire_later(self) -> None:
        """The node must be looked at again when a plugin's grace is over."""
        self._clock.call_later(GRACE_S, self._changed)

    # ------------------------------------------------------------------------------------------------ the node

    def resources(self) -> tuple[dict[str, int], dict[str, int]]:
        """(capacity, allocatable) of every plugin's resource; 0 of those whose plugin is gone."""
        now = self._clock.now()
        for resource, endpoint in list(self._endpoints.items()):
            if endpoint.stopped_at is not None and now - endpoint.stopped_at >= GRACE_S:
                del self._endpoints[resource]
                self.pool.forget(resource)
                self._removed.add(resource)
                self._save_soon()
        gone = dict.fromkeys(sorted(self._removed), 0)
        capacity = {resource: len(seen.devices) for resource, seen in sorted(self.pool.seen.items())}
        allocatable = {resource: len(seen.healthy) for resource, seen in sorted(self.pool.seen.items())}
        return {**gone, **capacity}, {**gone, **allocatable}

    def devices_of(self, uid: str, container: str) -> list[ContainerDevices]:
        """Which devices a container has, for monitors: a row for each NUMA node of each."""
        every = self.pool.held.get((uid, container), {})
        return [
            row
            for resource, held in sorted(every.items())
            for one in sorted(held.all)
            for row in self._rows(resource, one)
        ]

    def all_devices(self) -> list[ContainerDevices]:
        """Those that are well, given out or not."""
        return [
            row
            for resource, seen in sorted(self.pool.seen.items())
            for one in sorted(seen.healthy)
            for row in self._rows(resource, one)
        ]

    def _rows(self, resource: str, device: str) -> list[ContainerDevices]:
        from ..pod_resources.messages import ContainerDevices, NumaNode, Topology

        nodes = self.pool.seen[resource].nodes(device) if resource in self.pool.seen else frozenset()
        if not nodes:
            return [ContainerDevices(resource, (device,))]
        return [ContainerDevices(resource, (device,), Topology((NumaNode(node),))) for node in sorted(nodes)]

    def health(self, uid: str, container: str) -> tuple[ResourceStatus, ...]:
        """How the devices of a container are, for its status."""
        return tuple(
            ResourceStatus(
                name=resource,
                resources=tuple(
                    ResourceHealth(resource_id=one, health=self.pool.health(resource, one)) for one in sorted(held.all)
                ),
            )
            for resource, held in sorted(self.pool.held.get((uid, container), {}).items())
        )

    # ------------------------------------------------------------------------------------------------ a Provider

    def hints(self, pod: Pod, container: Container) -> Mapping[str, Sequence[Hint] | None]:
        nodes = self._machine_nodes if self._machine_nodes is not None else machine_nodes()
        owner, inits = _owner(pod, container), plain_inits(pod)
        return {
            resource: self.pool.hints(owner, resource, wanted, self.pool.reusable(owner[0], resource, inits), nodes)
            for resource, wanted in self._wanted(container).items()
        }

    async def allocate(self, pod: Pod, container: Container, where: Hint) -> None:
        for resource, wanted in self._wanted(container).items():
            if resource in self._removed and self.pool.of(_owner(pod, container), resource) is None:
                raise out_of(resource, wanted)
            async with self._locks[resource]:
                try:
                    await self._allocate(_owner(pod, container), plain_inits(pod), resource, wanted, where)
                except (Unavailable, RpcFailure, OSError) as err:
                    text = f"Allocate failed due to {err}, which is unexpected"
                    raise NotGiven("UnexpectedAdmissionError", text) from err

    def given(self, pod: Pod, container: Container) -> Given:
        held = self.pool.held.get(_owner(pod, container), {})
        return merged([held[resource].answer for resource in sorted(held)])

    def holders(self) -> set[str]:
        """Uids of the pods that have devices."""
        return {uid for uid, _ in self.pool.held}

    def release(self, pod_uid: str) -> None:
        if self.pool.release(pod_uid):
            self._save_soon()

    async def before_start(self, pod: Pod, container: Container) -> None:
        """Tell the plugins that want to know that a container starts. Raises ConfigError: it must not start yet."""
        owner = _owner(pod, container)
        for resource in self._wanted(container):
            if self.pool.of(owner, resource) is None:  # let in before its plugin was known
                try:
                    await self.allocate(pod, container, ANYWHERE)
                except NotGiven as err:
                    raise ConfigError(err.message) from err
            endpoint, held = self._endpoints.get(resource), self.pool.of(owner, resource)
            if endpoint is None or held is None or not endpoint.options.pre_start_required:
                continue
            try:
                ids = Ids(tuple(sorted(held.all)))
                await self._plugin(resource).call("PreStartContainer", ids, Empty, _START_TIMEOUT_S)
            except RpcFailure as err:
                raise ConfigError(f"device plugin PreStartContainer rpc failed with err: {err}") from err

    def _wanted(self, container: Container) -> dict[str, int]:
        """{resource: how many} of what a container wants of plugins."""
        if not (self.pool.seen or self.pool.held or self._removed):
            return {}
        asked = requested(container.resources.limits) if container.resources is not None else {}
        return {name: number for name, number in asked.items() if self.pool.knows(name) or name in self._removed}

    async def _allocate(self, owner: Owner, inits: Collection[str], resource: str, wanted: int, where: Hint) -> None:
        """Choose devices and ask what they need. Raises Unavailable, RpcFailure, OSError."""
        if not self.pool.check(owner, resource, wanted):
            return
        choice = self.pool.choice(resource, wanted, self.pool.reusable(owner[0], resource, inits), where)
        ids = choice.settle(await self._liked(resource, choice))
        plugin = self._plugin(resource)
        request = AllocateRequest((Ids(tuple(sorted(ids))),))
        with self._metrics.allocation(resource):
            answer = await plugin.call("Allocate", request, AllocateResponse, _ALLOCATE_TIMEOUT_S)
        if not answer.containers:
            raise Unavailable("no containers return in allocation response")
        self.pool.hold(owner, resource, ids, answer.containers[0])
        await self._save()

    def _plugin(self, resource: str) -> Connection:
        endpoint = self._endpoints.get(resource)
        if endpoint is None or endpoint.connection is None:
            raise Unavailable(f"unknown Device Plugin {resource}")
        if endpoint.stopped_at is not None:
            raise Unavailable(f"endpoint {endpoint.resource} has been stopped")
        return endpoint.connection

    async def _liked(self, resource: str, choice: Choice) -> Sequence[str]:
        """What the plugin would choose, if it has a liking. Raises RpcFailure."""
        asks, endpoint = choice.asks, self._endpoints.get(resource)
        if asks is None or endpoint is None or not endpoint.options.preferred_allocation:
            return ()
        available, must = (tuple(sorted(each)) for each in asks)
        request = PreferredAllocationRequest((ContainerPreference(available, must, choice.wanted),))
        answer = await self._plugin(resource).call(
            "GetPreferredAllocation", request, PreferredAllocationResponse, _ANSWER_TIMEOUT_S
        )
        return answer.containers[0].ids if answer.containers else ()


def check_name(resource: str) -> None:
    """Raises Refused for what is no extended resource's name. Source: v1helper.IsExtendedResourceName."""
    native = "/" not in resource or "kubernetes.io/" in resource or resource.startswith("requests.")
    if native or names.qualified_name(f"requests.{resource}"):
        raise Refused(f'the ResourceName "{resource}" is invalid')


def out_of(resource: str, wanted: int) -> NotGiven:
    """The refusal of what the node had once: its plugin is gone for good."""
    text = f"Node didn't have enough resource: {resource}, requested: {wanted}, used: 0, capacity: 0"
    return NotGiven(f"OutOf{resource}", text)


def merged(answers: Sequence[ContainerAllocation]) -> Given:
    """What a container needs for all of its devices; of two for one path in it, the first."""
    env: dict[str, str] = {}
    annotations: dict[str, str] = {}
    mounts: dict[str, base.Mount] = {}
    devices: dict[str, base.Device] = {}
    for answer in answers:
        env = {**answer.envs, **env}
        annotations = {**answer.annotations, **annotations}
        for mount in answer.mounts:
            made = base.Mount(mount.host_path, mount.container_path, read_only=mount.read_only)
            mounts.setdefault(mount.container_path, made)
        for device in answer.devices:
            node = base.Device(device.host_path, device.container_path, device.permissions or "rwm")
            devices.setdefault(device.container_path, node)
    cdi = dict.fromkeys(one.name for answer in answers for one in answer.cdi_devices)
    return Given(
        env=env,
        mounts=tuple(mounts.values()),
        devices=tuple(devices.values()),
        annotations=annotations,
        cdi_devices=tuple(cdi),
    )


def machine_nodes(root: str = "/sys/devices/system/node") -> tuple[int, ...]:
    """The NUMA nodes of the machine."""
    try:
        found = [name[4:] for name in os.listdir(root) if name.startswith("node")]
    except OSError:
        return (0,)
    return tuple(sorted(int(one) for one in found if one.isdigit())) or (0,)


def _owner(pod: Pod, container: Container) -> Owner:
    return pod.metadata.uid or "", container.name
