"""Who has which CPUs, memory and devices, asked over the kubelet's own socket by a real gRPC client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from machines import GI, Cards, asking, guaranteed, machine

from kaa.api.types.core_v1 import Container, Pod
from kaa.kubelet.pod_resources import messages as say
from kaa.kubelet.pod_resources.service import PodResourcesService
from kaa.kubelet.topology.cpus import StaticCpus
from kaa.kubelet.topology.hardware import Hardware
from kaa.kubelet.topology.memory import StaticMemory
from kaa.kubelet.topology.settings import CpuOptions

TWO = machine(2, 1, 2, memory=4 * GI)


class TellingCards(Cards):
    def devices_of(self, uid: str, container: str) -> Iterable[say.ContainerDevices]:
        return self.all_devices() if uid == self.holder else ()

    def all_devices(self) -> Iterable[say.ContainerDevices]:
        return (say.ContainerDevices("example.com/card", ("card0",), say.Topology((say.NumaNode(1),))),)

    def claims_of(self, pod: Pod, container: Container) -> Iterable[say.DynamicResource]:
        return (say.DynamicResource("claim", pod.metadata.namespace or ""),)


def _hardware(tmp_path: Path) -> Hardware:
    made = Hardware()
    made.cpus = StaticCpus(TWO, tmp_path / "cpus", CpuOptions(), reserved=1)
    made.memory = StaticMemory(TWO, tmp_path / "memory", {0: {"memory": GI}}, kept={"memory": GI})
    for provider in (TellingCards(), made.cpus, made.memory):
        made.add(provider)
    return made


@asynccontextmanager
async def serving(folder: Path, hardware: Hardware, *pods: Pod) -> AsyncIterator[Any]:
    """``ask(verb, request, kind of answer)`` of a service on a socket."""
    import grpc.aio

    for pod in pods:
        await hardware.let_in(pod)
    service = PodResourcesService(folder, hardware, lambda: pods)
    running = asyncio.create_task(service.run(), name="service")
    await service.listening.wait()

    async def ask(verb: str, request: Any, answer: Any) -> Any:
        async with grpc.aio.insecure_channel(f"unix:{service.path}") as channel:
            call = channel.unary_unary(
                f"/{verb}", request_serializer=say.Empty.encode, response_deserializer=answer.decode
            )
            return await call(request, timeout=10)

    try:
        yield ask
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not list(service.path.parent.iterdir())


PODS = (
    guaranteed("db", asking(cpu="2"), init=(asking("prepare"), asking("proxy", restart_policy="Always"))),
    guaranteed("half", asking(cpu="500m")),
)
MEMORY = (say.ContainerMemory("memory", GI, say.Topology((say.NumaNode(0),))),)
CLAIM = (say.DynamicResource("claim", "default"),)
CARD = (say.ContainerDevices("example.com/card", ("card0",), say.Topology((say.NumaNode(1),))),)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name leaves room for a socket's."""
    return tmp_path_factory.mktemp("s")


def test_who_has_what(short: Path, tmp_path: Path) -> None:
    async def story() -> None:
        hardware = _hardware(tmp_path)
        async with serving(short, hardware, PODS[0]) as ask:
            told = await ask("v1.PodResourcesLister/List", say.Empty(), say.ListPodResourcesResponse)
            (pod,) = told.pod_resources
            assert (pod.name, pod.namespace) == ("db", "default")
            assert pod.containers == (
                say.ContainerResources("proxy", CARD, (1,), MEMORY, CLAIM),
                say.ContainerResources("main", CARD, (2, 3), MEMORY, CLAIM),
            )
            wanted = say.GetPodResourcesRequest("db", "default")
            alone = await ask("v1.PodResourcesLister/Get", wanted, say.GetPodResourcesResponse)
            assert alone.pod_resources == pod
            before = await ask("v1alpha1.PodResourcesLister/List", say.Empty(), say.ListPodResourcesResponse)
            plain = (say.ContainerDevices("example.com/card", ("card0",)),)
            assert before.pod_resources[0].containers[1] == say.ContainerResources("main", plain)

    asyncio.run(story())


def test_what_there_is(short: Path, tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(short, _hardware(tmp_path)) as ask:
            verb = "v1.PodResourcesLister/GetAllocatableResources"
            told = await ask(verb, say.Empty(), say.AllocatableResourcesResponse)
            assert told.cpu_ids == (1, 2, 3)
            assert [(one.memory_type, one.size // GI, one.topology.nodes[0].id) for one in told.memory] == [
                ("memory", 3, 0),
                ("memory", 4, 1),
            ]
            assert told.devices == CARD

    asyncio.run(story())


def test_a_node_where_all_is_shared(short: Path) -> None:
    async def story() -> None:
        async with serving(short, Hardware(), *PODS) as ask:
            told = await ask("v1.PodResourcesLister/List", say.Empty(), say.ListPodResourcesResponse)
            assert [pod.name for pod in told.pod_resources] == ["db", "half"]
            assert told.pod_resources[1].containers == (say.ContainerResources("main"),)
            verb = "v1.PodResourcesLister/GetAllocatableResources"
            assert await ask(verb, say.Empty(), say.AllocatableResourcesResponse) == say.AllocatableResourcesResponse()

    asyncio.run(story())


def test_a_pod_that_is_not_here(short: Path) -> None:
    async def story() -> None:
        import grpc.aio

        async with serving(short, Hardware()) as ask:
            wanted = say.GetPodResourcesRequest("db", "shop")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask("v1.PodResourcesLister/Get", wanted, say.GetPodResourcesResponse)
            assert refused.value.code() is grpc.StatusCode.UNKNOWN
            assert refused.value.details() == "pod db in namespace shop not found"

    asyncio.run(story())


def test_a_socket_that_cannot_be_is_told_of_and_no_more(tmp_path: Path) -> None:
    asyncio.run(PodResourcesService(tmp_path / ("long" * 40), Hardware(), list).run())
