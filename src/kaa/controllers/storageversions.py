"""What API servers that are gone said of the versions they store goes, too.

A StorageVersion has an entry of each API server: in which version it writes a resource. An API server is there as long as
its identity Lease is.

Source: kubernetes pkg/controller/storageversiongc; apiserver pkg/storageversion/updater.go.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from kaa.api.errors import NotFound
from kaa.api.storage_versions import IDENTITY, NAMESPACE, SERVER, servers, status_of
from kaa.api.types.apiserverinternal_v1alpha1 import StorageVersion, StorageVersionStatus
from kaa.api.types.coordination_v1 import Lease
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller


def is_identity(lease: Lease | None) -> bool:
    return lease is not None and lease.metadata.labels.get(IDENTITY) == SERVER


def plan(version: StorageVersion, gone: Collection[str], now: str) -> StorageVersionStatus | None:
    """The status without the servers that are gone; None where it says nothing of them. One that says nothing more is
    not worth keeping."""
    left = tuple(one for one in servers(version) if one.api_server_id not in gone)
    if len(left) == len(servers(version)):
        return None
    return status_of(version, left, now)


class StorageVersionGC(Controller[Key]):
    """Keys are StorageVersions."""

    name = "storage-version-garbage-collector"
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.leases = self.watch(Lease, self._on_lease)
        self.versions = self.watch(StorageVersion, self._on_version)

    def _on_version(self, old: StorageVersion | None, new: StorageVersion | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    def _on_lease(self, old: Lease | None, new: Lease | None) -> None:
        if new is None and old is not None and old.metadata.namespace == NAMESPACE and is_identity(old):
            for version in self.versions:
                if any(one.api_server_id == old.metadata.name for one in servers(version)):
                    self.queue.add(key_of(version))

    async def reconcile(self, key: Key) -> None:
        seen = self.versions.by_key(key)
        if seen is None or all(is_identity(self.leases.get(one.api_server_id, NAMESPACE)) for one in servers(seen)):
            return
        try:
            live = await self.client.get(StorageVersion, key.name)
            gone = {one.api_server_id for one in servers(live) if not await self._is_there(one.api_server_id)}
            status = plan(live, gone, self.now())
            if status is None:
                return
            if status.storage_versions:
                await self.client.update_status(replace(live, status=status))
            else:
                await self.client.delete(StorageVersion, key.name)
        except NotFound:
            return

    async def _is_there(self, server: str) -> bool:
        """The API server is asked before anyone believes that a Lease is gone."""
        try:
            return is_identity(await self.client.get(Lease, server, NAMESPACE))
        except NotFound:
            return False
