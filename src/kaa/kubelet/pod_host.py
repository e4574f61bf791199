"""What the pods of a node share, and what a pod's containers refer to, fetched through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import ConfigMap, Pod, Secret, Service
from kaa.api.types.node_v1 import RuntimeClass
from kaa.client.client import Client
from kaa.client.informer import Lister
from kaa.client.pace import Lull
from kaa.runtime.base import HandlerFeatures, IdMap, Runtime, RuntimeFailure, RuntimeInfo

from .admission import HostPort
from .config import KubeletConfig, Recorder
from .env import ConfigError, Sources
from .images import Images
from .memory_rules import Rules
from .metrics.counters import KubeletMetrics
from .objects import Objects
from .plugins import Plugins
from .pod_plan import PodView
from .probing.probes import Prober
from .room import Room
from .status_writer import StatusWriter
from .topology.hardware import Hardware
from .userns import UserNamespaces
from .volumes import Volumes

QUIET_S, PATIENCE_S = 0.3, 2.0
T = TypeVar("T")


@dataclass(slots=True)
class PodHost:
    """What the pods of a node share."""

    client: Client
    runtime: Runtime
    clock: Clock
    config: KubeletConfig
    recorder: Recorder
    images: Images
    volumes: Volumes
    objects: Objects
    prober: Prober
    statuses: StatusWriter
    services: Lister[Service]
    memory_capacity_bytes: int
    allocatable: dict[str, str]
    room: Room  #: what the pods of this node were given of it
    ports: Callable[[str], frozenset[HostPort]]  #: the node's ports that they have
    pressure: Callable[[], frozenset[str]]  #: the conditions of pressure that hold on the node
    hardware: Hardware  #: CPUs, memory and devices that containers are given
    plugins: Plugins  #: device plugins and DRA drivers
    metrics: KubeletMetrics
    closing: Callable[[], str]  #: why no pod may begin any more; empty while they may
    users: UserNamespaces
    memory: Rules
    _clearing: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(2))
    _leaving: Lull = field(init=False)
    info: RuntimeInfo | None = None  #: what the runtime said of itself, once it was asked

    def __post_init__(self) -> None:
        self._leaving = Lull(self.clock, QUIET_S, PATIENCE_S)

    @asynccontextmanager
    async def clearing(self) -> AsyncIterator[None]:
        """The time to let go of what is left of a pod that has ended: when no more of them end, for others wait for those.
        A few do it at once."""
        self._leaving.stir()
        await self._leaving.wait()
        async with self._clearing:
            yield


# ------------------------------------------------------------------------------------------------ its runtime


async def runtime_handler(host: PodHost, pod: Pod) -> str:
    """The runtime handler that the pod's RuntimeClass names. Raises ApiError."""
    name = pod.spec.runtime_class_name
    return (await host.client.get(RuntimeClass, name)).handler if name else ""


async def runtime_info(host: PodHost) -> RuntimeInfo:
    """What the runtime is and can; it is asked once."""
    if host.info is None:
        host.info = await host.runtime.info()
    return host.info


async def features_of(host: PodHost, handler: str) -> HandlerFeatures:
    return (await runtime_info(host)).features.get(handler, HandlerFeatures())


async def own_users(host: PodHost, pod: Pod, handler: str) -> tuple[IdMap, ...]:
    """The node's ids for the pod's own user namespace, if it asks for one. Raises ConfigError."""
    if pod.spec.host_users is not False:
        return ()
    if not (await features_of(host, handler)).user_namespaces:
        raise ConfigError(f'RuntimeClass handler "{handler}" does not support user namespaces')
    return host.users.of(pod)


async def why_no_sandbox(host: PodHost, pod: Pod, err: Exception) -> tuple[str, str]:
    """(reason, message) of the event. Who fails for want of a network is told that, as upstream tells it beforehand."""
    if isinstance(err, RuntimeFailure) and not pod.spec.host_network:
        try:
            info = await host.runtime.info()
        except RuntimeFailure:
            info = None
        if info is not None and not info.network_ready:
            return "NetworkNotReady", f"network is not ready: container runtime network not ready: {info.message}"
    return "FailedCreatePodSandBox", f"Failed to create pod sandbox: {err}"


# ------------------------------------------------------------------------------------------------ what containers need


def plain_sources(host: PodHost, pod: Pod, view: PodView) -> Sources:
    """What can be said without asking anyone: addresses, services, the node's resources."""
    ips = view.sandbox.ips if view.sandbox is not None else ()
    return Sources(
        services=tuple(host.services),
        host_ips=host.config.node_ips,
        pod_ips=host.config.node_ips if pod.spec.host_network else ips,
        allocatable=host.allocatable,
    )


async def container_sources(host: PodHost, pod: Pod, view: PodView, spec: Any) -> Sources:
    """What the environment of a container refers to, as well."""
    maps = {e.config_map_ref.name or "" for e in spec.env_from if e.config_map_ref is not None}
    secrets = {e.secret_ref.name or "" for e in spec.env_from if e.secret_ref is not None}
    for source in (v.value_from for v in spec.env if v.value_from is not None):
        if source.config_map_key_ref is not None:
            maps.add(source.config_map_key_ref.name or "")
        if source.secret_key_ref is not None:
            secrets.add(source.secret_key_ref.name or "")
    return replace(
        plain_sources(host, pod, view),
        config_maps=await _fetched(host, pod, ConfigMap, maps),
        secrets=await _fetched(host, pod, Secret, secrets),
    )


async def pull_secrets(host: PodHost, pod: Pod) -> tuple[list[Secret], list[str]]:
    """(the secrets that the pod pulls its images with, the names of those that do not exist)"""
    names = [ref.name for ref in pod.spec.image_pull_secrets if ref.name]
    found = await _fetched(host, pod, Secret, set(names))
    return [found[name] for name in names if name in found], [name for name in names if name not in found]


async def image_volumes(
    host: PodHost, pod: Pod, spec: Any, secrets: list[Secret], say: Callable[..., None]
) -> dict[str, str]:
    """{volume: image id} of the images that a container mounts, pulled. Raises ImageError."""
    mounted = {mount.name for mount in spec.volume_mounts}
    found = {}
    for volume in pod.spec.volumes:
        if volume.image is not None and volume.name in mounted:
            wanted, policy = volume.image.reference or "", volume.image.pull_policy
            with host.metrics.images.volume():
                image = await host.images.ensure(wanted, policy, secrets, pod=pod, say=say)
            found[volume.name] = image.id
    return found


async def _fetched(host: PodHost, pod: Pod, kind: type[T], names: set[str]) -> dict[str, T]:
    made: dict[str, T] = {}
    for name in sorted(names):
        found = await host.objects.fetch(kind, pod.metadata.namespace or "", name, user=pod.metadata.uid or "")
        if found is not None:
            made[name] = found
    return made
