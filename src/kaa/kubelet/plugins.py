"""What plugins on the node give to pods: device plugins and DRA drivers, as one Provider.

Few nodes have either. What a node without them pays is a socket that listens and a folder that is watched; the rest is
loaded by the first plugin that comes, the first pod with claims, or at the start when a checkpoint speaks of some.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Container, Pod, ResourceStatus
from kaa.client.client import Client

from .metrics.hardware import HardwareMetrics
from .topology.base import Given, Hint

if TYPE_CHECKING:
    from .claims.manager import ClaimManager
    from .devices.manager import DevicePlugins
    from .pod_resources.messages import ContainerDevices, DynamicResource

SOCKET = "device-plugins/kubelet.sock"
CHECKPOINT, CLAIMS = "device-plugins/kubelet_internal_checkpoint", "dra_manager_state"
NOTHING = Given()


def _has_claims(pod: Pod) -> bool:
    return bool(pod.spec.resource_claims) or pod.status.extended_resource_claim_status is not None


class Plugins:
    """A Provider (``topology.base``), and what it needs beside: a pod's preparation and its end, a container's start."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        root: Path,
        node_name: str,
        *,
        changed: Callable[[], None],
        wake: Callable[[str], None],
        loaded: Callable[[Plugins], None],
        metrics: HardwareMetrics | None = None,
    ) -> None:
        """
        Args:
            root: the kubelet's.
            changed: the node has other devices; wake: those of a pod (its uid) are well or ill now.
            loaded: it has become a provider of something.
        """
        self._metrics = metrics or HardwareMetrics(clock)
        self._client, self._clock, self._root, self._node_name = client, clock, root, node_name
        self._changed, self._wake, self._loaded = changed, wake, loaded
        self.devices: DevicePlugins | None = None
        self.claims: ClaimManager | None = None
        self.serving = asyncio.Event()  #: plugins can register
        if (root / CHECKPOINT).exists():
            self._load_devices()
        if (root / CLAIMS).exists():
            self._load_claims()

    def _load_devices(self) -> DevicePlugins:
        if self.devices is None:
            from .devices.manager import DevicePlugins

            self._tell_loaded()
            self.devices = DevicePlugins(
                self._root, self._clock, changed=self._changed, health_changed=self._wake, metrics=self._metrics
            )
        return self.devices

    def _load_claims(self) -> ClaimManager:
        if self.claims is None:
            from .claims.drivers import Drivers
            from .claims.manager import ClaimManager
            from .claims.slices import wipe_slices

            async def wipe(driver: str) -> None:
                await wipe_slices(self._client, self._clock, self._node_name, driver)

            self._tell_loaded()
            self.claims = ClaimManager(self._client, self._root, Drivers(self._clock, wipe), self._wake)
        return self.claims

    def _tell_loaded(self) -> None:
        if self.devices is None and self.claims is None:
            self._loaded(self)

    async def run(self, ready: asyncio.Event) -> None:
        """Serve plugins from when the node is ready until cancelled."""
        await ready.wait()
        from .claims.slices import wipe_slices
        from .devices.registry import PluginHandler, PluginRegistry
        from .listener import Listener

        listener = Listener(self._root / SOCKET, self._serve, keep=CHECKPOINT.rpartition("/")[2])
        handlers: dict[str, Callable[[], PluginHandler]] = {
            "DevicePlugin": self._load_devices,
            "DRAPlugin": lambda: self._load_claims().drivers,
        }
        registry = PluginRegistry(self._root, self._clock, handlers)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(listener.run(), name="kubelet/device-plugins")
                tasks.create_task(registry.run(), name="kubelet/plugins-registry")
                tasks.create_task(  # no driver has registered yet: nobody could prepare what they offer
                    wipe_slices(self._client, self._clock, self._node_name), name="kubelet/resource-slices"
                )
                await listener.listening.wait()
                await registry.watching.wait()
                self.serving.set()
        finally:
            self.serving.clear()
            if self.devices is not None:
                await self.devices.close()
            if self.claims is not None:
                await self.claims.drivers.close()

    async def _serve(self, path: Path) -> Any:
        return await self._load_devices().serve(path)

    # ------------------------------------------------------------------------------------------------ pods

    def hints(self, pod: Pod, container: Container) -> Mapping[str, Sequence[Hint] | None]:
        return self.devices.hints(pod, container) if self.devices is not None else {}

    async def allocate(self, pod: Pod, container: Container, where: Hint) -> None:
        if self.devices is not None:
            await self.devices.allocate(pod, container, where)

    def given(self, pod: Pod, container: Container) -> Given:
        of_plugins = self.devices.given(pod, container) if self.devices is not None else NOTHING
        if self.claims is None:
            return of_plugins
        claimed = self.claims.given(pod, container).cdi_devices
        return msgspec.structs.replace(of_plugins, cdi_devices=(*of_plugins.cdi_devices, *claimed))

    def holders(self) -> set[str]:
        """Uids of the pods that have devices of plugins."""
        return self.devices.holders() if self.devices is not None else set()

    def release(self, pod_uid: str) -> None:
        if self.devices is not None:
            self.devices.release(pod_uid)

    async def prepare(self, pod: Pod) -> None:
        """Before a pod's containers are made. Raises ClaimFailure."""
        if _has_claims(pod):
            with self._metrics.operation("PrepareResources"):
                await self._load_claims().prepare(pod)

    async def before_start(self, pod: Pod, container: Container) -> None:
        """Before each start of a container. Raises ConfigError."""
        if self.devices is not None:
            await self.devices.before_start(pod, container)

    async def unprepare(self, pod: Pod) -> None:
        """After all of a pod has ended, before that is told. Raises ClaimFailure."""
        if self.claims is not None:
            with self._metrics.operation("UnprepareResources") if _has_claims(pod) else nullcontext():
                await self.claims.unprepare(pod)

    async def keep_only(self, uids: Collection[str]) -> None:
        """Take back claims of pods that are no more."""
        if self.claims is not None:
            await self.claims.keep_only(uids)

    # ------------------------------------------------------------------------------------------------ telling

    def resources(self) -> tuple[dict[str, int], dict[str, int]]:
        """(capacity, allocatable) of the node in plugins' devices."""
        return self.devices.resources() if self.devices is not None else ({}, {})

    def devices_of(self, uid: str, container: str) -> list[ContainerDevices]:
        return self.devices.devices_of(uid, container) if self.devices is not None else []

    def all_devices(self) -> list[ContainerDevices]:
        return self.devices.all_devices() if self.devices is not None else []

    def claims_of(self, pod: Pod, container: Container) -> list[DynamicResource]:
        return self.claims.claims_of(pod, container) if self.claims is not None else []

    def health(self, pod: Pod) -> dict[str, tuple[ResourceStatus, ...]]:
        """{container: how the devices are that it has}."""
        if self.devices is None and self.claims is None:
            return {}
        found = {}
        for container in pod.spec.containers:
            held = self.devices.health(pod.metadata.uid or "", container.name) if self.devices is not None else ()
            claimed = self.claims.health(pod, container) if self.claims is not None else ()
            if held or claimed:
                found[container.name] = (*held, *claimed)
        return found
