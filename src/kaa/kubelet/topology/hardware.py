"""All providers of hardware together: asks them for every container of a pod that comes, and says what each was given.

    pod ── hints of all providers ── policy ──> one hint ── each provider allocates ──> given ──> the container's config

The idea: a node without providers pays one look at an empty list a pod. Pods are let in one after the other, for the hints of
one must still hold when it allocates. What was given is remembered by the providers, on disk, not here.
Source: pkg/kubelet/cm/topologymanager (scope_container.go, scope_pod.go), pkg/kubelet/cm/internal_container_lifecycle_linux.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import Pod
from kaa.runtime.base import ContainerConfig, Resources

from ..metrics.hardware import HardwareMetrics
from .base import Given, Hint, NotGiven, Provider

if TYPE_CHECKING:
    from .cpus import StaticCpus
    from .memory import StaticMemory
    from .policy import Policy

NO_QUOTA = -1  #: the cgroup's word for a limit that is none


@runtime_checkable
class Remembering(Protocol):
    """A provider that tells who holds something of it, so that pods that went while nobody looked can be found."""

    def holders(self) -> Iterable[str]:
        """Uids of pods."""
        ...


class Hardware:
    """``alive`` says which pods there are, or None while that is not known."""

    def __init__(
        self, alive: Callable[[], Collection[str] | None] = lambda: None, metrics: HardwareMetrics | None = None
    ) -> None:
        self.metrics = metrics or HardwareMetrics(SystemClock())
        self.providers: list[Provider] = []
        self.policy: Policy | None = None
        self.scope = "container"
        self.cpus: StaticCpus | None = None
        self.memory: StaticMemory | None = None
        self.retry_s = 10.0
        self._alive = alive
        self._one_by_one = asyncio.Lock()

    def add(self, provider: Provider) -> None:
        """Ask this one too, from the next pod on. Those that were added first are asked first."""
        self.providers.append(provider)

    # ------------------------------------------------------------------------------------------------ pods

    async def let_in(self, pod: Pod) -> None:
        """Take what the pod's containers ask. Raises NotGiven, and then nothing is taken."""
        async with self._one_by_one:
            self.forget_the_gone()
            try:
                with self.metrics.admission():
                    await self._take(pod)
            except BaseException:
                self.release(pod.metadata.uid or "")
                raise

    async def _take(self, pod: Pod) -> None:
        if not self.providers:
            return
        from .asked import as_one, containers

        for_all = self._aligned(pod, as_one(pod)) if self.scope == "pod" else None
        for one in containers(pod):
            where = for_all or self._aligned(pod, one)
            for provider in self.providers:
                await provider.allocate(pod, one, where)
            if self._guarantees and self.scope == "container":
                self.metrics.aligned(self.scope)
        if for_all is not None and self._guarantees:
            self.metrics.aligned(self.scope)

    @property
    def _guarantees(self) -> bool:
        """Whether everything of a container is of one NUMA node."""
        return self.policy is not None and self.policy.name == "single-numa-node"

    def _aligned(self, pod: Pod, container: Any) -> Hint:
        """Where what a container asks should come from. Raises NotGiven when the policy wants it together and it is not."""
        if self.policy is None:
            return Hint(None, False)
        best, fits = self.policy.merge([provider.hints(pod, container) for provider in self.providers])
        if not fits:
            self.metrics.misaligned(self.scope, guaranteed=self._guarantees)
            raise NotGiven("TopologyAffinityError", "Resources cannot be allocated with Topology locality")
        return best

    def forget_the_gone(self) -> None:
        """Take back what pods have that are no more: a kubelet that was away did not see their end."""
        alive = self._alive()
        if alive is None:
            return
        for provider in self.providers:
            if isinstance(provider, Remembering):
                for uid in [uid for uid in provider.holders() if uid not in alive]:
                    provider.release(uid)

    def release(self, uid: str) -> None:
        """The pod is over."""
        for provider in self.providers:
            provider.release(uid)

    # ------------------------------------------------------------------------------------------------ containers

    def given(self, pod: Pod, container: Any) -> Given:
        """What a container was given by all of them together."""
        return together(provider.given(pod, container) for provider in self.providers)

    def equipped(self, pod: Pod, container: Any, config: ContainerConfig) -> ContainerConfig:
        """A container's config with what the container was given. What its spec says goes before what providers say."""
        if not self.providers:
            return config
        given = self.given(pod, container)
        own = {name for name, _ in config.env}
        env = tuple((name, value) for name, value in given.env.items() if name not in own)
        return replace(
            config,
            env=(*env, *config.env),
            mounts=(*given.mounts, *config.mounts),
            devices=(*given.devices, *config.devices),
            cdi_devices=(*config.cdi_devices, *given.cdi_devices),
            annotations={**given.annotations, **config.annotations},
            resources=self._pinned(pod, container, given, config.resources),
        )

    def pinned(self, pod: Pod, container: Any, resources: Resources) -> Resources:
        """Resources with the container's CPUs and memory nodes."""
        if not self.providers:
            return resources
        return self._pinned(pod, container, self.given(pod, container), resources)

    def _pinned(self, pod: Pod, container: Any, given: Given, resources: Resources) -> Resources:
        quota = resources.cpu_quota_us
        if quota is not None and self._owns(pod, container.name):
            quota = NO_QUOTA
        return replace(resources, cpuset_cpus=given.cpus, cpuset_mems=given.memory_nodes, cpu_quota_us=quota)

    def _owns(self, pod: Pod, container: str) -> bool:
        return self.cpus is not None and bool(self.cpus.own(pod.metadata.uid or "", container))

    def owns_cpus(self, pod: Pod) -> bool:
        """Whether a container of the pod has CPUs of its own: neither it nor its pod is throttled then (KEP-5026)."""
        return self.cpus is not None and (pod.metadata.uid or "") in self.cpus.holders()

    def infeasible(self, wanted: Pod, has: Pod) -> str:
        """Why a pod's resources cannot be changed in place; empty if they can."""
        if self.cpus is None and self.memory is None:
            return ""
        from ..cgroups import qos_class

        if qos_class(wanted) == "Guaranteed":
            for held, resource, name in ((self.cpus, "cpu", "CPU"), (self.memory, "memory", "Memory")):
                if held is not None and _requests(wanted, resource) != _requests(has, resource):
                    policy = "static" if resource == "cpu" else "Static"
                    return f'Resize is infeasible for Guaranteed Pods alongside {name} Manager policy "{policy}"'
        return ""


def _requests(pod: Pod, resource: str) -> Mapping[str, Any]:
    from kaa.api import quantity

    return {
        one.name: quantity.parse(one.resources.requests.get(resource, "0"))
        for one in (*pod.spec.init_containers, *pod.spec.containers)
    }


def together(parts: Iterable[Given]) -> Given:
    """Everything of all of them; CPUs and memory nodes of whoever names some."""
    made = Given()
    for part in parts:
        made = Given(
            cpus=part.cpus or made.cpus,
            memory_nodes=part.memory_nodes or made.memory_nodes,
            env={**made.env, **part.env},
            mounts=(*made.mounts, *part.mounts),
            devices=(*made.devices, *part.devices),
            annotations={**made.annotations, **part.annotations},
            cdi_devices=(*made.cdi_devices, *part.cdi_devices),
        )
    return made
