"""Local volumes that are whole disks: given a file system if they have none, and mounted once for all pods of the node.

    <root>/plugins/kubernetes.io/local-volume/mounts/<volume>       the disk
    <root>/pods/<uid>/volumes/kubernetes.io~local-volume/<volume>   the same, for a pod: whoever has one uses the disk

Who uses a disk is told by the second kind alone, so that it is known after a crash too. All functions block.
Source: pkg/volume/local (MountDevice), mount-utils mount_linux.go (formatAndMount).
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from .mounts import Mounter
from .payload import PayloadError

_PLUGIN, _POD_FOLDER = "plugins/kubernetes.io/local-volume/mounts", "volumes/kubernetes.io~local-volume"
_NOT_FOUND = 2  # what blkid exits with when it knows nothing of a disk
_TIMEOUT_S = 600.0


def is_disk(path: Path) -> bool:
    return stat.S_ISBLK(os.stat(path).st_mode)


def mount_for(
    root: Path, uid: str, volume: str, disk: Path, mounter: Mounter, *, kind: str, options: tuple[str, ...]
) -> Path:
    """Have a disk mounted for a pod; returns where. Raises PayloadError when there is no file system to be had on it."""
    place = root / _PLUGIN / volume
    if not mounter.mounted(place):
        place.mkdir(parents=True, exist_ok=True, mode=0o750)
        _mount(disk, place, kind, options)
    descriptor = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mounter.bind(descriptor, root / "pods" / uid / _POD_FOLDER / volume)
    finally:
        os.close(descriptor)


def used_by(root: Path, uid: str) -> list[str]:
    """The disks that a pod has mounted."""
    folder = root / "pods" / uid / _POD_FOLDER
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def release(root: Path, volumes: list[str], mounter: Mounter) -> None:
    """Unmount those disks that no pod of the node uses any more."""
    for volume in volumes:
        if not any((root / "pods").glob(f"*/{_POD_FOLDER}/{volume}")):
            place = root / _PLUGIN / volume
            mounter.unmount_below(place)
            if place.is_dir():
                place.rmdir()


def _mount(disk: Path, place: Path, kind: str, options: tuple[str, ...]) -> None:
    read_only = "ro" in options
    if not _held(disk):
        if read_only:
            raise PayloadError(f"cannot mount unformatted disk {disk} as it is read only")
        _format(disk, kind)
    elif not read_only:
        _run("fsck", "-a", str(disk), fine=(0, 1))
    words = ("-t", kind, "-o", ",".join(("defaults", *options)), str(disk), str(place))
    done = subprocess.run(("mount", *words), capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise PayloadError(
            f"mount failed: exit status {done.returncode}\nMounting command: mount\n"
            f"Mounting arguments: {' '.join(words)}\nOutput: {said}\n"
        )


def _held(disk: Path) -> str:
    """What is on a disk, a file system or partitions; empty when there is nothing."""
    done = subprocess.run(
        ("blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", str(disk)),
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode not in (0, _NOT_FOUND):
        raise PayloadError(f"failed to get disk format of disk {disk}: exit status {done.returncode}")
    return done.stdout if done.returncode == 0 else ""


def _format(disk: Path, kind: str) -> None:
    force = ("-F", "-m0") if kind in ("ext3", "ext4") else ("-f",) if kind == "xfs" else ()
    _run(f"mkfs.{kind}", *force, str(disk))


def _run(*words: str, fine: tuple[int, ...] = (0,)) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except FileNotFoundError as err:
        raise PayloadError(f"{words[0]} is not installed") from err
    if done.returncode not in fine:
        raise PayloadError(
            f"{words[0]} failed: exit status {done.returncode}, output: {(done.stdout + done.stderr).strip()}"
        )
