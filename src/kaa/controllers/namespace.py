"""Deleting a namespace: everything in it first, pods before all else, then its finalizer ``kubernetes``.

``survey`` asks the server what is left, for no cache may decide that a namespace is empty; ``conditions`` puts it into
upstream's words. While something is left the key comes back: at once when a pod of the namespace goes, else after a wait
that doubles to a few seconds.

Source: kubernetes pkg/controller/namespace/deletion (with OrderedNamespaceDeletion).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from typing import Any

from msgspec.structs import replace

from kaa.api.errors import MethodNotAllowed, NotFound
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import Namespace, NamespaceCondition, Pod
from kaa.api.types.meta_v1 import DeleteOptions
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller, in_parallel
from .served import Served

FINALIZER = "kubernetes"
AGAIN_S, AGAIN_MAX_S = 0.05, 5.0


def is_active(namespace: Namespace) -> bool:
    return namespace.metadata.deletion_timestamp is None and namespace.status.phase != "Terminating"


# ------------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True)
class Remains:
    """What a pass over a namespace found. ``counts``: {``pods.``: objects left}; ``finalizers``: {name: objects held};
    ``unknown``: {group/version of which nobody can say what it keeps: why}."""

    counts: Counter[str] = field(default_factory=Counter)
    finalizers: Counter[str] = field(default_factory=Counter)
    errors: tuple[str, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not self.counts and not self.errors and not self.unknown


def remains_of(found: Iterable[tuple[Resource[Any], Sequence[Any]]], errors: Iterable[str]) -> Remains:
    """Count what is left by resource and by finalizer."""
    counts: Counter[str] = Counter()
    finalizers: Counter[str] = Counter()
    for resource, objects in found:
        if objects:
            counts[f"{resource.plural}.{resource.group}"] = len(objects)
        for obj in objects:
            finalizers.update(obj.metadata.finalizers)
    return Remains(counts, finalizers, tuple(errors))


def conditions(old: Sequence[NamespaceCondition], remains: Remains, now: str) -> tuple[NamespaceCondition, ...]:
    """The conditions of a namespace under deletion, in upstream's order and words."""
    wanted = [
        _discovery_failure(remains),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        _content_failure(remains),
        _content_remaining(remains),
        _finalizers_remaining(remains),
    ]
    standing = {condition.type: condition for condition in old}
    for type, status, reason, message in wanted:
        found = standing.get(type)
        if found is not None and (found.status, found.reason, found.message) == (status, reason, message):
            continue
        since = found.last_transition_time if found is not None and found.status == status else now
        standing[type] = NamespaceCondition(
            type=type, status=status, reason=reason, message=message, last_transition_time=since
        )
    return tuple(standing.values())


def _discovery_failure(remains: Remains) -> tuple[str, str, str, str]:
    type = "NamespaceDeletionDiscoveryFailure"
    if not remains.unknown:
        return type, "False", "ResourcesDiscovered", "All resources successfully discovered"
    listed = ", ".join(f"{where}: {why}" for where, why in sorted(remains.unknown.items()))
    message = (
        f"Discovery failed for some groups, {len(remains.unknown)} failing: "
        f"unable to retrieve the complete list of server APIs: {listed}"
    )
    return type, "True", "DiscoveryFailed", message


def _content_failure(remains: Remains) -> tuple[str, str, str, str]:
    type = "NamespaceDeletionContentFailure"
    if not remains.errors:
        done = "All content successfully deleted, may be waiting on finalization"
        return type, "False", "ContentDeleted", done
    errors = remains.errors[0] if len(remains.errors) == 1 else "[" + ", ".join(sorted(remains.errors)) + "]"
    message = f"Failed to delete all resource types, {len(remains.errors)} remaining: {errors}"
    return type, "True", "ContentDeletionFailed", message


def _content_remaining(remains: Remains) -> tuple[str, str, str, str]:
    type = "NamespaceContentRemaining"
    if not remains.counts:
        return type, "False", "ContentRemoved", "All content successfully removed"
    listed = ", ".join(f"{word} has {n} resource instances" for word, n in sorted(remains.counts.items()))
    return type, "True", "SomeResourcesRemain", f"Some resources are remaining: {listed}"


def _finalizers_remaining(remains: Remains) -> tuple[str, str, str, str]:
    type = "NamespaceFinalizersRemaining"
    if not remains.finalizers:
        return type, "False", "ContentHasNoFinalizers", "All content-preserving finalizers finished"
    listed = ", ".join(f"{name} in {n} resource instances" for name, n in sorted(remains.finalizers.items()))
    return type, "True", "SomeFinalizersRemain", f"Some content in the namespace has finalizers remaining: {listed}"


# ------------------------------------------------------------------------------------------------ doing


class Namespaces(Controller[Key]):
    """Keys are namespaces."""

    name = "namespace-controller"
    workers = 10

    def __init__(self, context: Context, served: Served) -> None:
        super().__init__(context)
        self.served = served
        self.namespaces = self.watch(Namespace, self._on_namespace)
        self.watch(Pod, self._on_pod)
        self._passes: Counter[Key] = Counter()

    def _on_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None and new.metadata.deletion_timestamp is not None:
            self.queue.add(key_of(new))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        """The last pod's going may be what a namespace waits for."""
        if new is None and old is not None:
            namespace = self.namespaces.get(old.metadata.namespace or "")
            if namespace is not None and namespace.metadata.deletion_timestamp is not None:
                self.queue.add(key_of(namespace))

    async def reconcile(self, key: Key) -> float | None:
        namespace = self.namespaces.by_key(key)
        if namespace is None or namespace.metadata.deletion_timestamp is None:
            self._passes.pop(key, None)
            return None
        try:
            return await self._end(key, namespace)
        except NotFound:
            self._passes.pop(key, None)
            return None

    async def _end(self, key: Key, namespace: Namespace) -> float | None:
        if namespace.status.phase != "Terminating":
            namespace = await self.client.update_status(
                replace(namespace, status=replace(namespace.status, phase="Terminating"))
            )
        if FINALIZER not in namespace.spec.finalizers:
            return None
        remains = await self._empty(key.name)
        status = replace(namespace.status, conditions=conditions(namespace.status.conditions, remains, self.now()))
        if status != namespace.status:
            namespace = await self.client.update_status(replace(namespace, status=status))
        if not remains.empty:
            self._passes[key] += 1
            return float(min(AGAIN_S * 2 ** min(self._passes[key], 20), AGAIN_MAX_S))
        self._passes.pop(key, None)
        left = tuple(name for name in namespace.spec.finalizers if name != FINALIZER)
        await self.client.update(
            replace(namespace, spec=replace(namespace.spec, finalizers=left)), subresource="finalize"
        )
        return None

    async def _empty(self, namespace: str) -> Remains:
        """Delete what a namespace holds; pods first, and the rest only when no pod is left."""
        resources, unknown = await self.served.namespaced()
        pods = [resource for resource in resources if resource.group_resource == "pods"]
        found = await self._sweep(namespace, pods)
        if found.empty:
            found = await self._sweep(namespace, [each for each in resources if each.group_resource != "pods"])
        return replace_fields(found, unknown=unknown)

    async def _sweep(self, namespace: str, resources: Sequence[Resource[Any]]) -> Remains:
        results = await in_parallel((self._clear(namespace, resource) for resource in resources), at_once=10)
        found, errors = [], []
        for resource, result in zip(resources, results, strict=True):
            if isinstance(result, Exception):
                errors.append(str(result))
            else:
                found.append((resource, result))
        return remains_of(found, errors)

    async def _clear(self, namespace: str, resource: Resource[Any]) -> Sequence[Any]:
        """Delete everything of a resource; returns what is left after that."""
        try:
            items = (await self.client.list(resource, namespace)).items
            if not items:
                return ()
            await self._delete_all(namespace, resource, items)
            return (await self.client.list(resource, namespace)).items
        except (NotFound, MethodNotAllowed):  # no longer served, or never listed
            return ()

    async def _delete_all(self, namespace: str, resource: Resource[Any], items: Sequence[Any]) -> None:
        options = DeleteOptions(propagation_policy="Background")
        if "deletecollection" in resource.verbs:
            await self.client.delete_collection(resource, namespace, options=options)
            return
        names = [item.metadata.name for item in items if item.metadata.deletion_timestamp is None]
        for result in await in_parallel(self.client.delete(resource, n, namespace, options=options) for n in names):
            if isinstance(result, Exception) and not isinstance(result, NotFound):
                raise result
