"""Who controls whom, adoption and release. The idea: an object's controller is the one owner reference that says
``controller: true``; a selector only says whom a controller may adopt.

Source: kubernetes pkg/controller/controller_ref_manager.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kaa.api.errors import Invalid, NotFound
from kaa.api.selectors import Selector
from kaa.api.types.meta_v1 import OwnerReference
from kaa.client.client import Client, Kind, PatchType
from kaa.client.informer import Informer

from .pods import controller_reference

T = TypeVar("T")

BY_CONTROLLER = "controller uid"
ORPHANS = "orphans of namespace"


def controller_of(obj: Any) -> OwnerReference | None:
    for owner in obj.metadata.owner_references:
        if owner.controller:
            found: OwnerReference = owner
            return found
    return None


def add_owner_indexes(informer: Informer[Any]) -> None:
    """File objects under their controller's uid, and those without one under their namespace."""
    informer.add_index(BY_CONTROLLER, _controller_words)
    informer.add_index(ORPHANS, _orphan_words)


def _controller_words(obj: Any) -> tuple[str, ...]:
    owner = controller_of(obj)
    return (owner.uid,) if owner is not None else ()


def _orphan_words(obj: Any) -> tuple[str, ...]:
    return (obj.metadata.namespace or "",) if controller_of(obj) is None else ()


@dataclass(frozen=True)
class Claims(Generic[T]):
    """``mine`` already; ``adopt`` and ``release`` are changes to make."""

    mine: tuple[T, ...] = ()
    adopt: tuple[T, ...] = ()
    release: tuple[T, ...] = field(default=())


def plan_claims(owner: Any, selector: Selector, controlled: Iterable[T], orphans: Iterable[T]) -> Claims[T]:
    """Decide who belongs to ``owner``: it releases what its selector no longer matches, and adopts what it does.

    An owner that is being deleted changes nothing; an orphan that is being deleted is left alone.
    """
    deleting = owner.metadata.deletion_timestamp is not None
    mine: list[T] = []
    release: list[T] = []
    matches = selector.matcher()
    for obj in controlled:
        (mine if matches(obj.metadata.labels) else release).append(obj)  # type: ignore[attr-defined]
    if deleting:
        return Claims(mine=tuple(mine))
    adopt = [obj for obj in orphans if _adoptable(obj, selector)]
    return Claims(tuple(mine), tuple(adopt), tuple(release))


def _adoptable(obj: Any, selector: Selector) -> bool:
    return selector.matches(obj.metadata.labels) and obj.metadata.deletion_timestamp is None


async def claim(client: Client, kind: Kind[T], owner: Any, claims: Claims[T], *, finalizer: str = "") -> list[T]:
    """Carry out adoption and release; returns all that is the owner's then.

    Before the first adoption the owner is read afresh: a cache may still show one that is gone, or was replaced.
    """
    mine = list(claims.mine)
    for obj in claims.release:
        await _release(client, kind, owner, obj, finalizer)
    if claims.adopt and await _still_there(client, owner):
        for obj in claims.adopt:
            adopted = await _adopt(client, kind, owner, obj, finalizer)
            if adopted is not None:
                mine.append(adopted)
    return mine


async def _still_there(client: Client, owner: Any) -> bool:
    try:
        fresh = await client.get(type(owner), owner.metadata.name, owner.metadata.namespace)
    except NotFound:
        return False
    return fresh.metadata.uid == owner.metadata.uid and fresh.metadata.deletion_timestamp is None


async def _adopt(client: Client, kind: Kind[T], owner: Any, obj: Any, finalizer: str) -> T | None:
    reference = controller_reference(owner)
    entry = {
        "apiVersion": reference.api_version,
        "kind": reference.kind,
        "name": reference.name,
        "uid": reference.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata: dict[str, Any] = {"uid": obj.metadata.uid, "ownerReferences": [entry]}
    if finalizer:
        metadata["finalizers"] = [finalizer]
    return await _patch(client, kind, obj, {"metadata": metadata})


async def _release(client: Client, kind: Kind[T], owner: Any, obj: Any, finalizer: str) -> None:
    entry = {"$patch": "delete", "uid": owner.metadata.uid}
    metadata: dict[str, Any] = {"uid": obj.metadata.uid, "ownerReferences": [entry]}
    if finalizer:
        metadata["$deleteFromPrimitiveList/finalizers"] = [finalizer]
    await _patch(client, kind, obj, {"metadata": metadata})


async def _patch(client: Client, kind: Kind[T], obj: Any, patch: dict[str, Any]) -> T | None:
    """Patch one object of a given uid. One that is gone, or replaced, or taken by someone else, is none of ours."""
    try:
        return await client.patch(kind, obj.metadata.name, patch, obj.metadata.namespace, type=PatchType.STRATEGIC)
    except (NotFound, Invalid):
        return None


def newest(resource_versions: Sequence[str | None]) -> str:
    """The latest of several versions of one resource."""
    return str(max((int(version or 0) for version in resource_versions), default=0))
