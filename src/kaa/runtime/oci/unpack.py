"""Unpack one image layer into a folder, trusting nothing in it.

A layer is a tar made by a stranger and unpacked by root. So: every path is resolved inside the folder (links are followed
as the container would follow them, never as the host would), names with ``..`` are refused, device files are refused but
for the harmless ones of ``/dev``, sizes and counts are limited, and the bytes must be what their digests say. Whiteouts
become what overlayfs reads: a character device 0:0 for a deleted file, an xattr for an emptied folder.

Source: OCI image-spec layer.md; overlayfs.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

from .files import remove_tree
from .tar import CHUNK, ByteSource, Entry, LayerError, TarReader

__all__ = ["ByteSource", "LayerError", "Limits", "unpack_layer"]

_WHITEOUT, _OPAQUE, _META = ".wh.", ".wh..wh..opq", ".wh..wh."
_XATTR = "SCHILY.xattr."
_HARMLESS_DEVICES = frozenset({(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)})
_MAX_LINKS = 40  #: as the kernel has it
_BLOCK = 4096  #: what the smallest file takes of a disk
_LOOK_EVERY = 16 << 20  #: bytes between two looks at the disk
_KNOWN_FOLDERS, _KNOWN_TIMES = 4096, 16384  #: so that an enemy's long names do not fill the memory


@dataclass(frozen=True, slots=True)
class Limits:
    """What one layer may unpack to: bytes on disk, files and folders; and how much of the disk must stay free meanwhile."""

    total_bytes: int = 64 << 30
    reserve_bytes: int = 0
    entries: int = 2_000_000
    path_bytes: int = 4096


class Hashing:
    """Passes bytes on, counting and hashing them."""

    def __init__(self, source: ByteSource, limit_bytes: int = 1 << 62) -> None:
        self.source, self.limit_bytes, self.count, self.sha = source, limit_bytes, 0, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self.source.read(size)
        self.count += len(data)
        if self.count > self.limit_bytes:
            raise LayerError(f"layer is larger than {self.limit_bytes} bytes")
        self.sha.update(data)
        return data

    def drain(self) -> str:
        """Read to the end; the digest of everything."""
        while self.read(CHUNK):
            pass
        return f"sha256:{self.sha.hexdigest()}"


class _Gunzip:
    """A gzip stream of any number of members, read in chunks."""

    def __init__(self, source: ByteSource, head: bytes) -> None:
        self.source, self.pending, self.engine, self.started = source, head, zlib.decompressobj(31), False

    def read(self, size: int = -1, /) -> bytes:
        size = size if size > 0 else CHUNK
        while True:
            self.pending = self.pending or self.source.read(CHUNK)
            if not self.pending:
                if self.started:
                    raise LayerError("layer is truncated")
                return b""
            self.started = True
            data = self.engine.decompress(self.pending, size)
            self.pending = self.engine.unconsumed_tail
            if self.engine.eof:
                self.pending, self.engine, self.started = self.engine.unused_data, zlib.decompressobj(31), False
                if self.pending and not self.pending.strip(b"\0"):
                    self.pending = b""
            if data:
                return data


class _Plain:
    def __init__(self, source: ByteSource, head: bytes) -> None:
        self.source, self.head = source, head

    def read(self, size: int = -1, /) -> bytes:
        size = size if size > 0 else CHUNK
        if self.head:
            head, self.head = self.head[:size], self.head[size:]
            return head
        return self.source.read(size)


class _Zstd:
    """A zstd stream of any number of frames."""

    def __init__(self, source: ByteSource, head: bytes) -> None:
        import zstandard  # loaded only for images that use it

        self._error: type[Exception] = zstandard.ZstdError
        self._reader: ByteSource = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
            _Plain(source, head),  # type: ignore[arg-type]  # it wants no more than read()
            read_across_frames=True,
        )

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._reader.read(size)
        except self._error as err:
            raise LayerError(f"layer cannot be read: {err}") from err


def decompressed(source: ByteSource) -> ByteSource:
    """Gzip, zstd or nothing: told by the first bytes, as media types in the wild are often wrong."""
    head = source.read(CHUNK)
    if head[:2] == b"\x1f\x8b":
        return _Gunzip(source, head)
    if head[:4] == b"\x28\xb5\x2f\xfd":
        return _Zstd(source, head)
    return _Plain(source, head)


def unpack_layer(
    source: ByteSource, target: Path, *, digest: str = "", diff_id: str = "", limits: Limits | None = None
) -> str:
    """Unpack a layer and check it; returns its diff id (the digest of the plain tar).

    Args:   digest: what the bytes as stored must hash to;  diff_id: what the plain tar must.
    Raises: LayerError; OSError. The target then holds rubbish: remove it.
    """
    limits = limits or Limits()
    packed = Hashing(source)
    plain = Hashing(decompressed(packed), limits.total_bytes)
    try:
        _Unpacker(TarReader(plain), target, limits).run()
        found = plain.drain()
        stored = packed.drain()
    except zlib.error as err:
        raise LayerError(f"layer cannot be read: {err}") from err
    if digest and stored != digest:
        raise LayerError(f"layer hashes to {stored}, not to {digest}")
    if diff_id and found != diff_id:
        raise LayerError(f"layer unpacks to {found}, not to {diff_id}")
    return found


class _Unpacker:
    def __init__(self, reader: TarReader, root: Path, limits: Limits) -> None:
        self.reader, self.root, self.limits = reader, str(root), limits
        self.room, self.unseen, self.count = limits.total_bytes, 0, 0
        self.real: dict[str, str] = {"": self.root}  #: {folder as named: where it really is}
        self.times: list[tuple[str, float]] = []
        self.written: set[int] = set()  #: hashes of this layer's paths, which a whiteout must not remove

    def run(self) -> None:
        for entry in self.reader:
            self.spend(entry.real_size)
            self.one(entry)
        self.set_times()

    def spend(self, size: int) -> None:
        """Count a file or folder of so many bytes. Raises LayerError when it is one too many."""
        self.count += 1
        if self.count > self.limits.entries:
            raise LayerError(f"layer has more than {self.limits.entries} entries")
        taken = _BLOCK + size
        self.room -= taken
        self.unseen += taken
        if self.room < 0:
            raise LayerError(f"layer is larger than {self.limits.total_bytes} bytes")
        if self.unseen >= _LOOK_EVERY:
            self.look()

    def look(self) -> None:
        """Others fill the disk as well: see what is left."""
        self.unseen = 0
        facts = os.statvfs(self.root)
        if facts.f_bavail * facts.f_frsize < self.limits.reserve_bytes:
            raise LayerError("no space left on device")

    def set_times(self) -> None:
        """Folders' times come last, for what is made in them changes them."""
        for path, mtime in reversed(self.times):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (mtime, mtime), follow_symlinks=False)
        self.times.clear()

    def one(self, entry: Entry) -> None:
        parts = _parts(entry.name, self.limits.path_bytes)
        if not parts:
            if entry.is_folder:
                self.describe(self.root, entry)
            return
        folder, name = self.folder(parts[:-1]), parts[-1]
        if name == _OPAQUE:
            os.setxattr(folder, "trusted.overlay.opaque", b"y")
            return
        path = f"{folder}/{name}"
        if name.startswith(_META):  # what aufs kept for itself
            return
        if name.startswith(_WHITEOUT):
            self.whiteout(folder, name.removeprefix(_WHITEOUT))
            return
        if len(os.fsencode(name)) > 255:
            raise LayerError(f"layer has a name that is too long: {name[:40]}…")
        self.clear(path, entry)
        self.make(entry, path)
        self.written.add(hash(path))

    def whiteout(self, folder: str, name: str) -> None:
        if name in ("", ".", ".."):
            raise LayerError(f"layer has a bad whiteout: {name}")
        path = f"{folder}/{name}"
        if hash(path) not in self.written:
            self.clear(path, None)
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))

    def folder(self, parts: list[str]) -> str:
        """The real path of a folder, made where missing. Links on the way are followed inside the root only."""
        key = "/".join(parts)
        known = self.real.get(key)
        if known is None:
            if len(self.real) > _KNOWN_FOLDERS:
                self.real = {"": self.root}
            known = self.real[key] = self._resolve(parts)
        return known

    def _resolve(self, parts: list[str]) -> str:
        todo, links = list(reversed(parts)), 0
        done: list[str] = []
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done[:-1]
                continue
            path = "/".join([self.root, *done, part])
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                self.spend(0)
                os.mkdir(path, 0o755)
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAX_LINKS:
                    raise LayerError(f"layer has too many links in {'/'.join(parts)}")
                target = os.readlink(path)
                done = [] if target.startswith("/") else done
                todo.extend(reversed(target.split("/")))
            elif stat.S_ISDIR(mode):
                done.append(part)
            else:
                os.unlink(path)
                os.mkdir(path, 0o755)
                done.append(part)
        return "/".join([self.root, *done])

    def clear(self, path: str, entry: Entry | None) -> None:
        """Make room at ``path``; a folder stays when a folder comes."""
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            if entry is not None and entry.is_folder:
                return
            remove_tree(Path(path))
        else:
            os.unlink(path)
        self.real = {"": self.root}

    def make(self, entry: Entry, path: str) -> None:
        if entry.is_folder:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        elif entry.is_file:
            self.regular(entry, path)
        elif entry.is_symlink:
            if not entry.link or len(os.fsencode(entry.link)) >= self.limits.path_bytes:
                raise LayerError(f"layer has a link to nowhere: {entry.name}")
            os.symlink(entry.link, path)
            self.real = {"": self.root}
        elif entry.is_link:
            self.hard_link(entry, path)
            return
        elif entry.is_fifo:
            os.mkfifo(path, 0o600)
        elif entry.is_character_device and (entry.major, entry.minor) in _HARMLESS_DEVICES:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(entry.major, entry.minor))
        else:
            raise LayerError(f"layer has a device or unknown entry: {entry.name}")
        self.describe(path, entry)

    def regular(self, entry: Entry, path: str) -> None:
        """A file; of a sparse one the holes stay holes, but count."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if entry.sparse is not None:
                os.truncate(fd, entry.real_size)
            for offset, length in ((0, entry.real_size),) if entry.sparse is None else entry.sparse:
                self._fill(fd, offset, length)
        finally:
            os.close(fd)

    def _fill(self, fd: int, at: int, length: int) -> None:
        end = at + length
        while at < end:
            data = memoryview(self.reader.read(min(end - at, CHUNK)))
            if (self.unseen + at) // _LOOK_EVERY != (self.unseen + at + len(data)) // _LOOK_EVERY:
                self.look()
            while data:
                done = os.pwrite(fd, data, at)
                data, at = data[done:], at + done

    def hard_link(self, entry: Entry, path: str) -> None:
        parts = _parts(entry.link, self.limits.path_bytes)
        if not parts:
            raise LayerError(f"layer has a bad hard link: {entry.name}")
        target = f"{self.folder(parts[:-1])}/{parts[-1]}"
        if parts[-1].startswith(_WHITEOUT):
            raise LayerError(f"layer has a bad hard link: {entry.name}")
        try:
            os.link(target, path, follow_symlinks=False)
        except (FileNotFoundError, PermissionError) as err:
            raise LayerError(f"layer has a hard link to nothing: {entry.name} -> {entry.link}") from err

    def describe(self, path: str, entry: Entry) -> None:
        """Owner, mode, xattrs and times; the owner first, for changing it clears setuid and capabilities."""
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if entry.is_symlink:
            os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)
            return
        os.chmod(path, entry.mode & 0o7777)
        for key, value in entry.pax.items():
            name = key.removeprefix(_XATTR)
            if name != key and (name == "security.capability" or name.startswith("user.")):
                _set_xattr(path, name, value.encode("utf-8", "surrogateescape"))
        if entry.is_folder:
            if len(self.times) >= _KNOWN_TIMES:
                self.set_times()
            self.times.append((path, entry.mtime))
        else:
            os.utime(path, (entry.mtime, entry.mtime))


def _set_xattr(path: str, name: str, value: bytes) -> None:
    """What the file system, or a fifo, cannot hold of a user's own is left out, as containerd leaves it out."""
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as err:
        if err.errno != errno.ENOTSUP and not (err.errno == errno.EPERM and name.startswith("user.")):
            raise


def _parts(name: str, limit: int) -> list[str]:
    """A path of the archive as folders below the root. Raises LayerError when it climbs."""
    if len(os.fsencode(name)) > limit or "\0" in name:
        raise LayerError("layer has a path that is too long")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise LayerError(f"layer has a path that leaves the image: {name}")
    return parts
