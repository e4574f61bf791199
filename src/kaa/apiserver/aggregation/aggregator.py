"""The aggregation layer: APIServices decide which server answers a group-version.

The idea: what a request needs is looked up in the watch cache as it comes (the APIService, its condition, its endpoints),
so it is never older than the cluster. The only thing kept is connections. Beside that, ``run`` keeps conditions, discovery
and the automatic APIServices true.

Built-in group-versions are always served here, whatever their APIService says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from kaa.api.clock import Clock
from kaa.api.errors import AlreadyExists, ApiError, NotFound
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.api.types.apiregistration_v1 import APIService
from kaa.api.types.core_v1 import Service
from kaa.api.types.discovery_v1 import EndpointSlice
from kaa.api.types.meta_v1 import APIResourceList
from kaa.client.client import Client
from kaa.client.pipeline import User

from ..cacher import Cacher
from ..discovery import Discovery
from ..hearing import Hearer
from ..http import Answer, HttpRequest, HttpResponse, new_audit_id
from ..routes import CONNECTS, Target
from ..watchers import Change
from . import registration
from .availability import AGGREGATOR, LOCAL, Keeper, said_local, write_condition
from .backend import Backend, Identity
from .discovered import RemoteVersion
from .proxy import forward, unavailable
from .resolve import SERVICE_NAME, Unresolved, address_of, is_available, slices_of

log = structlog.get_logger(__name__)


class Aggregator:
    """``find`` and ``answer`` serve requests; ``run`` keeps what they rest on."""

    def __init__(
        self, cacher: Cacher, client: Client, clock: Clock, discovery: Discovery, identity: Identity | None
    ) -> None:
        self._view, self._client, self.clock = cacher, client, clock
        self.user = AGGREGATOR  #: who asks the other servers for what all clients are told
        self._discovery, self._identity = discovery, identity
        self._backends: dict[str, Backend] = {}
        self._keepers: dict[str, tuple[Keeper, asyncio.Task[None]]] = {}
        self._remote: dict[str, RemoteVersion] = {}
        self._changed = asyncio.Event()

    # ------------------------------------------------------------------------------------------------ requests

    def find(self, group: str, version: str) -> APIService | None:
        """The APIService that hands a group-version to another server; None when there is none."""
        found = self._view.get(APIService, f"{version}.{group}")
        return found if found is not None and found.spec.service is not None else None

    def remote(self) -> list[APIService]:
        """The APIServices of other servers."""
        return [one for one in self._view.list(APIService) if one.spec.service is not None]

    def serving(self, target: Target) -> APIService | None:
        """The APIService of a request that is not for this server; None when it is."""
        if target.unknown_resource:
            return self.find(target.group, target.version)
        match target.path.strip("/").split("/"):
            case ["apis", group, version] | ["openapi", "v3", "apis", group, version]:
                return self.find(group, version)
        return None

    async def answer(
        self, http: HttpRequest, user: User, service: APIService, target: Target, limit_s: float
    ) -> Answer:
        """Hand an authorized request on. ``limit_s``: seconds until its answer must begin, unless it is a watch or the
        like."""
        address = self.address(service)
        if address is None:
            return unavailable()
        endless = target.verb == "watch" or target.subresource in CONNECTS
        audit_id = http.headers.get("audit-id") or new_audit_id()
        timeout_s = None if endless else limit_s
        answer = await forward(http, user, self.backend(service), address, audit_id=audit_id, timeout_s=timeout_s)
        if isinstance(answer, HttpResponse):
            answer.audit_id = audit_id
        return answer

    def address(self, service: APIService) -> tuple[str, int] | None:
        """A server to ask; None while the service is not available."""
        reference = service.spec.service
        assert reference is not None
        if not is_available(service):
            return None
        found = self._view.get(Service, reference.name or "", reference.namespace or "")
        try:
            return address_of(found, slices_of(self._view, reference), reference, self.clock.random)
        except Unresolved as err:
            log.warning("no server behind an APIService", name=service.metadata.name, error=str(err))
            return None

    def backend(self, service: APIService) -> Backend:
        name = service.metadata.name or ""
        found = self._backends.get(name)
        if found is None or found.spec != service.spec:
            if found is not None:
                found.close()
            found = self._backends[name] = Backend(service.spec, self._identity)
        return found

    # ------------------------------------------------------------------------------------------------ keeping

    async def run(self) -> None:
        """Keep conditions, discovery and automatic APIServices true until cancelled."""
        hearers = [
            Hearer(self._view, APIService, self._on_service),
            Hearer(self._view, Service, self._on_backing),
            Hearer(self._view, EndpointSlice, self._on_slice),
            Hearer(self._view, CustomResourceDefinition, lambda change: self._changed.set()),
        ]
        try:
            async with asyncio.TaskGroup() as tasks:
                self._changed.set()
                while True:
                    await self._changed.wait()
                    self._changed.clear()
                    await self._settle(tasks)
        finally:
            for hearer in hearers:
                hearer.stop()
            for backend in self._backends.values():
                backend.close()

    def _on_service(self, change: Change) -> None:
        self._changed.set()
        found = self._keepers.get(change.entry.key)
        before = change.previous.object().spec if change.previous is not None else None
        if found is not None and before != change.entry.object().spec:
            found[0].poke()

    def _on_backing(self, change: Change) -> None:
        self._poke(*change.entry.key.split("/", 1))

    def _on_slice(self, change: Change) -> None:
        name = change.entry.labels.get(SERVICE_NAME)
        if name:
            self._poke(change.entry.key.split("/", 1)[0], name)

    def _poke(self, namespace: str, name: str) -> None:
        for key, (keeper, _) in self._keepers.items():
            service = self._view.get(APIService, key)
            reference = service.spec.service if service is not None else None
            if reference is not None and (reference.namespace, reference.name) == (namespace, name):
                keeper.poke()

    async def _settle(self, tasks: asyncio.TaskGroup) -> None:
        """Bring everything kept in line with the APIServices and definitions there are now."""
        await self._register()
        services = {one.metadata.name or "": one for one in self._view.list(APIService)}
        for service in services.values():
            if service.spec.service is None and not said_local(service):
                await write_condition(self._client, service, LOCAL, self.clock)
        remote = {name: one for name, one in services.items() if one.spec.service is not None}
        for name in [name for name in self._keepers if name not in remote]:
            self._forget(name)
        for name, service in remote.items():
            if name not in self._keepers or self._keepers[name][1].done():
                keeper = Keeper(name, self._view, self._client, self.clock, self._identity, self._heard)
                task = tasks.create_task(keeper.run(), name=f"apiservice/{name}")
                self._keepers[name] = keeper, task
                self._heard(service, None)

    def _forget(self, name: str) -> None:
        _, task = self._keepers.pop(name)
        task.cancel()
        self._remote.pop(name, None)
        backend = self._backends.pop(name, None)
        if backend is not None:
            backend.close()
        self._show()

    def _heard(self, service: APIService, resources: APIResourceList | None) -> None:
        """Take note of what a server serves. One that has ceased to answer keeps what it last said, as stale."""
        name = service.metadata.name or ""
        before = self._remote.get(name)
        made = RemoteVersion.of(service, resources, before)
        if made != before:
            self._remote[name] = made
            self._show()

    def _show(self) -> None:
        self._discovery.serve_remote(self._remote.values())

    def metrics(self) -> str:
        """Which APIServices are not available, in the Prometheus exposition."""
        name = "aggregator_unavailable_apiservice"
        lines = [
            f"# HELP {name} Gauge of APIServices which are marked as unavailable broken down by APIService name.",
            f"# TYPE {name} gauge",
        ]
        for service in sorted(self._view.list(APIService), key=lambda one: one.metadata.name or ""):
            lines.append(f'{name}{{name="{service.metadata.name}"}} {0 if is_available(service) else 1}')
        return "\n".join(lines) + "\n"

    # ------------------------------------------------------------------------------------------------ registration

    async def _register(self) -> None:
        definitions: Any = self._view.list(CustomResourceDefinition)
        due = registration.plan(definitions, self._view.list(APIService))
        for service in due.create:
            await self._write(self._client.create, service)
        for service in due.update:
            await self._write(self._client.update, service)
        for service in due.delete:
            await self._write(lambda one: self._client.delete(APIService, one.metadata.name), service)

    async def _write(self, write: Callable[[Any], Any], service: APIService) -> None:
        try:
            await write(service)
        except (AlreadyExists, NotFound):
            return
        except ApiError as err:
            log.warning("an APIService was not written", name=service.metadata.name, error=str(err))
