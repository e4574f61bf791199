"""Sub paths: made with the volume's mode, links followed inside the volume only, and never outwitted by who writes there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaa.kubelet.container_config import sub_path
from kaa.kubelet.env import ConfigError
from kaa.kubelet.volumes import atomic, subpath
from kaa.kubelet.volumes.mounts import Mounter, PlainFolders, SystemMounter
from kaa.kubelet.volumes.payload import File
from kaa.runtime.files import mount_points

REFUSED = 'failed to prepare subPath for volumeMount "v" of container "c"'


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    made = tmp_path / "volume"
    made.mkdir()
    made.chmod(0o777)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("hidden")
    return made


def found(volume: Path, inner: str, mounter: Mounter | None = None) -> Path:
    return sub_path(volume, inner, volume.parent / "target/0", "c", "v", mounter or PlainFolders())


def test_missing_folders_have_the_volumes_mode(volume: Path) -> None:
    volume.chmod(0o2775)
    assert found(volume, "new/folder") == volume / "new/folder"
    assert [oct((volume / name).stat().st_mode & 0o7777) for name in ("new", "new/folder")] == ["0o2775"] * 2


@pytest.mark.parametrize(
    ("link", "inner"),
    [
        ("../outside", "link"),
        ("../outside", "link/secret"),
        ("../outside", "link/new"),
        ("inside/../../outside", "link"),
        ("/etc", "link/passwd"),
        ("link", "link"),
    ],
)
def test_links_out_of_a_volume_are_refused(volume: Path, link: str, inner: str) -> None:
    (volume / "inside").mkdir()
    (volume / "link").symlink_to(link)
    with pytest.raises(ConfigError, match=REFUSED):
        found(volume, inner)
    assert os.listdir(volume.parent / "outside") == ["secret"]


def test_links_inside_a_volume_are_followed(volume: Path) -> None:
    (volume / "a/b").mkdir(parents=True)
    (volume / "up").symlink_to("a/../a/b")
    (volume / "whole").symlink_to(volume / "a")
    assert found(volume, "up") == volume / "a/b"
    assert found(volume, "whole/b/c") == volume / "a/b/c"


def test_a_key_of_a_set_of_files(volume: Path) -> None:
    atomic.write(volume, {"key": File(b"1", 0o644)}, 1000.0)
    assert found(volume, "key") == volume / os.readlink(volume / "..data") / "key"


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        ("/etc", "error SubPath `/etc` must not be an absolute path"),
        ("a/../../b", "unable to provision SubPath `a/../../b`: must not contain '..'"),
    ],
)
def test_paths_that_could_not_be_inside(volume: Path, inner: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        found(volume, inner)
    assert str(caught.value) == text


@contextlib.contextmanager
def swapping(volume: Path) -> Iterator[None]:
    """Somebody who turns ``volume/x`` from a folder into a link out of the volume and back, without end."""
    stop = threading.Event()
    (volume / "x").mkdir()
    (volume / "y").symlink_to("../outside")

    names = [os.fsencode(volume / name) for name in ("x", "y")]
    libc = ctypes.CDLL(None, use_errno=True)

    def swap() -> None:
        while not stop.is_set():
            assert libc.renameat2(-100, names[0], -100, names[1], 2) == 0  # RENAME_EXCHANGE

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_link_swapped_in_meanwhile_leads_nowhere(volume: Path) -> None:
    refused, made, end = 0, 0, time.monotonic() + 1.5
    with swapping(volume):
        while time.monotonic() < end and not (refused > 50 and made > 50):
            try:
                with subpath.opened(volume, f"x/{made}") as descriptor:
                    assert os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(volume))
                made += 1
            except OSError:
                refused += 1
    assert os.listdir(volume.parent / "outside") == ["secret"]
    assert refused
    assert made


@pytest.mark.root
def test_bind_mounts_stay_where_they_were(volume: Path) -> None:
    mounter, target = SystemMounter(), volume.parent / "target/0"
    (volume / "file").write_text("1")
    try:
        assert found(volume, "folder", mounter) == target
        (volume / "folder").rename(volume / "elsewhere")
        (volume / "folder").symlink_to("../outside")
        (target / "made").write_text("x")
        assert (volume / "elsewhere/made").read_text() == "x"
        with pytest.raises(ConfigError, match=REFUSED):
            found(volume, "folder", mounter)
        assert found(volume, "elsewhere", mounter) == target
        assert len(mount_points(target)) == 1
        found(volume, "file", mounter)  # a file after a folder, as after a change of the pod's spec
        assert target.read_text() == "1"
        assert len(mount_points(target)) == 1
    finally:
        mounter.unmount_below(volume.parent)
    assert mount_points(volume.parent) == []


@pytest.mark.root
def test_a_folder_that_its_user_removed_is_let_go_of(volume: Path) -> None:
    mounter, target = SystemMounter(), volume.parent / "target/0"
    try:
        found(volume, "folder", mounter)
        (volume / "folder").rmdir()
        assert found(volume, "folder", mounter) == target  # as for a container that starts again
        (volume / "folder/new").touch()
        assert os.listdir(target) == ["new"]
        shutil.rmtree(volume / "folder")
    finally:
        mounter.unmount_below(volume.parent)
    assert mount_points(volume.parent) == []


@pytest.mark.root
def test_a_key_that_changed_is_seen_by_who_starts_again(volume: Path) -> None:
    mounter, target = SystemMounter(), volume.parent / "target/0"
    try:
        atomic.write(volume, {"key": File(b"1", 0o644)}, 1000.0)
        found(volume, "key", mounter)
        atomic.write(volume, {"key": File(b"2", 0o644)}, 1001.0)
        assert target.read_text() == "1"
        found(volume, "key", mounter)
        assert target.read_text() == "2"
    finally:
        mounter.unmount_below(volume.parent)
