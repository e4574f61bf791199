"""ResourceQuota: refuses what would take a namespace above what its quotas allow.

How it stays exact with many writers. The plugin is the last of the chain, and from counting to recording it does not
await, so no other request runs in between. What it lets through is not yet in the View when the next request comes; so
each charge is kept as *pending* until the View shows the object, or ``PENDING_S`` have passed (the write failed after
admission; upstream, too, leaves such a charge standing until its controller recounts). Usage is the View's objects plus
the pending charges: it can be too high for a moment, never too low.

What it costs: nothing in a namespace without quotas; else one walk over the namespace's objects of the kind. The usage of
an object is kept by its revision, so the walk is a look-up and an addition an object (5,000 pods: a few milliseconds).

Source: apiserver pkg/admission/plugin/resourcequota controller.go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kaa.api import quantity
from kaa.api.quota import Amounts, matches, unnamed, usage
from kaa.api.types.core_v1 import Pod
from kaa.api.types.core_v1 import ResourceQuota as Quota

from ..view import View
from .base import Attributes
from .plugin import Passive, refuse
from .pod_resources import listed

PENDING_S = 10.0
KEPT_USAGES = 50_000


@dataclass(frozen=True, slots=True)
class Charge:
    """What was let through and is not in the View yet."""

    kind: type[Any]
    namespace: str
    name: str
    obj: Any
    until: float


class ResourceQuota(Passive):
    name = "ResourceQuota"

    def __init__(self) -> None:
        self._pending: list[Charge] = []
        #: {(uid, resource version): what the object counts for}
        self._usages: dict[tuple[str, str], Amounts] = {}

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
        total = dict.fromkeys(wanted, Fraction(0))
        resource, namespace = attributes.request.resource, attributes.request.namespace
        scoped = bool(quota.spec.scopes or quota.spec.scope_selector)
        for obj in (*view.list(resource.type, namespace), *self._waiting(resource.type, namespace, view)):
            if scoped and not matches(quota, obj):
                continue
            counted = self._usage(obj, resource.group_resource, view.clock.now())
            for key in total:
                amount = counted.get(key)
                if amount is not None:
                    total[key] += amount
        return total

    def _usage(self, obj: Any, kind: str, now: float) -> Amounts:
        """Kept by revision, but for what is being deleted: what that counts for changes with time alone."""
        key = (obj.metadata.uid or "", obj.metadata.resource_version or "")
        if not key[1] or obj.metadata.deletion_timestamp is not None:
            return usage(obj, kind, now)
        found = self._usages.get(key)
        if found is None:
            if len(self._usages) >= KEPT_USAGES:
                self._usages.clear()
            found = self._usages[key] = usage(obj, kind, now)
        return found

    def _waiting(self, kind: type[Any], namespace: str, view: View) -> list[Any]:
        now = view.clock.monotonic()
        self._pending = [c for c in self._pending if c.until > now and view.get(c.kind, c.name, c.namespace) is None]
        return [c.obj for c in self._pending if c.kind is kind and c.namespace == namespace]

    def _remember(self, attributes: Attributes, view: View) -> None:
        request, obj = attributes.request, attributes.object
        name = obj.metadata.name or ""
        until = view.clock.monotonic() + PENDING_S
        self._pending.append(Charge(request.resource.type, request.namespace, name, obj, until))


def _concerned(attributes: Attributes) -> bool:
    request = attributes.request
    if not request.namespace or not request.resource.namespaced or request.resource.custom:
        return False
    if attributes.operation == "CREATE":
        return not request.subresource
    resized = attributes.on("pods", "", "resize")
    return attributes.operation == "UPDATE" and (
        resized or attributes.on("services") or attributes.on("persistentvolumeclaims")
    )


def _increase(new: Amounts, old: Amounts) -> Amounts:
    return {key: amount - old.get(key, Fraction(0)) for key, amount in new.items()}
