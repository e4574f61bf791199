"""Reading and tidying cgroups, version 1 and 2: what a container uses, whether memory ran out, who is still in it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ..base import ContainerUsage
from ..folders import remove_folders
from .detect import CGROUP_ROOT


class Cgroups:
    """The hierarchy below ``root``, which stays as it is; cgroups are named by their path in it, ``/kaa/pod…/id``."""

    def __init__(self, root: Path = CGROUP_ROOT) -> None:
        self.root = root

    @cached_property
    def unified(self) -> bool:
        return (self.root / "cgroup.controllers").exists()

    @cached_property
    def _tops(self) -> list[str]:
        """The folders of version 1's hierarchies."""
        if not self.root.is_dir():
            return []
        return sorted(entry.path for entry in os.scandir(self.root) if not entry.is_symlink())

    def folder(self, path: str, controller: str) -> Path:
        return Path(f"{self.root}/{path}" if self.unified else f"{self.root}/{controller}/{path}")

    def folders(self, path: str) -> list[Path]:
        """Every folder that stands for a cgroup: one in version 2, one per hierarchy in version 1."""
        return [self.folder(path, "")] if self.unified else [Path(f"{top}/{path}") for top in self._tops]

    def processes(self, path: str) -> list[int]:
        """Pids in the cgroup itself."""
        for controller in ("pids", "memory", "systemd"):
            with contextlib.suppress(FileNotFoundError, OSError):
                text = (self.folder(path, controller) / "cgroup.procs").read_text()
                return [int(word) for word in text.split()]
        return []

    def kill(self, path: str) -> bool:
        """SIGKILL everything in the cgroup; whether there was something. It is frozen meanwhile, for what forks would outrun us."""
        if not self.processes(path):
            return False
        told: set[int] = set()
        with self._frozen(path):
            while new := {*self.processes(path)} - told:
                for pid in new:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                told |= new
        return True

    @contextlib.contextmanager
    def _frozen(self, path: str) -> Iterator[None]:
        """Version 2 delivers SIGKILL to what is frozen; version 1 does once it is thawed."""
        name, on, off = ("cgroup.freeze", "1", "0") if self.unified else ("freezer.state", "FROZEN", "THAWED")
        file = self.folder(path, "freezer") / name
        with contextlib.suppress(OSError):  # no freezer, or a cgroup that has just gone
            file.write_text(on)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.write_text(off)

    def remove(self, path: str) -> bool:
        """Remove an empty cgroup with its empty children; False when something is still in it."""
        done = True
        for folder in self.folders(path) if path.strip("/") else []:
            try:
                remove_folders(folder)
            except OSError:
                done = False
        return done

    def shelter(self, path: str, pid: int) -> None:
        """Move a process out of our own service's cgroup, lest a service manager that stops us stops it too. Raises OSError.

        Service managers keep count in version 2's hierarchy, or in version 1's hierarchy called ``systemd``.
        """
        for top in [self.root] if self.unified else [self.root / "systemd", self.root / "unified"]:
            if top.is_dir():
                folder = top / path.lstrip("/")
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "cgroup.procs").write_text(str(pid))

    def lift_quota(self, path: str) -> None:
        """Let a cgroup use whole CPUs. The OCI runtimes do not agree on how they are told. Raises OSError."""
        name, value = ("cpu.max", "max") if self.unified else ("cpu.cfs_quota_us", "-1")
        (self.folder(path, "cpu") / name).write_text(value)

    def oom_kills(self, path: str) -> int:
        """How often the kernel killed something here because memory ran out."""
        name = "memory.events" if self.unified else "memory.oom_control"
        return _pairs(self.folder(path, "memory") / name).get("oom_kill", 0)

    def usage(self, path: str, container_id: str, at: float) -> ContainerUsage | None:
        """CPU, memory and pids; None when the cgroup is gone."""
        read = self._usage_v2 if self.unified else self._usage_v1
        return read(path, container_id, at)

    def _usage_v1(self, path: str, container_id: str, at: float) -> ContainerUsage | None:
        memory = self.folder(path, "memory")
        used = _number(memory / "memory.usage_in_bytes")
        if used is None:
            return None
        stat = _pairs(memory / "memory.stat")
        return ContainerUsage(
            container_id=container_id,
            at=at,
            cpu_ns=_number(self.folder(path, "cpuacct") / "cpuacct.usage") or 0,
            memory_bytes=used,
            memory_working_set_bytes=max(0, used - stat.get("total_inactive_file", 0)),
            memory_rss_bytes=stat.get("total_rss", 0),
            memory_page_faults=stat.get("total_pgfault", 0),
            memory_major_page_faults=stat.get("total_pgmajfault", 0),
            pids=_number(self.folder(path, "pids") / "pids.current") or 0,
        )

    def _usage_v2(self, path: str, container_id: str, at: float) -> ContainerUsage | None:
        folder = self.folder(path, "")
        cpu = _pairs(folder / "cpu.stat")
        used = _number(folder / "memory.current")
        if not cpu and used is None:
            return None
        stat = _pairs(folder / "memory.stat")
        return ContainerUsage(
            container_id=container_id,
            at=at,
            cpu_ns=cpu.get("usage_usec", 0) * 1000,
            memory_bytes=used or 0,
            memory_working_set_bytes=max(0, (used or 0) - stat.get("inactive_file", 0)),
            memory_rss_bytes=stat.get("anon", 0),
            memory_page_faults=stat.get("pgfault", 0),
            memory_major_page_faults=stat.get("pgmajfault", 0),
            pids=_number(folder / "pids.current") or 0,
        )


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except (FileNotFoundError, OSError):
        return None
    return int(text) if text.isdigit() else None


def _pairs(path: Path) -> dict[str, int]:
    """A file of ``name number`` lines."""
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, OSError):
        return {}
    found = {}
    for line in lines:
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found
