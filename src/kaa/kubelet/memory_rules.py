"""What a container may have of a machine's swap and huge pages. Pure.

Source: kuberuntime_container_linux.go (swap, memory.oom.group), pkg/kubelet/cm/helpers_linux.go (hugetlb), KEP-2400.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from kaa.api import quantity
from kaa.api.types.core_v1 import Container, Pod
from kaa.runtime.base import Resources

from .cgroups import qos_class
from .config import KubeletConfig
from .machine import Machine
from .memory_qos import MemoryQos

LIMITED_SWAP = "LimitedSwap"
SYSTEM_CRITICAL = 2_000_000_000


class Rules(msgspec.Struct, frozen=True):
    """What the kubelet's configuration says of swap and of the kernel's killing."""

    swap_behavior: str = ""
    single_process_oom_kill: bool | None = None
    machine: Machine = Machine()
    memory_bytes: int = 0
    qos: MemoryQos | None = None
    allocatable_bytes: int = 0

    @classmethod
    def of(cls, config: KubeletConfig, memory_bytes: int, allocatable_bytes: int = 0) -> Rules:
        return cls(
            config.swap_behavior,
            config.single_process_oom_kill,
            config.machine,
            memory_bytes,
            config.memory_qos,
            allocatable_bytes,
        )

    def apply(self, pod: Pod, container: Container, given: Resources) -> Resources:
        """A container's limits with those of swap and huge pages, and what it keeps of memory."""
        unified = dict(given.unified)
        swap = given.memory_swap_limit_bytes
        if self.machine.cgroup_v2:
            if self.machine.swap_bytes:
                unified["memory.swap.max"] = str(self.swap_limit(pod, container))
                swap = None
            if not self.single_process_oom_kill:
                unified["memory.oom.group"] = "1"
            if self.qos is not None:
                request = quantity.whole(container.resources.requests.get("memory", "0"))
                unified |= self.qos.kept(qos_class(pod), request)
                unified |= self.qos.slowed(request, given.memory_limit_bytes or 0, self.allocatable_bytes)
        none = dict.fromkeys(self.machine.huge_pages, 0)
        return replace(
            given,
            memory_swap_limit_bytes=swap,
            unified=unified,
            hugepage_limits={**none, **given.hugepage_limits},
        )

    def swap_limit(self, pod: Pod, container: Container) -> int:
        """Bytes of swap: a burstable container's part of it all is as its request's of the memory."""
        limits, requests = container.resources.limits, container.resources.requests
        limit = quantity.whole(limits["memory"]) if "memory" in limits else 0
        request = quantity.whole(requests["memory"]) if "memory" in requests else limit
        swaps = (
            self.swap_behavior == LIMITED_SWAP
            and self.machine.cgroup_v2
            and qos_class(pod) == "Burstable"
            and 0 < request <= self.memory_bytes
            and request != limit
            and (pod.spec.priority or 0) < SYSTEM_CRITICAL
        )
        return int(request / self.memory_bytes * self.machine.swap_bytes) if swaps else 0
