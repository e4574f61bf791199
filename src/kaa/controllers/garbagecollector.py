"""The garbage collector: objects whose owners are gone go too, in the way their deletion asked for.

Background: dependents are deleted after their owner. Foreground: the owner waits for those that block it. Orphan: dependents
forget it. All of it is read off a ``graph`` of every object the API serves, custom resources included, that informers keep
true; informers that only this controller needs keep metadata alone.

Source: kubernetes pkg/controller/garbagecollector.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import structlog

from kaa.api.errors import ApiError, NotFound
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import ObjectReference
from kaa.api.types.meta_v1 import DeleteOptions, OwnerReference, Preconditions
from kaa.client.client import PatchType
from kaa.client.informer import Informer

from .controller import Context, Controller, in_parallel
from .graph import FOREGROUND, ORPHAN, Graph, Node, Plan, plan, slim
from .served import Served

log = structlog.get_logger(__name__)

ABSENT_LIMIT = 10_000
#: Kinds whose objects neither own nor are owned, and come in floods.
IGNORED = frozenset({("", "events"), ("events.k8s.io", "events")})


class UnknownOwner(ApiError):
    """An owner of a kind that is not served: nobody can say whether it is there, so its dependents stay."""


class GarbageCollector(Controller[str]):
    """Keys are uids. Make it last: it shares the informers that are there, and makes slim ones for the rest."""

    name = "generic-garbage-collector"
    component = "garbage-collector-controller"
    workers = 20

    def __init__(self, context: Context, served: Served) -> None:
        super().__init__(context)
        self.served = served
        self.graph = Graph(self.queue.add)
        self._absent: OrderedDict[tuple[str, str], None] = OrderedDict()  #: (namespace, uid) of owners known to be gone
        for resource in served.built_in:
            if (resource.group, resource.plural) not in IGNORED:
                self._reads.append(self._follow(resource))
        served.on_change(self._on_custom)

    def _follow(self, resource: Resource[Any]) -> Informer[Any]:
        informer: Informer[Any] = self.informers.of(resource, keep=slim)

        def handler(old: Any, new: Any) -> None:
            if new is not None:
                self.graph.see(resource, new.metadata)
            else:
                self._note_absent(old.metadata.namespace or "", old.metadata.uid)
                self.graph.lose(old.metadata.uid)

        informer.add_handler(handler)
        return informer

    def _on_custom(self, resource: Resource[Any], served: bool) -> None:
        if served:
            self._follow(resource)
        else:
            gone = [n.uid for n in self.graph.nodes.values() if n.resource == resource]
            self.informers.drop(resource)
            for uid in gone:
                self.graph.lose(uid)

    def _note_absent(self, namespace: str, uid: str) -> None:
        self._absent[namespace, uid] = None
        if len(self._absent) > ABSENT_LIMIT:
            self._absent.popitem(last=False)

    # -- reconcile

    async def reconcile(self, key: str) -> None:
        node = self.graph.nodes.get(key)
        if node is None or node.virtual:
            return
        owners = () if node.deleting else node.owners
        absent = {ref.uid for ref in owners if await self._is_absent(node, ref)}
        await self._apply(node, plan(node, lambda ref: ref.uid in absent, self.graph.nodes.get))

    async def _is_absent(self, node: Node, ref: OwnerReference) -> bool:
        """Whether an owner does not exist: by the graph if it shows it, by what was seen to go, else by asking."""
        owner = self.graph.nodes.get(ref.uid)
        if owner is not None and owner.resource is not None:
            if self._is_meant(node, owner, ref):
                return False
            if owner.namespace not in ("", node.namespace):
                self._complain(node, ref)
        resource = self.served.by_kind(ref.api_version, ref.kind)
        if resource is None:
            raise UnknownOwner(f'no matches for kind "{ref.kind}" in version "{ref.api_version}"')
        if resource.namespaced and not node.namespace:
            self._complain(node, ref)
            raise UnknownOwner(f"cluster-scoped {node.name} names the namespaced owner {ref.kind} {ref.name}")
        namespace = node.namespace if resource.namespaced else ""
        if (namespace, ref.uid) in self._absent:
            return True
        try:
            found: Any = await self.client.get(resource, ref.name, namespace or None)
        except NotFound:
            found = None
        if found is not None and found.metadata.uid == ref.uid:
            return False
        self._note_absent(namespace, ref.uid)
        return True

    @staticmethod
    def _is_meant(node: Node, owner: Node, ref: OwnerReference) -> bool:
        """Whether the object with that uid is the one the reference describes: its kind, name and namespace too."""
        assert owner.resource is not None
        group = ref.api_version.rpartition("/")[0]
        same_kind = (owner.resource.group, owner.resource.kind) == (group, ref.kind)
        return same_kind and owner.name == ref.name and owner.namespace in ("", node.namespace)

    def _complain(self, node: Node, ref: OwnerReference) -> None:
        """Owners stand in the namespace of what they own, or in none."""
        text = (
            f"ownerRef [{ref.api_version}/{ref.kind}, namespace: , name: {ref.name}, uid: {ref.uid}]"
            f' does not exist in namespace "{node.namespace}"'
        )
        assert node.resource is not None
        about = ObjectReference(
            api_version=node.resource.api_version,
            kind=node.resource.kind,
            namespace=node.namespace or None,
            name=node.name,
            uid=node.uid,
        )
        self.events.event(about, "Warning", "OwnerRefInvalidNamespace", text)

    async def _apply(self, node: Node, wanted: Plan) -> None:
        try:
            if wanted.orphan is not None:
                await self._orphan(node, wanted.orphan)
            elif wanted.finish:
                await self._drop_finalizer(node, FOREGROUND)
            elif wanted.delete:
                for dependent in wanted.unblock:
                    await self._unblock(dependent, node.uid)
                await self._delete(node, wanted.delete)
            elif wanted.disown:
                await self._disown(node, wanted.disown)
        except NotFound:
            return  # gone already: the informer is about to say so

    async def _orphan(self, node: Node, dependents: tuple[Node, ...]) -> None:
        """Let dependents forget their owner, every one, before the finalizer that protects them goes."""
        for result in await in_parallel(self._disown(dependent, (node.uid,)) for dependent in dependents):
            if isinstance(result, Exception) and not isinstance(result, NotFound):
                raise result
        await self._drop_finalizer(node, ORPHAN)

    async def _drop_finalizer(self, node: Node, finalizer: str) -> None:
        left = [name for name in node.finalizers if name != finalizer]
        await self._patch(node, {"finalizers": left or None})

    async def _disown(self, node: Node, owners: tuple[str, ...]) -> None:
        left = [_entry(ref) for ref in node.owners if ref.uid not in owners]
        await self._patch(node, {"ownerReferences": left or None})

    async def _unblock(self, dependent: Node, owner: str) -> None:
        entries = [
            _entry(ref) | ({"blockOwnerDeletion": False} if ref.uid == owner else {}) for ref in dependent.owners
        ]
        await self._patch(dependent, {"ownerReferences": entries})

    async def _patch(self, node: Node, metadata: dict[str, Any]) -> None:
        """Merge metadata into an object, if it still is the one we looked at, in the version we looked at."""
        assert node.resource is not None
        patch = {"metadata": {**metadata, "uid": node.uid, "resourceVersion": node.resource_version}}
        await self.client.patch(node.resource, node.name, patch, node.namespace or None, type=PatchType.MERGE)

    async def _delete(self, node: Node, policy: str) -> None:
        assert node.resource is not None
        conditions = Preconditions(uid=node.uid, resource_version=node.resource_version)
        options = DeleteOptions(preconditions=conditions, propagation_policy=policy)
        log.debug("deleting", resource=node.resource.group_resource, name=node.name, policy=policy)
        await self.client.delete(node.resource, node.name, node.namespace or None, options=options)


def _entry(ref: OwnerReference) -> dict[str, Any]:
    """An owner reference as JSON."""
    entry: dict[str, Any] = {"apiVersion": ref.api_version, "kind": ref.kind, "name": ref.name, "uid": ref.uid}
    if ref.controller is not None:
        entry["controller"] = ref.controller
    if ref.block_owner_deletion is not None:
        entry["blockOwnerDeletion"] = ref.block_owner_deletion
    return entry
