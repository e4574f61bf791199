"""What one pod was given of its node: taken at its arrival, changed in place when its spec wants more or less.

    wanted by the API server ── admission ──> given to the pod ── the pod's plan ──> what its containers have

Source: pkg/kubelet/allocation/allocation_manager.go, kuberuntime_manager.go (doPodResizeAction).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from kaa.api.types.core_v1 import Container as ContainerSpec
from kaa.api.types.core_v1 import Node, Pod
from kaa.runtime.base import Resources, RuntimeFailure

from . import admission
from .admission import HostPort, Pending, Refusal
from .cgroups import CgroupManager, container_resources
from .pod_host import PodHost, runtime_info
from .pod_plan import Failure, PodView, is_resized, resize_key
from .pressure import refused_under
from .topology.base import NotGiven

log = structlog.get_logger(__name__)
_RETRY_S = 10.0


class Allocation:
    """``pod`` is the pod with what it was given; ``say`` tells an event: type, reason, message."""

    def __init__(self, host: PodHost, pod: Pod, say: Callable[[str, str, str], None], *, static: bool) -> None:
        self._host, self._say, self._static = host, say, static
        self.wanted = pod  #: as the API server has it
        self.pod = pod if static else admission.given_before(pod)
        self._uid = pod.metadata.uid or ""
        self.taken: Mapping[str, int] = {}  #: of the node, once it was let in: a pod that was here before is in already
        if pod.status.container_statuses:
            self._take(admission.requests_of(self.pod))
        self.pending: Pending | None = None
        self.resizing = False  #: what its containers have is not yet what it was given
        self.error = ""
        self.failures: dict[str, Failure] = {}
        self._let_in = self._let_go = False

    def update(self, pod: Pod) -> None:
        self.wanted, self.pod = pod, admission.with_resources(pod, self.pod)

    def _take(self, amounts: Mapping[str, int]) -> None:
        self.taken = amounts
        self._host.room.give(self._uid, amounts)

    async def let_in(self, view: PodView) -> Refusal | None:
        """Take room for the pod; or say why there is none, in which case it must not begin."""
        if self._let_in or self._let_go:
            return None
        asked, refusal = admission.requests_of(self.pod), None
        if not self.taken and not view.sandboxes and self.pod.status.phase in (None, "", "Pending"):
            refusal = await self._refusal(asked)
        self._take(self.taken or asked)
        if refusal is None and self._begins(view):
            refusal = await self._hardware()
        if refusal is not None and not self.pod.metadata.deletion_timestamp:
            self._take({})
            self._let_go = True
            self._host.metrics.rejected(refusal.reason)
            self._say("Warning", refusal.reason, refusal.message)
            return refusal
        self._let_in = True
        return None

    def _begins(self, view: PodView) -> bool:
        """Whether containers are still to be made: those that run keep what they have."""
        over = self.pod.metadata.deletion_timestamp or self.pod.status.phase in ("Succeeded", "Failed")
        return not over and not view.running()

    async def _hardware(self) -> Refusal | None:
        """Take the CPUs, memory and devices that its containers are to have of their own."""
        try:
            await self._host.hardware.let_in(self.pod)
        except NotGiven as err:
            return Refusal(err.reason, err.message)
        return None

    async def _refusal(self, asked: Mapping[str, int]) -> Refusal | None:
        host, uid = self._host, self.pod.metadata.uid or ""
        if host.closing():
            return Refusal("NodeShutdown", host.closing())
        held = refused_under(host.pressure(), self.pod, static=self._static)
        if held:
            return Refusal("Evicted", held)
        foreign = admission.for_another_system(self.pod)
        if foreign is not None:
            return foreign
        if not self._static and admission.is_choosy(
            self.pod
        ):  # the newest node: labels may have come just before the pod
            refusal = admission.misplaced(self.pod, await host.client.get(Node, host.config.node_name))
            if refusal is not None:
                return refusal
        short = admission.shortage(asked, host.room.used_beside(uid), host.allocatable)
        if short is not None:
            return Refusal(short.reason, str(short))
        if self.ports and admission.ports_clash(self.ports, host.ports(uid)):
            return Refusal("NodePorts", "Predicate NodePorts failed")
        if admission.wants_strict_groups(self.pod) and not (await runtime_info(host)).strict_groups:
            return admission.NO_STRICT_GROUPS
        unsafe = admission.forbidden_sysctl(self.pod, host.config.allowed_unsafe_sysctls)
        return unsafe or admission.lacking_apparmor(self.pod)

    @property
    def ports(self) -> frozenset[HostPort]:
        """The node's ports that are the pod's, once it was let in or asks to be."""
        return frozenset() if self._let_go else admission.host_ports(self.pod)

    def release(self) -> None:
        """Nothing of the pod runs any more."""
        self._take({})
        self._let_go = True
        self._host.hardware.release(self._uid)
        self._host.room.freed()

    # ------------------------------------------------------------------------------------------------ resizing

    async def settle(self, view: PodView) -> None:
        """Give the pod the resources that it wants by now, if there is room; and see a change of them through."""
        before, self.pending = self.pending, None
        if self.wanted is not self.pod:
            self.pending = self._pending()
            if self.pending is None:
                await self._give()
            elif self.pending != before:
                reason, why = self.pending.reason, self.pending.message
                self._say("Warning", f"Resize{reason}", admission.resize_text(reason, self.wanted, why))
        self._host.room.waits(self._uid, self.pending is not None and self.pending.reason == "Deferred")
        resized = is_resized(self.pod, view)
        if self.resizing and resized:
            await self._tighten()
            self._say("Normal", "ResizeCompleted", admission.resize_text("completed", self.pod))
            self.error = ""
        self.resizing = not resized

    def _pending(self) -> Pending | None:
        """Why the pod cannot have what it wants by now; None when it can."""
        never = self._host.hardware.infeasible(self.wanted, self.pod)
        if never and not self._static:
            return Pending("Infeasible", never)
        used = self._host.room.used_beside(self._uid)
        return admission.pending(self.wanted, used, self._host.allocatable, static=self._static)

    async def _give(self) -> None:
        self.pod = self.wanted
        self._take(admission.requests_of(self.wanted))
        self.failures.clear()
        self.resizing = True
        self._say("Normal", "ResizeStarted", admission.resize_text("started", self.pod))
        await self._loosen()
        self._host.room.freed()

    async def _loosen(self) -> None:
        cgroups = self._host.config.cgroups
        if cgroups is not None:
            await asyncio.to_thread(cgroups.loosen_pod, self.pod, throttled=self.throttled)

    async def _tighten(self) -> None:
        cgroups = self._host.config.cgroups
        if cgroups is not None:
            await self.ensure_cgroup(cgroups)

    async def ensure_cgroup(self, cgroups: CgroupManager) -> str:
        """The pod's cgroup with its limits; returns its path below the mount."""
        config = self._host.config
        return await asyncio.to_thread(
            cgroups.ensure_pod,
            self.pod,
            pids=config.pids_limit,
            throttled=self.throttled,
            memory_qos=config.memory_qos,
        )

    @property
    def throttled(self) -> bool:
        """Whether its CPU limit is a quota: who has CPUs of its own may use them up."""
        return not self._host.hardware.owns_cpus(self.pod)

    async def resize(self, container_id: str, spec: ContainerSpec) -> None:
        """Give a running container what it was allocated; memory that it uses is not taken from it."""
        host, key = self._host, resize_key(container_id)
        wanted = host.memory.apply(self.pod, spec, self._resources(spec))
        try:
            await self._check_memory(container_id, wanted.memory_limit_bytes)
            await self._loosen()
            await host.runtime.update_resources(container_id, host.hardware.pinned(self.pod, spec, wanted))
            self.failures.pop(key, None)
        except (RuntimeFailure, OSError) as err:
            if self.error != str(err):
                self.error = str(err)
                self._say("Warning", "ResizeError", admission.resize_text("error", self.pod, self.error))
            self.failures[key] = Failure("", self.error, host.clock.now() + _RETRY_S)

    async def pin(self, view: PodView) -> float | None:
        """Move what runs to the CPUs that it may use by now; returns when to try again what did not move."""
        host, again_at, given = self._host, None, self._host.hardware.cpus
        if given is None:
            return None
        for one in view.running():
            cpus = given.of(self.pod.metadata.uid or "", one.name)
            has = one.resources or self._wanted_of(one.name)
            if not cpus or has.cpuset_cpus == cpus:
                continue
            try:
                await host.runtime.update_resources(one.id, replace(has, cpuset_cpus=cpus))
            except (RuntimeFailure, OSError) as err:
                log.warning("container not moved to its CPUs", container=one.name, cpus=cpus, error=str(err))
                again_at = host.clock.now() + host.hardware.retry_s
        return again_at

    def _resources(self, spec: ContainerSpec) -> Resources:
        host = self._host
        return container_resources(
            self.pod, spec, memory_capacity_bytes=host.memory_capacity_bytes, pids_limit=host.config.pids_limit
        )

    def _wanted_of(self, name: str) -> Resources:
        """For a runtime that does not tell what a container has: what it should have."""
        every = (*self.pod.spec.init_containers, *self.pod.spec.containers)
        return next((self._resources(spec) for spec in every if spec.name == name), Resources())

    async def _check_memory(self, container_id: str, limit: int | None) -> None:
        """Raises RuntimeFailure for a limit under what a container uses: the kernel would kill it."""
        if limit is None:
            return
        for use in await self._host.runtime.usage():
            if use.container_id == container_id and use.memory_bytes > limit:
                text = f"attempting to set container memory limit ({limit}) below current usage ({use.memory_bytes})"
                raise RuntimeFailure(text)
