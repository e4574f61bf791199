"""A registry on loopback that can be told to misbehave, for tests of pulling."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from kaa.api.clock import SystemClock
from kaa.runtime.oci.build import image_archive
from kaa.runtime.oci.images import ImageStore
from kaa.runtime.oci.registry import Puller
from kaa.runtime.oci.snapshots import Snapshots
from kaa.runtime.oci.work import Threads


@dataclass
class Registry:
    """A registry on loopback that can be told to misbehave."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    token: str = ""
    basic: str = ""
    refuse_times: int = 0
    truncate_times: int = 0
    lie: str = ""  #: a digest answered with other bytes
    answers: dict[str, web.Response] = field(default_factory=dict)  #: {tag or digest: what is said of it instead}
    stall_times: int = 0  #: how often each blob and manifest stops coming in the middle
    stalled: Counter[str] = field(default_factory=Counter)
    ranges: bool = True
    hold: asyncio.Event | None = None  #: layers wait for it
    held: int = 0  #: how many do
    retry_after: str = "7"
    requests: list[str] = field(default_factory=list)
    port: int = 0

    def put(self, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return digest

    def load(self, archive: Path, tag: str = "1") -> str:
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if member.name.startswith("blobs/") and (file := tar.extractfile(member)):
                    self.put(file.read())
            index = tar.extractfile("index.json")
            assert index is not None
            digest: str = json.loads(index.read())["manifests"][0]["digest"]
        self.tags[tag] = digest
        return digest

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path + (f" {request.headers['Range']}" if "Range" in request.headers else ""))
        if request.path == "/token":
            if request.headers.get("Authorization") != "Basic dTpw":
                return web.Response(status=401)
            return web.json_response({"token": self.token})
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="http://127.0.0.1:{self.port}/token",service="here",scope="repository:a/b:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if self.basic and request.headers.get("Authorization") != self.basic:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if self.refuse_times:
            self.refuse_times -= 1
            return web.Response(status=429, headers={"Retry-After": self.retry_after})
        name = request.path.rpartition("/")[2]
        if name in self.answers:
            said = self.answers[name]
            return web.Response(status=said.status, headers=said.headers, body=said.body)
        content = self.blobs.get(self.tags.get(name, name))
        if content is None:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        if name == self.lie:
            content = content[::-1]
        return await self._send(request, content)

    async def _send(self, request: web.Request, content: bytes) -> web.StreamResponse:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1]) if self.ranges else 0
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(content) - start
        if "/manifests/" in request.path:
            response.headers["Docker-Content-Digest"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
            response.content_type = "application/vnd.oci.image.manifest.v1+json"
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if self.hold is not None and "/blobs/" in request.path and content[:1] != b"{":
            self.held += 1
            await self.hold.wait()
        if self.stalled[request.path] < self.stall_times:
            self.stalled[request.path] += 1
            await response.write(content[start : start + len(content) // 3])
            await asyncio.Event().wait()
        if "/blobs/" in request.path and self.truncate_times and len(content) > 3000:
            self.truncate_times -= 1
            await response.write(content[start : start + 1000])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(content[start:])
        return response


class QuickClock(SystemClock):
    """Back-off takes no time, but is noted."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@dataclass
class World:
    registry: Registry
    store: ImageStore
    puller: Puller
    clock: QuickClock
    name: str
    folder: Path


def in_world(tmp_path: Path) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    """Runs a test's body with a registry, a store and a puller; looks that nothing half done is left."""

    def runner(body: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            registry, clock, threads = Registry(), QuickClock(), Threads()
            server = web.Server(registry.answer)
            runner = web.ServerRunner(server, shutdown_timeout=0.01)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            registry.port = runner.addresses[0][1]
            snapshots = Snapshots(tmp_path / "store")
            snapshots.open()
            store = ImageStore(tmp_path / "store" / "images", snapshots)
            store.open()
            hosts = tmp_path / "registries"
            (hosts / "docker.io").mkdir(parents=True)
            (hosts / "docker.io" / "hosts.toml").write_text(f'[host."http://127.0.0.1:{registry.port}"]')
            puller = Puller(store, threads, clock, hosts, silence_s=0.2)
            try:
                await body(World(registry, store, puller, clock, f"127.0.0.1:{registry.port}/a/b:1", tmp_path))
            finally:
                await puller.close()
                await runner.cleanup()
                threads.close()
            assert not list((tmp_path / "store" / "images" / "downloads").glob("*"))
            assert not list((tmp_path / "store" / "layers").glob(".*"))

        asyncio.run(main())

    return runner


def make_archive(world: World, name: str = "image") -> Path:
    noise = os.urandom(20_000)
    return image_archive(world.folder / f"{name}.tar", ["x.io/a/b:1"], files={"bin/x": (noise, 0o755)}, user="33")
