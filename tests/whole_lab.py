"""A whole cluster in the test's process: API server in memory, every controller, the scheduler, a kubelet that pretends.

async with whole_lab() as cluster:
    await cluster.apply(document)
    await cluster.until(lambda: ...)
    cluster.requests      # (user, verb, resource) of what its components asked since it was ready
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from api_lab import Lab, cluster_config, lab

from kaa.api import scheme
from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import Pod
from kaa.client.client import Client
from kaa.client.events import EventRecorder
from kaa.client.inprocess import InProcessClient
from kaa.client.pipeline import Answer, Pipeline, Request, User
from kaa.cluster.components import run_components
from kaa.kubelet.config import KubeletConfig
from kaa.kubelet.kubelet import Kubelet
from kaa.runtime.simulated import SimulatedRuntime

NODE = "n1"
ADMIN = "system:apiserver"


class Counting:
    """A pipeline that counts what it is asked."""

    def __init__(self, pipeline: Pipeline, counted: Counter[tuple[str, str, str]]) -> None:
        self._pipeline, self._counted = pipeline, counted

    async def call(self, request: Request) -> Answer:
        what = request.resource.group_resource + (f"/{request.subresource}" if request.subresource else "")
        self._counted[request.user.name, request.verb, what] += 1
        return await self._pipeline.call(request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


@dataclass
class Whole:
    """``requests``: {(user, verb, resource[/subresource]): how many}, of calls other than watches."""

    lab: Lab
    kubelet: Kubelet
    requests: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @property
    def client(self) -> InProcessClient:
        return self.lab.client

    async def create(self, document: Mapping[str, Any]) -> Any:
        row = scheme.resource_by_kind(document["apiVersion"], document["kind"])
        assert row is not None
        namespaced = {"namespace": "default"} if row.namespaced else {}
        whole = {**document, "metadata": {**namespaced, **document["metadata"]}}
        return await self.client.create(scheme.convert(row.type, whole))

    async def pods(self) -> list[Pod]:
        return list((await self.client.list(Pod, "default")).items)

    async def running(self, number: int) -> bool:
        """Whether there are so many pods, and all are ready or over."""
        pods = await self.pods()
        return len(pods) == number and all(pod.status.phase in ("Running", "Succeeded") for pod in pods)

    async def until(self, true: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while not await true():  # noqa: ASYNC110  # anything may make it so
                await asyncio.sleep(0.02)


@asynccontextmanager
async def whole_lab() -> AsyncIterator[Whole]:
    """A cluster whose node is ready and whose components know all there is."""
    clock = SystemClock(seed=1)
    with tempfile.TemporaryDirectory(prefix="kaa-whole-", ignore_cleanup_errors=True) as folder:
        async with lab(clock=clock, bootstrapped=True) as made:
            counted: Counter[tuple[str, str, str]] = Counter()
            behind: dict[str, Callable[[], list[str]]] = {}

            def client_of(user: User, agent: str) -> Client:
                return InProcessClient(cast(Pipeline, Counting(made.plane.api, counted)), user, agent)

            node = client_of(User(f"system:node:{NODE}", groups=("system:nodes", "system:authenticated")), "kubelet")
            recorder = EventRecorder(node, clock, "kubelet", host=NODE)
            kubelet = Kubelet(node, SimulatedRuntime(clock), clock, _config(Path(folder)), recorder)
            running = [
                asyncio.create_task(work, name=name)
                for name, work in (
                    ("components", run_components(cluster_config(), clock, client_of, _no_tokens, behind=behind)),
                    ("kubelet", kubelet.run()),
                    ("recorder", recorder.run()),
                )
            ]
            try:
                await kubelet.ready.wait()
                cluster = Whole(made, kubelet, counted)
                await cluster.until(_synced(behind))
                counted.clear()
                yield cluster
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)


def _synced(behind: Mapping[str, Callable[[], list[str]]]) -> Callable[[], Awaitable[bool]]:
    async def synced() -> bool:
        return len(behind) == 2 and not any(left() for left in behind.values())

    return synced


def _config(root: Path) -> KubeletConfig:
    return KubeletConfig(
        NODE,
        root=root / "kubelet",
        pod_log_root=root / "logs",
        max_pods=1000,
        network_probes=False,
        cgroups=None,
        pod_resources=False,
        eviction=None,
    )


def _no_tokens(account: Any, secret: str) -> str:
    return f"signed for {account.metadata.name}"
