"""A container's log over its files: tails, partial lines, compression, and a follower that loses nothing to rotation."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaa.kubelet.log_rotation import make_room, rotated
from kaa.kubelet.serving import logs
from kaa.kubelet.serving.logs import LogFiles, LogOptions, Shown


def line(text: str, *, tag: str = "F", stream: str = "stdout", second: int = 1) -> bytes:
    return f"2026-11-21T03:10:{second:02}.000000001Z {stream} {tag} {text}\n".encode()


def rotate(path: Path, stamp: str) -> None:
    path.rename(path.with_name(f"{path.name}.{stamp}"))
    path.touch()


def everything(path: Path, tail: int | None) -> list[bytes]:
    files = LogFiles(path, tail)
    found = []
    while some := files.more():
        found += some
    files.close()
    return found


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A log of three files: lines 0..2 compressed, 3..5 rotated, 6..8 being written."""
    path = tmp_path / "0.log"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(6, 9)))
    (tmp_path / "0.log.20260101-000000.gz").write_bytes(gzip.compress(b"0\n1\n2\n"))
    (tmp_path / "0.log.20260102-000000").write_bytes(b"3\n4\n5\n")
    (tmp_path / "0.log.20260102-000000.tmp").write_bytes(b"rubbish of a crash")
    return path


@pytest.mark.parametrize("tail", [None, *range(12)])
def test_what_was_rotated_is_not_told_any_more(three: Path, tail: int | None) -> None:
    newest = [b"%d\n" % n for n in range(6, 9)]
    assert everything(three, tail) == (newest if tail is None else newest[len(newest) - min(tail, 3) :])


def test_compressing_goes_on_after_a_crash(three: Path) -> None:
    (three.parent / "0.log.20260102-000000.gz").write_bytes(gzip.compress(b"3\n4\n5\n"))
    make_room(three, 5)
    assert [one.name for one in rotated(three)] == ["0.log.20260101-000000.gz", "0.log.20260102-000000.gz"]
    make_room(three, 3)
    assert [one.name for one in rotated(three)] == ["0.log.20260102-000000.gz"]
    assert sorted(one.name for one in three.parent.iterdir()) == ["0.log", "0.log.20260102-000000.gz"]


@given(st.lists(st.sampled_from(["write", "read", "rotate", "compress", "half"]), max_size=40))
def test_a_follower_sees_each_line_once(steps: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.log"
        path.touch()
        files = LogFiles(path, None)
        written: list[bytes] = []
        seen: list[bytes] = []
        half = b""
        for number, step in enumerate(steps):
            match step:
                case "write" | "half":
                    text = half + b"line %d\n" % number
                    cut = len(text) if step == "write" else len(text) // 2
                    with path.open("ab") as file:
                        file.write(text[len(half) : cut] if cut > len(half) else b"")
                    half = text[:cut] if cut < len(text) and cut > len(half) else half if cut < len(text) else b""
                    if step == "write":
                        written.append(text)
                        half = b""
                case "rotate" if not half:
                    rotate(path, f"20260101-{number:06}")
                case "compress":
                    make_room(path, 100)
                case "read":
                    while some := files.more():
                        seen += some
                case _:
                    continue
        while some := files.more():
            seen += some
        files.close()
        assert seen == written


def test_lines_too_long_to_wait_for_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LINE_MAX", 100_000)
    path = tmp_path / "plain.log"
    path.write_bytes(b"x" * 250_000)
    assert b"".join(everything(path, None)) == b"x" * len(b"".join(everything(path, None)))
    assert len(b"".join(everything(path, None))) >= 200_000


def test_parts_are_joined_under_one_timestamp() -> None:
    shown = Shown(LogOptions(timestamps=True))
    raw = [line("one"), line("par", tag="P", second=2), line("ts", second=3), line("last", second=4)]
    assert shown.of(raw) == (
        b"2026-11-21T03:10:01.000000001Z one\n2026-11-21T03:10:02.000000001Z parts\n2026-11-21T03:10:04.000000001Z last\n"
    )


def test_a_limit_counts_what_is_shown() -> None:
    shown = Shown(LogOptions(limit_bytes=7, stream="Stderr"))
    assert shown.of([line("hidden"), line("four", stream="stderr"), line("more", stream="stderr")]) == b"four\nmo"
    assert shown.full


def test_a_follower_ends_when_it_is_told_of_the_end(tmp_path: Path) -> None:
    """No second passes in waiting, and what was written last is there."""
    path = tmp_path / "0.log"
    path.write_bytes(line("one"))

    async def go() -> list[bytes]:
        running, news, got = True, asyncio.Event(), []

        async def still_running() -> bool:
            return running

        async def end() -> None:
            nonlocal running
            await asyncio.sleep(0.05)
            rotate(path, "20260101-000000")
            with path.open("ab") as file:  # the test's own file
                file.write(line("two"))
            await asyncio.sleep(0.05)
            running = False
            news.set()

        ending = asyncio.ensure_future(end())
        async with asyncio.timeout(2):
            async for chunk in logs.read(path, LogOptions(follow=True), still_running, news):
                got.append(chunk)
        await ending
        return got

    assert b"".join(asyncio.run(go())) == b"one\ntwo\n"
