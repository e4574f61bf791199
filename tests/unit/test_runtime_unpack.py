"""Layers made by an enemy, and by a friend."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from kaa.runtime.oci.snapshots import Snapshots, apply_layer, chain_ids
from kaa.runtime.oci.unpack import LayerError, Limits, unpack_layer

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")]


def entry(name: str, kind: bytes = tarfile.REGTYPE, **facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def layer(*entries: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in entries:
            info, content = item if isinstance(item, tuple) else (item, b"")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return io.BytesIO(buffer.getvalue())


def file(name: str, content: bytes = b"x", **facts: object) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, **facts), content


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    return entry(name, kind, linkname=target)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([file("../outside/evil")], id="a path that climbs"),
        pytest.param([file("a/../../outside/evil")], id="a path that climbs in the middle"),
        pytest.param([link("a", "../outside/secret", tarfile.LNKTYPE)], id="a hard link that climbs"),
        pytest.param([link("a", "nothing", tarfile.LNKTYPE)], id="a hard link to nothing"),
        pytest.param([entry("sda", tarfile.BLKTYPE, devmajor=8)], id="a disk"),
        pytest.param([entry("mem", tarfile.CHRTYPE, devmajor=1, devminor=1)], id="the memory"),
        pytest.param([file("a/.wh...")], id="a whiteout that climbs"),
        pytest.param([file("x" * 300)], id="a name too long"),
        pytest.param([link("a", "b"), link("b", "a"), file("a/x")], id="links in a circle"),
    ],
)
def test_attacks_are_refused(root: Path, entries: list[tarfile.TarInfo]) -> None:
    with pytest.raises((LayerError, OSError)):
        unpack_layer(layer(*entries), root)
    assert sorted(os.listdir(root.parent / "outside")) == ["secret"]


@pytest.mark.parametrize("target", ["../outside", "/outside", "../../../outside", "/../outside"])
def test_links_are_followed_inside_the_image_only(root: Path, target: str) -> None:
    unpack_layer(layer(link("out", target), file("out/evil"), link("hard", "out/evil", tarfile.LNKTYPE)), root)
    assert sorted(os.listdir(root.parent / "outside")) == ["secret"]
    assert (root / "outside" / "evil").read_text() == "x"
    assert (root / "out").is_symlink()


def test_a_file_replaces_a_link_not_its_target(root: Path) -> None:
    secret = str(root.parent / "outside" / "secret")
    unpack_layer(layer(link("a", secret), file("a", b"mine")), root)
    assert (root.parent / "outside" / "secret").read_text() == "secret"
    assert (root / "a").read_text() == "mine"
    assert not (root / "a").is_symlink()


def test_owners_modes_times_and_xattrs_are_kept(root: Path) -> None:
    capability = b"\x01\x00\x00\x02\x00\x04\x00\x00" + b"\0" * 12
    headers = {"SCHILY.xattr.security.capability": capability.decode(), "SCHILY.xattr.trusted.overlay.opaque": "y"}
    unpack_layer(
        layer(
            entry("d", tarfile.DIRTYPE, mode=0o1777, mtime=5),
            file("d/s", mode=0o4755, uid=7, gid=8, mtime=9),
            file("p", pax_headers=headers),
            link("h", "p", tarfile.LNKTYPE),
            entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        ),
        root,
    )
    facts = os.stat(root / "d/s")
    assert (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid, facts.st_mtime) == (0o4755, 7, 8, 9)
    assert (stat.S_IMODE(os.stat(root / "d").st_mode), os.stat(root / "d").st_mtime) == (0o1777, 5)
    assert os.getxattr(root / "p", "security.capability") == capability
    assert os.listxattr(root / "p") == ["security.capability"]
    assert os.stat(root / "p").st_nlink == 2
    assert stat.S_ISCHR(os.stat(root / "null").st_mode)


def test_whiteouts_become_what_overlayfs_reads(root: Path, tmp_path: Path) -> None:
    unpack_layer(layer(file("a/.wh.gone"), file("b/.wh..wh..opq"), file("b/new")), root)
    facts = os.lstat(root / "a/gone")
    assert stat.S_ISCHR(facts.st_mode)
    assert facts.st_rdev == 0
    assert os.getxattr(root / "b", "trusted.overlay.opaque") == b"y"
    below = tmp_path / "below"
    for name in ("a/gone", "a/stays", "b/old"):
        (below / name).parent.mkdir(parents=True, exist_ok=True)
        (below / name).write_text("old")
    apply_layer(root, below)
    assert sorted(str(path.relative_to(below)) for path in below.rglob("*")) == ["a", "a/stays", "b", "b/new"]


def test_bombs_are_stopped(root: Path) -> None:
    with pytest.raises(LayerError, match="larger than 1000000 bytes"):
        unpack_layer(
            io.BytesIO(gzip.compress(layer(file("zeros", bytes(5_000_000))).read())), root, limits=Limits(1_000_000)
        )
    with pytest.raises(LayerError, match="more than 10 entries"):
        unpack_layer(layer(*(file(str(number)) for number in range(11))), root, limits=Limits(entries=10))
    with pytest.raises(LayerError, match="oversized header"):
        unpack_layer(layer(file("x", pax_headers={"comment": "y" * (2 << 20)})), root)


def test_what_is_cut_or_garbled_is_refused(root: Path) -> None:
    packed = gzip.compress(layer(file("x", os.urandom(5000))).read())
    for broken in (packed[:3000], packed[:-4], b"not a tar at all" * 100):
        with pytest.raises(LayerError):
            unpack_layer(io.BytesIO(broken), root)


def test_digests_are_checked(root: Path) -> None:
    plain = layer(file("x")).read()
    packed = gzip.compress(plain)
    digest, diff_id = (f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (packed, plain))
    assert unpack_layer(io.BytesIO(packed), root, digest=digest, diff_id=diff_id) == diff_id
    with pytest.raises(LayerError, match="hashes to"):
        unpack_layer(io.BytesIO(packed), root, digest=diff_id)
    with pytest.raises(LayerError, match="unpacks to"):
        unpack_layer(io.BytesIO(packed), root, diff_id=digest)


def test_a_layer_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.open()
    good = layer(file("x")).read()
    chain = f"sha256:{hashlib.sha256(good).hexdigest()}"
    with pytest.raises(LayerError):
        snapshots.unpack(chain, io.BytesIO(good), diff_id="sha256:0")
    assert not snapshots.has(chain)
    assert not list(snapshots.layers.iterdir())
    for _ in range(2):
        snapshots.unpack(chain, io.BytesIO(good), diff_id=chain)
    assert snapshots.has(chain)
    snapshots.sweep_layers([chain])
    assert snapshots.has(chain)
    snapshots.sweep_layers([])
    assert not list(snapshots.layers.iterdir())


def test_chain_ids_follow_the_specification() -> None:
    first, second = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    both = f"sha256:{hashlib.sha256(f'{first} {second}'.encode()).hexdigest()}"
    assert chain_ids([first, second]) == (first, both)
    assert chain_ids([]) == ()
