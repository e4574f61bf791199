"""systemd-logind over D-Bus: a lock that delays the machine's shutdown, and the signal that announces it.

Source: systemd's "Inhibitor Locks" and org.freedesktop.login1; pkg/kubelet/nodeshutdown/systemd/inhibit_linux.go.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dbus_fast import BusType, DBusError, Message, MessageType
from dbus_fast.aio import MessageBus

from .images.names import go_seconds

_LOGIN = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_SYSTEMD = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_OVERRIDE = "99-kubelet.conf"
_HANGUP = 1
_TIMEOUT_S = 25.0  # D-Bus' own for a call


class Logind:
    """``Inhibitor`` of a machine under systemd. ``address`` is the bus' (none: the system's)."""

    def __init__(self, address: str | None = None, settings: Path = Path("/etc/systemd/logind.conf.d")) -> None:
        self._address, self._settings = address, settings
        self._bus: MessageBus | None = None
        self._lock = -1

    async def shutdowns(self, wanted_s: float) -> AsyncIterator[bool]:
        try:
            self._bus = await MessageBus(
                bus_address=self._address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True
            ).connect()
        except (OSError, EOFError, DBusError, ValueError) as err:
            raise OSError(f"the system's bus cannot be reached: {err}") from err
        try:
            await self._allow(wanted_s)
            await self._inhibit()
            async for going_down in self._signals(self._bus):
                if not going_down:
                    await self._inhibit()
                yield going_down
        finally:
            await self.release()
            self._bus.disconnect()
            self._bus = None

    async def _signals(self, bus: MessageBus) -> AsyncIterator[bool]:
        """PrepareForShutdown, as long as the bus is there."""
        heard: asyncio.Queue[bool | None] = asyncio.Queue()

        def hear(message: Message) -> None:
            if (message.interface, message.member) == (_LOGIN[2], "PrepareForShutdown"):
                heard.put_nowait(bool(message.body[0]))

        bus.add_message_handler(hear)
        rule = f"type='signal',interface='{_LOGIN[2]}',member='PrepareForShutdown',path='{_LOGIN[1]}'"
        await self._call(
            ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"), "AddMatch", "s", [rule]
        )
        ended = asyncio.ensure_future(self._until_gone(bus, heard))
        try:
            while (going_down := await heard.get()) is not None:
                yield going_down
        finally:
            bus.remove_message_handler(hear)
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def _until_gone(self, bus: MessageBus, heard: asyncio.Queue[bool | None]) -> None:
        try:
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        finally:
            heard.put_nowait(None)

    # ------------------------------------------------------------------------------------------------ logind's verbs

    async def _allow(self, wanted_s: float) -> None:
        """See to it that logind lets itself be held up for so long. Raises OSError."""
        if await self._delay_s() >= wanted_s:
            return
        await asyncio.to_thread(self._override, wanted_s)
        await self._call(_SYSTEMD, "KillUnit", "ssi", ["systemd-logind.service", "all", _HANGUP])
        found = await self._delay_s()
        if found < wanted_s:
            wanted, has = go_seconds(wanted_s), go_seconds(found)
            raise OSError(
                f"node shutdown manager was unable to update logind InhibitDelayMaxSec to {wanted} (ShutdownGracePeriod),"
                f" current value of InhibitDelayMaxSec ({has}) is less than requested ShutdownGracePeriod"
            )

    def _override(self, seconds: float) -> None:
        self._settings.mkdir(parents=True, exist_ok=True)
        text = f"# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={seconds:.0f}\n"
        (self._settings / _OVERRIDE).write_text(text)

    async def _delay_s(self) -> float:
        body = ["org.freedesktop.login1.Manager", "InhibitDelayMaxUSec"]
        found = await self._call((_LOGIN[0], _LOGIN[1], "org.freedesktop.DBus.Properties"), "Get", "ss", body)
        return float(found.body[0].value) / 1e6

    async def _inhibit(self) -> None:
        body = ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"]
        answer = await self._call(_LOGIN, "Inhibit", "ssss", body)
        held, self._lock = self._lock, answer.unix_fds[answer.body[0]]
        if held >= 0:
            os.close(held)

    async def release(self) -> None:
        held, self._lock = self._lock, -1
        if held >= 0:
            os.close(held)

    async def _call(self, whom: tuple[str, str, str], member: str, signature: str, body: list[Any]) -> Message:
        assert self._bus is not None
        destination, path, interface = whom
        asked = Message(
            destination=destination, path=path, interface=interface, member=member, signature=signature, body=body
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await self._bus.call(asked)
        except (TimeoutError, EOFError) as err:
            raise OSError(f"{interface}.{member}: no answer") from err
        if answer is None or answer.message_type is MessageType.ERROR:
            said = answer.body[0] if answer is not None and answer.body else "no answer"
            raise OSError(f"{interface}.{member}: {said}")
        return answer
