"""What the API serves now: the built-in rows, custom resources as their definitions come and go, aggregated APIs.

The garbage collector watches all of it and the namespace controller empties all of it, so they ask here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kaa.api import scheme
from kaa.api.errors import ApiError
from kaa.api.resources import RESOURCES, Resource
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.api.types.apiregistration_v1 import APIService
from kaa.api.types.meta_v1 import APIResourceList
from kaa.client.client import Client
from kaa.client.informer import Informer, Informers

NEEDED = {"list", "delete"}


def rows_of(definition: CustomResourceDefinition) -> Resource[Any] | None:
    """The row of a custom resource in the version it is stored in; None until its names are accepted."""
    if definition.status is None:
        return None
    established = any(c.type == "Established" and c.status == "True" for c in definition.status.conditions or ())
    served = [version for version in definition.spec.versions if version.served]
    if not established or not served:
        return None
    version = next((version for version in served if version.storage), served[0])
    names = definition.status.accepted_names
    return Resource(
        definition.spec.group,
        version.name,
        names.plural,
        names.kind,
        definition.spec.scope == "Namespaced",
        names.singular or names.kind.lower(),
        custom=True,
    )


def rows_of_document(document: bytes) -> list[Resource[Any]]:
    """The rows of an APIResourceList, as an aggregated API answers discovery."""
    listing = scheme.decode(APIResourceList, document)
    group, _, version = listing.group_version.rpartition("/")
    return [
        Resource(
            found.group or group,
            found.version or version,
            found.name,
            found.kind,
            found.namespaced,
            found.singular_name or found.kind.lower(),
            verbs=found.verbs,
            custom=True,
        )
        for found in listing.resources
        if "/" not in found.name
    ]


def each_once(rows: Sequence[Resource[Any]]) -> list[Resource[Any]]:
    """Each built-in resource once, in its preferred version. Events of the second group are those of the first."""
    unique: dict[tuple[str, str], Resource[Any]] = {}
    for row in rows:
        if set(row.verbs) >= NEEDED and row.group != "events.k8s.io":
            unique.setdefault((row.group, row.plural), row)
    return list(unique.values())


class Served:
    """All resources with objects to list and delete; ``rows`` are the built-in ones, as far as they are served.
    ``on_change`` hears of custom resources: (row, is served)."""

    def __init__(self, client: Client, informers: Informers, rows: Sequence[Resource[Any]] = RESOURCES) -> None:
        self._client = client
        self.built_in = each_once(rows)
        self._by_kind = {(row.api_version, row.kind): row for row in rows}
        self.definitions: Informer[CustomResourceDefinition] = informers.of(CustomResourceDefinition)
        self.services: Informer[APIService] = informers.of(APIService)
        self._custom: dict[str, Resource[Any]] = {}
        self._listeners: list[Callable[[Resource[Any], bool], None]] = []
        self.definitions.add_handler(self._on_definition)

    def on_change(self, listener: Callable[[Resource[Any], bool], None]) -> None:
        self._listeners.append(listener)
        for row in self._custom.values():
            listener(row, True)

    def _on_definition(self, old: CustomResourceDefinition | None, new: CustomResourceDefinition | None) -> None:
        found = new or old
        assert found is not None
        name = found.metadata.name or ""
        row = rows_of(new) if new is not None else None
        before = self._custom.pop(name, None)
        if row is not None:
            self._custom[name] = row
        if before is not None and before != row:
            self._tell(before, False)
        if row is not None and before != row:
            self._tell(row, True)

    def _tell(self, row: Resource[Any], served: bool) -> None:
        for listener in self._listeners:
            listener(row, served)

    def local(self) -> list[Resource[Any]]:
        """What this API server keeps itself."""
        return [*self.built_in, *self._custom.values()]

    def resource(self, group: str, plural: str) -> Resource[Any] | None:
        """A resource in its preferred version."""
        return next((row for row in self.local() if (row.group, row.plural) == (group, plural)), None)

    def by_kind(self, api_version: str, kind: str) -> Resource[Any] | None:
        custom = (
            row for row in self._custom.values() if (row.group, row.kind) == (api_version.rpartition("/")[0], kind)
        )
        return self._by_kind.get((api_version, kind)) or next(custom, None)

    async def namespaced(self) -> tuple[list[Resource[Any]], dict[str, str]]:
        """Every namespaced resource, those of aggregated APIs included; and {group/version that does not answer: why}: what
        such an API keeps is unknown."""
        await self.definitions.synced.wait()
        await self.services.synced.wait()
        found, failures = [row for row in self.local() if row.namespaced], {}
        for service in list(self.services):
            spec = service.spec
            if spec is None or spec.service is None:
                continue
            where = f"{spec.group}/{spec.version}"
            try:
                rows = rows_of_document(await self._client.raw("GET", f"/apis/{where}"))
            except (ApiError, OSError, TimeoutError) as err:
                failures[where] = str(err)
            except (msgspec.DecodeError, scheme.DecodeError):
                failures[where] = f"/apis/{where} answered no APIResourceList"
            else:
                found += [row for row in rows if row.namespaced and set(row.verbs) >= NEEDED]
        return found, failures
