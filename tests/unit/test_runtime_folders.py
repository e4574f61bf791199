"""Trees of folders as cgroups are: they go leaf by leaf, and what holds something stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaa.runtime.folders import remove_folders


def test_children_go_first(tmp_path: Path) -> None:
    (tmp_path / "pod/c1/init").mkdir(parents=True)
    (tmp_path / "pod/c2").mkdir()
    remove_folders(tmp_path / "pod")
    assert list(tmp_path.iterdir()) == []


def test_what_is_gone_is_fine(tmp_path: Path) -> None:
    remove_folders(tmp_path / "pod")
    (tmp_path / "file").touch()
    remove_folders(tmp_path / "file" / "pod")


def test_what_is_held_stays_and_the_rest_goes(tmp_path: Path) -> None:
    for name in ("a", "held", "z"):
        (tmp_path / "pod" / name).mkdir(parents=True)
    (tmp_path / "pod/held/process").touch()
    with pytest.raises(OSError, match="held"):
        remove_folders(tmp_path / "pod")
    assert [entry.name for entry in (tmp_path / "pod").iterdir()] == ["held"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside/inside").mkdir(parents=True)
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod/link").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="pod"):
        remove_folders(tmp_path / "pod")
    assert (tmp_path / "outside/inside").is_dir()
