"""Taking a cluster down: containers stopped, and for ``reset`` every mount, link, rule, cgroup and file that it made.

Files are removed last, by a walk that follows no link and crosses no mount: what a user mounted into a pod is unmounted,
never deleted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kaa.api.clock import SystemClock
from kaa.runtime.base import Runtime, RuntimeFailure
from kaa.runtime.files import remove_tree

from .config import ClusterConfig, ConfigError

if TYPE_CHECKING:
    from kaa.network.pods import BridgePodNetwork

STOP_GRACE_S = 5.0
AT_ONCE = 32  #: sandboxes: those that leave together are disconnected together
Progress = Callable[[str], None]


def stop_containers(config: ClusterConfig, progress: Progress) -> None:
    """End every container and sandbox; their records stay, so that the next ``up`` starts them anew."""
    asyncio.run(_stop_sandboxes(config, progress, remove=False))
    _unmount(config.run_dir)


def remove_everything(config: ClusterConfig, progress: Progress) -> None:
    """Leave nothing behind."""
    if config.runtime != "simulated" and os.geteuid() == 0:
        asyncio.run(_stop_sandboxes(config, progress, remove=True))
        progress("network, mounts, files")
        asyncio.run(_remove_network(config))
        _unmount(config.root)
        _remove_cgroups(config.cgroup_root)
    remove_tree(config.root, root=config.root.parent)


async def _stop_sandboxes(config: ClusterConfig, progress: Progress, *, remove: bool) -> None:
    runtime = await _runtime(config)
    if runtime is None:
        return
    try:
        await asyncio.gather(
            *(runtime.stop_container(c.id, STOP_GRACE_S) for c in await runtime.list_containers()),
            return_exceptions=True,
        )
        end = runtime.remove_sandbox if remove else runtime.stop_sandbox
        gate, left = asyncio.Semaphore(AT_ONCE), await runtime.list_sandboxes()

        async def ended(number: int, sandbox_id: str) -> None:
            async with gate:
                progress(f"pods: {number} of {len(left)}")
                await end(sandbox_id)

        await asyncio.gather(*(ended(number, sandbox.id) for number, sandbox in enumerate(left, 1)))
    finally:
        await runtime.close()


async def _runtime(config: ClusterConfig) -> Runtime | None:
    """What holds the cluster's containers; None when it never had any. Raises ConfigError when it cannot be asked."""
    if config.runtime == "cri":
        from kaa.runtime.cri.runtime import CriRuntime

        asked = CriRuntime(config.container_runtime_endpoint, SystemClock(), owner=config.name)
        try:
            await asked.start()
        except RuntimeFailure as err:
            await asked.close()
            raise ConfigError(f"the cluster's containers cannot be stopped: {err}; start the runtime first") from err
        return asked
    if not (config.root / "containers").is_dir():
        return None
    from kaa.runtime.oci.runtime import OciRuntime

    network = _network(config)
    runtime = OciRuntime(config.root / "containers", config.run_dir / "containers", SystemClock(), network=network)
    await runtime.start()
    return runtime


def _network(config: ClusterConfig) -> BridgePodNetwork:
    """The network of the node's pods; one that never had a range has none of it to remove."""
    from kaa.network.pods import BridgePodNetwork

    ranges = tuple(filter(None, (config.node_pod_cidr,)))
    return BridgePodNetwork(
        config.bridge, ranges, config.root / "network", cluster_cidrs=tuple(filter(None, (config.pod_cidr,)))
    )


async def _remove_network(config: ClusterConfig) -> None:
    from kaa.network import nft

    await _network(config).teardown()
    if any(name == config.table for _, name in await nft.tables(config.table)):
        await nft.delete_table(config.table)


def _unmount(folder: Path) -> None:
    """Unmount everything below a folder, deepest first."""
    from kaa.kubelet.volumes.mounts import SystemMounter

    SystemMounter().unmount_below(folder)


def _remove_cgroups(root: str) -> None:
    """Remove the cluster's cgroups, leaves first. They are empty by now; a moment's grace for the kernel."""
    base = Path("/sys/fs/cgroup")
    hierarchies = [base] if (base / "cgroup.controllers").exists() else [p for p in base.iterdir() if p.is_dir()]
    for hierarchy in hierarchies:
        top = hierarchy / root.lstrip("/")
        for folder, _, _ in os.walk(top, topdown=False):
            _remove_cgroup(Path(folder))


def _remove_cgroup(folder: Path) -> None:
    for _ in range(50):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return
