"""Layers unpacked once, and a root for every container on top of them: overlayfs, or plain copies without it.

A layer's folder is named by the start of its chain id, which keeps the mount options of images with many layers within
the page the kernel reads. Writable roots are mounted ``volatile``: nothing in them outlives a crash of the machine, so
syncing them, which unmounting would wait 15 ms for, protects nothing. A folder appears under its name only when it is whole, so a crash leaves parts that the next
start sweeps away.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from ..base import IdMap
from ..files import Trash, scatter, tree_usage
from .files import remove_tree, write_atomic
from .linux import CLONE_FS, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, mount, unmount, unshare
from .unpack import ByteSource, LayerError, Limits, unpack_layer
from .users import map_mount, opened, outside

log = structlog.get_logger(__name__)


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The identity of each layer on top of those below it. Source: OCI image-spec config.md "Layer ChainID"."""
    chain: list[str] = []
    for diff_id in diff_ids:
        above = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append(f"sha256:{hashlib.sha256(above.encode()).hexdigest()}" if above else diff_id)
    return tuple(chain)


class Snapshots:
    """Everything below ``root/layers`` and ``root/writable``. All methods block: call them in a thread."""

    def __init__(self, root: Path, trash: Trash | None = None, *, limits: Limits | None = None) -> None:
        self._trash = trash or Trash(root / "trash")
        self.layers, self.writable = root / "layers", root / "writable"
        self.limits = limits or Limits()
        self.overlay = True
        self.options = ""

    def open(self) -> None:
        """Make the folders, drop what a crash left half unpacked, and find out whether overlayfs works here."""
        for folder in (self.layers, self.writable):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        scatter(self.writable)
        for part in self.layers.glob(".*"):
            remove_tree(part)
        try:
            self.overlay = self._probe()
        except OSError as err:
            if err.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("the disk is full: overlayfs is taken for working", folder=str(self.layers))
        if not self.overlay:
            log.warning("overlayfs is refused here; container roots are plain copies", folder=str(self.layers))

    def _probe(self) -> bool:
        probe = self.layers / f".probe-{secrets.token_hex(4)}"
        for name in ("low", "up", "work", "root"):
            (probe / name).mkdir(parents=True)
        base = f"lowerdir={probe}/low,upperdir={probe}/up,workdir={probe}/work"
        try:
            for options in (",volatile", ""):  # Linux 5.10
                with contextlib.suppress(OSError):
                    mount("overlay", f"{probe}/root", "overlay", data=base + options)
                    unmount(f"{probe}/root")
                    self.options = options
                    return True
            return False
        finally:
            remove_tree(probe)

    def folder(self, chain_id: str) -> Path:
        return self.layers / chain_id.partition(":")[2][:24]

    def has(self, chain_id: str) -> bool:
        folder = self.folder(chain_id)
        return (folder / "fs").is_dir() and (folder / "chain").read_text() == chain_id

    def check_room(self, wanted_bytes: int) -> None:
        """Raises LayerError when so many bytes would not fit on the disk: better now than when it is full."""
        if wanted_bytes > _free(self.layers)[0]:
            raise LayerError(f"no space left on device for {wanted_bytes} bytes of layers")

    def _limits(self) -> Limits:
        """What a layer may take: never the last of the disk, which others need to live."""
        room, inodes = _free(self.layers)
        total, entries = min(self.limits.total_bytes, room), min(self.limits.entries, inodes)
        return replace(self.limits, total_bytes=total, entries=entries, reserve_bytes=room // 19)

    def unpack(self, chain_id: str, source: ByteSource, *, digest: str = "", diff_id: str = "") -> None:
        """Unpack a layer under its chain id, checked. Raises LayerError. Doing it twice at once is harmless."""
        self.lay(
            chain_id,
            lambda folder: unpack_layer(source, folder, digest=digest, diff_id=diff_id, limits=self._limits()),
        )

    def lay(self, chain_id: str, fill: Callable[[Path], object]) -> None:
        """Make a layer, its folder filled by ``fill``, whole or not at all. Raises LayerError."""
        part = self.layers / f".{secrets.token_hex(8)}"
        (part / "fs").mkdir(parents=True)
        (part / "fs").chmod(0o755)
        try:
            fill(part / "fs")
            write_atomic(part / "chain", chain_id.encode())
            size, inodes = tree_usage(part / "fs")
            write_atomic(part / "size", f"{size} {inodes}".encode())
            with contextlib.suppress(FileExistsError, OSError):
                part.rename(self.folder(chain_id))
            if not self.has(chain_id):
                raise LayerError(f"layer {chain_id} could not be put in place")
        finally:
            remove_tree(part)

    def prepare(
        self, container_id: str, chain: Sequence[str], users: Sequence[IdMap] = (), namespace: str | None = None
    ) -> Path:
        """A writable root made of layers, lowest first; mounted when this returns. Call it in a thread of its own.

        Args: users: whom the root is for, if it is for a user namespace, whose file is at ``namespace``.
        """
        base = self.writable / container_id
        rootfs = base / "rootfs"
        for name in ("upper", "work", "rootfs"):
            (base / name).mkdir(parents=True, exist_ok=True)
            (base / name).chmod(0o755)
        if not chain:
            return rootfs
        if namespace is not None:
            self._mount_mapped(base, chain, users, namespace)
        elif self.overlay:
            self._mount(base, chain)
        else:
            for chain_id in chain:
                apply_layer(self.folder(chain_id) / "fs", rootfs)
        return rootfs

    def _mount(self, base: Path, chain: Sequence[str]) -> None:
        shutil.copystat(self.folder(chain[-1]) / "fs", base / "upper")
        facts = os.stat(self.folder(chain[-1]) / "fs")
        os.chown(base / "upper", facts.st_uid, facts.st_gid)
        unshare(CLONE_FS)
        os.chdir(self.layers)  # relative names keep the options short
        lower = ":".join(f"{self.folder(chain_id).name}/fs" for chain_id in reversed(chain))
        mount(
            "overlay",
            str(base / "rootfs"),
            "overlay",
            data=f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work{self.options}",
        )

    def show(self, container_id: str, name: str, chain: Sequence[str], namespace: str | None = None) -> Path:
        """Layers, lowest first, as one tree that is only read: an image that a container mounts. Call it as ``prepare``.

        The empty layer at the bottom makes an overlay of an image of one layer too, so that no whiteout is ever seen.
        """
        base = self.writable / container_id / "images"
        place, bottom = base / name, base / "empty"
        for folder in (place, bottom):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.overlay:
            for chain_id in chain:
                apply_layer(self.folder(chain_id) / "fs", place)
        elif chain:
            flags = MS_RDONLY | MS_NOEXEC | MS_NOSUID | MS_NODEV
            with self._layers_for(container_id, f"{name}-", chain, namespace) as lower:
                mount("overlay", str(place), "overlay", flags, data=f"lowerdir={':'.join([*lower, str(bottom)])}")
        return place

    def _mount_mapped(self, base: Path, chain: Sequence[str], users: Sequence[IdMap], namespace: str) -> None:
        """As ``_mount``, for a user namespace: its root owns the upper layer's folder."""
        shutil.copystat(self.folder(chain[-1]) / "fs", base / "upper")
        root = outside(users, 0)
        for name in ("upper", "work"):
            os.chown(base / name, root, root)
        with self._layers_for(base.name, "", chain, namespace) as lower:
            data = f"lowerdir={':'.join(lower)},upperdir={base}/upper,workdir={base}/work{self.options}"
            mount("overlay", str(base / "rootfs"), "overlay", data=data)

    @contextlib.contextmanager
    def _layers_for(
        self, container_id: str, prefix: str, chain: Sequence[str], namespace: str | None
    ) -> Iterator[list[str]]:
        """Layers as overlayfs is to name them, highest first, relative to the thread's folder, which changes.

        Those for a user namespace are mounted as it owns them; overlayfs keeps its own copies of such mounts, ours end here.
        """
        unshare(CLONE_FS)
        if namespace is None:
            os.chdir(self.layers)
            yield [f"{self.folder(chain_id).name}/fs" for chain_id in reversed(chain)]
            return
        base = self.writable / container_id
        os.chdir(base)
        names = [f"layer{prefix}{n}" for n in range(len(chain))]
        try:
            with opened(Path(namespace)) as descriptor:
                for chain_id, name in zip(reversed(chain), names, strict=True):
                    (base / name).mkdir(exist_ok=True)
                    map_mount(str(self.folder(chain_id) / "fs"), str(base / name), descriptor)
            yield names
        finally:
            for name in names:
                unmount(str(base / name))

    def upper(self, container_id: str) -> Path:
        """Where a container's own writes lie."""
        return self.writable / container_id / ("upper" if self.overlay else "rootfs")

    def release(self, container_id: str) -> None:
        """Unmount and remove a container's root, and the images that it mounted."""
        base = self.writable / container_id
        unmount(str(base / "rootfs"))
        if (base / "images").is_dir():
            for place in (base / "images").iterdir():
                unmount(str(place))
        for layer in base.glob("layer*"):  # of a crash while they were being mapped
            unmount(str(layer))
        self._trash.put(base, root=self.writable)

    def sweep_layers(self, keep: Iterable[str]) -> None:
        """Remove every layer that is not named by its chain id."""
        wanted = {self.folder(chain_id).name for chain_id in keep}
        for folder in self.layers.iterdir():
            if folder.name not in wanted and not folder.name.startswith("."):
                doomed = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
                folder.rename(doomed)
                remove_tree(doomed)

    @staticmethod
    def _layer_size(layer: Path) -> tuple[int, int]:
        """Layers never change: what was counted at their unpacking holds."""
        try:
            size, _, inodes = (layer / "size").read_text().partition(" ")
        except FileNotFoundError:
            return 0, 0
        return int(size), int(inodes)

    def usage(self) -> tuple[int, int]:
        """(bytes, inodes) of layers and writable roots."""
        total = [self._layer_size(layer) for layer in self.layers.iterdir()]
        total += [tree_usage(self.upper(base.name)) for base in self.writable.iterdir()]
        return sum(size for size, _ in total), sum(inodes for _, inodes in total)


def _free(folder: Path) -> tuple[int, int]:
    """(bytes, inodes) that may still be taken of a disk: 95 % of what is free. Some file systems count no inodes."""
    facts = os.statvfs(folder)
    room = facts.f_bavail * facts.f_frsize * 95 // 100
    return room, facts.f_favail * 95 // 100 if facts.f_files else 1 << 62


def apply_layer(layer: Path, target: Path) -> None:
    """Copy an unpacked layer over a plain root, obeying its whiteouts: what overlayfs would show."""
    for folder, names, files in os.walk(layer):
        place = target / os.path.relpath(folder, layer)
        with contextlib.suppress(OSError):
            if os.getxattr(folder, "trusted.overlay.opaque") == b"y":
                for old in list(place.iterdir()) if place.is_dir() else []:
                    remove_tree(old)
        _copy_facts(folder, place)
        for name in [*names, *files]:
            _copy_entry(Path(folder, name), place / name)


def _copy_entry(source: Path, target: Path) -> None:
    facts = os.lstat(source)
    folder = stat.S_ISDIR(facts.st_mode)
    if os.path.lexists(target) and not (folder and target.is_dir() and not target.is_symlink()):
        remove_tree(target) if target.is_dir() and not target.is_symlink() else target.unlink()
    if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == 0:
        return
    if folder:
        target.mkdir(exist_ok=True)
    elif stat.S_ISREG(facts.st_mode):
        shutil.copyfile(source, target, follow_symlinks=False)
    elif stat.S_ISLNK(facts.st_mode):
        os.symlink(os.readlink(source), target)
    else:
        os.mknod(target, facts.st_mode, facts.st_rdev)
    if not folder:
        _copy_facts(str(source), target)


def _copy_facts(source: str, target: Path) -> None:
    facts = os.lstat(source)
    os.chown(target, facts.st_uid, facts.st_gid, follow_symlinks=False)
    shutil.copystat(source, target, follow_symlinks=False)
    with contextlib.suppress(OSError):
        os.removexattr(target, "trusted.overlay.opaque", follow_symlinks=False)
