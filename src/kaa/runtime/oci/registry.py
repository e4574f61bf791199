"""Pulling images from registries: the OCI distribution protocol, over HTTP(S), with mirrors and credentials.

Every blob is checked against the digest that asked for it while it arrives; a connection that breaks is taken up where it
broke. Layers come in parallel and go to a file first, for a layer above may only be unpacked when all of it is there.

Source: OCI distribution-spec; the token protocol of the distribution project.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ...api.clock import Clock
from ..base import ImageAuth, ImagePullError, PullProgress
from .hosts import Endpoint, endpoints
from .images import ImageRecord, ImageStore, decode_config, digest_of
from .manifest import ACCEPT, Descriptor, choose_platform, decode_manifest
from .reference import Reference, parse_reference
from .snapshots import chain_ids
from .work import Threads

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

_PARALLEL_LAYERS = 4
_ATTEMPTS = 6
_MAX_DOCUMENT_BYTES = 16 << 20
_CHUNK = 1 << 18
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 30.0


class _Refused(Exception):
    """A registry's final answer; ``status`` 0 when it cannot be reached."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class _Progress:
    status: str = "resolving"
    done: int = 0
    total: int = 0


@dataclass
class _Pull:
    task: asyncio.Task[ImageRecord]
    progress: _Progress
    waiting: int = 0


class Puller:
    """Pulls, several at once; two pulls of one name share the work."""

    def __init__(self, store: ImageStore, threads: Threads, clock: Clock, hosts: Path | None = None) -> None:
        """``hosts``: the folder of hosts files."""
        self.store, self.threads, self.clock, self.hosts = store, threads, clock, hosts
        self._running: dict[str, _Pull] = {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def busy(self) -> bool:
        return bool(self._running)

    async def pull(self, reference: str, auth: ImageAuth) -> ImageRecord:
        """Raises ImagePullError. Cancelling the last who waits ends the pull."""
        try:
            wanted = parse_reference(reference)
        except ValueError as err:
            raise ImagePullError(f"failed to parse image name {reference!r}: {err}") from err
        key = f"{wanted} {digest_of(msgspec.json.encode(auth))}"
        pull = self._running.get(key)
        if pull is None:
            progress = _Progress()
            task = asyncio.create_task(self._pull(wanted, auth, progress), name=f"runtime/pull {wanted}")
            pull = self._running[key] = _Pull(task, progress)
        pull.waiting += 1
        try:
            return await asyncio.shield(pull.task)
        finally:
            pull.waiting -= 1
            if not pull.waiting:
                self._running.pop(key, None)
                pull.task.cancel()

    def progress(self, reference: str) -> PullProgress | None:
        try:
            wanted = str(parse_reference(reference))
        except ValueError:
            return None
        for key, pull in self._running.items():
            if key.split(" ")[0] == wanted:
                return PullProgress(pull.progress.status, pull.progress.done, pull.progress.total)
        return None

    async def close(self) -> None:
        running = [pull.task for pull in self._running.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._session:
            await self._session.close()

    async def _pull(self, wanted: Reference, auth: ImageAuth, progress: _Progress) -> ImageRecord:
        try:
            places = await self.threads.run(endpoints, self.hosts, wanted.registry)
            session = await self._http()
            remotes = [Remote(session, self.clock, place, wanted, auth) for place in places]
            top = await _first(
                [remote for remote in remotes if (remote.endpoint.pull if wanted.digest else remote.endpoint.resolve)],
                lambda remote: remote.manifest(wanted.wanted, wanted.digest),
            )
            return await _first(
                [remote for remote in remotes if remote.endpoint.pull],
                lambda remote: self._pull_from(remote, wanted, top, progress),
            )
        except (_Refused, ValueError) as err:
            raise ImagePullError(f"failed to pull and unpack image {str(wanted)!r}: {err}") from err

    async def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp  # 100 ms and more: only a node that pulls pays for it

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=True)
        return self._session

    async def _pull_from(self, remote: Remote, wanted: Reference, top: bytes, progress: _Progress) -> ImageRecord:
        """Bring what the manifest or index ``top`` names; its digests hold, wherever they are asked for."""
        content, manifest = top, decode_manifest(top)
        if manifest.is_index:
            choice = choose_platform(manifest.manifests or ())
            if choice is None:
                raise _Refused("no match for platform in manifest: not found")
            content = await remote.document("manifests", choice.digest, choice.digest)
            manifest = decode_manifest(content)
        if manifest.config is None:
            raise _Refused("the registry answered with an index inside an index")
        config = await remote.document("blobs", manifest.config.digest, manifest.config.digest)
        await self._layers(remote, manifest.layers, config, progress)
        digest = f"{wanted.name}@{digest_of(top)}"
        names = [f"{wanted.name}:{wanted.tag}"] if wanted.tag and not wanted.digest else []
        size = manifest.size_bytes + len(content)
        return await self.threads.run(self.store.add, content, config, size, names, [digest])

    async def _layers(self, remote: Remote, layers: tuple[Descriptor, ...], config: bytes, progress: _Progress) -> None:
        """Fetch what is missing, in parallel, and unpack each layer as it arrives: none depends on another."""
        diff_ids = decode_config(config).rootfs.diff_ids
        if len(diff_ids) != len(layers):
            raise _Refused("the image's config and manifest count its layers differently")
        wanted = [
            (layer, diff_id, chain)
            for layer, diff_id, chain in zip(layers, diff_ids, chain_ids(diff_ids), strict=True)
            if not self.store.snapshots.has(chain)
        ]
        progress.status, progress.total = "downloading", sum(layer.size for layer, _, _ in wanted)
        gate = asyncio.Semaphore(_PARALLEL_LAYERS)
        tasks = [
            asyncio.create_task(self._layer(gate, remote, *parts, progress), name=f"runtime/layer {parts[0].digest}")
            for parts in wanted
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _layer(
        self, gate: asyncio.Semaphore, remote: Remote, layer: Descriptor, diff_id: str, chain: str, progress: _Progress
    ) -> None:
        path = self.store.root / "downloads" / f"{layer.digest.partition(':')[2]}-{chain[7:19]}"
        async with gate:
            await self.threads.run(lambda: path.parent.mkdir(parents=True, exist_ok=True))
            try:
                await remote.download(layer, path, self.threads, progress)
                await self.threads.run(self._unpack, path, layer.digest, diff_id, chain)
            finally:
                await self.threads.run(lambda: path.unlink(missing_ok=True))

    def _unpack(self, path: Path, digest: str, diff_id: str, chain: str) -> None:
        with path.open("rb") as file:
            self.store.snapshots.unpack(chain, file, digest=digest, diff_id=diff_id)


async def _first(remotes: Sequence[Remote], ask: Callable[[Remote], Awaitable[T]]) -> T:
    """The first good answer. Raises _Refused as the last that was asked did."""
    refusal: Exception = _Refused("no host of the hosts file may be asked for this")
    for remote in remotes:
        try:
            return await ask(remote)
        except (_Refused, ValueError, OSError) as err:
            refusal = err
    raise _Refused(str(refusal)) from refusal


class Remote:
    """One repository at one endpoint: requests with the credentials it asks for, repeated while that may help."""

    def __init__(
        self, session: aiohttp.ClientSession, clock: Clock, endpoint: Endpoint, reference: Reference, auth: ImageAuth
    ) -> None:
        self.session, self.clock, self.endpoint, self.path, self.auth = session, clock, endpoint, reference.path, auth
        self.query = {"ns": reference.registry} if endpoint.proxy else {}
        self.authorization = f"Bearer {auth.registry_token}" if auth.registry_token else ""

    async def manifest(self, name: str, digest: str) -> bytes:
        """A manifest or index that can be read. Raises _Refused, ValueError."""
        content = await self.document("manifests", name, digest)
        decode_manifest(content)
        return content

    async def document(self, kind: str, name: str, digest: str) -> bytes:
        """A manifest or config, checked against ``digest`` when that is known."""
        async with self._get(f"/{self.path}/{kind}/{name}", {"Accept": ACCEPT}) as answer:
            content = b""
            async for chunk in answer.content.iter_chunked(_CHUNK):
                content += chunk
                if len(content) > _MAX_DOCUMENT_BYTES:
                    raise _Refused(f"{kind} {name} is larger than a document may be")
        if digest and digest_of(content) != digest:
            raise _Refused(f"{kind} {name} hashes to {digest_of(content)}")
        return content

    async def download(self, blob: Descriptor, path: Path, threads: Threads, progress: _Progress) -> None:
        """Fetch a blob into a file; after a broken connection go on from where it broke."""
        import aiohttp

        hasher, done = hashlib.sha256(), 0
        with await threads.run(path.open, "wb") as file:
            for attempt in range(_ATTEMPTS):
                try:
                    headers = {"Range": f"bytes={done}-"} if done else {}
                    async with self._get(f"/{self.path}/blobs/{blob.digest}", headers) as answer:
                        if done and answer.status != 206:
                            progress.done -= done
                            hasher, done = hashlib.sha256(), 0
                            await threads.run(file.truncate, 0)
                            file.seek(0)
                        async for chunk in answer.content.iter_chunked(_CHUNK):
                            await threads.run(file.write, chunk)
                            hasher.update(chunk)
                            done += len(chunk)
                            progress.done += len(chunk)
                            if done > blob.size > 0:
                                raise _Refused(f"blob {blob.digest} is larger than the {blob.size} bytes announced")
                    if done >= blob.size:
                        break
                except aiohttp.ClientError as err:
                    if attempt + 1 == _ATTEMPTS:
                        raise _Refused(f"blob {blob.digest}: {err}") from err
                await self.clock.sleep(self._delay(attempt))
        found = f"sha256:{hasher.hexdigest()}"
        if found != blob.digest:
            raise _Refused(f"blob {blob.digest} hashes to {found} ({done} of {blob.size} bytes)")

    @contextlib.asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer. Raises _Refused with the registry's own words."""
        import aiohttp

        asked, url = False, f"{self.endpoint.url}{path}"
        for attempt in range(_ATTEMPTS):
            sent = [*self.endpoint.headers, *headers.items()]
            if self.authorization:
                sent = [pair for pair in sent if pair[0].lower() != "authorization"]
                sent.append(("Authorization", self.authorization))
            try:
                answer = await self.session.get(url, headers=sent, params=self.query, ssl=self.endpoint.tls)
            except (aiohttp.ClientError, TimeoutError) as err:
                if attempt >= 2:
                    raise _Refused(f'failed to do request: Get "{url}": {_trouble(err)}') from err
                await self.clock.sleep(self._delay(attempt))
                continue
            try:
                if answer.status < 300:
                    yield answer
                    return
                if answer.status == 401 and not asked:
                    asked = True
                    await self._authorize(answer.headers.getall("WWW-Authenticate", []))
                elif answer.status in _TRANSIENT and attempt + 1 < _ATTEMPTS:
                    await self.clock.sleep(self._delay(attempt, answer.headers.get("Retry-After", "")))
                else:
                    raise _Refused(await self._words(answer), answer.status)
            finally:
                answer.release()
        raise _Refused(f"{self.endpoint.url} does not answer")

    def _delay(self, attempt: int, asked: str = "") -> float:
        wait = float(asked) if asked.isdigit() else 0.25 * 2**attempt * (1 + self.clock.random.random())
        return min(wait, _LONGEST_WAIT_S)

    async def _words(self, answer: aiohttp.ClientResponse) -> str:
        """What went wrong, as containerd says it where that is known."""
        name = f"{self.endpoint.host}/{self.path}"
        body = (await answer.content.read(4096)).decode(errors="replace")
        if answer.status == 404:
            return f"failed to resolve reference {name!r}: not found"
        if answer.status in (401, 403):
            return (
                f"failed to resolve reference {name!r}: pull access denied, repository does not exist or may require "
                f"authorization: {answer.status} {answer.reason}"
            )
        return (
            f"unexpected status from GET request to {answer.url}: {answer.status} {answer.reason} {body[:200]}".strip()
        )

    async def _authorize(self, challenges: list[str]) -> None:
        """Answer ``WWW-Authenticate``: a token from the realm it names, or plain basic authentication."""
        for challenge in challenges:
            scheme, parameters = parse_challenge(challenge)
            if scheme == "bearer" and "realm" in parameters:
                self.authorization = f"Bearer {await self._token(parameters)}"
                return
            if scheme == "basic" and self.auth.username:
                self.authorization = self._basic()
                return
        raise _Refused(f"{self.endpoint.url} wants credentials: 401 Unauthorized", 401)

    def _basic(self) -> str:
        plain = f"{self.auth.username}:{self.auth.password}"
        return f"Basic {base64.b64encode(plain.encode()).decode()}"

    async def _token(self, challenge: Mapping[str, str]) -> str:
        scope = challenge.get("scope") or f"repository:{self.path}:pull"
        fields = {"service": challenge.get("service", ""), "scope": scope}
        if self.auth.identity_token:
            grant = {"grant_type": "refresh_token", "refresh_token": self.auth.identity_token, "client_id": "kaa"}
            request = self.session.post(challenge["realm"], data={**fields, **grant}, ssl=self.endpoint.tls)
        else:
            headers = {"Authorization": self._basic()} if self.auth.username else {}
            request = self.session.get(challenge["realm"], params=fields, headers=headers, ssl=self.endpoint.tls)
        import aiohttp

        try:
            async with request as answer:
                body = await answer.content.read(_MAX_DOCUMENT_BYTES)
                if answer.status != 200:
                    raise _Refused(f"failed to fetch token: unexpected status: {answer.status} {answer.reason}", 401)
        except aiohttp.ClientError as err:
            raise _Refused(f"failed to fetch token: {err}") from err
        found: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str):
            raise _Refused("failed to fetch token: the answer holds none", 401)
        return token


def parse_challenge(text: str) -> tuple[str, dict[str, str]]:
    """``Bearer realm="…",service="…"`` as (``bearer``, {"realm": …})."""
    scheme, _, rest = text.partition(" ")
    found = re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', rest)
    return scheme.lower(), {key.lower(): quoted or bare for key, quoted, bare in found}


def _trouble(err: Exception) -> str:
    """Why a request never arrived, in the words of Go's HTTP client, for these end in events that people search for."""
    import aiohttp

    if not isinstance(err, aiohttp.ClientConnectorError):
        return str(err) or "timed out"
    if isinstance(err.os_error, socket.gaierror):
        return f"dial tcp: lookup {err.host}: no such host"
    if err.os_error.errno is None:  # several addresses, several reasons
        return str(err)
    return f"dial tcp {err.host}:{err.port}: connect: {os.strerror(err.os_error.errno).lower()}"
