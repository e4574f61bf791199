"""Container logs kept small: one that has grown too large becomes ``0.log.20261121-031007``, and a new one begins.

Source: pkg/kubelet/logs/container_log_manager.go; its older files are compressed there, here they are only counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from pathlib import Path

from kaa.api.clock import Clock, format_time
from kaa.runtime.base import ContainerState, NotFoundError, Runtime
from kaa.runtime.files import remove_tree

from .config import KubeletConfig


async def rotate_logs(runtime: Runtime, clock: Clock, config: KubeletConfig) -> None:
    """Rotate every log that is too large."""
    for container in await runtime.list_containers():
        if container.state is not ContainerState.RUNNING or not container.log_path:
            continue
        path = Path(container.log_path)
        if await asyncio.to_thread(_move, path, config, clock.now()):
            try:
                await runtime.reopen_log(container.id)
            except NotFoundError:
                continue  # it ended meanwhile


def remove_logs(config: KubeletConfig, folder: str) -> None:
    """Drop the logs of a pod that is gone; ``folder`` is ``<namespace>_<name>_<uid>``."""
    remove_tree(config.pod_log_root / folder, root=config.pod_log_root)


def orphan_logs(config: KubeletConfig, known: Container[str]) -> list[str]:
    """Log folders of pods whose uid is not known any more."""
    root = config.pod_log_root
    names = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    return [name for name in names if name.count("_") == 2 and name.rsplit("_", 1)[1] not in known]


def _move(path: Path, config: KubeletConfig, now: float) -> bool:
    """Move a log away if it is too large, dropping the oldest of what was moved before."""
    if not path.exists() or path.stat().st_size <= config.log_max_bytes:
        return False
    moved = sorted(path.parent.glob(path.name + ".*"))
    for old in moved[: max(len(moved) - (config.log_max_files - 2), 0)]:
        old.unlink()
    stamp = format_time(now).translate(str.maketrans("T", "-", "-:Z"))
    path.rename(path.with_name(f"{path.name}.{stamp}"))
    return True
