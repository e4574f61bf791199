"""The client's bytes on the wire: connections used again, streams, and servers that break off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kaa.api.errors import NotFound, ServiceUnavailable
from kaa.api.types.core_v1 import ConfigMap
from kaa.client import connection
from kaa.client.client import WatchType
from kaa.client.http import HttpClient

MAP = b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"default","resourceVersion":"7"}}'
Answering = Callable[[str, asyncio.StreamWriter], Awaitable[bool]]


def answer(status: str, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


class Server:
    """Answers each request by a function; that one returning False closes the connection."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.requests: list[str] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(x.split(":")[1]) for x in head.lower().split("\r\n") if "content-length" in x), 0)
                self.requests.append(head + (await reader.readexactly(length)).decode())
                if not await self._answering(head.split("\r\n")[0], writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def run(answering: Answering, use: Callable[[HttpClient], Awaitable[None]]) -> Server:
    """Let a client use a server, each once."""
    server = Server(answering)

    async def main() -> None:
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            client = HttpClient(f"http://127.0.0.1:{port}", None, "test", token=lambda: "secret")
            try:
                async with asyncio.timeout(2):
                    await use(client)
            finally:
                await client.close()

    asyncio.run(main())
    return server


async def gives_map(line: str, writer: asyncio.StreamWriter) -> bool:
    writer.write(answer("200 OK", MAP))
    return True


def test_a_connection_is_used_again() -> None:
    async def use(client: HttpClient) -> None:
        for _ in range(3):
            assert (await client.get(ConfigMap, "a", "default")).metadata.name == "a"
        await client.raw("POST", "/some where?x=%20", b"body")

    server = run(gives_map, use)
    assert server.connections == 1
    assert "Authorization: Bearer secret\r\n" in server.requests[0]
    assert server.requests[3].startswith("POST /some%20where?x=%20 HTTP/1.1\r\n")
    assert server.requests[3].endswith("\r\n\r\nbody")


def test_what_nobody_read_of_an_answer_does_not_begin_the_next() -> None:
    async def says_its_path(line: str, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer("200 OK", line.split(" ")[1].encode()))
        return True

    async def main() -> list[bytes]:
        server = Server(says_its_path)
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
            pool = connection.Pool(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", None, {})
            async with pool.ask("GET", "/first", {}) as left:
                assert left.complete  # head and body came together
            bodies = []
            for path in ("/second", "/third"):
                async with pool.ask("GET", path, {}) as answered:
                    bodies.append(await answered.body())
            pool.close()
            assert server.connections == 2
            return bodies

    assert asyncio.run(main()) == [b"/second", b"/third"]


def test_requests_side_by_side_have_connections_of_their_own() -> None:
    async def use(client: HttpClient) -> None:
        await asyncio.gather(*(client.get(ConfigMap, "a", "default") for _ in range(3)))

    assert run(gives_map, use).connections == 3


def test_many_requests_take_turns_on_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 60.0)

    async def use(client: HttpClient) -> None:
        await asyncio.gather(*(client.get(ConfigMap, "a", "default") for _ in range(60)))

    server = run(gives_map, use)
    assert (server.connections, len(server.requests)) == (connection.IDLE_CONNECTIONS, 60)


@pytest.mark.parametrize("reachable", [True, False])
def test_who_waits_for_room_is_told_of_every_end(monkeypatch: pytest.MonkeyPatch, reachable: bool) -> None:
    """A server that ends each connection gives none back, and one that is gone never gives one."""
    monkeypatch.setattr(connection, "PATIENCE_S", 60.0)

    async def once(line: str, writer: asyncio.StreamWriter) -> bool:
        if reachable:
            writer.write(answer("200 OK", MAP).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        return False

    async def use(client: HttpClient) -> None:
        asked = (client.raw("POST", "/x", b"body") for _ in range(60))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(each, bytes) for each in answers] == [reachable] * 60

    assert run(once, use).connections == 60


def test_a_busy_server_is_not_given_more_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 0.1)

    async def slow(line: str, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(0.01)
        return await gives_map(line, writer)

    async def one(client: HttpClient) -> None:
        for _ in range(2):  # a second request, while others wait for their first
            await client.get(ConfigMap, "a", "default")

    async def use(client: HttpClient) -> None:
        await asyncio.gather(*(one(client) for _ in range(150)))

    server = run(slow, use)
    assert len(server.requests) == 300
    assert server.connections <= connection.IDLE_CONNECTIONS + 8, (
        "a pause of this machine may look like one of the server"
    )


def test_a_server_that_pauses_is_given_one_connection_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 0.1)
    waking = asyncio.Event()

    async def pauses(line: str, writer: asyncio.StreamWriter) -> bool:
        await waking.wait()
        return await gives_map(line, writer)

    async def use(client: HttpClient) -> None:
        asking = [asyncio.ensure_future(client.get(ConfigMap, "a", "default")) for _ in range(60)]
        await asyncio.sleep(0.35)
        waking.set()
        await asyncio.gather(*asking)

    assert run(pauses, use).connections <= connection.IDLE_CONNECTIONS + 8


def test_requests_that_hang_do_not_hold_others_up() -> None:
    others = asyncio.Event()

    async def hangs(line: str, writer: asyncio.StreamWriter) -> bool:
        if "/hang" in line:
            await others.wait()
        return await gives_map(line, writer)

    async def use(client: HttpClient) -> None:
        hanging = [
            asyncio.ensure_future(client.get(ConfigMap, "hang", "default")) for _ in range(connection.IDLE_CONNECTIONS)
        ]
        await asyncio.sleep(0)
        await asyncio.gather(*(client.get(ConfigMap, "a", "default") for _ in range(3)))
        others.set()
        await asyncio.gather(*hanging)

    run(hangs, use)


def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    async def use(client: HttpClient) -> None:
        for _ in range(2):
            await client.get(ConfigMap, "a", "default")

    async def closes(line: str, writer: asyncio.StreamWriter) -> bool:
        await gives_map(line, writer)
        return False

    assert run(closes, use).connections == 2


def test_statuses_become_errors() -> None:
    async def use(client: HttpClient) -> None:
        with pytest.raises(NotFound, match="is not here"):
            await client.get(ConfigMap, "a", "default")

    async def refuses(line: str, writer: asyncio.StreamWriter) -> bool:
        status = b'{"kind":"Status","message":"it is not here","reason":"NotFound","code":404}'
        writer.write(answer("404 Not Found", status))
        return True

    run(refuses, use)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="no answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", id="half an answer"),
        pytest.param(b"220 mail server\r\n", id="another protocol"),
    ],
)
def test_broken_answers_are_unavailable(sent: bytes) -> None:
    async def use(client: HttpClient) -> None:
        with pytest.raises(ServiceUnavailable):
            await client.get(ConfigMap, "a", "default")

    async def breaks(line: str, writer: asyncio.StreamWriter) -> bool:
        writer.write(sent)
        return False

    run(breaks, use)


def test_nobody_listens() -> None:
    async def main() -> None:
        with pytest.raises(ServiceUnavailable):
            await HttpClient("http://127.0.0.1:1", None, "test").get(ConfigMap, "a", "default")

    asyncio.run(main())


def test_a_watch_is_read_in_lines_whatever_the_chunks() -> None:
    events = b'{"type":"ADDED","object":%s}\n{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n' % MAP

    async def streams(line: str, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(events), 40):
            piece = events[at : at + 40]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return True

    async def use(client: HttpClient) -> None:
        found = [(e.type, e.resource_version) async for e in client.watch(ConfigMap, "default")]
        assert found == [(WatchType.ADDED, "7"), (WatchType.BOOKMARK, "9")]

    server = run(streams, use)
    assert server.requests[0].startswith("GET /api/v1/namespaces/default/configmaps?")


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def ends(line: str, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + MAP)
        return False

    async def use(client: HttpClient) -> None:
        assert await client.raw("GET", "/version") == MAP

    run(ends, use)
