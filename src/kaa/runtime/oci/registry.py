"""Pulling images from registries, several at once: which host to ask, which manifest to take, layers in parallel.

Layers go to a file first, for a layer above may only be unpacked when all of it is there. ``remote`` speaks with the registry.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ...api.clock import Clock
from ..base import ImageAuth, ImagePullError, PullProgress
from .hosts import endpoints
from .images import ImageRecord, ImageStore, decode_config, digest_of
from .manifest import Descriptor, Manifest, candidates, check_digest, check_layers, decode_manifest, runs_here
from .reference import Reference, parse_reference
from .remote import Progress, Refused, Remote
from .snapshots import chain_ids
from .work import Threads

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

_PARALLEL_LAYERS = 4
_CONNECT_S, _SILENCE_S = 15.0, 60.0
_NESTED = 8  #: how deep indexes may lie in indexes
_MAX_MANIFESTS = 64  #: how many may be looked at to find the one for this machine
_NO_MATCH = "no match for platform in manifest"


@dataclass
class _Pull:
    task: asyncio.Task[ImageRecord]
    progress: Progress
    waiting: int = 0


class Puller:
    """Pulls, several at once; two pulls of one name with the same credentials share the work."""

    def __init__(
        self,
        store: ImageStore,
        threads: Threads,
        clock: Clock,
        hosts: Path | None = None,
        *,
        silence_s: float = _SILENCE_S,
    ) -> None:
        """``hosts``: the folder of hosts files; ``silence_s``: how long a connection may say nothing."""
        self.store, self.threads, self.clock, self.hosts, self.silence_s = store, threads, clock, hosts, silence_s
        self._running: dict[str, _Pull] = {}
        self._session: aiohttp.ClientSession | None = None
        self._numbers = itertools.count()

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
            progress = Progress()
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

    async def _pull(self, wanted: Reference, auth: ImageAuth, progress: Progress) -> ImageRecord:
        failed = f'failed to pull and unpack image "{wanted}"'
        try:
            places = await self.threads.run(endpoints, self.hosts, wanted.registry)
            session = await self._http()
            remotes = [Remote(session, self.clock, place, wanted, auth) for place in places]
            try:
                top = await _first(
                    [one for one in remotes if (one.endpoint.pull if wanted.digest else one.endpoint.resolve)],
                    lambda remote: remote.resolve(wanted.wanted, wanted.digest),
                )
            except (Refused, OSError) as err:
                raise Refused(f'failed to resolve reference "{wanted}": {err}') from err
            return await _first(
                [one for one in remotes if one.endpoint.pull],
                lambda remote: self._pull_from(remote, wanted, top, progress),
            )
        except (Refused, ValueError, OSError) as err:
            raise ImagePullError(f"{failed}: {err}") from err

    async def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp  # 100 ms and more: only a node that pulls pays for it

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=self.silence_s)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=True)
        return self._session

    async def _pull_from(self, remote: Remote, wanted: Reference, top: bytes, progress: Progress) -> ImageRecord:
        """Bring what the manifest or index ``top`` names; its digests hold, wherever they are asked for."""
        found = await _Chooser(remote).choose(top)
        if found is None:
            what = _NO_MATCH if decode_manifest(top).is_index else f"{_NO_MATCH} {digest_of(top)}"
            raise Refused(f"{what}: not found")
        content, manifest, config = found
        await self._layers(remote, manifest.layers, config, progress)
        digest = f"{wanted.name}@{digest_of(top)}"
        names = [f"{wanted.name}:{wanted.tag}"] if wanted.tag and not wanted.digest else []
        size = manifest.size_bytes + len(content)
        return await self.threads.run(self.store.add, content, config, size, names, [digest])

    async def _layers(self, remote: Remote, layers: tuple[Descriptor, ...], config: bytes, progress: Progress) -> None:
        """Fetch what is missing, in parallel, and unpack each layer as it arrives: none depends on another."""
        diff_ids = decode_config(config).rootfs.diff_ids
        check_layers(layers, diff_ids)
        wanted = [
            (layer, diff_id, chain)
            for layer, diff_id, chain in zip(layers, diff_ids, chain_ids(diff_ids), strict=True)
            if not self.store.snapshots.has(chain)
        ]
        progress.status, progress.done, progress.total = "downloading", 0, sum(layer.size for layer, _, _ in wanted)
        self.store.snapshots.check_room(progress.total)
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
        self, gate: asyncio.Semaphore, remote: Remote, layer: Descriptor, diff_id: str, chain: str, progress: Progress
    ) -> None:
        path = self.store.root / "downloads" / f"{layer.digest.partition(':')[2]}-{next(self._numbers)}"
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


class _Chooser:
    """Finds this machine's image below a manifest or index, which may hold indexes itself."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._left = remote, _MAX_MANIFESTS

    async def choose(
        self, content: bytes, entry: Descriptor | None = None, depth: int = 0
    ) -> tuple[bytes, Manifest, bytes] | None:
        """(manifest as it came, manifest, config); None when nothing is for this machine. Raises Refused, ValueError.

        Args:   entry: how an index names ``content``; a platform in it is believed, without one the config says it.
        """
        manifest = decode_manifest(content)
        if manifest.config is not None:
            config = await self._remote.fetch("config", manifest.config)
            named = entry is not None and entry.platform is not None
            return (content, manifest, config) if named or runs_here(decode_config(config)) else None
        if depth >= _NESTED:
            raise Refused("indexes are nested too deep")
        for one in candidates(manifest.manifests or ()):
            self._left -= 1
            if self._left < 0:
                raise Refused("the index has too many manifests that may be for this machine")
            check_digest(one.digest)
            inner = await self._remote.fetch("manifest", one)
            found = await self.choose(inner, one, depth + 1)
            if found is not None:
                return found
        return None


async def _first(remotes: Sequence[Remote], ask: Callable[[Remote], Awaitable[T]]) -> T:
    """The first good answer. Raises Refused as the last that was asked did."""
    refusal: Exception = Refused("no host of the hosts file may be asked for this")
    for remote in remotes:
        try:
            return await ask(remote)
        except (Refused, ValueError, OSError) as err:
            refusal = err
    raise Refused(str(refusal)) from refusal
