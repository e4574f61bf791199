"""The agent's images, for the ``kaa image`` command: a socket that only its owner may open.

One line of JSON asks, lines of JSON answer: progress as it comes, then ``{"done": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from kaa.kubelet.image_gc import in_use
from kaa.runtime.base import ContainerState, Runtime, RuntimeFailure

PROGRESS_S = 0.2
_NO_ARCHIVES = (
    "this runtime takes no archives: a simulated node only pretends to have images, and one at a CRI endpoint has tools of"
    " its own (`ctr -n k8s.io images import`)"
)


class ImageService:
    """Serves one runtime's images on a Unix socket."""

    def __init__(self, runtime: Runtime, path: Path) -> None:
        self._runtime, self._path = runtime, path

    async def run(self) -> None:
        """Serve until cancelled."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._connected, str(self._path))
        self._path.chmod(0o600)
        try:
            async with server:
                await server.serve_forever()
        finally:
            self._path.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = msgspec.json.decode(await reader.readline())
            try:
                answer: dict[str, Any] = {"done": await self._answer(asked, writer)}
            except (RuntimeFailure, OSError, ValueError, KeyError) as err:
                answer = {"error": str(err) or type(err).__name__}
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
        except (ConnectionError, msgspec.DecodeError):
            pass
        finally:
            writer.close()

    async def _answer(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> Any:
        match asked:
            case {"verb": "ls"}:
                return [_row(image) for image in await self._runtime.list_images()]
            case {"verb": "import", "path": path}:
                importer = getattr(self._runtime, "import_images", None)
                if importer is None:
                    raise RuntimeFailure(_NO_ARCHIVES)
                return [_row(image) for image in await importer(Path(path))]
            case {"verb": "pull", "image": reference}:
                return _row(await self._pull(reference, writer))
            case {"verb": "rm", "image": reference}:
                image = await self._runtime.image(reference)
                if image is None:
                    raise RuntimeFailure(f"no image {reference!r} here; `kaa image ls` lists them")
                await self._runtime.remove_image(image.id)
                return _row(image)
            case {"verb": "prune", "all": also_ended}:
                return await self._prune(also_ended=also_ended)
        raise RuntimeFailure("unknown request")

    async def _prune(self, *, also_ended: bool) -> dict[str, Any]:
        """Remove what no container is made of or mounts, and no runtime has pinned; ``also_ended``: containers that have
        ended count for nothing. Says which went, and how many bytes they took."""
        containers = await self._runtime.list_containers()
        used = in_use(one for one in containers if not also_ended or one.state is not ContainerState.EXITED)
        gone = [image for image in await self._runtime.list_images() if image.id not in used and not image.pinned]
        before, _ = await self._runtime.image_fs_bytes()
        for image in gone:
            await self._runtime.remove_image(image.id)
        after, _ = await self._runtime.image_fs_bytes()
        freed = max(before - after, 0) or sum(image.size_bytes for image in gone)  # a CRI runtime counts later
        return {"images": [_row(image) for image in gone], "freed_bytes": freed}

    async def _pull(self, reference: str, writer: asyncio.StreamWriter) -> Any:
        pulling = asyncio.ensure_future(self._runtime.pull_image(reference))
        try:
            while not pulling.done():
                await asyncio.wait((pulling,), timeout=PROGRESS_S)
                progress = self._runtime.pull_progress(reference)
                if progress is not None:
                    line = {"status": progress.status, "bytes": progress.done_bytes, "of": progress.total_bytes}
                    writer.write(msgspec.json.encode({"progress": line}) + b"\n")
                    await writer.drain()
            return await pulling
        finally:
            pulling.cancel()


def _row(image: Any) -> dict[str, Any]:
    return {
        "id": image.id,
        "tags": list(image.repo_tags),
        "digests": list(image.repo_digests),
        "size_bytes": image.size_bytes,
    }


def ask(socket_path: Path, **request: Any) -> Iterator[dict[str, Any]]:
    """Ask an agent; yields each answered line. Raises ConnectionError when no agent listens."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.connect(str(socket_path))
        connection.sendall(msgspec.json.encode(request) + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                yield msgspec.json.decode(line)
