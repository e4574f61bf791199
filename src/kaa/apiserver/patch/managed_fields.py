"""Who set which field: ``metadata.managedFields``.

The idea: a write is compared with what stood before, and what differs changes owner. What did not change is never
looked at, and an entry that lost nothing stays the very object that it was.

Order matters, as upstream: fields are tracked after defaulting and before what the server itself does (strategy,
admission), so nobody owns what the server filled in. Fields that a strategy resets, and the metadata that is the
server's, are owned by nobody.

Left to others: the sets (field_sets), which parts of a type are fields (type_view), apply itself (apply).
Source: apimachinery pkg/util/managedfields; structured-merge-diff merge.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from msgspec.structs import replace

from kaa.api.clock import Clock, format_time
from kaa.api.custom import CustomObject
from kaa.api.resources import Resource
from kaa.api.types.meta_v1 import ManagedFieldsEntry, ObjectMeta
from kaa.client.pipeline import Request

from ..registry.conversion import convert, served_as
from ..registry.strategy import Strategy
from .field_sets import SELF, FieldSet, difference, of_paths, union, without_trees
from .type_view import UNKNOWN, MapNode, Node, view_of, zero_of

MAX_UPDATE_MANAGERS = 10
ANCIENT = "ancient-changes"
MAX_MANAGER_LENGTH = 128
FIELDS_TYPE = "FieldsV1"

#: Metadata that nobody owns.
_STRIPPED = frozenset(
    "f:" + name
    for name in (
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    )
)
_EMPTY_METADATA = ObjectMeta()
_METADATA = view_of(ObjectMeta)

#: {(plural, group, subresource): fields that a write there cannot change}, where it is not the other of spec and status.
_RESETS: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("pods", "", "status"): ("spec", "metadata.deletionTimestamp", "metadata.ownerReferences"),
    ("deployments", "apps", "status"): ("spec", "metadata.labels"),
    ("volumeattachments", "storage.k8s.io", "status"): ("spec", "metadata"),
    ("customresourcedefinitions", "apiextensions.k8s.io", "status"): ("spec", "metadata"),
    ("apiservices", "apiregistration.k8s.io", "status"): ("spec", "metadata"),
    ("flowschemas", "flowcontrol.apiserver.k8s.io", "status"): ("spec", "metadata"),
    ("prioritylevelconfigurations", "flowcontrol.apiserver.k8s.io", "status"): ("spec", "metadata"),
    ("resourceclaims", "resource.k8s.io", "status"): ("spec", "metadata"),
    ("certificatesigningrequests", "certificates.k8s.io", ""): ("spec", "status"),
    ("certificatesigningrequests", "certificates.k8s.io", "status"): ("spec", "status.conditions"),
    ("certificatesigningrequests", "certificates.k8s.io", "approval"): ("spec", "status.certificate"),
    ("namespaces", "", "finalize"): ("status",),
    ("events", "", ""): (),
    ("events", "events.k8s.io", ""): (),
}


class Tracker:
    """Keeps ``managedFields`` true through one write."""

    __slots__ = ("_clock", "_content", "_request", "_resource")

    def __init__(self, request: Request, strategy: Strategy[Any], clock: Clock) -> None:
        self._request, self._clock = request, clock
        #: What the client speaks of: fields are owned in its version, which need not be the stored one. Versions that a
        #: webhook converts are the exception: their fields are owned in the stored version.
        self._resource: Resource[Any] = request.resource
        if request.asked is not None and strategy.converts_here:
            self._resource = request.asked
        #: A custom resource's strategy has the view of its schema, made once.
        self._content: Node | None = strategy.type_view

    def created(self, obj: Any) -> Any:
        """The object with its first entry. ``obj`` has its defaults, and nothing yet of what the server sets.

        An object that an apply created brings its entries; so may one that is restored from elsewhere.
        """
        metadata: ObjectMeta = obj.metadata
        if is_apply(self._request):
            return obj
        entries = () if asks_reset(metadata.managed_fields) else metadata.managed_fields
        if metadata.managed_fields:
            obj = replace(obj, metadata=replace(metadata, managed_fields=()))
        entries = self._moved(entries, None, obj)
        return replace(obj, metadata=replace(obj.metadata, managed_fields=entries)) if entries else obj

    def updated(self, new: Any, old: Any, operation: str) -> Any:
        """The object with what changed moved to the one who changed it. ``operation`` is Update or Apply.

        ``new`` has its defaults, and nothing yet of what the server sets. An applied object brings its entries.
        An object of which nothing is tracked stays so: its fields' owners are not known.
        """
        if operation == "Apply":
            return new
        asked: tuple[ManagedFieldsEntry, ...] = new.metadata.managed_fields
        entries: tuple[ManagedFieldsEntry, ...] = old.metadata.managed_fields
        if not self._request.subresource and asked:
            entries = () if asks_reset(asked) else asked
        if entries:
            entries = self._moved(entries, old, new)
        if entries == asked:
            return new
        return replace(new, metadata=replace(new.metadata, managed_fields=entries))

    def _differences(self, old: Any, new: Any, resource: Resource[Any]) -> tuple[FieldSet, FieldSet]:
        """What changed and what went, as ``resource`` shows it. ``old`` is None for an object that is new."""
        if not resource.custom and type(new) is not resource.type:
            old, new = old and convert(old, resource), convert(new, resource)
        resets = resets_of(resource, self._request.subresource)
        changed, removed = differences(nothing_of(new) if old is None else old, new, self._content)
        return without_trees(changed, resets), without_trees(removed, resets)

    def _moved(self, entries: tuple[ManagedFieldsEntry, ...], old: Any, new: Any) -> tuple[ManagedFieldsEntry, ...]:
        mine = self._resource
        changed, removed = self._differences(old, new, mine)
        if not changed and not removed:
            return entries
        seen = {mine.api_version: (changed, removed)}
        kept = []
        for entry in entries:
            version = entry.api_version or ""
            if version not in seen:
                other = None if mine.custom else served_as(mine, version)
                seen[version] = (changed, removed) if other is None else self._differences(old, new, other)
            left = released(entry, *seen[version])
            if left is not None:
                kept.append(left)
        taken = stripped(changed)
        if taken:
            self._take(kept, taken)
        if len(kept) > MAX_UPDATE_MANAGERS:
            kept = capped(kept)
        return in_order(kept)

    def _take(self, entries: list[ManagedFieldsEntry], taken: FieldSet) -> None:
        """Give a set to who makes this request: to the entry that there is, or to a new one."""
        mine = ManagedFieldsEntry(
            manager=manager_of(self._request),
            operation="Update",
            api_version=self._resource.api_version,
            time=format_time(self._clock.now()),
            fields_type=FIELDS_TYPE,
            fields_v1=taken,
            subresource=self._request.subresource or None,
        )
        for n, entry in enumerate(entries):
            if identity(entry) == identity(mine):
                entries[n] = replace(mine, fields_v1=union(entry.fields_v1, taken))
                return
        entries.append(mine)


# -------------------------------------------------------------------------------------------------------- comparing


def document_view(resource: Resource[Any], content: Node | None = None) -> Node:
    """The view of a resource's documents. ``content`` is a custom resource's own, made by ``view_of_schema``."""
    if not resource.custom:
        return view_of(resource.type)
    if isinstance(content, MapNode):
        return MapNode(content.items, {**content.fields, "metadata": _METADATA}, closed=content.closed)
    return MapNode(UNKNOWN, {"metadata": _METADATA})


def differences(old: Any, new: Any, content: Node | None = None) -> tuple[FieldSet, FieldSet]:
    """What ``new`` set or changed, and what it took away. ``content`` is a custom resource's view."""
    if not isinstance(new, CustomObject):
        put, gone = view_of(type(new)).diff(old, new)
        return put or {}, gone or {}
    changed: FieldSet = {}
    removed: FieldSet = {}
    if old.content != new.content:
        put, gone = (content or UNKNOWN).diff(old.content, new.content)
        changed, removed = dict(put or {}), dict(gone or {})
    if old.metadata != new.metadata:
        put, gone = _METADATA.diff(old.metadata, new.metadata)
        if put:
            changed["f:metadata"] = put
        if gone:
            removed["f:metadata"] = gone
    return changed, removed


def nothing_of(obj: Any) -> Any:
    """What stood before an object of this type was made."""
    if isinstance(obj, CustomObject):
        return CustomObject(kind=obj.kind, api_version=obj.api_version, metadata=_EMPTY_METADATA)
    return zero_of(type(obj))


def stripped(fields: FieldSet) -> FieldSet:
    """A set without what nobody owns."""
    metadata = fields.get("f:metadata")
    if metadata is None:
        return fields
    kept = {step: inner for step, inner in metadata.items() if step not in _STRIPPED and step != SELF}
    if len(kept) == len(metadata) and kept:
        return fields
    made = dict(fields)
    if kept:
        made["f:metadata"] = kept
    else:
        del made["f:metadata"]
    return made


@lru_cache(maxsize=4096)
def resets_of(resource: Resource[Any], subresource: str) -> FieldSet:
    """The set of fields that a write of a resource or a subresource cannot change."""
    named = _RESETS.get((resource.plural, resource.group, subresource))
    if named is not None:
        return of_paths(*named)
    if resource.subresource("status") is None:
        return {}
    if subresource == "status":
        return of_paths("spec", "metadata") if resource.custom else of_paths("spec")
    return of_paths("status")


# -------------------------------------------------------------------------------------------------------- entries


def manager_of(request: Request) -> str:
    """The name of who writes: the option ``fieldManager``, else the first word of the user agent."""
    asked = request.options.get("fieldManager", "") if request.options else ""
    return asked or _agent_name(request.user_agent) or "unknown"


@lru_cache(maxsize=1024)
def _agent_name(user_agent: str) -> str:
    name = "".join(letter for letter in user_agent.partition("/")[0] if letter.isprintable())
    return name.encode()[:MAX_MANAGER_LENGTH].decode(errors="ignore")


def is_apply(request: Request) -> bool:
    return request.verb == "patch" and request.content_type.startswith("application/apply-patch")


def identity(entry: ManagedFieldsEntry) -> tuple[str | None, ...]:
    """What tells entries apart. An applier is one whatever version it applies."""
    version = None if entry.operation == "Apply" else entry.api_version
    return entry.manager, entry.operation, version, entry.subresource or None


def asks_reset(entries: tuple[ManagedFieldsEntry, ...]) -> bool:
    """Whether a client asks to forget all owners: it sends one empty entry, ``[{}]``."""
    return len(entries) == 1 and entries[0] == ManagedFieldsEntry()


def released(entry: ManagedFieldsEntry, changed: FieldSet, removed: FieldSet) -> ManagedFieldsEntry | None:
    """An entry without what another one changed or removed; None when nothing is left of it."""
    fields = difference(difference(entry.fields_v1, changed), removed)
    if fields is entry.fields_v1:
        return entry
    return replace(entry, fields_v1=fields) if fields else None


def in_order(entries: Iterable[ManagedFieldsEntry]) -> tuple[ManagedFieldsEntry, ...]:
    """Entries as they are written: appliers first, then by time and name."""
    return tuple(sorted(entries, key=_rank))


def _rank(entry: ManagedFieldsEntry) -> tuple[str, ...]:
    words = (entry.operation, entry.time, entry.manager, entry.api_version, entry.subresource)
    return tuple(word or "" for word in words)


def capped(entries: list[ManagedFieldsEntry]) -> list[ManagedFieldsEntry]:
    """At most ten updaters: the oldest of one version are melted into one, ``ancient-changes``."""
    updaters = sorted((entry for entry in entries if entry.operation != "Apply"), key=_age)
    length = len(updaters)
    made = [entry for entry in entries if entry.operation == "Apply"]
    buckets: dict[str | None, ManagedFieldsEntry] = {}
    for n, entry in enumerate(updaters):
        if length <= MAX_UPDATE_MANAGERS:
            made.extend(updaters[n:])
            break
        first = buckets.get(entry.api_version)
        if first is None:
            buckets[entry.api_version] = entry
            continue
        fields = union(first.fields_v1, entry.fields_v1)
        buckets[entry.api_version] = replace(
            first, manager=ANCIENT, subresource=None, time=entry.time, fields_v1=fields
        )
        length -= 1
    return made + list(buckets.values())


def _age(entry: ManagedFieldsEntry) -> tuple[str, bool, tuple[str, ...]]:
    """Oldest first; of one time, the melted entry first, so that there is never a second one."""
    return entry.time or "", entry.manager != ANCIENT, tuple(word or "" for word in identity(entry))


def same_but_times(new: tuple[ManagedFieldsEntry, ...], old: tuple[ManagedFieldsEntry, ...]) -> bool:
    """Whether entries differ at most in their times."""
    if len(new) != len(old):
        return False
    before = {identity(entry): entry for entry in old}
    return all(_is_timed(entry, before.get(identity(entry))) for entry in new)


def _is_timed(entry: ManagedFieldsEntry, before: ManagedFieldsEntry | None) -> bool:
    return before is not None and (entry is before or replace(entry, time=before.time) == before)


def without_new_times(new: Any, old: Any) -> Any:
    """``old`` itself when nothing but times of entries is new: a write that changes nothing is none."""
    fresh, before = new.metadata.managed_fields, old.metadata.managed_fields
    if fresh == before or not same_but_times(fresh, before):
        return new
    kept = replace(new, metadata=replace(new.metadata, managed_fields=before))
    return old if kept == old else new
