"""Cgroup files of both versions, on a tree of plain files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaa.runtime.base import ContainerUsage
from kaa.runtime.oci.cgroups import Cgroups

PATH = "/kaa/pod1/c1"
V1 = {
    "memory/memory.usage_in_bytes": "5000\n",
    "memory/memory.stat": "cache 9\ntotal_inactive_file 1000\ntotal_rss 2000\ntotal_pgfault 7\ntotal_pgmajfault 3\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "cpuacct/cpuacct.usage": "123456789\n",
    "pids/pids.current": "4\n",
    "pids/cgroup.procs": "11\n12\n",
}
V2 = {
    "cpu.stat": "usage_usec 123456\nuser_usec 1\n",
    "memory.current": "5000\n",
    "memory.stat": "anon 2000\ninactive_file 1000\npgfault 7\npgmajfault 3\n",
    "memory.events": "low 0\noom 1\noom_kill 2\n",
    "pids.current": "4\n",
    "cgroup.procs": "11\n12\n",
}


def make(root: Path, version: int) -> Cgroups:
    for name, text in (V1 if version == 1 else V2).items():
        controller, _, leaf = name.rpartition("/")
        file = root / controller / PATH.lstrip("/") / leaf
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    if version == 2:
        (root / "cgroup.controllers").write_text("cpu memory pids\n")
    return Cgroups(root)


@pytest.mark.parametrize("version", [1, 2])
def test_usage_is_read(tmp_path: Path, version: int) -> None:
    cgroups = make(tmp_path, version)
    expected = ContainerUsage("c1", 9.0, 123456789 if version == 1 else 123456000, 5000, 4000, 2000, 7, 3, 4)
    assert cgroups.usage(PATH, "c1", 9.0) == expected
    assert cgroups.oom_kills(PATH) == 2
    assert cgroups.processes(PATH) == [11, 12]


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroup_that_is_gone_has_no_usage(tmp_path: Path, version: int) -> None:
    cgroups = make(tmp_path, version)
    assert cgroups.usage("/kaa/other", "c2", 9.0) is None
    assert cgroups.oom_kills("/kaa/other") == 0
    assert cgroups.processes("/kaa/other") == []


@pytest.mark.parametrize("version", [1, 2])
def test_removing_never_touches_the_root(tmp_path: Path, version: int) -> None:
    cgroups = make(tmp_path, version)
    assert cgroups.remove("/") is True
    assert cgroups.remove(PATH) is False  # plain files are in the way, as processes would be
    assert cgroups.usage(PATH, "c1", 9.0) is not None
    for folder in cgroups.folders("/kaa/empty/a/b"):
        folder.mkdir(parents=True)
    assert cgroups.remove("/kaa/empty") is True
    assert not any(folder.exists() for folder in cgroups.folders("/kaa/empty"))
