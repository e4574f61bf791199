"""The cluster's name server: UDP and TCP around ``dns_records`` and ``forward``.

The idea: what the cluster knows is answered on the spot, from the informers' caches, without a task; only questions
for the world outside wait. Encoded answers are kept until anything in the caches changes.

    dns = DnsServer(informers, clock, listen=(("10.244.0.1", 53),), cluster_domain="cluster.local", upstreams=("192.0.2.53",))
    await dns.run()
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, cast

import structlog

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Namespace, Service
from kaa.api.types.discovery_v1 import EndpointSlice
from kaa.client.informer import Informers

from . import dns_wire
from .dns_records import Zone
from .dns_wire import Answer, Code, FormatError, Query, Record, Type
from .forward import Forwarder
from .proxy import SLICES_OF_SERVICE, slice_owner

log = structlog.get_logger(__name__)

MAX_MESSAGE = 65535
TCP_IDLE_S = 10.0
TCP_CONNECTIONS = 500
CACHE_SIZE = 20_000
_AT = "dns/address"


def _service_addresses(service: Service) -> Iterable[str]:
    spec = service.spec
    if spec is None or spec.cluster_ip in (None, "", "None"):
        return ()
    return spec.cluster_ips or (spec.cluster_ip or "",)


class InformerFacts:
    """The zone's lookups on informers; ``changed`` is called when any answer may differ."""

    def __init__(self, informers: Informers, clock: Clock) -> None:
        self._clock = clock
        self._services, self._slices = informers.of(Service), informers.of(EndpointSlice)
        self._namespaces = informers.of(Namespace)
        self._services.add_index(_AT, _service_addresses)
        self._slices.add_index(SLICES_OF_SERVICE, lambda each: (slice_owner(each),))
        self._slices.add_index(_AT, lambda each: {ip for endpoint in each.endpoints for ip in endpoint.addresses})
        self.changed_at = int(clock.now())
        self.cache: dict[bytes, bytes] = {}  #: {query but its id: response but its id}
        for informer in (self._services, self._slices, self._namespaces):
            informer.add_handler(self._forget)

    def _forget(self, old: Any, new: Any) -> None:
        self.changed_at = int(self._clock.now())
        self.cache.clear()

    async def synced(self) -> None:
        for informer in (self._services, self._slices, self._namespaces):
            await informer.synced.wait()

    def service(self, namespace: str, name: str) -> Service | None:
        return self._services.get(name, namespace)

    def slices(self, namespace: str, name: str) -> Sequence[EndpointSlice]:
        return self._slices.by_index(SLICES_OF_SERVICE, f"{namespace}/{name}")

    def services_at(self, address: str) -> Sequence[Service]:
        return self._services.by_index(_AT, address)

    def slices_at(self, address: str) -> Sequence[EndpointSlice]:
        return self._slices.by_index(_AT, address)

    def has_namespace(self, name: str) -> bool:
        return self._namespaces.get(name) is not None

    def serial(self) -> int:
        return self.changed_at


class DnsServer:
    """Serves ``cluster_domain`` at every address of ``listen``; the rest goes to ``upstreams`` (not to ourselves)."""

    def __init__(
        self,
        informers: Informers,
        clock: Clock,
        *,
        listen: tuple[tuple[str, int], ...],
        cluster_domain: str = "cluster.local",
        upstreams: tuple[str | tuple[str, int], ...] = (),
        server_ips: tuple[str, ...] = (),
    ) -> None:
        self._facts = InformerFacts(informers, clock)
        self._clock = clock
        self._listen = listen
        ours = {address for address, _ in listen} | set(server_ips)
        others = tuple(each for each in upstreams if not isinstance(each, str) or each not in ours)
        self._forwarder = Forwarder(tuple(each for each in others if each not in listen), clock)
        self.zone = Zone(self._facts, cluster_domain, server_ips or tuple(address for address, _ in listen))
        self.ready = asyncio.Event()
        self.ports: list[int] = []  #: really bound, in the order of ``listen``
        self._tasks: asyncio.TaskGroup | None = None
        self._connections = 0

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError when an address cannot be had."""
        await self._facts.synced()
        loop = asyncio.get_running_loop()
        transports: list[asyncio.DatagramTransport] = []
        servers: list[asyncio.Server] = []
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                for address, port in self._listen:
                    server = await asyncio.start_server(self._serve_tcp, address, port)
                    servers.append(server)
                    bound = server.sockets[0].getsockname()[1]
                    transport, _ = await loop.create_datagram_endpoint(
                        lambda: _Datagrams(self), local_addr=(address, bound)
                    )
                    transports.append(transport)
                    self.ports.append(bound)
                self.ready.set()
                await asyncio.Event().wait()
            finally:
                self._tasks = None
                for transport in transports:
                    transport.close()
                for server in servers:
                    server.close()

    def answer(self, data: bytes, *, tcp: bool = False) -> bytes | Query:
        """The response to a message, or its Query when that has to be asked elsewhere. Empty: say nothing."""
        if not tcp:
            kept = self._facts.cache.get(data[2:])
            if kept is not None:
                return data[:2] + kept
        try:
            query = dns_wire.parse_query(data)
        except FormatError:
            # A response, or a scrap, gets no answer: two servers must not talk to each other for ever.
            return dns_wire.failure(data, Code.FORMERR) if len(data) >= 12 and not data[2] & 0x80 else b""
        answer = self._decide(query)
        if isinstance(answer, bytes):
            return answer
        if answer is None:
            return query
        return self._encode(data, query, answer, tcp=tcp)

    def _decide(self, query: Query) -> Answer | bytes | None:
        if query.edns_version:
            return dns_wire.bad_version(query)
        if query.opcode:
            return Answer(Code.NOTIMP, authoritative=False)
        if query.klass not in (dns_wire.IN, dns_wire.ANY_CLASS):
            return Answer(Code.REFUSED, authoritative=False)
        answer = self.zone.answer(query.name, query.type)
        if answer is None or not answer.answers or answer.answers[0].type != Type.CNAME:
            return answer
        outside = answer.answers[-1].type == Type.CNAME and query.type != Type.CNAME
        target = answer.answers[-1].target
        return None if outside and target and not self.zone.holds(target) else answer

    def _encode(self, data: bytes, query: Query, answer: Answer, *, tcp: bool) -> bytes:
        mixed = dns_wire.total(answer.answers, (Type.A, Type.AAAA)) > 1
        if mixed:  # spread the clients that take the first address, as CoreDNS' loadbalance does
            names = [each for each in answer.answers if each.type not in (Type.A, Type.AAAA)]
            addresses = [each for each in answer.answers if each.type in (Type.A, Type.AAAA)]
            self._clock.random.shuffle(addresses)
            answer = Answer(answer.code, (*names, *addresses), answer.authority, answer.additional)
        limit = MAX_MESSAGE if tcp else min(query.udp_bytes, dns_wire.OUR_UDP_BYTES)
        response = dns_wire.encode(query, answer, limit)
        if not tcp and not mixed:
            if len(self._facts.cache) >= CACHE_SIZE:
                self._facts.cache.clear()
            self._facts.cache[data[2:]] = response[2:]
        return response

    async def forward(self, data: bytes, query: Query, *, tcp: bool) -> bytes:
        """Ask upstream; SERVFAIL when nobody answers. Aliases that lead out of the zone are followed."""
        own = self.zone.answer(query.name, query.type)
        if own is not None:
            return await self._follow(query, own, tcp=tcp)
        response = await self._forwarder.ask(data, tcp=tcp)
        if response is None:
            return dns_wire.encode(query, Answer(Code.SERVFAIL, authoritative=False), MAX_MESSAGE)
        limit = MAX_MESSAGE if tcp else query.udp_bytes
        return response if len(response) <= limit else self._cut(query)

    def _cut(self, query: Query) -> bytes:
        filler = Record(query.name, Type.TXT, 0, bytes(MAX_MESSAGE - 1000))
        return dns_wire.encode(query, Answer(answers=(filler,), authoritative=False), dns_wire.MAX_UDP_BYTES)

    async def _follow(self, query: Query, own: Answer, *, tcp: bool) -> bytes:
        target = own.answers[-1].target
        assert target is not None
        response = await self._forwarder.ask(dns_wire.make_query(0, target, query.type), tcp=tcp)
        found: tuple[Record, ...] = ()
        if response is not None:
            try:
                found = dns_wire.read_addresses(response, query.type)
            except FormatError as err:
                log.debug("unreadable answer from upstream", error=str(err))
        limit = MAX_MESSAGE if tcp else min(query.udp_bytes, dns_wire.OUR_UDP_BYTES)
        return dns_wire.encode(query, Answer(answers=(*own.answers, *found)), limit)

    def start(self, work: Any, name: str) -> None:
        """Run ``work`` among the server's own tasks; drop it when the server is stopping."""
        if self._tasks is None:
            work.close()
        else:
            self._tasks.create_task(work, name=name)

    def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= TCP_CONNECTIONS or self._tasks is None:
            writer.close()
            return
        self._connections += 1
        self.start(self._converse(reader, writer), "dns/tcp")

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_S):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    data = await reader.readexactly(length)
                answer = self.answer(data, tcp=True)
                if isinstance(answer, Query):
                    answer = await self.forward(data, answer, tcp=True)
                if not answer:
                    return
                writer.write(struct.pack("!H", len(answer)) + answer)
                async with asyncio.timeout(TCP_IDLE_S):
                    await writer.drain()
        except (OSError, EOFError, TimeoutError):
            return  # the client went away
        finally:
            self._connections -= 1
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    """One UDP address of the server."""

    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # by its class 3.11's own is none
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self._server.answer(data)
        if isinstance(answer, Query):
            self._server.start(self._ask_elsewhere(data, answer, addr), "dns/forward")
        elif answer:
            self._send(answer, addr)

    async def _ask_elsewhere(self, data: bytes, query: Query, addr: Any) -> None:
        self._send(await self._server.forward(data, query, tcp=False), addr)

    def _send(self, answer: bytes, addr: Any) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, addr)
