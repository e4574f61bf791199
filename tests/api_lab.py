"""A whole API server in the test's process: in memory, on a clock, reached by calls or over real HTTPS on loopback.

    def test_it() -> None:
        async def use(lab: Lab) -> None:
            await lab.client.create(...)
        run(use)

``run`` ends whatever the server started; each test has a server of its own, and all share one set of keys.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from kaa.api.clock import Clock, SystemClock
from kaa.apiserver.authn.jwt import SigningKey, VerifyingKey
from kaa.apiserver.encryption import encrypted
from kaa.apiserver.options import ApiServerOptions
from kaa.client.http import HttpClient
from kaa.client.inprocess import InProcessClient
from kaa.client.pipeline import User
from kaa.cluster import control_plane
from kaa.cluster.config import ClusterConfig
from kaa.cluster.control_plane import SYSTEM, ControlPlane, bootstrap, kubelet_context, serving_context
from kaa.cluster.pki import Pki, api_server_hosts, control_plane_profiles
from kaa.store.memory import MemoryStore

PATIENCE_S = 20.0


@lru_cache(maxsize=1)
def keys() -> tuple[tempfile.TemporaryDirectory[str], Pki]:
    """Keys and certificates, made once a session. The folder goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="kaa-api-lab-")
    pki = Pki(Path(folder.name) / "pki", SystemClock())
    pki.ensure(control_plane_profiles(api_server_hosts()))
    return folder, pki


def cluster_config(options: ApiServerOptions | None = None) -> ClusterConfig:
    options = options or ApiServerOptions()
    return ClusterConfig(
        name="lab",
        data_dir=keys()[0].name,
        api_port=6443,
        node_name="lab",
        node_ip="192.0.2.10",
        api_server=options,
    )


def admin_tls() -> ssl.SSLContext:
    """A client of ``system:masters`` by its certificate."""
    pki = keys()[1]
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.load_cert_chain(pki.cert("super-admin"), pki.key("super-admin"))
    return context


def anonymous_tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(keys()[1].ca))


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Lab:
    """The server and its clients. ``port`` is 0 unless it listens."""

    plane: ControlPlane
    clock: Clock
    port: int = 0
    client: InProcessClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = self.plane.client(SYSTEM, "lab")

    def as_user(self, name: str, *groups: str) -> InProcessClient:
        return self.plane.client(User(name, groups=groups), "lab")

    def http(self) -> HttpClient:
        return HttpClient(f"https://127.0.0.1:{self.port}", admin_tls(), "lab")

    async def connect(self, *, admin: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = admin_tls() if admin else anonymous_tls()
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, limit=1 << 24)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        admin: bool = True,
        content_type: str = "application/json",
        **headers: str,
    ) -> Answer:
        """One request on a connection of its own. ``body`` that is no bytes goes as JSON; ``_`` in header names is ``-``."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        reader, writer = await self.connect(admin=admin)
        try:
            more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
            kind = f"Content-Type: {content_type}\r\n" if data else ""
            start = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{kind}{more}\r\n"
            writer.write(start.encode("latin-1") + data)
            return await read_answer(reader, method)
        finally:
            writer.close()


async def read_answer(reader: asyncio.StreamReader, method: str = "GET") -> Answer:
    """The next answer of a connection."""
    async with asyncio.timeout(PATIENCE_S):
        start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        headers: dict[str, str] = {}  # those that come more than once joined, as HTTP means them
        for name, _, value in (line.partition(": ") for line in lines):
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        status = int(start.split(" ")[1])
        if method == "HEAD" or status in (204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join([chunk async for chunk in chunks(reader)]))
        return Answer(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        size = int(await reader.readline(), 16)
        data = await reader.readexactly(size + 2)
        if not size:
            return
        yield data[:-2]


@asynccontextmanager
async def lab(
    *,
    clock: Clock | None = None,
    http: bool = False,
    bootstrapped: bool = False,
    options: ApiServerOptions | None = None,
) -> AsyncIterator[Lab]:
    """A server that stands while the block runs, with the namespace ``default``."""
    clock = clock or SystemClock(seed=1)
    _, pki = keys()
    config = cluster_config(options)
    plane = control_plane.build(
        config,
        clock,
        encrypted(MemoryStore(), config.api_server.encryption_provider_config),
        signing_key=SigningKey(pki.token_key.read_bytes()),
        verifying_key=VerifyingKey(pki.token_public_key.read_bytes()),
        kubelet_tls=kubelet_context(pki),
    )
    made = Lab(plane, clock)
    await plane.api.cacher.fill()
    running = [asyncio.create_task(plane.api.cacher.follow(), name="cacher")]
    try:
        if bootstrapped:
            await bootstrap(made.client, plane.api, config, clock)
        else:
            await _default_namespace(made)
        await plane.definitions.start()
        running.append(asyncio.create_task(plane.definitions.run(), name="definitions"))
        if http:
            made.port = await plane.server.listen("127.0.0.1", 0, serving_context(pki))
            running.append(asyncio.create_task(plane.server.run(), name="http"))
        plane.paths.ready.set()
        await asyncio.sleep(0)
        yield made
    finally:
        for task in reversed(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if plane.audit is not None:
            plane.audit.close()
        await plane.store.close()


async def _default_namespace(made: Lab) -> None:
    from kaa.api.types.core_v1 import Namespace, ServiceAccount
    from kaa.api.types.meta_v1 import ObjectMeta

    await made.client.create(Namespace(metadata=ObjectMeta(name="default")))
    await made.client.create(ServiceAccount(metadata=ObjectMeta(name="default", namespace="default")))


def run(
    use: Callable[[Lab], Awaitable[None]],
    *,
    clock: Clock | None = None,
    http: bool = False,
    bootstrapped: bool = False,
    options: ApiServerOptions | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Let a test use a server of its own; a test that hangs fails."""

    async def main() -> None:
        async with (
            asyncio.timeout(patience_s),
            lab(clock=clock, http=http, bootstrapped=bootstrapped, options=options) as made,
        ):
            await use(made)

    asyncio.run(main())
