"""How long rules and answers take: ``python bench/network.py [services]``."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import Namespace, Service, ServicePort, ServiceSpec
from kaa.api.types.discovery_v1 import Endpoint, EndpointPort, EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.informer import Informers
from kaa.network import dns_wire, ruleset
from kaa.network.dns import DnsServer
from kaa.network.ruleset import Model, Node


def make(number: int, endpoints: int = 10) -> tuple[Service, EndpointSlice]:
    ip = f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    ports = (ServicePort(name="http", port=80, protocol="TCP", node_port=None),)
    labels = {"kubernetes.io/service-name": f"s{number}"}
    return (
        Service(
            metadata=ObjectMeta(name=f"s{number}", namespace="default"),
            spec=ServiceSpec(cluster_ip=ip, cluster_ips=(ip,), ports=ports),
        ),
        EndpointSlice(
            metadata=ObjectMeta(name=f"s{number}-1", namespace="default", labels=labels),
            address_type="IPv4",
            endpoints=tuple(
                Endpoint(addresses=(f"10.{n + 10}.{number >> 8 & 255}.{number & 255}",), node_name=f"n{n}")
                for n in range(endpoints)
            ),
            ports=(EndpointPort(name="http", port=8080, protocol="TCP"),),
        ),
    )


def rules(count: int) -> None:
    node = Node("n1", ("10.244.0.0/16",))
    made = [make(number) for number in range(count)]
    begun = time.perf_counter()
    parts = [ruleset.service_part(service, [each], node) for service, each in made]
    model = ruleset.merge(parts)
    text = ruleset.render("kaabench", model)
    print(f"render {count} services: {time.perf_counter() - begun:.3f} s, {len(text) >> 10} KiB")
    begun = time.perf_counter()
    parts[7] = ruleset.service_part(made[7][0], [make(7, 9)[1]], node)
    change = ruleset.diff("kaabench", model, ruleset.merge(parts))
    print(f"one endpoint: {(time.perf_counter() - begun) * 1000:.1f} ms, {len(change.splitlines())} lines")
    begun = time.perf_counter()
    script = "set -e; cat > $T/a; nft -f $T/a; date +%s.%N >&2; nft -f $T/b; date +%s.%N >&2"
    shell = f"T=$(mktemp -d); trap 'rm -r $T' EXIT; cat > $T/b <<'EOF'\n{change}EOF\n{script}"
    done = subprocess.run(["unshare", "-n", "sh", "-c", shell], input=text, text=True, capture_output=True, check=True)
    first, second = map(float, done.stderr.split())
    print(f"nft loads all: {time.perf_counter() - begun - (second - first):.2f} s; the change: {second - first:.3f} s")
    assert ruleset.diff("kaabench", Model(), Model()) == ""


def names(count: int) -> None:
    async def measure() -> None:
        clock = SystemClock()
        informers = Informers(None, clock)  # type: ignore[arg-type]
        server = DnsServer(informers, clock, listen=())
        informers.of(Namespace)._see(Namespace(metadata=ObjectMeta(name="default")))
        for number in range(count):
            service, each = make(number)
            informers.of(Service)._see(service)
            informers.of(EndpointSlice)._see(each)
        queries = [
            dns_wire.make_query(n & 0xFFFF, (f"s{n % count}", "default", "svc", "cluster", "local"), 1)
            for n in range(20_000)
        ]
        for word in ("mixed", "again"):
            begun = time.perf_counter()
            for query in queries:
                server.answer(query)
            print(f"dns answers, {word}: {len(queries) / (time.perf_counter() - begun):.0f} /s")

    asyncio.run(measure())


if __name__ == "__main__":
    services = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    rules(services)
    names(services)
