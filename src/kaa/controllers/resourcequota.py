"""ResourceQuotas: their status says what a namespace uses of what it may.

Admission refuses what would go too far and counts for itself; this controller only tells. A change of any counted object is
looked at a little later, the more objects there are the later, so that counting costs no more than a share of the time.

Source: kubernetes pkg/controller/resourcequota.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kaa.api import quantity, scheme
from kaa.api.errors import NotFound
from kaa.api.quota import classes, counted_kind, used
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service
from kaa.api.values import Quantity
from kaa.client.informer import Informer, key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .graph import slim
from .pods import is_finished
from .served import Served

RESYNC_S = 300.0
GATHER_S, GATHER_S_PER_OBJECT = 0.05, 1 / 2000
#: Kinds of which more than their number counts.
WHOLE = {"pods": Pod, "services": Service, "persistentvolumeclaims": PersistentVolumeClaim}


def plan(quota: ResourceQuota, counted: dict[str, Quantity]) -> ResourceQuotaStatus | None:
    """The status a quota must have, or None when it has it."""
    if quota.status.hard == quota.spec.hard and _equal(quota.status.used, counted):
        return None
    return ResourceQuotaStatus(hard=quota.spec.hard, used=counted)


def _equal(left: dict[str, Quantity], right: dict[str, Quantity]) -> bool:
    return left.keys() == right.keys() and all(quantity.parse(left[k]) == quantity.parse(right[k]) for k in left)


class ResourceQuotas(Controller[Key]):
    """Keys are quotas."""

    name = "resourcequota-controller"

    def __init__(self, context: Context, served: Served) -> None:
        super().__init__(context)
        self.served = served
        self.quotas = self.watch(ResourceQuota, self._on_quota)
        #: {plural[.group]: who knows its objects}
        self._counts: dict[str, tuple[Resource[Any], Informer[Any]]] = {}
        for kind, type in WHOLE.items():
            self._counts[kind] = (scheme.resource_of(type), self.watch(type, self._listener(kind)))
        served.on_change(self._on_served)

    def _listener(self, kind: str) -> Any:
        def heard(old: Any, new: Any) -> None:
            if old is None or new is None or matters(old, new):
                self._recount((new or old).metadata.namespace or "", kind)

        return heard

    def _recount(self, namespace: str, kind: str) -> None:
        for quota in self.quotas.in_namespace(namespace):
            if any(counted_kind(name) == kind for name in quota.spec.hard):
                number = len(self._counts[kind][1].in_namespace(namespace)) if kind in self._counts else 0
                self.queue.add_after(key_of(quota), GATHER_S + number * GATHER_S_PER_OBJECT)

    def _on_quota(self, old: ResourceQuota | None, new: ResourceQuota | None) -> None:
        if new is not None and (old is None or old.spec != new.spec or old.status != new.status):
            self.queue.add(key_of(new))
        if old is None or new is None:
            self._recount((new or old).metadata.namespace or "", "resourcequotas")  # type: ignore[union-attr]  # one is

    def _on_served(self, row: Resource[Any], served: bool) -> None:
        """A custom resource came or went: quotas may count it."""
        self._counts.pop(row.group_resource, None)
        for quota in self.quotas:
            if f"count/{row.group_resource}" in quota.spec.hard:
                self.queue.add(key_of(quota))

    async def reconcile(self, key: Key) -> float | None:
        quota = self.quotas.by_key(key)
        if quota is None:
            return None
        objects: dict[str, Any] = {}
        for kind in {counted_kind(name) for name in quota.spec.hard}:
            informer = await self._informer(kind)
            if informer is not None:
                objects[kind] = informer.in_namespace(key.namespace)
        status = plan(quota, used(quota, objects, self.clock.now()))
        if status is not None:
            try:
                written = await self.client.update_status(replace(quota, status=status))
            except NotFound:
                return None
            await self.quotas.shows(written.metadata.resource_version)
        return RESYNC_S

    async def _informer(self, kind: str) -> Informer[Any] | None:
        """Who knows the objects of a kind; None for what is not served, of which there is nothing."""
        if kind not in self._counts:
            row = next((r for r in self.served.local() if r.group_resource == kind and r.namespaced), None)
            if row is None:
                return None
            informer: Informer[Any] = self.informers.of(row, keep=slim)
            self._counts[kind] = (row, informer)
            informer.add_handler(self._listener(kind))
        informer = self._counts[kind][1]
        await informer.synced.wait()
        return informer


def matters(old: Any, new: Any) -> bool:
    """Whether a change of an object changes what it counts for."""
    if isinstance(new, Pod):
        ended = is_finished(old) != is_finished(new)
        return ended or old.spec != new.spec or old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
    if isinstance(new, Service):
        return bool(old.spec != new.spec)
    if isinstance(new, PersistentVolumeClaim):
        grown = old.status.allocated_resources != new.status.allocated_resources
        return bool(grown or old.spec != new.spec or classes(old) != classes(new))
    return False
