"""What cgroups say of what runs in them, for versions 1 and 2: cpu, memory, swap, pids, pressure, block I/O.

``usage`` is cheap and what the summary needs; ``details`` reads the rest, for cAdvisor's metrics. What a kernel does not
count is None or absent. Source: cAdvisor container/libcontainer/handler.go, opencontainers/cgroups fs and fs2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from .. import machine

_PAGE = 1 << 16
_UNLIMITED = 1 << 62  # version 1 writes the largest number of pages for no limit


class Stall(msgspec.Struct, frozen=True):
    """Pressure on a resource: seconds-long averages in percent, and the total in microseconds."""

    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0
    total_us: int = 0


class Pressure(msgspec.Struct, frozen=True):
    some: Stall = Stall()
    full: Stall = Stall()


class Usage(msgspec.Struct, frozen=True):
    """A cgroup at ``at`` (seconds since 1970). ``memory_limit_bytes`` None: none; ``swap_bytes`` None: not counted."""

    at: float
    cpu_ns: int = 0
    memory_bytes: int = 0
    working_set_bytes: int = 0
    rss_bytes: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    memory_limit_bytes: int | None = None
    swap_bytes: int | None = None
    swap_limit_bytes: int | None = None
    pids: int = 0
    pressure: Mapping[str, Pressure] = {}  #: {cpu, memory, io}: as far as the kernel tells


class Details(msgspec.Struct, frozen=True):
    """What dashboards ask beside a ``Usage``."""

    user_ns: int = 0
    system_ns: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    cache_bytes: int = 0
    mapped_bytes: int = 0
    max_bytes: int | None = None
    failures: int = 0
    kernel_bytes: int = 0
    oom_kills: int = 0
    shares: int = 0
    quota_us: int = 0  #: 0: none
    period_us: int = 0
    pids_limit: int | None = None
    reads: Mapping[str, tuple[int, int]] = {}  #: {``major:minor``: (bytes, operations)}
    writes: Mapping[str, tuple[int, int]] = {}


class CgroupReader:
    """Reads the hierarchy at ``mount``; cgroups are named by their path in it: ``/kubepods/pod…``, ``/`` for all."""

    def __init__(self, mount: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> None:
        self._mount, self._proc = mount, proc
        self.v2 = (mount / "cgroup.controllers").exists()

    def folder(self, path: str, controller: str = "memory") -> Path:
        base = self._mount if self.v2 else self._mount / controller
        return base / path.strip("/")

    def _at(self, path: str, controller: str = "memory") -> str:
        """As ``folder``, as text: hundreds of files are read for one scrape."""
        return f"{self._mount}/{path.strip('/')}" if self.v2 else f"{self._mount}/{controller}/{path.strip('/')}"

    def exists(self, path: str) -> bool:
        return os.path.isdir(self._at(path))

    def began(self, path: str) -> float:
        """When it was made, as its folder's time says; 0 when it is gone."""
        try:
            return self.folder(path).stat().st_mtime
        except OSError:
            return 0.0

    def processes(self, path: str) -> list[int]:
        """Pids in the cgroup itself."""
        words = _read(f"{self._at(path, 'pids')}/cgroup.procs").split()
        return [int(word) for word in words]

    def usage(self, path: str, at: float) -> Usage | None:
        """None when there is no such cgroup."""
        if not self.exists(path):
            return None
        return self._usage_v2(path, at) if self.v2 else self._usage_v1(path, at)

    def details(self, path: str) -> Details:
        return self._details_v2(path) if self.v2 else self._details_v1(path)

    # ------------------------------------------------------------------------------------------------ version 1

    def _usage_v1(self, path: str, at: float) -> Usage:
        memory = self._at(path)
        stat = _pairs(f"{memory}/memory.stat")
        used = _number(f"{memory}/memory.usage_in_bytes") or 0
        limit = _number(f"{memory}/memory.limit_in_bytes")
        both, both_limit = (
            _number(f"{memory}/memory.memsw.usage_in_bytes"),
            _number(f"{memory}/memory.memsw.limit_in_bytes"),
        )
        limit = limit if limit is not None and limit < _UNLIMITED else None
        swap_limit = both_limit - limit if both_limit is not None and both_limit < _UNLIMITED and limit else None
        return Usage(
            at=at,
            cpu_ns=_number(f"{self._at(path, 'cpuacct')}/cpuacct.usage") or 0,
            memory_bytes=used,
            working_set_bytes=max(used - stat.get("total_inactive_file", 0), 0),
            rss_bytes=stat.get("total_rss", 0),
            page_faults=stat.get("total_pgfault", 0),
            major_page_faults=stat.get("total_pgmajfault", 0),
            memory_limit_bytes=limit,
            swap_bytes=max(both - used, 0) if both is not None else stat.get("total_swap"),
            swap_limit_bytes=max(swap_limit, 0) if swap_limit is not None else None,
            pids=_number(f"{self._at(path, 'pids')}/pids.current") or 0,
        )

    def _details_v1(self, path: str) -> Details:
        memory, cpu, pids = self._at(path), self._at(path, "cpu"), self._at(path, "pids")
        stat, throttling = _pairs(f"{memory}/memory.stat"), _pairs(f"{cpu}/cpu.stat")
        ticks = _pairs(f"{self._at(path, 'cpuacct')}/cpuacct.stat")
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        reads, writes = _block_io_v1(self._at(path, "blkio"))
        return Details(
            user_ns=ticks.get("user", 0) * tick_ns,
            system_ns=ticks.get("system", 0) * tick_ns,
            periods=throttling.get("nr_periods", 0),
            throttled_periods=throttling.get("nr_throttled", 0),
            throttled_ns=throttling.get("throttled_time", 0),
            cache_bytes=stat.get("total_cache", 0),
            mapped_bytes=stat.get("total_mapped_file", 0),
            max_bytes=_number(f"{memory}/memory.max_usage_in_bytes"),
            failures=_number(f"{memory}/memory.failcnt") or 0,
            kernel_bytes=_number(f"{memory}/memory.kmem.usage_in_bytes") or 0,
            oom_kills=_pairs(f"{memory}/memory.oom_control").get("oom_kill", 0),
            shares=_number(f"{cpu}/cpu.shares") or 0,
            quota_us=max(_number(f"{cpu}/cpu.cfs_quota_us") or 0, 0),
            period_us=_number(f"{cpu}/cpu.cfs_period_us") or 0,
            pids_limit=_number(f"{pids}/pids.max"),
            reads=reads,
            writes=writes,
        )

    # ------------------------------------------------------------------------------------------------ version 2

    def _usage_v2(self, path: str, at: float) -> Usage:
        folder = self._at(path)
        stat = _pairs(f"{folder}/memory.stat")
        used, swap = _number(f"{folder}/memory.current"), _number(f"{folder}/memory.swap.current")
        if used is None and not path.strip("/"):  # the root counts nothing of its own
            host = machine.memory(self._proc)
            used = host.get("MemTotal", 0) - host.get("MemFree", 0)
            swap = host.get("SwapTotal", 0) - host.get("SwapFree", 0)
        return Usage(
            at=at,
            cpu_ns=_pairs(f"{folder}/cpu.stat").get("usage_usec", 0) * 1000,
            memory_bytes=used or 0,
            working_set_bytes=max((used or 0) - stat.get("inactive_file", 0), 0),
            rss_bytes=stat.get("anon", 0),
            page_faults=stat.get("pgfault", 0),
            major_page_faults=stat.get("pgmajfault", 0),
            memory_limit_bytes=_number(f"{folder}/memory.max"),
            swap_bytes=swap,
            swap_limit_bytes=_number(f"{folder}/memory.swap.max"),
            pids=_number(f"{folder}/pids.current") or 0,
            pressure=_pressures(folder),
        )

    def _details_v2(self, path: str) -> Details:
        folder = self._at(path)
        cpu, memory = _pairs(f"{folder}/cpu.stat"), _pairs(f"{folder}/memory.stat")
        quota, _, period = _read(f"{folder}/cpu.max").strip().partition(" ")
        weight = _number(f"{folder}/cpu.weight")
        events = _pairs(f"{folder}/memory.events")
        reads, writes = _block_io_v2(folder)
        return Details(
            user_ns=cpu.get("user_usec", 0) * 1000,
            system_ns=cpu.get("system_usec", 0) * 1000,
            periods=cpu.get("nr_periods", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled_ns=cpu.get("throttled_usec", 0) * 1000,
            cache_bytes=memory.get("file", 0),
            mapped_bytes=memory.get("file_mapped", 0),
            max_bytes=_number(f"{folder}/memory.peak"),
            failures=events.get("max", 0),
            kernel_bytes=memory.get("kernel", 0),
            oom_kills=events.get("oom_kill", 0),
            shares=2 + (weight - 1) * 262142 // 9999 if weight else 0,
            quota_us=int(quota) if quota.isdigit() else 0,
            period_us=int(period) if period.isdigit() else 0,
            pids_limit=_number(f"{folder}/pids.max"),
            reads=reads,
            writes=writes,
        )


def _read(path: str) -> str:
    """A file's text; empty when there is none. Hundreds are read for one scrape, so there is nothing between it and us."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        data = os.read(file, _PAGE)
        while len(data) % _PAGE == 0 and (more := os.read(file, _PAGE)):
            data += more
        return data.decode()
    except OSError:
        return ""
    finally:
        os.close(file)


def _number(path: str) -> int | None:
    """A file of one number; None for ``max``, and where the kernel keeps no such file."""
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _pairs(path: str) -> dict[str, int]:
    """A file of ``name number`` lines."""
    words = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


def _pressures(folder: str) -> dict[str, Pressure]:
    found = ((name, _read(f"{folder}/{name}.pressure")) for name in ("cpu", "memory", "io"))
    return {name: read_pressure(text) for name, text in found if text}


def read_pressure(text: str) -> Pressure:
    """``some avg10=0.00 avg60=0.00 avg300=0.00 total=12`` and a line ``full``, which old kernels leave out for cpu."""
    stalls = {}
    for line in text.splitlines():
        name, *words = line.split()
        given = dict(word.split("=", 1) for word in words)
        avg10, avg60, avg300 = (float(given[f"avg{span}"]) for span in (10, 60, 300))
        stalls[name] = Stall(avg10, avg60, avg300, int(given["total"]))
    return Pressure(stalls.get("some", Stall()), stalls.get("full", Stall()))


Io = dict[str, tuple[int, int]]


def _block_io_v1(folder: str) -> tuple[Io, Io]:
    moved, done = (
        _operations(_read(f"{folder}/blkio.throttle.{name}_recursive") or _read(f"{folder}/blkio.throttle.{name}"))
        for name in ("io_service_bytes", "io_serviced")
    )
    return (
        {device: (count, done.get((device, "Read"), 0)) for (device, kind), count in moved.items() if kind == "Read"},
        {device: (count, done.get((device, "Write"), 0)) for (device, kind), count in moved.items() if kind == "Write"},
    )


def _operations(text: str) -> dict[tuple[str, str], int]:
    """``8:0 Read 4096`` -> {(8:0, Read): 4096}"""
    words = (line.split() for line in text.splitlines())
    return {(word[0], word[1]): int(word[2]) for word in words if len(word) == 3}


def _block_io_v2(folder: str) -> tuple[Io, Io]:
    reads, writes = {}, {}
    for line in _read(f"{folder}/io.stat").splitlines():
        device, *words = line.split()
        given = {name: int(value) for name, _, value in (word.partition("=") for word in words) if value.isdigit()}
        reads[device] = (given.get("rbytes", 0), given.get("rios", 0))
        writes[device] = (given.get("wbytes", 0), given.get("wios", 0))
    return reads, writes
