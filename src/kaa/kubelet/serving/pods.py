"""What paths of the kubelet's API name: pods, their containers, and what the runtime has of them."""

from __future__ import annotations

from typing import Any

from kaa.api.types.core_v1 import Pod
from kaa.runtime.base import Container, ContainerState

from ..config import HostProcess
from ..kubelet import Kubelet
from ..pod_plan import PodView
from ..static_pods import MIRROR
from .http import HttpError


class Pods:
    """Look-ups; what is not there is an HttpError 404 in upstream's words."""

    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet

    def pod(self, namespace: str, name: str) -> Pod:
        """The pod as the API names it."""
        found = self._kubelet.pods.get(name, namespace)
        if found is not None:
            return found
        for worker in self._kubelet.workers.values():
            if (worker.pod.metadata.namespace, worker.pod.metadata.name) == (namespace, name):
                return worker.pod
        raise HttpError(404, "pod does not exist")

    def runtime_uid(self, pod: Pod) -> str:
        """The uid under which the runtime knows the pod: a mirror's is its static pod's."""
        return pod.metadata.annotations.get(MIRROR) or pod.metadata.uid or ""

    async def view(self, pod: Pod) -> PodView:
        runtime = self._kubelet.runtime
        sandboxes = await runtime.list_sandboxes(uid=self.runtime_uid(pod))
        containers: list[Container] = []
        for sandbox in sandboxes:
            containers += await runtime.list_containers(sandbox_id=sandbox.id)
        return PodView.of(sandboxes, containers)

    def host_process(self, pod: Pod) -> HostProcess | None:
        """The process of the host that a mirror pod stands for."""
        for process in self._kubelet.config.host_processes:
            named = f"{process.name}-{self._kubelet.config.node_name}"
            if pod.metadata.name == named and MIRROR in pod.metadata.annotations:
                return process
        return None

    async def running(self, parts: list[str]) -> tuple[Pod, Container]:
        """The running container that a path names: namespace, pod, [uid,] container."""
        if len(parts) not in (3, 4):
            raise HttpError(404, "404: Page Not Found")
        pod = self.pod(parts[0], parts[1])
        if len(parts) == 4:
            self.check_uid(pod, parts[2], f'pod "{pod.metadata.name}_{pod.metadata.namespace}" not found')
        current = (await self.view(pod)).latest(parts[-1])
        if current is None or current.state is not ContainerState.RUNNING:
            raise HttpError(404, f'container not found ("{parts[-1]}")')
        return pod, current

    def check_uid(self, pod: Pod, uid: str, complaint: str) -> None:
        """A pod of the same name that was there before is not this one. A mirror may be named by either uid."""
        if uid not in (pod.metadata.uid, self.runtime_uid(pod)):
            raise HttpError(404, complaint)


def specs(pod: Pod) -> list[Any]:
    """Every container of a pod's spec, of whichever kind."""
    spec = pod.spec
    return [*spec.containers, *spec.init_containers, *spec.ephemeral_containers]
