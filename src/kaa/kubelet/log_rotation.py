"""Container logs kept small: one that has grown too large becomes ``0.log.20261121-031007``, and a new one begins.

    0.log.20261121-030001.gz   older, compressed
    0.log.20261121-031007      the last one, as it was: whoever reads it can finish
    0.log                      being written

Source: pkg/kubelet/logs/container_log_manager.go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container as Holding
from pathlib import Path

import structlog

from kaa.api.clock import Clock
from kaa.runtime.base import Container, ContainerState, NotFoundError, Runtime, RuntimeFailure
from kaa.runtime.files import remove_tree

from .config import KubeletConfig

log = structlog.get_logger(__name__)
COMPRESSED, UNFINISHED = ".gz", ".tmp"


class LogRotation:
    """Looks at every running container's log each ``log_period_s``, at so many at a time as there are workers."""

    def __init__(self, runtime: Runtime, clock: Clock, config: KubeletConfig) -> None:
        self._runtime, self._clock, self._config = runtime, clock, config
        self._workers = asyncio.Semaphore(config.log_workers)

    async def run(self) -> None:
        if self._config.log_max_bytes < 0:
            return
        while True:
            await self._clock.sleep(self._config.log_period_s)
            try:
                await self.step()
            except (RuntimeFailure, OSError) as err:
                log.warning("logs not rotated", error=str(err))

    async def step(self) -> None:
        """Rotate every log that is too large."""
        running = [
            one for one in await self._runtime.list_containers() if one.state is ContainerState.RUNNING and one.log_path
        ]
        paths = [Path(one.log_path) for one in running]
        sizes = await asyncio.to_thread(lambda: [_size(path) for path in paths])
        due = [one for one, size in zip(running, sizes, strict=True) if size >= self._config.log_max_bytes]
        await asyncio.gather(*(self._rotate(one, Path(one.log_path)) for one in due))

    async def _rotate(self, container: Container, path: Path) -> None:
        async with self._workers:
            await asyncio.to_thread(make_room, path, self._config.log_max_files)
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock.now()))
            moved = path.with_name(f"{path.name}.{stamp}")
            await asyncio.to_thread(path.rename, moved)
            try:
                await self._runtime.reopen_log(container.id)
            except NotFoundError:
                return  # it ended meanwhile
            except RuntimeFailure as err:
                await asyncio.to_thread(moved.rename, path)
                log.warning("log not rotated", container=container.id, error=str(err))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def rotated(path: Path) -> list[Path]:
    """What was moved away of a log, oldest first; what is being compressed, or was, counts once."""
    found = {one.name: one for one in path.parent.glob(f"{path.name}.*") if not one.name.endswith(UNFINISHED)}
    return [one for name, one in sorted(found.items()) if name + COMPRESSED not in found]


def make_room(path: Path, most: int) -> None:
    """Before a log of ``most`` files is moved away: drop what is over, compress what is left. Repeatable after a crash."""
    kept = rotated(path)
    excess = kept[: max(len(kept) - max(most - 2, 0), 0)]
    wanted = set(kept) - set(excess)
    for old in path.parent.glob(f"{path.name}.*"):
        if old not in wanted:
            old.unlink(missing_ok=True)
    for one in wanted:
        if one.suffix != COMPRESSED:
            _compress(one)


def _compress(path: Path) -> None:
    import gzip
    import shutil

    part = path.with_name(path.name + UNFINISHED)
    with path.open("rb") as source, gzip.open(part, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target)
    part.chmod(path.stat().st_mode & 0o7777)
    part.rename(path.with_name(path.name + COMPRESSED))
    path.unlink()


def remove_logs(config: KubeletConfig, folder: str) -> None:
    """Drop the logs of a pod that is gone; ``folder`` is ``<namespace>_<name>_<uid>``."""
    remove_tree(config.pod_log_root / folder, root=config.pod_log_root)


def orphan_logs(config: KubeletConfig, known: Holding[str]) -> list[str]:
    """Log folders of pods whose uid is not known any more."""
    root = config.pod_log_root
    names = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    return [name for name in names if name.count("_") == 2 and name.rsplit("_", 1)[1] not in known]
