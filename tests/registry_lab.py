"""A registry on loopback that can be told to misbehave, for tests of pulling."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web


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
        await response.prepare(request)
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
