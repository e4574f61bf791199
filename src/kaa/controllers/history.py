"""ControllerRevisions: what a DaemonSet or StatefulSet was, to go back to. Shared by the two.

A revision keeps the owner's pod template as a patch on the owner (kubectl applies it as such to undo), a number that
grows, and a name made of a hash of the patch.

Source: kubernetes pkg/controller/history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import names, scheme, selectors
from kaa.api.errors import AlreadyExists, NotFound
from kaa.api.types.apps_v1 import ControllerRevision
from kaa.api.types.core_v1 import PodTemplateSpec
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.client import Client
from kaa.client.informer import Informer

from .owners import BY_CONTROLLER, ORPHANS, add_owner_indexes, claim, newest, plan_claims
from .pods import controller_reference

#: On pods: which revision they are of.
REVISION_HASH = "controller-revision-hash"
PREFIX_LIMIT = 223
DEFAULT_LIMIT = 10
_encode = msgspec.json.Encoder(order="sorted").encode


def patch_of(template: PodTemplateSpec) -> dict[str, Any]:
    """A template as the patch that a revision keeps."""
    return {"spec": {"template": {**scheme.to_builtins(template), "$patch": "replace"}}}


def template_of(revision: ControllerRevision) -> PodTemplateSpec:
    kept = {key: value for key, value in revision.data["spec"]["template"].items() if key != "$patch"}
    return scheme.convert(PodTemplateSpec, kept)


def hash_of(data: dict[str, Any], collisions: int) -> str:
    digest = hashlib.blake2b(_encode(data), digest_size=4, salt=collisions.to_bytes(8, "big")).digest()
    return names.safe_encode(str(int.from_bytes(digest, "big")))


def new_revision(owner: Any, number: int, collisions: int, *, hash_label: str) -> ControllerRevision:
    """The revision of an owner as it is now."""
    data = patch_of(owner.spec.template)
    word = hash_of(data, collisions)
    meta = ObjectMeta(
        name=f"{owner.metadata.name[:PREFIX_LIMIT]}-{word}",
        namespace=owner.metadata.namespace,
        labels={**owner.spec.template.metadata.labels, hash_label: word},
        annotations=owner.metadata.annotations,
        owner_references=(controller_reference(owner),),
    )
    return ControllerRevision(metadata=meta, data=data, revision=number)


def ordered(revisions: Sequence[ControllerRevision]) -> list[ControllerRevision]:
    """Oldest first."""
    return sorted(revisions, key=lambda r: (r.revision, r.metadata.creation_timestamp or "", r.metadata.name or ""))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of a history: ``update`` is the revision of the owner as it is, as it stands or must be made.

    ``exists``: it is kept already; ``renumber``: but under an older number, since the owner was rolled back.
    """

    update: ControllerRevision
    exists: bool = False
    renumber: bool = False


def plan(owner: Any, revisions: Sequence[ControllerRevision], collisions: int, *, hash_label: str) -> Plan:
    """Find the revision of the owner's present template among those kept, or say which to make."""
    kept = ordered(revisions)
    last = kept[-1].revision if kept else 0
    wanted = new_revision(owner, last + 1, collisions, hash_label=hash_label)
    same = [revision for revision in kept if revision.data == wanted.data]
    if not same:
        return Plan(wanted)
    if same[-1] is kept[-1]:
        return Plan(same[-1], exists=True)
    return Plan(replace(same[-1], revision=last + 1), exists=True, renumber=True)


def forgettable(revisions: Sequence[ControllerRevision], live: set[str], limit: int | None) -> list[ControllerRevision]:
    """The oldest revisions beyond the limit that nothing refers to. ``live``: names of those in use."""
    idle = [revision for revision in ordered(revisions) if revision.metadata.name not in live]
    surplus = len(idle) - (DEFAULT_LIMIT if limit is None else limit)
    return idle[: max(0, surplus)]


class History:
    """One controller's hand on the revisions of its objects."""

    def __init__(self, client: Client, informer: Informer[ControllerRevision], *, hash_label: str) -> None:
        self._client, self._informer, self._hash_label = client, informer, hash_label
        add_owner_indexes(informer)

    async def of(self, owner: Any) -> list[ControllerRevision]:
        """The owner's revisions; those without a controller that its selector matches are adopted."""
        mine = self._informer.by_index(BY_CONTROLLER, owner.metadata.uid or "")
        orphans = self._informer.by_index(ORPHANS, owner.metadata.namespace or "")
        claims = plan_claims(owner, selectors.from_label_selector(owner.spec.selector), mine, orphans)
        if not claims.adopt:
            return mine
        adopted = await claim(self._client, ControllerRevision, owner, _without_release(claims))
        await self._informer.shows(newest([each.metadata.resource_version for each in adopted]))
        return self._informer.by_index(BY_CONTROLLER, owner.metadata.uid or "")

    async def settle(
        self, owner: Any, revisions: Sequence[ControllerRevision], collisions: int
    ) -> tuple[ControllerRevision, int]:
        """See that the owner's present template is kept. Returns its revision and the count of hash collisions."""
        while True:
            wanted = plan(owner, revisions, collisions, hash_label=self._hash_label)
            if wanted.exists and not wanted.renumber:
                return wanted.update, collisions
            try:
                write = self._client.update if wanted.exists else self._client.create
                written = await write(wanted.update)
            except AlreadyExists:
                name, namespace = wanted.update.metadata.name or "", wanted.update.metadata.namespace
                found = await self._client.get(ControllerRevision, name, namespace)
                if found.data == wanted.update.data:
                    return found, collisions
                collisions += 1
                continue
            await self._informer.shows(written.metadata.resource_version)
            return written, collisions

    async def truncate(self, revisions: Sequence[ControllerRevision], live: set[str], limit: int | None) -> None:
        """Forget what is beyond the limit."""
        for revision in forgettable(revisions, live, limit):
            try:
                await self._client.delete(ControllerRevision, revision.metadata.name or "", revision.metadata.namespace)
            except NotFound:
                continue


def _without_release(claims: Any) -> Any:
    """Revisions are never released: they stay their maker's whatever its labels."""
    return type(claims)((*claims.mine, *claims.release), claims.adopt)
