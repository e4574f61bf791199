"""Who owns whom, as a graph that fits in memory: of every object its uid, key, owners and finalizers, and nothing else.

An owner that nobody has shown us yet is a *virtual* node: its dependents are known, itself is not. No I/O here; ``plan``
says what to do about one node, and ``garbagecollector`` does it.

Source: kubernetes pkg/controller/garbagecollector (graph.go, graph_builder.go, garbagecollector.go).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kaa.api.resources import Resource
from kaa.api.types.meta_v1 import ObjectMeta, OwnerReference

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


class SlimMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What the graph needs of an object's metadata, under the names that metadata has."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}


class Slim(msgspec.Struct, frozen=True, kw_only=True):
    """An object as a metadata-only informer keeps it."""

    metadata: SlimMeta


def slim(obj: Any) -> Slim:
    meta: ObjectMeta = obj.metadata
    return Slim(
        metadata=SlimMeta(
            name=meta.name or "",
            namespace=meta.namespace or "",
            uid=meta.uid or "",
            resource_version=meta.resource_version or "",
            owner_references=meta.owner_references,
            finalizers=meta.finalizers,
            deletion_timestamp=meta.deletion_timestamp,
        )
    )


@dataclass(slots=True, eq=False)
class Node:
    """One object. ``resource`` None: virtual, known only by those who name it as owner."""

    uid: str
    resource: Resource[Any] | None = None
    namespace: str = ""
    name: str = ""
    resource_version: str = ""
    owners: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
    deleting: bool = False
    dependents: dict[str, Node] = field(default_factory=dict)  #: {uid: who names us as owner}

    @property
    def virtual(self) -> bool:
        return self.resource is None

    @property
    def deletes_dependents(self) -> bool:
        """Being deleted in the foreground: it waits for its dependents."""
        return self.deleting and FOREGROUND in self.finalizers

    @property
    def orphans_dependents(self) -> bool:
        return self.deleting and ORPHAN in self.finalizers

    def blocks(self, owner: Node) -> bool:
        """Whether ``owner``, deleted in the foreground, waits for this one. Nobody waits for itself."""
        return self is not owner and any(ref.uid == owner.uid and ref.block_owner_deletion for ref in self.owners)


class Graph:
    """Nodes by uid. ``changed`` is called with the uid of every node that may have something to do now."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self.nodes: dict[str, Node] = {}
        self._changed = changed

    def see(self, resource: Resource[Any], meta: Any) -> None:
        """An object as it is now."""
        uid: str = meta.uid or ""
        node = self.nodes.get(uid)
        if node is None:
            node = self.nodes[uid] = Node(uid)
        was_virtual, before = node.virtual, node.owners
        node.resource, node.namespace, node.name = resource, meta.namespace or "", meta.name or ""
        node.resource_version = meta.resource_version or ""
        was_waiting = node.deletes_dependents
        node.finalizers, node.deleting = meta.finalizers, meta.deletion_timestamp is not None
        if meta.owner_references != before:
            self._reown(node, meta.owner_references)
        self._look_after(node, changed_owners=node.owners != before, appeared=was_virtual, was_waiting=was_waiting)

    def _look_after(self, node: Node, *, changed_owners: bool, appeared: bool, was_waiting: bool) -> None:
        if node.deletes_dependents or node.orphans_dependents or (node.owners and (changed_owners or appeared)):
            self._changed(node.uid)
        if node.deletes_dependents and not was_waiting:
            for dependent in node.dependents:
                self._changed(dependent)
        if node.deletes_dependents or (node.owners and node.deleting):
            for ref in node.owners:
                self._changed(ref.uid)

    def _reown(self, node: Node, owners: Sequence[OwnerReference]) -> None:
        for uid in {ref.uid for ref in node.owners} - {ref.uid for ref in owners}:
            owner = self.nodes.get(uid)
            if owner is not None:
                owner.dependents.pop(node.uid, None)
                self._changed(uid)
                self._drop_if_idle(owner)
        node.owners = tuple(owners)
        for ref in owners:
            owner = self.nodes.get(ref.uid)
            if owner is None:
                owner = self.nodes[ref.uid] = Node(ref.uid)
            if node.uid not in owner.dependents:
                owner.dependents[node.uid] = node
                if owner.deletes_dependents:
                    self._changed(ref.uid)

    def lose(self, uid: str) -> None:
        """An object is gone: its dependents look at their owners again, and its owners at who is left."""
        node = self.nodes.get(uid)
        if node is None:
            return
        self._reown(node, ())
        node.resource, node.finalizers, node.deleting = None, (), False
        for dependent in node.dependents:
            self._changed(dependent)
        self._drop_if_idle(node)

    def _drop_if_idle(self, node: Node) -> None:
        """A virtual node that nobody names is nothing."""
        if node.virtual and not node.dependents:
            self.nodes.pop(node.uid, None)


# ------------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about a node. At most one of:

    ``orphan``: dependents that must forget this owner, and then the finalizer goes;
    ``finish``: take the finalizer of foreground deletion away;
    ``delete``: the propagation policy to delete it with;
    ``disown``: uids of owners to forget.
    ``unblock``: dependents that must stop blocking it, before it is deleted.
    """

    orphan: tuple[Node, ...] | None = None
    finish: bool = False
    delete: str = ""
    disown: tuple[str, ...] = ()
    unblock: tuple[Node, ...] = ()


def plan(node: Node, absent: Callable[[OwnerReference], bool], owner: Callable[[str], Node | None]) -> Plan:
    """Decide what a node needs. ``absent`` says of a reference that no such object exists."""
    if node.virtual:
        return Plan()
    if node.orphans_dependents:
        return Plan(orphan=tuple(node.dependents.values()))
    if node.deletes_dependents:
        blocking = any(dependent.blocks(node) for dependent in node.dependents.values())
        return Plan(finish=not blocking)
    if node.deleting or not node.owners:
        return Plan()
    return _by_owners(node, absent, owner)


def _by_owners(node: Node, absent: Callable[[OwnerReference], bool], owner: Callable[[str], Node | None]) -> Plan:
    dangling = [ref.uid for ref in node.owners if absent(ref)]
    waiting = [ref.uid for ref in node.owners if ref.uid not in dangling and _waits(owner(ref.uid), ref)]
    if len(dangling) + len(waiting) < len(node.owners):
        return Plan(disown=(*dangling, *waiting))
    if waiting and node.dependents:
        unblock = tuple(d for d in node.dependents.values() if d.deletes_dependents and d.blocks(node))
        return Plan(delete="Foreground", unblock=unblock)
    if ORPHAN in node.finalizers:
        return Plan(delete="Orphan")
    return Plan(delete="Foreground" if FOREGROUND in node.finalizers else "Background")


def _waits(owner: Node | None, ref: OwnerReference) -> bool:
    return owner is not None and owner.deletes_dependents and bool(ref.block_owner_deletion)
