"""The runtime and the pods' network of a node that joined: the network comes when the node has a range of addresses.

The idea: the kubelet does not wait. Until the range is known the node says so in its Ready condition, pods of the host's
network run, and others get their sandbox as soon as there is a network: as upstream's nodes are before their CNI is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from kaa.api.clock import Clock
from kaa.api.errors import ApiError, NotFound
from kaa.api.types.core_v1 import Node
from kaa.client.client import Client
from kaa.client.informer import Informer
from kaa.runtime.base import PodNetwork, PortMapping, Runtime, RuntimeFailure

from .config import ConfigError
from .joined_config import JoinConfig, read_config, write_config

log = structlog.get_logger("kaa.kubelet")
#: What a node says of a network that nobody has set up yet, in upstream's words.
NOT_THERE = (
    "NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"
)
RETRY_S = 10.0


class LaterNetwork:
    """A ``PodNetwork`` that is there when ``inner`` is."""

    def __init__(self) -> None:
        self.inner: PodNetwork | None = None

    @property
    def missing(self) -> str:
        return NOT_THERE if self.inner is None else self.inner.missing

    async def attach(self, sandbox_id: str, netns_path: str, ports: tuple[PortMapping, ...]) -> tuple[str, ...]:
        if self.inner is None:
            raise RuntimeFailure(f"network is not ready: container runtime network not ready: {NOT_THERE}")
        return await self.inner.attach(sandbox_id, netns_path, ports)

    async def detach(self, sandbox_id: str) -> None:
        if self.inner is not None:
            await self.inner.detach(sandbox_id)

    async def keep_only(self, sandbox_ids: frozenset[str]) -> None:
        if self.inner is not None:
            await self.inner.keep_only(sandbox_ids)


class NodeRuntime(msgspec.Struct):
    """A runtime, and what to do for its pods' network once the node's range is known."""

    runtime: Runtime
    network: LaterNetwork | None = None

    @property
    def waits(self) -> bool:
        """Whether pods have no network of ours yet."""
        return self.network is not None and self.network.inner is None


async def runtime_of(config: JoinConfig, clock: Clock) -> NodeRuntime:
    """The runtime, started; with its network if the range is known already. Raises ConfigError."""
    try:
        if config.runtime == "simulated":
            from kaa.runtime.simulated import SimulatedRuntime

            return NodeRuntime(SimulatedRuntime(clock))
        return await (_cri(config, clock) if config.runtime == "cri" else _oci(config, clock))
    except RuntimeFailure as err:
        raise ConfigError(f"the container runtime cannot be used: {err}") from err


async def _cri(config: JoinConfig, clock: Clock) -> NodeRuntime:
    from kaa.runtime.cri.runtime import CriRuntime

    runtime = CriRuntime(config.container_runtime_endpoint, clock, owner=config.name)
    try:
        await runtime.start(pod_cidr=",".join(config.pod_cidrs))
    except BaseException:
        await runtime.close()
        raise
    return NodeRuntime(runtime)


async def _oci(config: JoinConfig, clock: Clock) -> NodeRuntime:
    from kaa.runtime.oci.linux import keep_in_memory
    from kaa.runtime.oci.runtime import OciRuntime

    network = LaterNetwork()

    if config.pod_cidrs:
        network.inner = await pod_network(config)
    folders = config.root / "containers", config.run_dir / "containers"
    keep_in_memory(folders[1])
    runtime = OciRuntime(*folders, clock, network=network, registries=config.root / "registries")
    await runtime.start()
    return NodeRuntime(runtime, network)


async def pod_network(config: JoinConfig) -> PodNetwork:
    """The bridge of the node's range, made or taken up. Raises RuntimeFailure."""
    from kaa.network.pods import BridgePodNetwork

    network = BridgePodNetwork(
        config.bridge, config.pod_cidrs, config.root / "network", cluster_cidrs=config.cluster_cidrs
    )
    await network.setup()
    return network


async def known_range(config: JoinConfig, client: Client) -> JoinConfig:
    """With the range that the node object has, if none was told and it has one."""
    if config.pod_cidrs:
        return config
    try:
        return with_range(config, await client.get(Node, config.node_name))
    except NotFound:
        return config
    except ApiError as err:  # what it had in its last life, its pods have still
        log.warning("the node's range is not known yet", error=str(err))
        before = read_config(config.root)
        return msgspec.structs.replace(config, pod_cidrs=before.pod_cidrs if before is not None else ())


def with_range(config: JoinConfig, node: Node) -> JoinConfig:
    spec = node.spec
    cidrs = tuple(spec.pod_cidrs) or ((spec.pod_cidr,) if spec.pod_cidr else ())
    return msgspec.structs.replace(config, pod_cidrs=cidrs)


async def network_when_ranged(
    config: JoinConfig, made: NodeRuntime, client: Client, clock: Clock, changed: Callable[[], None]
) -> None:
    """Set up the pods' network as soon as the node has a range; ``changed`` is told when it stands."""
    if not made.waits and (config.pod_cidrs or config.runtime != "cri"):
        return
    log.info(
        f"waiting for the pods' range of this node: spec.podCIDR, which the cluster's node IPAM gives; by hand:"
        f' kubectl patch node {config.node_name} -p \'{{"spec":{{"podCIDR":"10.244.1.0/24"}}}}\', or --pod-cidr'
        if made.waits
        else "pods' network: the container runtime's own"
    )
    config = await _ranged(config, client, clock)
    while True:
        try:
            await _give(config, made)
            break
        except (RuntimeFailure, OSError) as err:
            log.warning("pod network not set up", range=",".join(config.pod_cidrs), error=str(err))
            await clock.sleep(RETRY_S)
    write_config(config)
    log.info("pod network stands", range=",".join(config.pod_cidrs))
    changed()


async def _give(config: JoinConfig, made: NodeRuntime) -> None:
    from kaa.runtime.cri.runtime import CriRuntime

    if made.network is not None:
        made.network.inner = await pod_network(config)
    elif isinstance(made.runtime, CriRuntime):
        await made.runtime.update_pod_cidr(",".join(config.pod_cidrs))


async def _ranged(config: JoinConfig, client: Client, clock: Clock) -> JoinConfig:
    """The config once the node object names a range."""
    found: asyncio.Future[Node] = asyncio.get_running_loop().create_future()

    def look(old: Node | None, new: Node | None) -> None:
        if new is not None and with_range(config, new).pod_cidrs and not found.done():
            found.set_result(new)

    nodes: Informer[Node] = Informer(client, Node, clock, field_selector=f"metadata.name={config.node_name}")
    nodes.add_handler(look)
    following = asyncio.ensure_future(nodes.run())
    try:
        await asyncio.wait((following, found), return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        return with_range(config, await found)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
