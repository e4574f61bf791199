"""Removing trees and writing state, where mistakes cost data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kaa.runtime.oci.files import remove_tree, write_atomic
from kaa.runtime.oci.linux import MS_BIND, mount, unmount

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "keep").write_text("precious")
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    return tmp_path / "data"


def test_a_tree_goes_and_links_are_not_followed(tmp_path: Path, data: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "file").write_text("x")
    (tree / "a" / "link").symlink_to(data)
    (tree / "a" / "b" / "up").symlink_to("../../../data")
    remove_tree(tree)
    remove_tree(tree)
    assert not tree.exists()
    assert (data / "keep").read_text() == "precious"


def test_a_link_to_a_tree_is_only_a_link(tmp_path: Path, data: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    remove_tree(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert (data / "keep").exists()


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("place", ["tree", "tree/a", "tree/a/b"])
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_mounts_are_not_entered(tmp_path: Path, data: Path, place: str, kind: str) -> None:
    target = str(tmp_path / place)
    mount(str(data), target, "" if kind == "bind" else "tmpfs", MS_BIND if kind == "bind" else 0)
    try:
        (Path(target) / "keep").write_text("precious")
        with pytest.raises(OSError, match="something is mounted there"):
            remove_tree(tmp_path / "tree")
        assert (Path(target) / "keep").read_text() == "precious"
    finally:
        unmount(target)
    remove_tree(tmp_path / "tree")


@pytest.mark.root
@needs_root
def test_a_mounted_file_stays(tmp_path: Path, data: Path) -> None:
    place = tmp_path / "tree" / "file"
    place.touch()
    mount(str(data / "keep"), str(place), flags=MS_BIND)
    try:
        with pytest.raises(OSError, match="busy"):
            remove_tree(tmp_path / "tree")
    finally:
        unmount(str(place))
    assert (data / "keep").read_text() == "precious"


def test_state_is_replaced_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "state", b"one")
    write_atomic(tmp_path / "state", b"two")
    assert (tmp_path / "state").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["state"]
