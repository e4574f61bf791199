"""Services in a kernel: real connections to ClusterIPs, node ports and back to oneself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from e2e.network_lab import Echo, Machine, call, machines, sh

from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import Service, ServicePort, ServiceSpec
from kaa.api.types.discovery_v1 import Endpoint, EndpointPort, EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.client import Listing, WatchEvent, WatchType
from kaa.client.informer import Informers
from kaa.network.pods import BridgePodNetwork
from kaa.network.proxy import Proxy

pytestmark = pytest.mark.root


class Scripted:
    """A client that lists some objects; a change put in ``changes`` becomes a watch event of slices."""

    def __init__(self, objects: list[Any]) -> None:
        self.objects = objects
        self.changes: asyncio.Queue[EndpointSlice] = asyncio.Queue()

    async def list(self, kind: Any, namespace: str | None = None, **_: Any) -> Listing[Any]:
        return Listing([obj for obj in self.objects if isinstance(obj, kind)], "1")

    async def watch(self, kind: Any, namespace: str | None = None, **_: Any) -> AsyncIterator[Any]:
        if kind is Service:
            await asyncio.Event().wait()
        while True:
            yield WatchEvent(WatchType.MODIFIED, await self.changes.get(), "2")


def service(name: str, ip: str, node_port: int | None = None, **more: Any) -> Service:
    port = ServicePort(name="http", port=80, protocol="TCP", node_port=node_port)
    spec = ServiceSpec(
        type="NodePort" if node_port else "ClusterIP", cluster_ip=ip, cluster_ips=(ip,), ports=(port,), **more
    )
    return Service(metadata=ObjectMeta(name=name, namespace="default", resource_version="1"), spec=spec)


def slice_of(name: str, *ips: str, version: str = "1") -> EndpointSlice:
    labels = {"kubernetes.io/service-name": name}
    return EndpointSlice(
        metadata=ObjectMeta(name=f"{name}-1", namespace="default", labels=labels, resource_version=version),
        address_type="IPv4",
        endpoints=tuple(Endpoint(addresses=(ip,), node_name="n1") for ip in ips),
        ports=(EndpointPort(name="http", port=8080, protocol="TCP"),),
    )


@pytest.fixture
def machine() -> Iterator[Machine]:
    with machines() as made:
        yield made


def test_services_carry_connections(machine: Machine, tmp_path: Path) -> None:
    one, two, out = machine.add("one"), machine.add("two"), machine.add("out")
    node, outside = machine.name("node"), machine.name("out")
    sh(f"ip link add ktx netns {node} type veth peer name kty netns {outside}")
    sh(f"ip -n {node} addr add 192.0.2.1/24 dev ktx; ip -n {node} link set ktx up")
    sh(f"ip -n {outside} addr add 192.0.2.2/24 dev kty; ip -n {outside} link set kty up")
    sh(f"ip -n {node} route add default via 192.0.2.2")
    network = BridgePodNetwork("kaat0", ("10.99.0.0/24",), tmp_path)
    first, second = "10.99.0.2", "10.99.0.3"
    client = Scripted(
        [
            service("web", "10.96.0.10", 30080),
            service("self", "10.96.0.11"),
            service("none", "10.96.0.12", 30081),
            service("sticky", "10.96.0.13", session_affinity="ClientIP"),
            service("local", "10.96.0.14", 30082, external_traffic_policy="Local"),
            slice_of("web", first, second),
            slice_of("self", first),
            slice_of("sticky", first, second),
            slice_of("local", second),
        ]
    )

    def check() -> None:
        spread = {machine.inside(one, lambda: call("10.96.0.10", 80)).split()[0] for _ in range(24)}
        assert spread == {"one", "two"}
        assert machine.inside(one, lambda: call("10.96.0.11", 80)) == "one 10.99.0.1"
        assert machine.inside(two, lambda: call("10.96.0.11", 80)) == f"one {second}"
        assert machine.inside(machine.node, lambda: call("10.96.0.11", 80)).startswith("one")
        assert machine.inside(out, lambda: call("192.0.2.1", 30080)).split()[1] == "10.99.0.1"
        assert machine.inside(out, lambda: call("192.0.2.1", 30082)) == "two 192.0.2.2"
        assert machine.inside(one, lambda: call("192.0.2.1", 30080)).split()[0] in ("one", "two")
        sticky = {machine.inside(two, lambda: call("10.96.0.13", 80)).split()[0] for _ in range(12)}
        assert len(sticky) == 1
        for place, address, port in (
            (one, "10.96.0.12", 80),
            (out, "192.0.2.1", 30081),
            (machine.node, "10.96.0.12", 80),
        ):
            with pytest.raises(ConnectionRefusedError):
                machine.inside(place, lambda address=address, port=port: call(address, port))  # type: ignore[misc]

    async def work() -> None:
        await network.setup()
        await network.attach("one", one, ())
        await network.attach("two", two, ())
        clock = SystemClock()
        informers = Informers(client, clock)  # type: ignore[arg-type]
        proxy = Proxy(informers, clock, node_name="n1", table="kaat0-services", cluster_cidrs=("10.99.0.0/24",))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(informers.run()), tasks.create_task(proxy.run())]
            async with asyncio.timeout(5):
                await proxy.synced.wait()
            with ExitStack() as servers:
                for path, name in ((one, "one"), (two, "two")):
                    servers.enter_context(Echo(machine, path, name, 8080))
                await asyncio.to_thread(check)
                client.changes.put_nowait(slice_of("self", second, version="2"))
                async with asyncio.timeout(10):
                    while machine.inside(one, lambda: call("10.96.0.11", 80)) != f"two {first}":  # noqa: ASYNC110 - a ruleset has no event
                        await asyncio.sleep(0.02)
            for task in running:
                task.cancel()
        await proxy.teardown()
        await network.teardown()

    machine.on_node(work)
    assert sh(f"ip netns exec {node} nft list ruleset") == ""
