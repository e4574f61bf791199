"""Keeps the kernel's rules what Services and EndpointSlices say: the thin shell around ``ruleset``.

The idea: an event only marks a Service as changed. Some tens of milliseconds later the parts of the marked Services are
made anew and the difference is loaded in one transaction. When a load fails, the next one replaces the whole table.
"""

from __future__ import annotations

import asyncio
import shutil

import structlog

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import Service
from kaa.api.types.discovery_v1 import EndpointSlice
from kaa.client.informer import Informers, key_of
from kaa.client.workqueue import Key

from . import nft, ruleset
from .ruleset import SERVICE_NAME_LABEL, Model, Node

log = structlog.get_logger(__name__)

SLICES_OF_SERVICE = "proxy/service"


def slice_owner(each: EndpointSlice) -> str:
    return f"{each.metadata.namespace}/{each.metadata.labels.get(SERVICE_NAME_LABEL, '')}"


class Proxy:
    """The service proxy of one node. ``informers`` is run by the caller; ``table`` must be unique on the machine."""

    COALESCE_S = 0.03
    RETRY_S = 1.0
    RETRY_MAX_S = 30.0

    def __init__(
        self,
        informers: Informers,
        clock: Clock,
        *,
        node_name: str,
        table: str,
        cluster_cidrs: tuple[str, ...] = (),
        load: nft.Loader = nft.load,
    ) -> None:
        self._clock, self._load, self.table = clock, load, table
        self._node = Node(node_name, cluster_cidrs)
        self._services = informers.of(Service)
        self._slices = informers.of(EndpointSlice)
        self._slices.add_index(SLICES_OF_SERVICE, lambda each: (slice_owner(each),))
        self._dirty: set[Key] = set()
        self._woken = asyncio.Event()
        self._parts: dict[Key, Model] = {}
        self._loaded: Model | None = None  #: what the kernel has; None when that is unknown
        self.synced = asyncio.Event()  #: the kernel has every Service that was there at the start
        self._services.add_handler(self._on_service)
        self._slices.add_handler(self._on_slice)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        self._mark(key_of(new or old))

    def _on_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for each in (old, new):
            if each is not None:
                name = each.metadata.labels.get(SERVICE_NAME_LABEL)
                if name:
                    self._mark(Key(each.metadata.namespace or "", name))

    def _mark(self, key: Key) -> None:
        self._dirty.add(key)
        self._woken.set()

    async def run(self) -> None:
        """Serve until cancelled. The rules stay when this ends; ``teardown`` removes them."""
        await self._services.synced.wait()
        await self._slices.synced.wait()
        failures = 0
        while True:
            try:
                await self.sync()
                failures = 0
            except nft.NftError as err:
                failures += 1
                self._loaded = None
                log.warning("rules were refused; the whole table comes next", error=str(err), failures=failures)
                await self._clock.sleep(min(self.RETRY_S * 2 ** (failures - 1), self.RETRY_MAX_S))
                continue
            await self._woken.wait()
            await self._clock.sleep(self.COALESCE_S)

    async def sync(self) -> None:
        """Bring the kernel up to date with the caches, once. Raises NftError."""
        self._woken.clear()
        dirty, self._dirty = self._dirty, set()
        for key in dirty:
            self._remake(key)
        model = ruleset.merge(part for _, part in sorted(self._parts.items()))
        before, self._loaded = self._loaded, None
        if before is None:
            await self._load(ruleset.render(self.table, model))
        else:
            await self._load(ruleset.diff(self.table, before, model))
        self._loaded = model
        self.synced.set()
        for address, port, endpoint in ruleset.stale_udp(before or Model(), model):
            await forget_udp(address, port, endpoint)

    def _remake(self, key: Key) -> None:
        service = self._services.by_key(key)
        if service is None:
            self._parts.pop(key, None)
            return
        slices = self._slices.by_index(SLICES_OF_SERVICE, f"{key.namespace}/{key.name}")
        self._parts[key] = ruleset.service_part(service, slices, self._node)

    async def teardown(self) -> None:
        await nft.delete_table(self.table)
        self._loaded = None


async def forget_udp(address: str, port: int, endpoint: str) -> None:
    """Drop tracked UDP connections to (address, port), those that went to ``endpoint`` if it is named.

    UDP has no end: a client that keeps its port would go on talking to an endpoint that is gone. Without the
    ``conntrack`` tool such entries live until they time out (30 to 120 s of silence).
    """
    program = shutil.which("conntrack")
    if program is None:
        return
    command = [program, "-D", "-p", "udp", "--orig-port-dst", str(port)]
    if ":" in address or ":" in endpoint:
        command += ["-f", "ipv6"]
    if address:
        command += ["--orig-dst", address]
    if endpoint:
        command += ["--reply-src", endpoint]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await process.wait()  # exits 1 when no connection matched
