"""Tars that no friend makes: broken headers, sizes that lie, links and whiteouts with tricks; nothing leaves the root."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import struct
import tarfile
import time
from pathlib import Path

import pytest
import zstandard

from kaa.runtime.oci.snapshots import Snapshots, apply_layer
from kaa.runtime.oci.tar import Entry, LayerError, TarReader, read_pax
from kaa.runtime.oci.unpack import Limits, unpack_layer

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")]

END = bytes(1024)


def header(name: bytes = b"f", kind: bytes = b"0", size: bytes = b"0", **more: bytes) -> bytes:
    """A header as an enemy writes it: every field is bytes."""
    fields = {"mode": b"0000644", "uid": b"0", "gid": b"0", "mtime": b"0", "link": b"", "magic": b"ustar\x0000"}
    fields |= {"major": b"", "minor": b"", "prefix": b"", **more}
    packed = struct.pack(
        "100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x",
        name,
        fields["mode"],
        fields["uid"],
        fields["gid"],
        size,
        fields["mtime"],
        b" " * 8,
        kind,
        fields["link"],
        fields["magic"],
        b"",
        b"",
        fields["major"],
        fields["minor"],
        fields["prefix"],
    )
    return packed[:148] + b"%06o\0 " % sum(packed) + packed[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def octal(number: int) -> bytes:
    return b"%011o" % number


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", kind, octal(len(records))) + padded(records)


def record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    size += len(str(size + len(str(size))))
    return b"%d %s=%s\n" % (size, key, value)


def file(name: bytes = b"f", data: bytes = b"x", **more: bytes) -> bytes:
    return header(name, b"0", octal(len(data)), **more) + padded(data)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def unpack(data: bytes, root: Path, **limits: int) -> None:
    unpack_layer(io.BytesIO(data), root, limits=Limits(**limits) if limits else None)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        pytest.param(b"x" * 511, "truncated", id="less than a block"),
        pytest.param(b"x" * 512, "cannot be read", id="noise"),
        pytest.param(header()[:148] + b"0000000\0" + header()[156:], "checksum", id="a wrong checksum"),
        pytest.param(header(size=b"9") + END, "number", id="a size that is no octal"),
        pytest.param(header(size=b"\xff" * 12) + END, "impossible size: -1", id="a negative size"),
        pytest.param(header(size=b"\x80" + b"\xff" * 11) + END, "impossible size", id="a huge size"),
        pytest.param(
            header(size=b"\x80" + bytes(6) + b"\xff" * 5) + END, "truncated|larger", id="a size beyond the data"
        ),
        pytest.param(header(uid=b"\xff" * 8) + END, "impossible owner: -1", id="an owner that means unchanged"),
        pytest.param(
            header(gid=b"\x80\0\0\0\xff\xff\xff\xff") + END, "impossible group", id="a group that means unchanged"
        ),
        pytest.param(pax(record(b"uid", b"4294967295")) + file(), "impossible owner", id="the same in pax"),
        pytest.param(pax(record(b"size", b"-512")) + file(), "impossible size", id="a negative size in pax"),
        pytest.param(pax(record(b"size", b"9" * 5000)) + file(), "number", id="a number of many digits"),
        pytest.param(pax(record(b"size", b"0x10")) + file(), "number", id="a number that is none"),
        pytest.param(pax(record(b"size", "٣".encode())) + file(), "number", id="digits of another script"),
        pytest.param(pax(b"0 a=b\n") + file(), "pax header", id="a record of no length"),
        pytest.param(pax(b"99 a=b\n") + file(), "pax header", id="a record beyond its header"),
        pytest.param(pax(b"6 a b\n") + file(), "pax header", id="a record of no value"),
        pytest.param(pax(b"1" * 1000) + file(), "pax header", id="nothing but digits"),
        pytest.param(header(b"p", b"x", octal(2 << 20)), "oversized", id="a huge pax header"),
        pytest.param(header(b"p", b"x", b"\xff" * 12), "oversized", id="a negative pax header"),
        pytest.param(header(b"p", b"L", octal(2 << 20)), "oversized", id="a huge name"),
        pytest.param(header(b"p", b"L", octal(5)) + padded(b"name") + END, "header of nothing", id="a name of nothing"),
        pytest.param(pax(record(b"path", b"a\0b")) + file(), "NUL", id="a NUL in a name"),
        pytest.param(pax(record(b"linkpath", b"a\0b")) + header(kind=b"2"), "NUL", id="a NUL in a link"),
        pytest.param(header() + bytes(512) + file(), "after its end", id="data after the end"),
        pytest.param(header(kind=b"4", major=b"10") + END, "device", id="a disk"),
        pytest.param(header(kind=b"3", major=b"1", minor=b"1") + END, "device", id="the memory"),
        pytest.param(header(kind=b"3") + END, "device", id="a whiteout in disguise"),
        pytest.param(header(kind=b"Z") + END, "unknown entry", id="an unknown kind"),
        pytest.param(header(kind=b"2") + END, "link to nowhere", id="an empty link"),
        pytest.param(header(b"h", b"1", link=b".wh.x") + END, "bad hard link", id="a link to a whiteout"),
        pytest.param(
            header(b"d", b"5") + header(b"h", b"1", link=b"d") + END, "link to nothing", id="a link to a folder"
        ),
        pytest.param(header(b"a/" * 49 + b"..", b"5") + END, "leaves the image", id="a path that climbs at its end"),
        pytest.param(header(b"f", prefix=b"../../outside") + END, "leaves the image", id="a prefix that climbs"),
        pytest.param(
            pax(record(b"path", b"/../../outside/f")) + file(), "leaves the image", id="a pax path that climbs"
        ),
        pytest.param(pax(record(b"path", b"d/" * 3000)) + file(), "path that is too long", id="a path without end"),
    ],
)
def test_what_is_refused(root: Path, data: bytes, fault: str) -> None:
    with pytest.raises(LayerError, match=fault):
        unpack(data, root)
    assert sorted(os.listdir(root.parent)) == ["outside", "root"]
    assert sorted(os.listdir(root.parent / "outside")) == ["secret"]


def test_names_are_bytes(root: Path) -> None:
    wild = b"\xff\xfe \n\t'\"\\ \xc3("
    unpack(file(wild, b"1") + pax(record(b"path", b"p" + wild)) + file(b"x", b"2") + END, root)
    assert sorted(os.listdir(os.fsencode(root))) == sorted([wild, b"p" + wild])


def test_times_that_no_file_system_knows(root: Path) -> None:
    entries = [
        pax(record(b"mtime", value)) + file(b"f%d" % n)
        for n, value in enumerate((b"nan", b"9" * 19, b"-5", b"5.9", b"1e9"))
    ]
    unpack(b"".join(entries) + file(b"g", mtime=b"\xff" * 12) + END, root)
    assert [os.stat(root / f"f{n}").st_mtime for n in range(5)] == [0, 0, 0, 5, 0]
    assert os.stat(root / "g").st_mtime == 0


def test_headers_in_a_long_row_cost_no_stack(root: Path) -> None:
    row = (header(b"n", b"L", octal(4)) + padded(b"name")) * 2000 + pax(record(b"path", b"real")) * 2000
    unpack(row + file() + END, root)
    assert os.listdir(root) == ["real"]


def test_what_takes_others_hours_takes_a_moment() -> None:
    began = time.process_time()
    for data in (b"1" * (1 << 20), b"12 " * 300_000, record(b"a", b"1" * 900_000)):
        try:
            read_pax(data)
        except LayerError:
            continue
    assert time.process_time() - began < 1


def test_a_global_header_says_nothing_of_files(root: Path) -> None:
    unpack(pax(record(b"path", b"../evil"), b"g") + file(b"good") + END, root)
    assert os.listdir(root) == ["good"]


# ------------------------------------------------------------------------------------------------------- sparse files


def old_gnu(parts: list[tuple[int, int]], real: int, stored: int, more: int = 0) -> bytes:
    plain = bytearray(header(b"s", b"S", octal(stored), magic=b"ustar  \0"))
    plain[386:482] = b"".join(octal(a) + b"\0" + octal(b) + b"\0" for a, b in parts[:4]).ljust(96, b"\0")
    plain[482] = more
    plain[483:495] = octal(real) + b"\0"
    plain[148:156] = b" " * 8
    plain[148:156] = b"%06o\0 " % sum(plain)
    return bytes(plain)


def test_sparse_files_are_read_and_stay_sparse(root: Path) -> None:
    first = old_gnu([(0, 3), (1 << 20, 2)], (1 << 20) + 2, 5) + padded(b"abcde")
    keys = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0") + record(b"GNU.sparse.name", b"t")
    keys += record(b"GNU.sparse.realsize", b"8")
    second = pax(keys) + header(b"x", b"0", octal(512 + 2)) + padded(b"2\n0\n1\n6\n1\n") + padded(b"yz")
    third = (
        pax(record(b"GNU.sparse.map", b"1,1") + record(b"GNU.sparse.size", b"3"))
        + header(b"u", b"0", octal(1))
        + padded(b"m")
    )
    unpack(first + second + third + END, root)
    content = (root / "s").read_bytes()
    assert (content[:3], content[-2:], len(content)) == (b"abc", b"de", (1 << 20) + 2)
    assert os.stat(root / "s").st_blocks * 512 < 1 << 19
    assert (root / "t").read_bytes() == b"y\0\0\0\0\0z\0"
    assert (root / "u").read_bytes() == b"\0m\0"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(old_gnu([(0, 5)], 1 << 50, 5) + padded(b"abcde"), id="more than a disk"),
        pytest.param(old_gnu([(5, 5), (0, 5)], 10, 10) + padded(b"x" * 10), id="backwards"),
        pytest.param(old_gnu([(0, 5), (2, 5)], 10, 10) + padded(b"x" * 10), id="over itself"),
        pytest.param(old_gnu([(0, 50)], 10, 50) + padded(b"x" * 50), id="beyond its end"),
        pytest.param(old_gnu([(0, 5)], 10, 50) + padded(b"x" * 50), id="less than there is"),
        pytest.param(
            old_gnu([(0, 0)], 10, 0, more=1) + (b"00000000000\0" * 42 + b"\1" + bytes(7)) * 3200, id="a map without end"
        ),
        pytest.param(
            pax(record(b"GNU.sparse.map", b"0,-1") + record(b"GNU.sparse.size", b"9")) + file(), id="a negative part"
        ),
        pytest.param(
            pax(record(b"GNU.sparse.map", b"0") + record(b"GNU.sparse.size", b"9")) + file(), id="half a part"
        ),
        pytest.param(pax(record(b"GNU.sparse.map", b"0,1")) + file(), id="no size"),
        pytest.param(pax(record(b"GNU.sparse.size", b"1")) + file(), id="no map"),
        pytest.param(
            pax(record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.realsize", b"9"))
            + file(b"f", b"9999999\n" * 99),
            id="too many parts",
        ),
        pytest.param(
            pax(record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.realsize", b"9")) + file(b"f", b"1" * 2048),
            id="a map of one line",
        ),
    ],
)
def test_sparse_files_that_are_none(root: Path, data: bytes) -> None:
    with pytest.raises(LayerError):
        unpack(data + END, root, total_bytes=1 << 30)


def test_what_a_layer_may_take(root: Path) -> None:
    bomb = gzip.compress(header(b"zeros", b"0", octal(1 << 24)) + bytes(1 << 24) + END)
    with pytest.raises(LayerError, match="larger than 1000000 bytes"):
        unpack(bomb, root, total_bytes=1_000_000)
    assert not (root / "zeros").exists() or (root / "zeros").stat().st_size == 0
    with pytest.raises(LayerError, match="larger than"):  # what is passed over counts as well
        unpack(gzip.compress(header(b"x", b"g", octal(1 << 20)) + bytes(1 << 20)) * 3, root, total_bytes=1 << 20)
    with pytest.raises(LayerError, match="more than 10 entries"):  # folders that nobody names count
        unpack(pax(record(b"path", b"d/" * 20 + b"f")) + file() + END, root, entries=10)
    with pytest.raises(LayerError, match="larger than 40960 bytes"):  # the smallest file takes a block
        unpack(b"".join(file(b"%d" % n) for n in range(11)) + END, root, total_bytes=40960)
    with pytest.raises(LayerError, match="no space left on device"):
        unpack(header(b"big", b"0", octal(1 << 25)) + bytes(1 << 25) + END, root, reserve_bytes=1 << 60)
    with pytest.raises(LayerError, match="no space left on device"):
        unpack(b"".join(file(b"%d" % n, bytes(1 << 16)) for n in range(250)) + END, root, reserve_bytes=1 << 60)
    with pytest.raises(LayerError, match="more than 10 entries"):
        unpack(b"".join(file(b"%d" % n) for n in range(11)) + END, root, entries=10)


def test_a_zstd_stream_that_is_broken(root: Path) -> None:
    plain = file(b"f", os.urandom(100_000)) + END
    packed, diff_id = zstandard.compress(plain), f"sha256:{hashlib.sha256(plain).hexdigest()}"
    for broken in (packed[:500], packed[:-1], packed[:200] + b"\xff" * 200 + packed[400:], packed[:4] + bytes(100)):
        with pytest.raises(LayerError):
            unpack_layer(io.BytesIO(broken), root, diff_id=diff_id)


# ------------------------------------------------------------------------------------------------- layers over layers


def layered(tmp_path: Path, *layers: bytes) -> Path:
    """Layers unpacked each on its own, then put over one another as without overlayfs."""
    merged = tmp_path / "merged"
    merged.mkdir()
    for number, data in enumerate(layers):
        folder = tmp_path / f"layer{number}"
        folder.mkdir()
        unpack(data + END, folder)
        apply_layer(folder, merged)
    return merged


def test_a_link_in_one_layer_and_a_file_through_it_in_the_next(root: Path, tmp_path: Path) -> None:
    outside = os.fsencode(tmp_path / "outside")
    for n, target in enumerate((outside, b"../outside", b"../../../../../../../.." + outside)):
        (tmp_path / str(n)).mkdir()
        merged = layered(
            tmp_path / str(n), header(b"d", b"2", link=target), header(b"d/", b"5") + file(b"d/secret", b"mine")
        )
        assert (merged / "d" / "secret").read_text() == "mine"
        assert not (merged / "d").is_symlink()
    for layer in (file(b"e/secret", b"mine"), file(b"e/.wh.secret"), file(b"e/.wh..wh..opq") + file(b"e/x")):
        (tmp_path / "again").mkdir(exist_ok=True)
        for old in (tmp_path / "again").iterdir():
            os.rename(old, tmp_path / f"old{time.monotonic_ns()}")
        layered(tmp_path / "again", header(b"e", b"2", link=outside), layer)
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert sorted(os.listdir(tmp_path / "outside")) == ["secret"]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param(file(b"a") + file(b".wh.a"), {"a": "file"}, id="a whiteout of its own layer's file"),
        pytest.param(file(b".wh.a") + file(b"a"), {"a": "file"}, id="a file after its whiteout"),
        pytest.param(
            file(b".wh..wh.aufs") + file(b".wh..wh.plnk/x"), {".wh..wh.plnk": "folder"}, id="what aufs leaves"
        ),
        pytest.param(header(b".wh.d/", b"5"), {"d": "whiteout"}, id="a folder as a whiteout"),
        pytest.param(header(b".wh.l", b"2", link=b"/etc/passwd"), {"l": "whiteout"}, id="a link as a whiteout"),
        pytest.param(file(b"d/.wh..wh..opq") + file(b"d/.wh..wh..opq"), {"d": "folder"}, id="opaque twice"),
        pytest.param(header(b"d/", b"5") + file(b"d", b"y"), {"d": "file"}, id="a file for a folder"),
        pytest.param(file(b"d") + file(b"d/x"), {"d": "folder"}, id="a folder for a file"),
        pytest.param(file(b"f", b"1") + file(b"f", b"2") + file(b"./f", b"3"), {"f": "file"}, id="a file thrice"),
        pytest.param(file(b"f") + header(b"f", b"1", link=b"f"), None, id="a link to itself"),
        pytest.param(header(b"./", b"5", mode=b"0000700"), {}, id="the root itself"),
        pytest.param(file(b"/abs"), {"abs": "file"}, id="an absolute path"),
        pytest.param(file(b"///a//./b"), {"a": "folder"}, id="a path of many slashes"),
    ],
)
def test_whiteouts_and_doubles(root: Path, entries: bytes, expected: dict[str, str] | None) -> None:
    def kind(path: Path) -> str:
        mode = os.lstat(path).st_mode
        return (
            "whiteout"
            if stat.S_ISCHR(mode)
            else "folder"
            if stat.S_ISDIR(mode)
            else "link"
            if stat.S_ISLNK(mode)
            else "file"
        )

    if expected is None:
        with pytest.raises(LayerError):
            unpack(entries + END, root)
        return
    unpack(entries + END, root)
    assert {path.name: kind(path) for path in root.iterdir()} == expected


def test_an_xattr_that_only_the_host_may_set_is_left_out(root: Path) -> None:
    keys = (
        b"trusted.overlay.redirect",
        b"trusted.overlay.opaque",
        b"security.selinux",
        b"system.posix_acl_access",
        b"user.x",
    )
    headers = b"".join(record(b"SCHILY.xattr." + key, b"y") for key in keys)
    unpack(pax(headers) + header(b"d/", b"5") + END, root)
    assert os.listxattr(root / "d") == ["user.x"]


def test_what_a_fifo_cannot_hold_is_left_out(root: Path) -> None:
    unpack(pax(record(b"SCHILY.xattr.user.x", b"y")) + header(b"p", b"6") + END, root)
    assert stat.S_ISFIFO(os.lstat(root / "p").st_mode)


def test_long_names_do_not_fill_the_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many folders that what is known of them is forgotten on the way: all come with their times nevertheless."""
    monkeypatch.setattr("kaa.runtime.oci.unpack._KNOWN_FOLDERS", 3)
    monkeypatch.setattr("kaa.runtime.oci.unpack._KNOWN_TIMES", 3)
    entries = [header(b"%d" % n, b"5", mtime=b"5") + file(b"%d/f" % n, mtime=b"6") for n in range(20)]
    unpack(b"".join(entries) + file(b"1/.wh.f") + END, root)
    assert {os.stat(root / str(n) / "f").st_mtime for n in range(20)} == {6}
    assert os.stat(root / "19").st_mtime == 5


def test_a_tree_deeper_than_any_stack_is_removed_again(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s")
    snapshots.open()
    deep = b"/".join([b"d"] * 1200) + b"/f"
    data = pax(record(b"path", deep)) + file() + header(b"x", b"4") + END  # and then something that is refused
    with pytest.raises((LayerError, OSError)):
        snapshots.unpack("sha256:" + "0" * 64, io.BytesIO(data))
    assert not list(snapshots.layers.iterdir())


def test_the_standard_librarys_tars_are_read_alike(tmp_path: Path) -> None:
    """All that Python's own writer makes of names and sizes, in its three formats."""
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for number, name in enumerate(("a", "b/" + "c" * 90, "d" * 90 + "/" + "e" * 90, "ü")):
                info = tarfile.TarInfo(name)
                info.size, info.uid, info.gid, info.mtime, info.mode = number * 300, 5, 6, 7, 0o4755
                tar.addfile(info, io.BytesIO(bytes(info.size)))
            info = tarfile.TarInfo("l")
            info.type, info.linkname = tarfile.SYMTYPE, "t" * 99
            tar.addfile(info)
        reader, found = TarReader(io.BytesIO(buffer.getvalue())), list[tuple[Entry, int]]()
        for entry in reader:
            found.append((entry, len(reader.read(1 << 20))))
        with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
            expected = [(m.name, m.size, m.uid, m.gid, m.mtime, m.mode, m.linkname) for m in tar]
        assert [(e.name, n, e.uid, e.gid, e.mtime, e.mode, e.link) for e, n in found] == expected
