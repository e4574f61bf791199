"""ResourceQuota: refuses what would take a namespace above what its quotas allow.

How it stays exact with many writers. The plugin is the last of the chain, and from counting to recording it does not
await, so no other request runs in between. What it lets through is not yet in the View when the next request comes; so
each charge is kept as *pending* until the View shows the object, or ``PENDING_S`` have passed (the write failed after
admission; upstream, too, leaves such a charge standing until its controller recounts). Usage is the View's objects plus
the pending charges: it can be too high for a moment, never too low.

What it costs: nothing in a namespace without quotas; else what changed in the namespace since it was last asked. The sum of
what a quota sees is kept with the version that it is of, and brought up to date by the changes after that; only where these
are no longer known are the namespace's objects walked over.

Source: apiserver pkg/admission/plugin/resourcequota controller.go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kaa.api import quantity
from kaa.api.quota import NONE, Amounts, matches, unnamed, usage
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import Pod
from kaa.api.types.core_v1 import ResourceQuota as Quota

from ..view import View
from .base import Attributes
from .plugin import Passive, refuse
from .pod_resources import listed

PENDING_S = 10.0
KEPT_SUMS = 1024


@dataclass(frozen=True, slots=True)
class Charge:
    """What was let through and is not in the View yet."""

    kind: Any
    namespace: str
    name: str
    obj: Any
    until: float


class Sum:
    """What the objects of one kind count for in one quota, as of ``version``."""

    def __init__(self, quota: Quota, kind: str) -> None:
        self._quota, self._kind = quota, kind
        self.version = -1
        self._total: Amounts = {}
        self._counted: dict[str, Amounts] = {}  #: {name: what it counts for}
        #: {name: an object whose end was asked for: what it counts for changes with time}
        self._ending: dict[str, Any] = {}

    def follow(self, kind: Any, view: View) -> Sum:
        """Take in what changed since; ``kind`` as the View knows it."""
        namespace, now = self._quota.metadata.namespace or "", view.clock.now()
        changes = view.changes(kind, namespace, self.version) if self.version >= 0 else None
        if changes is None:
            self._total, self._counted, self._ending = {}, {}, {}
            changes = [(obj.metadata.name, obj) for obj in view.list(kind, namespace)]
        for name, obj in changes:
            self._see(name, obj, now)
        self.version = view.version(kind)
        return self

    def _see(self, name: str, obj: Any, now: float) -> None:
        self._ending.pop(name, None)
        for what, amount in self._counted.pop(name, {}).items():
            self._total[what] -= amount
        if obj is None or not matches(self._quota, obj):
            return
        if obj.metadata.deletion_timestamp is not None:
            self._ending[name] = obj
            return
        self._counted[name] = usage(obj, self._kind, now)
        _add(self._total, self._counted[name])

    def amounts(self, more: Iterable[Any], now: float) -> Amounts:
        """All of it, and ``more`` objects."""
        total = dict(self._total)
        for obj in (*self._ending.values(), *(obj for obj in more if matches(self._quota, obj))):
            _add(total, usage(obj, self._kind, now))
        return total


def _add(total: Amounts, more: Amounts) -> None:
    for what, amount in more.items():
        total[what] = total.get(what, NONE) + amount


class ResourceQuota(Passive):
    name = "ResourceQuota"

    def __init__(self) -> None:
        self._pending: list[Charge] = []
        self._sums: dict[tuple[str, str], Sum] = {}  #: {(uid of a quota, plural[.group])}, the longest unused first

    async def validate(self, attributes: Attributes, view: View) -> None:
        request = attributes.request
        if not _concerned(attributes):
            return
        quotas = [q for q in view.list(Quota, request.namespace) if matches(q, attributes.object)]
        if not quotas:
            return
        kind, now = request.resource.group_resource, view.clock.now()
        asked = usage(attributes.object, kind, now)
        if attributes.operation == "UPDATE" and attributes.old is not None:
            asked = _increase(asked, usage(attributes.old, kind, now))
        for quota in sorted(quotas, key=lambda q: q.metadata.name or ""):
            self._check(quota, attributes, asked, view)
        if attributes.operation == "CREATE" and not attributes.dry_run:
            self._remember(attributes, view)

    def _check(self, quota: Quota, attributes: Attributes, asked: Amounts, view: View) -> None:
        name, hard = quota.metadata.name or "", quota.spec.hard
        if attributes.operation == "CREATE" and isinstance(attributes.object, Pod):
            lacking = unnamed(attributes.object, hard)
            if lacking:
                raise refuse(attributes, f"failed quota: {name}: {lacking}")
        wanted = {key: amount for key, amount in asked.items() if key in hard and amount > 0}
        if not wanted:
            return
        used = self._used(quota, attributes, wanted, view)
        limits = {key: quantity.parse(hard[key]) for key in wanted}
        over = [key for key in wanted if used[key] + wanted[key] > limits[key]]
        if over:
            parts = (listed((key, amounts[key]) for key in over) for amounts in (wanted, used, limits))
            requested, spent, limited = parts
            why = f"exceeded quota: {name}, requested: {requested}, used: {spent}, limited: {limited}"
            raise refuse(attributes, why)

    def _used(self, quota: Quota, attributes: Attributes, wanted: Iterable[str], view: View) -> Amounts:
        """What the quota's namespace uses of ``wanted`` now, the pending charges included."""
        resource, namespace = attributes.request.resource, attributes.request.namespace
        stored = _stored(resource)
        waiting = self._waiting(stored, namespace, view)
        found = self._sum(quota, resource.group_resource).follow(stored, view)
        amounts = found.amounts(waiting, view.clock.now())
        return {key: amounts.get(key, NONE) for key in wanted}

    def _sum(self, quota: Quota, kind: str) -> Sum:
        """What is kept of a quota, whose scopes never change."""
        key = (quota.metadata.uid or "", kind)
        found = self._sums.pop(key, None) or Sum(quota, kind)
        self._sums[key] = found
        if len(self._sums) > KEPT_SUMS:
            del self._sums[next(iter(self._sums))]
        return found

    def _waiting(self, kind: Any, namespace: str, view: View) -> list[Any]:
        now = view.clock.monotonic()
        self._pending = [c for c in self._pending if c.until > now and view.get(c.kind, c.name, c.namespace) is None]
        return [c.obj for c in self._pending if c.kind == kind and c.namespace == namespace]

    def _remember(self, attributes: Attributes, view: View) -> None:
        request, obj = attributes.request, attributes.object
        name = obj.metadata.name or ""
        until = view.clock.monotonic() + PENDING_S
        self._pending.append(Charge(_stored(request.resource), request.namespace, name, obj, until))


def _stored(resource: Resource[Any]) -> Any:
    """What the View knows the objects by: their Struct; of a custom resource, the row they are stored in."""
    return (resource.stored_as or resource) if resource.custom else resource.type


def _concerned(attributes: Attributes) -> bool:
    request = attributes.request
    if not request.namespace or not request.resource.namespaced:
        return False
    if attributes.operation == "CREATE":
        return not request.subresource
    resized = attributes.on("pods", "", "resize")
    return attributes.operation == "UPDATE" and (
        resized or attributes.on("services") or attributes.on("persistentvolumeclaims")
    )


def _increase(new: Amounts, old: Amounts) -> Amounts:
    return {key: amount - old.get(key, NONE) for key, amount in new.items()}
