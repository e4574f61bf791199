"""Being told by the kernel what changes in a folder, and what is done where the kernel has no watch left."""

import asyncio
import ctypes
import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from kaa.kubelet import inotify


def test_a_change_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        changed = asyncio.Event()
        with inotify.Watch(changed.set, inotify.CREATE) as watch:
            watch.add(tmp_path)
            watch.add(tmp_path / "gone")
            assert not watch.blind
            (tmp_path / "new").touch()
            async with asyncio.timeout(5):
                await changed.wait()

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["inotify_init1", "inotify_add_watch"])
def test_without_a_watch_left_it_is_blind_and_says_what_to_raise(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = ctypes.CDLL(None)

    def fail(*_: object) -> int:
        ctypes.set_errno(errno.ENOSPC)
        return -1

    calls = {"inotify_init1": libc.inotify_init1, "inotify_add_watch": libc.inotify_add_watch, call: fail}
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(**calls))

    async def scenario() -> None:
        with inotify.Watch(lambda: None, inotify.CREATE) as watch:
            watch.add(tmp_path)
            watch.add(tmp_path)
            assert watch.blind

    with capture_logs() as told:
        asyncio.run(scenario())
    assert [one["sysctl"] for one in told] == [
        "fs.inotify.max_user_instances" if call == "inotify_init1" else "fs.inotify.max_user_watches"
    ]
