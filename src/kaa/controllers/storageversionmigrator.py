"""StorageVersionMigrations: every object of a resource is written again, once, so that it is stored as it would be today.

Such a write changes nothing: it is an empty apply at the version that the object has. The API server stores it only where
what lies there is of another version, or encrypted with another key. Whatever has changed since the migration began has
been stored anew anyway, so a conflict is as good as done.

Source: kubernetes pkg/controller/storageversionmigrator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api.clock import parse_time
from kaa.api.errors import (
    ApiError,
    Conflict,
    InternalError,
    NotFound,
    ServiceUnavailable,
    Timeout,
    TooManyRequests,
)
from kaa.api.resources import Resource
from kaa.api.types.meta_v1 import Condition, GroupResource
from kaa.api.types.storagemigration_v1beta1 import StorageVersionMigration, StorageVersionMigrationStatus
from kaa.client.client import PatchType
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller, in_parallel
from .served import Served

RUNNING, SUCCEEDED, FAILED = "Running", "Succeeded", "Failed"
_REASONS = {
    RUNNING: "StorageVersionMigrationInProgress",
    SUCCEEDED: "StorageVersionMigrationSucceeded",
    FAILED: "StorageVersionMigrationFailed",
}
PAGE = 500
#: How long a resource that is not served yet is waited for.
PATIENCE_S, RETRY_S = 60.0, 5.0
_PASSING = (TooManyRequests, ServiceUnavailable, InternalError, Timeout)


def is_over(migration: StorageVersionMigration) -> bool:
    status = migration.status or StorageVersionMigrationStatus()
    return any(one.type in (SUCCEEDED, FAILED) and one.status == "True" for one in status.conditions)


def with_condition(
    status: StorageVersionMigrationStatus, type: str, now: str, message: str = ""
) -> StorageVersionMigrationStatus:
    """The status in which a condition is true; what is over does not run."""
    found = {one.type: one for one in status.conditions}
    if type != RUNNING and RUNNING in found:
        found[RUNNING] = _set(found.get(RUNNING), RUNNING, "False", _REASONS[type], "", now)
    found[type] = _set(found.get(type), type, "True", _REASONS[type], message, now)
    return replace(status, conditions=tuple(found.values()))


def _set(held: Condition | None, type: str, value: str, reason: str, message: str, now: str) -> Condition:
    since = held.last_transition_time if held is not None and held.status == value else now
    return Condition(type=type, status=value, reason=reason, message=message, last_transition_time=since)


def due(objects: Iterable[Any], version: str) -> list[Any]:
    """The objects that nobody has written since the migration began, at ``version``."""
    return [one for one in objects if int(one.metadata.resource_version or 0) <= int(version)]


def rewriting(obj: Any, resource: Resource[Any]) -> dict[str, Any]:
    """The apply that says nothing but which object, at which version."""
    meta = obj.metadata
    identity = {"uid": meta.uid, "resourceVersion": meta.resource_version}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": identity}


class StorageVersionMigrator(Controller[Key]):
    """Keys are migrations."""

    name = "storage-version-migrator-controller"

    def __init__(self, context: Context, served: Served) -> None:
        super().__init__(context)
        self.served = served
        self.migrations = self.watch(StorageVersionMigration, self._on_migration)

    def _on_migration(self, old: StorageVersionMigration | None, new: StorageVersionMigration | None) -> None:
        if new is not None and not is_over(new):
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> float | None:
        migration = self.migrations.by_key(key)
        if migration is None or is_over(migration):
            return None
        wanted = migration.spec.resource if migration.spec is not None else GroupResource(group="", resource="")
        resource = self.served.resource(wanted.group, wanted.resource)
        if resource is None:
            created = parse_time(migration.metadata.creation_timestamp or self.now())
            if self.clock.now() - created < PATIENCE_S:
                return RETRY_S
            await self._end(migration, FAILED, "unable to obtain GVR from discovery")
            return None
        try:
            migration = await self._begun(migration, resource)
            failure = await self._rewrite(migration, resource)
            await self._end(migration, FAILED if failure else SUCCEEDED, failure)
        except NotFound:
            return None  # the migration itself is gone
        return None

    async def _begun(self, migration: StorageVersionMigration, resource: Resource[Any]) -> StorageVersionMigration:
        """The migration with the version it began at, and told to run."""
        status = migration.status or StorageVersionMigrationStatus()
        if not status.resource_version:
            listing = await self.client.list(resource, limit=1)
            status = replace(status, resource_version=listing.resource_version)
        wanted = with_condition(status, RUNNING, self.now())
        if wanted == migration.status:
            return migration
        return await self._written(replace(migration, status=wanted))

    async def _rewrite(self, migration: StorageVersionMigration, resource: Resource[Any]) -> str:
        """What went wrong for good; nothing when every object is stored anew. Raises what another try may mend."""
        version = (migration.status or StorageVersionMigrationStatus()).resource_version or "0"
        async for page in self._pages(resource):
            work = [self._write(one, resource) for one in due(page, version)]
            for result in await in_parallel(work, at_once=20):
                if isinstance(result, (OSError, TimeoutError, *_PASSING)):
                    raise result
                if isinstance(result, ApiError):
                    return str(result)
                if isinstance(result, Exception):
                    raise result
        return ""

    async def _pages(self, resource: Resource[Any]) -> AsyncIterator[Sequence[Any]]:
        token = ""
        while True:
            listing = await self.client.list(resource, limit=PAGE, continue_token=token)
            yield listing.items
            token = listing.continue_token
            if not token:
                return

    async def _write(self, obj: Any, resource: Resource[Any]) -> None:
        meta = obj.metadata
        try:
            await self.client.patch(
                resource, meta.name, rewriting(obj, resource), meta.namespace,
                type=PatchType.APPLY, field_manager=self.name,
            )  # fmt: skip
        except (Conflict, NotFound):
            return  # written or deleted since: nothing is left to do

    async def _end(self, migration: StorageVersionMigration, type: str, failure: str) -> None:
        message = f"migration encountered unhandled error: {failure}" if failure else ""
        status = migration.status or StorageVersionMigrationStatus()
        await self._written(replace(migration, status=with_condition(status, type, self.now(), message)))

    async def _written(self, migration: StorageVersionMigration) -> StorageVersionMigration:
        written = await self.client.update_status(migration)
        await self.migrations.shows(written.metadata.resource_version)
        return written
