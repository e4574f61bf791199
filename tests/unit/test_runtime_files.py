"""Removing trees never leaves them: by link, by mount, by name."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaa.runtime import files
from kaa.runtime.files import RefusedError, Trash, mount_points, remove_tree, scatter, tree_usage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


def test_removes_a_tree(root: Path) -> None:
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/b/file").write_text("x")
    (root / "keep").mkdir()
    remove_tree(root / "a", root=root)
    assert [p.name for p in root.iterdir()] == ["keep"]


def test_removes_a_single_file_and_forgives_absence(root: Path) -> None:
    (root / "file").write_text("x")
    remove_tree(root / "file", root=root)
    remove_tree(root / "file", root=root)
    remove_tree(root / "no/such/folder", root=root)
    assert list(root.iterdir()) == []


def test_links_are_removed_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (root / "a").mkdir()
    (root / "a/link").symlink_to(outside)
    (root / "a/file-link").symlink_to(outside / "precious")
    (root / "top").symlink_to(outside)
    remove_tree(root / "a", root=root)
    remove_tree(root / "top", root=root)
    assert (outside / "precious").read_text() == "x"
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("where", ["..", "../outside", ".", "a/../../outside"])
def test_paths_outside_the_root_are_refused(root: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "outside").mkdir()
    (root / "a").mkdir()
    with pytest.raises(RefusedError):
        remove_tree(root / where, root=root)
    with pytest.raises(RefusedError):
        remove_tree(tmp_path / "outside", root=root)
    assert (tmp_path / "outside").exists()
    assert root.exists()


def test_relative_paths_are_refused(root: Path) -> None:
    with pytest.raises(RefusedError):
        remove_tree(Path("a"), root=root)


def test_a_link_on_the_way_is_refused(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (root / "a").symlink_to(outside)
    with pytest.raises(RefusedError):
        remove_tree(root / "a/inner", root=root)
    assert (outside / "inner").exists()


def test_odd_names_and_modes(root: Path) -> None:
    folder = root / "a"
    folder.mkdir()
    (folder / "new\nline").write_text("x")
    os.mkfifo(folder / "fifo")
    (folder / "locked").mkdir(mode=0o500)
    remove_tree(folder, root=root)
    assert list(root.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_mounts_are_not_crossed(root: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    point = root / "a/mounted"
    point.mkdir(parents=True)
    command = (
        ["mount", "--bind", str(outside), str(point)]
        if kind == "bind"
        else ["mount", "-t", "tmpfs", "tmpfs", str(point)]
    )
    subprocess.run(command, check=True)
    try:
        (point / "inside").write_text("x")
        for path in (root / "a", point, point / "inside"):
            with pytest.raises(RefusedError):
                remove_tree(path, root=root)
        assert (point / "inside").exists()
        assert (outside / "precious").exists()
    finally:
        subprocess.run(["umount", str(point)], check=True)
    remove_tree(root / "a", root=root)
    assert (outside / "precious").exists()


@pytest.fixture
def trash(tmp_path: Path) -> Iterator[Trash]:
    made = Trash(tmp_path / "trash")
    yield made
    made.close()


def emptied(tmp_path: Path) -> bool:
    deadline = time.monotonic() + 10
    while any((tmp_path / "trash").iterdir()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_what_is_thrown_away_is_gone_at_once_and_removed_later(root: Path, tmp_path: Path, trash: Trash) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/link").symlink_to(outside)
    (root / "top").symlink_to(outside)
    trash.put(root / "a", root=root)
    trash.put(root / "top", root=root)
    trash.put(root / "never/was", root=root)
    assert list(root.iterdir()) == []
    assert emptied(tmp_path)
    assert (outside / "precious").read_text() == "x"


@pytest.mark.parametrize("where", ["..", "../outside", "link/inner"])
def test_nothing_outside_is_thrown_away(root: Path, tmp_path: Path, trash: Trash, where: str) -> None:
    (tmp_path / "outside/inner").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(RefusedError):
        trash.put(root / where, root=root)
    assert (tmp_path / "outside/inner").exists()


def test_what_an_earlier_life_threw_away_is_removed(tmp_path: Path, trash: Trash) -> None:
    (tmp_path / "trash/old/inner").mkdir(parents=True)
    trash.open()
    assert emptied(tmp_path)


@pytest.mark.root
def test_a_tree_that_holds_a_mount_stays_whole(tmp_path: Path, trash: Trash) -> None:
    root = tmp_path / "ro ot"
    (root / "a/point").mkdir(parents=True)
    (root / "a/file").write_text("x")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(root / "a/point")], check=True)
    try:
        assert mount_points(root) == [root / "a/point"]
        assert mount_points(tmp_path / "ro") == []
        with pytest.raises(RefusedError, match="something is mounted there"):
            trash.put(root / "a", root=root)
        assert (root / "a/file").read_text() == "x"
    finally:
        subprocess.run(["umount", str(root / "a/point")], check=True)


def test_a_tree_is_counted_as_du_does(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_bytes(b"x" * 50_000)
    (tmp_path / "b").hardlink_to(tmp_path / "deep" / "a")
    (tmp_path / "out").symlink_to("/usr")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    said = [
        subprocess.run(["du", *how, str(tmp_path)], capture_output=True, check=True, text=True).stdout.split()[0]
        for how in (("-s", "--block-size=1"), ("-s", "--inodes"))
    ]
    assert tree_usage(tmp_path) == tuple(map(int, said))
    assert tree_usage(tmp_path / "nothing") == (0, 0)


def test_scattered_trees_are_folders_like_others(tmp_path: Path) -> None:
    """Whatever file system lies below: it is told, or does not know what it is told."""
    for _ in range(2):
        scatter(tmp_path / "a/b")
    (tmp_path / "a/b/c").mkdir()
    (tmp_path / "a/b/c/file").write_text("x")
    remove_tree(tmp_path / "a/b", root=tmp_path)
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("place", ["/", "/proc", "/dev", "/sys"])
def test_both_ways_to_a_mounts_number_agree(place: str) -> None:
    folder = os.open(place, os.O_PATH | os.O_DIRECTORY)
    try:
        assert files.mount_id(folder) == files._mount_id_by_proc(folder)
    finally:
        os.close(folder)
