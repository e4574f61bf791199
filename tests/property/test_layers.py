"""Random tars over random tars: whatever they say, nothing outside the root is made, changed or removed."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaa.runtime.oci.prepare import resolve_inside
from kaa.runtime.oci.snapshots import apply_layer
from kaa.runtime.oci.tar import LayerError, TarReader
from kaa.runtime.oci.unpack import Limits, unpack_layer

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")]

PARTS = st.sampled_from(
    ["a", "b", "c", "..", ".", "", "outside", "secret", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh...", "é", "\udcff"]
)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
    ]
)


@st.composite
def entries(draw: st.DrawFn) -> tarfile.TarInfo:
    info = tarfile.TarInfo(draw(PATHS))
    info.type, info.mode = draw(KINDS), draw(st.integers(0, 0o7777))
    info.linkname = draw(
        st.one_of(PATHS, PATHS.map(lambda path: "/" + path), st.just("@outside"), st.just("@outside/secret"))
    )
    info.uid, info.mtime = draw(st.integers(0, 70_000)), draw(st.integers(-5, 1 << 33))
    return info


LAYERS = st.lists(st.lists(entries(), max_size=8), min_size=1, max_size=3)


def packed(layer: list[tarfile.TarInfo], outside: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info in layer:
            info.linkname = info.linkname.replace("@outside", str(outside))
            info.size = 1 if info.isreg() else 0
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return buffer.getvalue()


def facts(folder: Path) -> Iterator[tuple[str, int, int, int, int]]:
    for path in sorted([folder, *folder.rglob("*")]):
        found = os.lstat(path)
        yield str(path), found.st_mode, found.st_uid, found.st_mtime_ns, found.st_nlink


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LAYERS)
def test_everything_lands_below_the_root(layers: list[list[tarfile.TarInfo]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        outside = base / "outside"
        outside.mkdir()
        (outside / "secret").write_text("secret")
        merged = base / "root"
        merged.mkdir()
        before = list(facts(outside))
        for number, layer in enumerate(layers):
            folder = base / f"layer{number}"
            folder.mkdir()
            try:
                unpack_layer(io.BytesIO(packed(layer, outside)), folder, limits=Limits(1 << 20, 100))
            except (LayerError, OSError):
                continue
            apply_layer(folder, merged)
        assert list(facts(outside)) == before
        assert {path.name for path in base.iterdir()} <= {"outside", "root", "layer0", "layer1", "layer2"}
        for path in merged.rglob("*"):
            inside = resolve_inside(merged, str(path.relative_to(merged)))
            assert inside is None or f"{inside}/".startswith(f"{merged}/")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(entries(), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    st.booleans(),
)
def test_a_garbled_tar_is_refused_or_read_but_never_more(
    layer: list[tarfile.TarInfo], flips: list[tuple[int, int]], mend: bool
) -> None:
    """Bytes are changed at random, with and without the checksums made right again."""
    data = bytearray(packed(layer, Path("/nowhere")))
    for at, value in flips:
        data[at % len(data)] = value
    if mend:
        for at in range(0, len(data), 512):
            block = data[at : at + 512]
            if block.strip(b"\0"):
                block[148:156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    try:
        total = 0
        reader = TarReader(io.BytesIO(bytes(data)))
        for entry in reader:
            assert 0 <= entry.size <= 1 << 62
            while content := reader.read(1 << 16):
                total += len(content)
        assert total <= len(data)
    except LayerError:
        return
