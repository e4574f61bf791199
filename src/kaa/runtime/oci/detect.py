"""Which OCI runtime works on this machine, what the kernel lets us do, and where cgroups are."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..base import RuntimeFailure
from .bundle import ALL_CAPABILITIES

_CAP_SYS_RESOURCE = 24
CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Kernel:
    """``cgroup_v2``: the unified hierarchy alone. ``capabilities``: names that this process may hand on."""

    cgroup_v2: bool
    capabilities: frozenset[str]
    lowest_oom_score_adj: int
    recursive_read_only: bool = False
    user_namespaces: bool = False
    hugetlb: bool = False


def has_cgroup_v2(root: Path = CGROUP_ROOT) -> bool:
    return (root / "cgroup.controllers").exists()


def has_hugetlb(root: Path = CGROUP_ROOT) -> bool:
    """Whether cgroups limit huge pages here."""
    if has_cgroup_v2(root):
        return "hugetlb" in (root / "cgroup.controllers").read_text().split()
    return (root / "hugetlb").is_dir()


@cache
def kernel() -> Kernel:
    """Probe once. The floor of oom_score_adj is our own value when CAP_SYS_RESOURCE is missing: none may go below."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapBnd:\s*([0-9a-f]+)", status, re.MULTILINE)
    bits = int(match[1], 16) if match else 0
    held = frozenset(name for name in ALL_CAPABILITIES if bits >> _NUMBERS[name] & 1)
    lowest = -1000 if bits >> _CAP_SYS_RESOURCE & 1 else int(Path("/proc/self/oom_score_adj").read_text())
    version = _version(os.uname().release)
    return Kernel(
        has_cgroup_v2(),
        held,
        lowest,
        version >= _MOUNT_SETATTR,
        version >= _IDMAPPED and _has_user_namespaces(),
        has_hugetlb(),
    )


_MOUNT_SETATTR, _IDMAPPED = (5, 12), (6, 3)  #: Linux that sets attributes of whole trees; that maps ids of tmpfs, too


def _version(release: str) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _has_user_namespaces() -> bool:
    limit = Path("/proc/sys/user/max_user_namespaces")
    return limit.exists() and int(limit.read_text()) > 0 and shutil.which("unshare") is not None


#: {capability: its bit}: the kernel counts in the order in which they came.
_NUMBERS = {name: number for number, name in enumerate(ALL_CAPABILITIES)}


def find_engines(wanted: str | None = None) -> list[str]:
    """The paths of crun and runc, as far as they work here, the first to be preferred: crun is smaller and twice as fast.

    Raises RuntimeFailure when there is none.
    """
    if wanted:
        found = shutil.which(wanted)
        if found is None or not os.access(found, os.X_OK):
            raise RuntimeFailure(f"container runtime {wanted} is not installed")
        return [found]
    paths = [found for name in ("crun", "runc") if (found := shutil.which(name))]
    if not paths:
        raise RuntimeFailure("no container runtime is installed: install crun or runc")
    return paths


def find_conmon() -> str:
    for place in ("conmon", "/usr/libexec/podman/conmon", "/usr/libexec/crio/conmon"):
        if found := shutil.which(place):
            return found
    raise RuntimeFailure("conmon is not installed: containers need it to outlive the node agent")
