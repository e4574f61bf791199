"""What a machine has of memory, swap, huge pages and processes; its folders are parameters, so that machines can be made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from kaa.api import quantity


class SwapError(RuntimeError):
    """The machine swaps, and the kubelet was told not to run where it does."""


class Machine(msgspec.Struct, frozen=True):
    """Bytes of swap; {page size, as ``2Mi``: bytes reserved in such pages}; whether cgroups are version 2 alone."""

    swap_bytes: int = 0
    huge_pages: Mapping[str, int] = msgspec.field(default_factory=dict)
    cgroup_v2: bool = False


def look(*, cgroup_v2: bool, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Machine:
    """Look at a machine."""
    found: dict[str, int] = {}
    for folder in sorted((sys / "kernel/mm/hugepages").glob("hugepages-*kB")):
        size = int(folder.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        found[quantity.format_bytes(size)] = size * int((folder / "nr_hugepages").read_text())
    swap = sum(int(line.split()[2]) * 1024 for line in swaps(proc))
    return Machine(swap, found, cgroup_v2)


def memory(proc: Path = Path("/proc")) -> dict[str, int]:
    """{name, as ``MemAvailable``: bytes}; empty where the kernel does not say."""
    words = (line.replace(":", "").split() for line in _read(proc / "meminfo").splitlines())
    return {word[0]: int(word[1]) * 1024 for word in words if len(word) == 3}


def process_limit(proc: Path = Path("/proc")) -> int:
    """How many processes there can be; 0 where the kernel does not say. Source: pkg/kubelet/stats/pidlimit."""
    told = [_read(proc / "sys/kernel" / name).strip() for name in ("pid_max", "threads-max")]
    return min((int(text) for text in told if text.isdigit()), default=0)


def processes(proc: Path = Path("/proc")) -> int:
    """How many there are, threads counted; 0 where the kernel does not say."""
    words = _read(proc / "loadavg").split()
    text = words[3].partition("/")[2] if len(words) > 3 else ""
    return int(text) if text.isdigit() else 0


def swaps(proc: Path = Path("/proc")) -> list[str]:
    """The lines of /proc/swaps that name a swap file or partition."""
    try:
        lines = (proc / "swaps").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line for line in lines if line.strip()][1:]


def check_swap(proc: Path = Path("/proc")) -> None:
    """Raises SwapError on a machine that swaps. Source: pkg/kubelet/cm validateSwapConfiguration."""
    if swaps(proc):
        lines = [line for line in (proc / "swaps").read_text().splitlines() if line.strip()]
        raise SwapError(
            "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false."
            f" /proc/swaps contained: [{' '.join(lines)}]"
        )


def has_cgroup_v2(mount: Path = Path("/sys/fs/cgroup")) -> bool:
    return (mount / "cgroup.controllers").exists()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
