"""Pods on a bridge, inside a node that is itself a network namespace: the machine's own network stays untouched."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.network_lab import Echo, Machine, call, machines, sh

from kaa.network.pods import BridgePodNetwork
from kaa.runtime.base import PortMapping, RuntimeFailure

pytestmark = pytest.mark.root


@pytest.fixture
def machine() -> Iterator[Machine]:
    with machines() as made:
        yield made


def test_pods_reach_each_other_and_host_ports(machine: Machine, tmp_path: Path) -> None:
    one, two = machine.add("one"), machine.add("two")
    outside = machine.add("out")
    node = machine.name("node")
    sh(f"ip link add ktx netns {node} type veth peer name kty netns {machine.name('out')}")
    sh(f"ip -n {node} addr add 192.0.2.1/24 dev ktx; ip -n {node} link set ktx up mtu 1400")
    sh(f"ip -n {machine.name('out')} addr add 192.0.2.2/24 dev kty; ip -n {machine.name('out')} link set kty up")
    sh(f"ip -n {node} route add default via 192.0.2.2")
    network = BridgePodNetwork("kaat0", ("10.99.0.0/24",), tmp_path, cluster_cidrs=("10.99.0.0/16",))

    async def start() -> tuple[str, str]:
        await network.setup()
        assert network.mtu == 1400
        (first,) = await network.attach("one", one, ())
        (second,) = await network.attach("two", two, (PortMapping(8080, 80), PortMapping(0, 81)))
        assert await network.attach("two", two, (PortMapping(8080, 80), PortMapping(0, 81))) == (second,)
        await network.keep_only(frozenset({"one", "two"}))
        return first, second

    first, second = machine.on_node(start)
    assert (first, second) == ("10.99.0.2", "10.99.0.3")
    with Echo(machine, two, "two", 80), Echo(machine, outside, "out", 90), Echo(machine, one, "one", 80):
        assert machine.inside(one, lambda: call(second, 80)) == f"two {first}"
        assert machine.inside(two, lambda: call(first, 80)) == f"one {second}"
        assert machine.inside(machine.node, lambda: call(second, 80)) == "two 10.99.0.1"
        assert machine.inside(outside, lambda: call("192.0.2.1", 8080)) == "two 192.0.2.2"
        assert machine.inside(machine.node, lambda: call("192.0.2.1", 8080)).startswith("two ")
        assert machine.inside(machine.node, lambda: call("127.0.0.1", 8080)) == "two 10.99.0.1"
        assert machine.inside(machine.node, lambda: call("127.0.0.1", 8080, source="192.0.2.1")).startswith("two ")
        assert machine.inside(one, lambda: call("192.0.2.1", 8080)).startswith("two ")
        assert machine.inside(two, lambda: call("192.0.2.1", 8080)) == "two 10.99.0.1"
        assert machine.inside(one, lambda: call("192.0.2.2", 90)) == "out 192.0.2.1"

    async def restart() -> None:
        again = BridgePodNetwork("kaat0", ("10.99.0.0/24",), tmp_path)
        await again.setup()
        assert await again.attach("two", two, (PortMapping(8080, 80),)) == (second,)
        await again.keep_only(frozenset({"one"}))
        with pytest.raises(RuntimeFailure, match="No such file"):
            await again.attach("three", "/run/netns/does-not-exist", ())
        assert sorted(path.name for path in (tmp_path / "leases").iterdir()) == ["one"]
        await again.teardown()
        await again.teardown()

    machine.on_node(restart)
    assert sh(f"ip -n {node} -o link").count("\n") == 2
    assert sh(f"ip netns exec {node} nft list ruleset") == ""
    assert sh(f"ip -n {node} route").count("10.99") == 0


def test_two_families(machine: Machine, tmp_path: Path) -> None:
    pod, other = machine.add("pod"), machine.add("other")
    network = BridgePodNetwork("kaat0", ("10.99.0.0/24", "fd00:99::/64"), tmp_path)

    async def start() -> tuple[tuple[str, ...], tuple[str, ...]]:
        await network.setup()
        return await network.attach("a", pod, ()), await network.attach("b", other, ())

    first, second = machine.on_node(start)
    assert first == ("10.99.0.2", "fd00:99::2")
    listener = machine.inside(other, lambda: socket.create_server(("::", 80), family=socket.AF_INET6))
    with listener:
        machine.inside(pod, lambda: socket.create_connection((second[1], 80), timeout=3).close())
        connection, caller = listener.accept()
        connection.close()
    assert caller[0] == first[1]
    machine.on_node(network.teardown)


def test_attaching_takes_few_milliseconds(machine: Machine, tmp_path: Path) -> None:
    pods = [machine.add(f"p{number}") for number in range(10)]
    network = BridgePodNetwork("kaat0", ("10.99.0.0/24",), tmp_path)

    async def measure() -> list[float]:
        await network.setup()
        loop = asyncio.get_running_loop()
        times = []
        for number, pod in enumerate(pods):
            begun = loop.time()
            await network.attach(f"p{number}", pod, ())
            times.append(loop.time() - begun)
        await network.teardown()
        return times

    times = sorted(machine.on_node(measure))
    print([round(second * 1000, 2) for second in times])
    assert times[len(times) // 2] < 0.05
