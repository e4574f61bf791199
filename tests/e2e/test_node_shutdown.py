"""A node's graceful shutdown over a real D-Bus: a bus daemon of our own, a logind of the test's, a kubelet in a little world."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from kubelet_world import World, make_pod

from kaa.kubelet.config import Period
from kaa.kubelet.logind import Logind

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="not installed: dbus-daemon"),
]
PERIODS = (Period(0, 20), Period(2_000_000_000, 10))
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"""
LOGIN, PATH = "org.freedesktop.login1.Manager", "/org/freedesktop/login1"


class Login:
    """As much of logind and systemd as a kubelet speaks with. ``locks`` are our ends: one is free once it reads as ended."""

    def __init__(self, bus: MessageBus, settings: Path) -> None:
        self._bus, self._settings = bus, settings
        self.delay_s, self.deaf = 5.0, False
        self.asked: list[tuple[str, ...]] = []
        self.locks: list[int] = []
        bus.add_message_handler(self._answer)

    def _answer(self, message: Message) -> Message | None:
        match message.message_type, message.member:
            case MessageType.METHOD_CALL, "Get":
                return Message.new_method_return(message, "v", [Variant("t", int(self.delay_s * 1e6))])
            case MessageType.METHOD_CALL, "KillUnit":
                assert message.body == ["systemd-logind.service", "all", 1]
                if not self.deaf:
                    self.delay_s = float(
                        (self._settings / "99-kubelet.conf").read_text().split("InhibitDelayMaxSec=")[1]
                    )
                return Message.new_method_return(message)
            case MessageType.METHOD_CALL, "Inhibit":
                self.asked.append(tuple(message.body))
                mine, theirs = os.pipe()
                self.locks.append(mine)
                asyncio.get_running_loop().call_later(0.05, os.close, theirs)  # once it is on its way
                return Message.new_method_return(message, "h", [0], [theirs])
        return None

    @property
    def held(self) -> bool:
        """Whether the last lock is still in somebody's hands."""
        return bool(self.locks) and not select.select([self.locks[-1]], [], [], 0)[0]

    async def announce(self, going_down: bool) -> None:
        await self._bus.send(Message.new_signal(PATH, LOGIN, "PrepareForShutdown", "b", [going_down]))

    def close(self) -> None:
        for lock in self.locks:
            os.close(lock)


@asynccontextmanager
async def daemon(folder: Path) -> AsyncIterator[str]:
    """A bus; answers with its address."""
    path = folder / "bus"
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(path=path))
    words = ("dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1")
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(5):
            assert await process.stdout.readline()  # it listens
        yield f"unix:path={path}"
    finally:
        process.terminate()
        await process.wait()
        path.unlink(missing_ok=True)


@asynccontextmanager
async def logind(address: str, settings: Path) -> AsyncIterator[Login]:
    bus = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()
    login = Login(bus, settings)
    for name in ("org.freedesktop.login1", "org.freedesktop.systemd1"):
        await bus.request_name(name)
    try:
        yield login
    finally:
        bus.disconnect()
        await asyncio.sleep(0.1)
        login.close()


async def soon(true: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # another process's state
            await asyncio.sleep(0.01)


def test_a_shutdown_is_announced_and_waits(tmp_path: Path) -> None:
    """The delay is raised, the lock held until every pod has ended; called off, it is held again."""
    settings = tmp_path / "logind.conf.d"

    async def go() -> None:
        async with (
            daemon(tmp_path) as address,
            logind(address, settings) as login,
            World(tmp_path, shutdown=PERIODS, inhibitor=Logind(address, settings)) as world,
        ):
            await soon(lambda: login.held)
            assert (settings / "99-kubelet.conf").read_text() == (
                "# Kubelet logind override\n[Login]\nInhibitDelayMaxSec=30\n"
            )
            assert login.asked == [("shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay")]
            world.client.put(make_pod("web"))
            await world.rest()
            await login.announce(True)
            await soon(lambda: world.kubelet.shutdown is not None and bool(world.kubelet.shutdown.status))
            for _ in range(50):
                await world.advance(0.5)
                await asyncio.sleep(0.01)
                if not login.held:
                    break
            assert not login.held
            await world.advance(2)
            assert world.pod("web").status.reason == "Terminated"
            await login.announce(False)
            await soon(lambda: login.held)
            assert world.kubelet.shutdown is not None
            assert world.kubelet.shutdown.status == ""

    asyncio.run(go())


def test_a_bus_that_went_away_is_found_again(tmp_path: Path) -> None:
    async def go() -> None:
        inhibitor = Logind(f"unix:path={tmp_path / 'bus'}", tmp_path / "settings")
        async with World(tmp_path, shutdown=PERIODS, inhibitor=inhibitor) as world:
            for _ in range(2):
                async with daemon(tmp_path) as address, logind(address, tmp_path / "settings") as login:
                    for _ in range(100):
                        await world.advance(1)
                        await asyncio.sleep(0.01)
                        if login.held:
                            break
                    assert login.held
            await asyncio.sleep(0.05)
            assert not [task for task in asyncio.all_tasks() if "dbus" in task.get_name()]

    asyncio.run(go())


def test_a_logind_that_allows_too_little_is_told_of(tmp_path: Path) -> None:
    async def go() -> None:
        async with daemon(tmp_path) as address, logind(address, tmp_path / "settings") as login:
            login.deaf = True
            announced = Logind(address, tmp_path / "settings").shutdowns(30)
            with pytest.raises(
                OSError, match=r"unable to update logind InhibitDelayMaxSec to 30s .* \(5s\) is less than"
            ):
                await anext(announced)
            assert login.locks == []

    asyncio.run(go())
