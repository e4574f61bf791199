"""The cluster's names, as dig sees them over UDP and TCP on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import Namespace, Service, ServicePort, ServiceSpec
from kaa.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.client import Listing
from kaa.client.informer import Informers
from kaa.network.dns import DnsServer


class Still:
    """A client whose objects never change."""

    def __init__(self, objects: Sequence[Any]) -> None:
        self._objects = objects

    async def list(self, kind: Any, namespace: str | None = None, **_: Any) -> Listing[Any]:
        return Listing([obj for obj in self._objects if isinstance(obj, kind)], "1")

    async def watch(self, kind: Any, namespace: str | None = None, **_: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield None


def service(name: str, ip: str | None, *ports: tuple[str, int], **more: Any) -> Service:
    listed = tuple(ServicePort(name=word, port=number, protocol="TCP") for word, number in ports)
    ips = (ip,) if ip and ip != "None" else ()
    return Service(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ServiceSpec(cluster_ip=ip, cluster_ips=ips, ports=listed, **more),
    )


def slice_of(name: str, *endpoints: Endpoint) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name=f"{name}-1", namespace="default", labels={"kubernetes.io/service-name": name}),
        address_type="IPv4",
        endpoints=endpoints,
        ports=(EndpointPort(name="http", port=8080, protocol="TCP"),),
    )


OBJECTS = (
    Namespace(metadata=ObjectMeta(name="default")),
    service("web", "10.96.0.10", ("http", 80)),
    service("db", "None", ("http", 8080)),
    service("empty", "None", ("http", 8080)),
    service("alias", None, type="ExternalName", external_name="web.default.svc.cluster.local"),
    service("away", None, type="ExternalName", external_name="www.example.com"),
    slice_of("web", Endpoint(addresses=("10.244.0.9",))),
    slice_of(
        "db",
        Endpoint(addresses=("10.244.0.2",), hostname="db-0"),
        Endpoint(addresses=("10.244.0.3",)),
        Endpoint(addresses=("10.244.0.4",), conditions=EndpointConditions(ready=False)),
    ),
)


class World(asyncio.DatagramProtocol):
    """An upstream name server that knows one address for everything."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        end = data.index(b"\0", 12) + 5
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\x63"
        self.transport.sendto(data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:end] + record, addr)


async def dig(port: int, *words: str) -> tuple[str, str, list[str]]:
    """(code, flags, the records of the answer and additional sections, sorted)."""
    process = await asyncio.create_subprocess_exec(
        "dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=3", "+nostats", *words, stdout=asyncio.subprocess.PIPE
    )
    out = (await process.communicate())[0].decode()
    code = out.split("status: ")[1].split(",")[0]
    flags = out.split(";; flags: ")[1].split(";")[0]
    lines = [line.split() for line in out.splitlines() if line and not line.startswith(";")]
    return code, flags, sorted(" ".join(line) for line in lines)


async def answers(*questions: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    informers = Informers(Still(OBJECTS), clock)  # type: ignore[arg-type]
    world, _ = await loop.create_datagram_endpoint(World, local_addr=("127.0.0.1", 0))
    upstream = world.get_extra_info("sockname")[:2]
    server = DnsServer(informers, clock, listen=(("127.0.0.1", 0),), upstreams=(upstream,), server_ips=("10.96.0.2",))
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(informers.run()), tasks.create_task(server.run())]
        await server.ready.wait()
        got = [await dig(server.ports[0], *question) for question in questions]
        for task in running:
            task.cancel()
    world.close()
    await asyncio.sleep(0)
    return got


def ask(*words: str) -> tuple[str, str, list[str]]:
    return asyncio.run(answers(words))[0]


SOA = "cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local."


def test_services() -> None:
    name = "web.default.svc.cluster.local"
    got = asyncio.run(
        answers(
            (name,),
            (name, "+tcp"),
            (name, "AAAA"),
            ("nope.default.svc.cluster.local",),
            ("WEB.default.svc.cluster.local",),
        )
    )
    assert got[0] == ("NOERROR", "qr aa rd", [f"{name}. 30 IN A 10.96.0.10"])
    assert got[1] == got[0]
    assert (got[2][0], got[2][2][0].startswith(SOA)) == ("NOERROR", True)
    assert (got[3][0], got[3][2][0].startswith(SOA)) == ("NXDOMAIN", True)
    assert got[4][2] == ["WEB.default.svc.cluster.local. 30 IN A 10.96.0.10"]


def test_headless_srv_and_names() -> None:
    db = "db.default.svc.cluster.local"
    got = asyncio.run(
        answers(
            (db,),
            (f"db-0.{db}",),
            ("_http._tcp." + db, "SRV"),
            ("empty.default.svc.cluster.local",),
            ("_http._tcp.web.default.svc.cluster.local", "SRV"),
            ("_nope._tcp.web.default.svc.cluster.local", "SRV"),
        )
    )
    assert got[0][2] == [f"{db}. 30 IN A 10.244.0.2", f"{db}. 30 IN A 10.244.0.3"]
    assert got[1][2] == [f"db-0.{db}. 30 IN A 10.244.0.2"]
    assert got[2][2] == sorted(
        [
            f"_http._tcp.{db}. 30 IN SRV 0 50 8080 db-0.{db}.",
            f"_http._tcp.{db}. 30 IN SRV 0 50 8080 10-244-0-3.{db}.",
            f"db-0.{db}. 30 IN A 10.244.0.2",
            f"10-244-0-3.{db}. 30 IN A 10.244.0.3",
        ]
    )
    assert got[3][0] == "NXDOMAIN"
    assert got[4][2][0].endswith("SRV 0 100 80 web.default.svc.cluster.local.")
    assert got[5][0] == "NXDOMAIN"


def test_the_rest_of_the_zone() -> None:
    got = asyncio.run(
        answers(
            ("dns-version.cluster.local", "TXT"),
            ("10-244-0-7.default.pod.cluster.local",),
            ("10-244-0-7.nope.pod.cluster.local",),
            ("default.svc.cluster.local",),
            ("nope.svc.cluster.local",),
            ("-x", "10.96.0.10"),
            ("-x", "10.244.0.2"),
            ("cluster.local", "NS"),
        )
    )
    assert got[0][2] == ['dns-version.cluster.local. 28800 IN TXT "1.1.0"']
    assert got[1][2] == ["10-244-0-7.default.pod.cluster.local. 30 IN A 10.244.0.7"]
    assert [each[0] for each in got[2:5]] == ["NXDOMAIN", "NOERROR", "NXDOMAIN"]
    assert got[5][2] == ["10.0.96.10.in-addr.arpa. 30 IN PTR web.default.svc.cluster.local."] or got[5][2][0].endswith(
        "PTR web.default.svc.cluster.local."
    )
    assert got[6][2][0].endswith("PTR db-0.db.default.svc.cluster.local.")
    assert got[7][2] == ["cluster.local. 30 IN NS ns.dns.cluster.local.", "ns.dns.cluster.local. 30 IN A 10.96.0.2"]


def test_aliases_and_the_world() -> None:
    alias, away = "alias.default.svc.cluster.local", "away.default.svc.cluster.local"
    got = asyncio.run(answers((alias,), (away,), ("www.example.com",), ("www.example.com",)))
    assert got[0][2] == [
        f"{alias}. 30 IN CNAME web.default.svc.cluster.local.",
        "web.default.svc.cluster.local. 30 IN A 10.96.0.10",
    ]
    assert got[1][2] == [f"{away}. 30 IN CNAME www.example.com.", "www.example.com. 60 IN A 192.0.2.99"]
    assert got[2][:2] == ("NOERROR", "qr rd ra")
    assert got[3][2] == got[2][2] == ["www.example.com. 60 IN A 192.0.2.99"]
