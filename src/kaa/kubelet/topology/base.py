"""What hands out a part of the node's hardware: CPUs, memory, devices of plugins, claimed devices.

    hints of every provider ── policy merges ──> one Hint ── allocate ──> given to the container when it is made

Source: pkg/kubelet/cm/topologymanager (topology_manager.go), pkg/kubelet/container (RunContainerOptions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from kaa.api.types.core_v1 import Container, Pod
from kaa.runtime.base import Device, Mount


class Hint(msgspec.Struct, frozen=True):
    """NUMA nodes that could serve what is asked; None means any. ``preferred``: no fewer nodes could."""

    nodes: frozenset[int] | None = None
    preferred: bool = True


class Given(msgspec.Struct, frozen=True):
    """What a container gets of hardware, beside what its spec says. CPUs and memory nodes as the kernel lists them (``0-3,8``)."""

    cpus: str = ""
    memory_nodes: str = ""
    env: Mapping[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    annotations: Mapping[str, str] = {}
    cdi_devices: tuple[str, ...] = ()  #: ``vendor.com/class=name``


class NotGiven(Exception):
    """There is none of it for the pod, which must fail: ``reason`` and the message go to its status."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


class Provider(Protocol):
    """One kind of hardware. It remembers across restarts of the kubelet what it gave to whom."""

    def hints(self, pod: Pod, container: Container) -> Mapping[str, Sequence[Hint] | None]:
        """{resource: where it could come from}: None without a preference, empty when nothing could."""
        ...

    async def allocate(self, pod: Pod, container: Container, where: Hint) -> None:
        """Take what the container asks, from ``where`` if that can be. Repeatable. Raises NotGiven."""
        ...

    def given(self, pod: Pod, container: Container) -> Given:
        """What the container was given; empty without an allocation."""
        ...

    def release(self, pod_uid: str) -> None:
        """The pod is over: take everything back."""
        ...
