"""The DRA drivers of a node: registered, connected, asked; and the ResourceSlices of those that are gone taken away.

A driver may stand twice while it is being replaced: the newest that is connected is asked. When none of a driver's is
connected for a while, its slices are deleted, for pods must not be sent to devices that nobody can prepare.
Source: pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from kaa.api.clock import Clock
from kaa.api.protobuf_structs import Message

from ..devices import Refused, RpcFailure
from ..devices.messages import Empty, PluginInfo
from ..devices.rpc import Connection
from ..tasks import Tasks
from .health import HealthBook
from .messages import HEALTH, SERVICES, WatchResponse

log = structlog.get_logger(__name__)
M = TypeVar("M", bound=Message)

WIPING_DELAY_S = 30.0  #: a driver's pod may be replaced in this time
_CALL_TIMEOUT_S = 45.0
_HEALTH_RETRY_S = 5.0


class NoDriver(Exception):
    """Nobody is there to ask."""


class _Driver:
    def __init__(self, name: str, endpoint: str, service: str, connection: Connection) -> None:
        self.name, self.endpoint, self.service, self.connection = name, endpoint, service, connection
        self.connected = False


class Drivers:
    """Handles plugins of the type DRAPlugin. Close it at the end.

    ``wipe`` deletes the ResourceSlices of a driver on this node (of all, for an empty name).
    """

    def __init__(self, clock: Clock, wipe: Callable[[str], Awaitable[None]]) -> None:
        self._clock, self._wipe = clock, wipe
        self.health = HealthBook(clock, lambda devices: None)
        self._known: dict[str, list[_Driver]] = {}  #: {driver: its plugins, oldest first}
        self._tasks = Tasks("kubelet/dra-driver")

    async def close(self) -> None:
        await self._tasks.close()
        for every in self._known.values():
            for driver in every:
                await driver.connection.close()
        self._known.clear()

    # ------------------------------------------------------------------------------------------------ plugins

    async def connect(self, info: PluginInfo, endpoint: str) -> None:
        """Raises Refused."""
        try:
            service = chosen_service(info.versions)
        except Refused as err:
            raise Refused(
                f"invalid supported gRPC versions of DRA driver plugin {info.name} at endpoint {endpoint}: {err}"
            ) from None
        every = self._known.setdefault(info.name, [])
        if any(one.endpoint == endpoint for one in every):
            raise Refused(f"endpoint {endpoint} already registered for DRA driver plugin {info.name}")
        driver = _Driver(info.name, endpoint, service, await Connection.to(endpoint, SERVICES[service]))
        every.append(driver)
        self._tasks.start(_key(driver), self._follow(driver))
        if HEALTH in info.versions:
            self._tasks.start(_health_key(driver), self._follow_health(driver))
        self._sync(info.name)

    async def disconnect(self, name: str, endpoint: str) -> None:
        for driver in [one for one in self._known.get(name, ()) if one.endpoint == endpoint]:
            self._known[name].remove(driver)
            self._tasks.cancel(_key(driver))
            self._tasks.cancel(_health_key(driver))
            await driver.connection.close()
        if not self._known.get(name):
            self._known.pop(name, None)
        self._sync(name)

    async def _follow(self, driver: _Driver) -> None:
        """Know whether a driver can be reached."""
        async for connected in driver.connection.states():
            log.info("DRA driver", driver=driver.name, endpoint=driver.endpoint, connected=connected)
            driver.connected = connected
            self._sync(driver.name)

    async def _follow_health(self, driver: _Driver) -> None:
        """Take in how a driver's devices are."""
        while True:
            try:
                stream = driver.connection.stream("NodeWatchResources", Empty(), WatchResponse, service=HEALTH)
                async for answer in stream:
                    self.health.told(driver.name, answer.devices)
            except RpcFailure as err:
                log.info("DRA driver's word on its devices ended", driver=driver.name, error=str(err))
            finally:
                self.health.forget(driver.name)
            await self._clock.sleep(_HEALTH_RETRY_S)

    def _sync(self, name: str) -> None:
        """Slices go when nobody can serve them for a while; that somebody is back in time saves them."""
        key = f"wipe/{name}"
        if any(one.connected for one in self._known.get(name, ())):
            self._tasks.cancel(key)
        elif key not in self._tasks:
            self._tasks.start(key, self._wipe_later(name))

    async def _wipe_later(self, name: str) -> None:
        await self._clock.sleep(WIPING_DELAY_S)
        log.info("ResourceSlices of a DRA driver that is gone are deleted", driver=name)
        await self._wipe(name)

    # ------------------------------------------------------------------------------------------------ asking

    def check(self, name: str) -> None:
        """Raises NoDriver."""
        self._best(name)

    async def ask(self, name: str, verb: str, request: Message, answer: type[M]) -> M:
        """Raises NoDriver, RpcFailure."""
        return await self._best(name).connection.call(verb, request, answer, _CALL_TIMEOUT_S)

    def _best(self, name: str) -> _Driver:
        if not name:
            raise NoDriver("DRA driver name is empty")
        every = self._known.get(name)
        if not every:
            raise NoDriver(f"DRA driver {name} is not registered")
        return next((one for one in reversed(every) if one.connected), every[-1])


def chosen_service(offered: tuple[str, ...]) -> str:
    """The first that we speak, of the services that a driver names. Raises Refused."""
    if not offered:
        raise Refused("empty list of supported gRPC services (aka supported versions)")
    found = next((one for one in offered if one in SERVICES), None)
    if found is None:
        raise Refused(
            f"none of services supported by the plugin ({_quoted(offered)}) are supported by the kubelet"
            f" ({_quoted(tuple(SERVICES))})"
        )
    return found


def _quoted(texts: tuple[str, ...]) -> str:
    return f"[{' '.join(f'{one!r}' for one in texts)}]".replace("'", '"')


def _key(driver: _Driver) -> str:
    return f"{driver.name} {driver.endpoint}"


def _health_key(driver: _Driver) -> str:
    return f"health/{_key(driver)}"
