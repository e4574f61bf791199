"""A world for controllers: the fake API, virtual time, the controllers that a test names, and a kubelet that obeys.

async def test() -> None:
    async with World() as world:
        await world.api.create(deployment)
        await world.settle()
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any

from fake_api import FakeApi
from msgspec.structs import replace

from kaa.api.clock import VirtualClock, format_time
from kaa.api.placement import target_of
from kaa.api.resources import RESOURCES, Resource
from kaa.api.types.apps_v1 import (
    Deployment,
    DeploymentSpec,
    DeploymentStrategy,
    ReplicaSet,
    ReplicaSetSpec,
    RollingUpdateDeployment,
)
from kaa.api.types.core_v1 import (
    Container,
    DaemonEndpoint,
    Namespace,
    NodeDaemonEndpoints,
    NodeSystemInfo,
    Pod,
    PodCondition,
    PodSpec,
    PodTemplateSpec,
    ServiceAccount,
)
from kaa.api.types.meta_v1 import DeleteOptions, LabelSelector, ObjectMeta
from kaa.controllers.autoscaling_metrics import MetricsSource
from kaa.controllers.manager import ControllerManager
from kaa.controllers.service_loadbalancer import LoadBalancers

#: What a node's status cannot be without.
NODE_FACTS: dict[str, Any] = {
    "daemon_endpoints": NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=10250)),
    "node_info": NodeSystemInfo(
        architecture="amd64",
        boot_id="",
        container_runtime_version="",
        kernel_version="",
        kube_proxy_version="",
        kubelet_version="",
        machine_id="",
        operating_system="linux",
        os_image="",
        system_uuid="",
    ),
}


class World:
    """``ready``: whether the kubelet makes pods ready; a callable decides for each pod."""

    pod_ranges: tuple[tuple[str, int], ...] = ()
    serving: tuple[Resource[Any], ...] = RESOURCES

    def __init__(
        self,
        *,
        ready: Any = True,
        seed: int = 0,
        metrics: MetricsSource | None = None,
        load_balancers: LoadBalancers | None = None,
    ) -> None:
        self.metrics, self.load_balancers = metrics, load_balancers
        self.clock = VirtualClock(seed=seed)
        self.api = FakeApi(self.clock)
        self.ready = ready
        self.manager: ControllerManager
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> World:
        self.manager = ControllerManager(
            lambda name: self.api,
            self.clock,
            root_ca=b"PEM",
            issue_legacy=self.issue_legacy,
            metrics=self.metrics,
            pod_ranges=self.pod_ranges,
            load_balancers=self.load_balancers,
            serving=self.serving,
        )
        self._task = asyncio.create_task(self.manager.run(), name="manager")
        await self.api.create(Namespace(metadata=ObjectMeta(name="default")))
        await self.settle()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @staticmethod
    def issue_legacy(account: ServiceAccount, secret: str) -> str:
        return f"signed:{account.metadata.name}:{secret}"

    async def settle(self, seconds: float = 0.2, *, rounds: int = 60) -> None:
        """Let controllers and the kubelet work until neither has anything to write."""
        if self._task.done():
            self._task.result()
        for _ in range(rounds):
            before = self.api.version
            await self.clock.advance(seconds)
            self.kubelet()
            await self.clock.settle()
            if self.api.version == before:
                return

    def kubelet(self) -> None:
        """Run what is new, end what is deleted."""
        for pod in self.api.all(Pod):
            if pod.metadata.deletion_timestamp is not None and not pod.metadata.finalizers:
                self.api._delete(self.api._resource(pod), pod, DeleteOptions(grace_period_seconds=0))
            elif not pod.spec.node_name and pod.metadata.deletion_timestamp is None:
                self.run_pod(pod)

    def run_pod(self, pod: Pod) -> None:
        ready = self.ready(pod) if callable(self.ready) else self.ready
        stamp = format_time(self.clock.now())
        condition = PodCondition(type="Ready", status="True" if ready else "False", last_transition_time=stamp)
        number = self.api.version
        status = replace(
            pod.status,
            phase="Running",
            pod_ip=f"10.0.{number // 250 % 250}.{number % 250 + 1}",
            conditions=(condition,),
        )
        self.api.put(replace(pod, spec=replace(pod.spec, node_name=target_of(pod) or "n1"), status=status))

    def pods(self) -> list[Pod]:
        return [pod for pod in self.api.all(Pod) if pod.metadata.deletion_timestamp is None]

    def events(self) -> list[str]:
        from kaa.api.types.core_v1 import Event

        return [f"{event.reason} {event.message}" for event in self.api.all(Event)]


def make_template(image: str = "web:1", **labels: str) -> PodTemplateSpec:
    labels = labels or {"app": "web"}
    return PodTemplateSpec(
        metadata=ObjectMeta(labels=labels), spec=PodSpec(containers=(Container(name="c", image=image),))
    )


def make_deployment(
    name: str = "web",
    *,
    replicas: int = 3,
    image: str = "web:1",
    surge: int | str = "25%",
    unavailable: int | str = "25%",
    strategy: str = "RollingUpdate",
    deadline: int | None = 600,
    history: int = 10,
    **spec: Any,
) -> Deployment:
    rolling = RollingUpdateDeployment(max_surge=surge, max_unavailable=unavailable)
    return Deployment(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=DeploymentSpec(
            replicas=replicas,
            selector=LabelSelector(match_labels={"app": "web"}),
            template=make_template(image),
            strategy=DeploymentStrategy(type=strategy, rolling_update=rolling if strategy == "RollingUpdate" else None),
            progress_deadline_seconds=deadline,
            revision_history_limit=history,
            **spec,
        ),
    )


def make_replica_set(name: str = "web", *, replicas: int = 3, **spec: Any) -> ReplicaSet:
    return ReplicaSet(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ReplicaSetSpec(
            replicas=replicas,
            selector=LabelSelector(match_labels={"app": "web"}),
            template=make_template(),
            **spec,
        ),
    )


def make_pod(
    name: str,
    *,
    node: str | None = None,
    phase: str | None = None,
    ready: bool | None = None,
    ready_at: float = 0,
    created_at: float = 0,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    ip: str | None = None,
    deleting: bool = False,
    **spec: Any,
) -> Pod:
    conditions: tuple[PodCondition, ...] = ()
    if ready is not None:
        stamp = format_time(ready_at)
        conditions = (PodCondition(type="Ready", status=str(ready), last_transition_time=stamp),)
    pod = Pod(
        metadata=ObjectMeta(
            name=name,
            namespace="default",
            uid=f"uid-{name}",
            labels={"app": "web"} if labels is None else labels,
            annotations=annotations or {},
            creation_timestamp=format_time(created_at),
            deletion_timestamp=format_time(created_at) if deleting else None,
        ),
        spec=PodSpec(containers=(Container(name="c", image="web:1"),), node_name=node, **spec),
    )
    return replace(pod, status=replace(pod.status, phase=phase, conditions=conditions, pod_ip=ip))
