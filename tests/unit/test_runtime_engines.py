"""Which OCI runtime makes a container, and what it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaa.runtime.base import RuntimeFailure
from kaa.runtime.oci import engines, hybrid
from kaa.runtime.oci.engines import Engines, as_runc_says
from kaa.runtime.oci.state import ContainerRecord


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """{program: path} of what this machine has, of one version of cgroups."""
    have = {"crun": "/usr/bin/crun", "runc": "/usr/sbin/runc", "conmon": "/usr/bin/conmon"}
    monkeypatch.setattr("shutil.which", have.get)
    monkeypatch.setattr(engines, "is_hybrid", lambda: False)
    return have


def refuse(*_: object) -> str:
    raise PermissionError("no programs in memory here")


def make(folder: Path) -> Engines:
    return Engines(folder, lambda pid: None)


def test_crun_is_preferred_and_each_stays_with_what_it_made(installed: dict[str, str], tmp_path: Path) -> None:
    both = make(tmp_path)
    assert (list(both), both.default.name) == (["crun", "runc"], "crun")
    assert both.of("runc").command("kill")[0] == "/usr/sbin/runc"
    del installed["runc"]
    assert make(tmp_path).of("runc").name == "crun", "it is gone: the other does what can be done"
    assert ContainerRecord.__struct_fields__[:5][-1] == "engine"
    for name, note in (("runc", "state.json"), ("crun", "status")):
        (tmp_path / "engine" / name).mkdir(parents=True)
        (tmp_path / "engine" / name / note).touch()
        assert both.maker(name).name == name
    assert both.maker("nobody's") is both.default


def test_none_is_said(installed: dict[str, str], tmp_path: Path) -> None:
    del installed["crun"], installed["runc"]
    with pytest.raises(RuntimeFailure, match="install crun or runc"):
        make(tmp_path)


def test_crun_does_not_see_the_other_hierarchy(
    installed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "is_hybrid", lambda: True)
    monkeypatch.setattr(engines, "can_hide", lambda: True)
    installed["crun"] = str(tmp_path / "crun")
    (tmp_path / "crun").write_text("#!/bin/sh")
    program = make(tmp_path)["crun"].binary
    content = Path(program).read_bytes()
    assert content.endswith(b"/sys/fs/cgroup\0/sys/fs/cgroup/unified\0%s\0" % installed["crun"].encode())
    assert make(tmp_path)["crun"].binary == program
    assert list(tmp_path.iterdir()) == [tmp_path / "crun"], "no file is needed: the disk may be full"
    with monkeypatch.context() as refused:
        refused.setattr(engines, "sealed", refuse)
        assert list(make(tmp_path)) == ["runc"]
    monkeypatch.setattr(engines, "can_hide", lambda: False)
    assert list(make(tmp_path)) == ["runc"]
    del installed["runc"]
    with pytest.raises(RuntimeFailure, match="refuses this machine's cgroups"):
        make(tmp_path)


def test_what_is_hybrid(tmp_path: Path) -> None:
    assert not hybrid.is_hybrid(tmp_path)
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified/cgroup.controllers").write_text("\n")
    assert not hybrid.is_hybrid(tmp_path), "crun takes that"
    (tmp_path / "unified/cgroup.controllers").write_text("hugetlb\n")
    assert hybrid.is_hybrid(tmp_path)


@pytest.mark.parametrize(
    ("said", "program", "told"),
    [
        (
            "executable file `nope` not found in $PATH: No such file or directory",
            "nope",
            "executable file not found in $PATH",
        ),
        (
            "executable file `/x` not found in $PATH: No such file or directory",
            "/x",
            "stat /x: no such file or directory",
        ),
        ("open executable: Permission denied", "/etc/passwd", "permission denied"),
    ],
)
def test_crun_speaks_as_runc_does(said: str, program: str, told: str) -> None:
    assert as_runc_says(said, program) == f'unable to start container process: exec: "{program}": {told}'
    assert as_runc_says("something else", program) == "something else"
