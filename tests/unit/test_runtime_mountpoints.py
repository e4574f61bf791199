"""The layer of mount points: what will be mounted has its place, and nothing else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from kaa.runtime.base import Mount
from kaa.runtime.oci import mountpoints


def test_files_and_folders_where_they_will_be_mounted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    mounts = [
        Mount(str(tmp_path / "file"), "/etc/hosts"),
        Mount(str(tmp_path / "socket"), "/run/their.sock"),
        Mount(str(tmp_path), "/data/"),
        Mount(str(tmp_path), "/data/inner"),
        Mount("/nowhere", "/will/be/made"),
        Mount("tmpfs", "/scratch"),
        Mount("", "/picture", image="sha256:1"),
        Mount("", "/part", image="sha256:1", image_sub_path="a/b"),
        Mount(str(tmp_path), "/dev/shm"),
        Mount(str(tmp_path), "/"),
        Mount(str(tmp_path), "/../up"),
        Mount(str(tmp_path), "/" + "n" * 300),
    ]
    found = mountpoints.places(mounts)
    assert found == {
        **dict.fromkeys(("proc", "sys", "dev", "data", "will/be/made", "scratch", "picture", "up"), True),
        **dict.fromkeys(("etc/hosts", "run/their.sock"), False),
    }
    layer = tmp_path / "layer"
    layer.mkdir(0o700)
    old = os.umask(0o077)
    try:
        mountpoints.fill(layer, found)
    finally:
        os.umask(old)
    made = {str(path.relative_to(layer)): path.is_dir() for path in layer.rglob("*")}
    assert made == {**found, "etc": True, "run": True, "will": True, "will/be": True}
    assert {oct(path.stat().st_mode & 0o777) for path in layer.rglob("*") if path.is_dir()} == {"0o755"}
    assert not any(path.stat().st_size for path in layer.rglob("*") if path.is_file())


def test_the_same_places_are_the_same_layer() -> None:
    one, other = Mount("/a", "/x"), Mount("/b", "/y")
    assert mountpoints.identity(mountpoints.places([one, other])) == mountpoints.identity(
        mountpoints.places([other, one])
    )
    assert mountpoints.identity(mountpoints.places([one])) != mountpoints.identity(mountpoints.places([other]))
