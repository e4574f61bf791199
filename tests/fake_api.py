"""An API server's manners in memory, behind the Client Protocol: for tests of what talks to one.

It keeps resource versions, conflicts, generations, finalizers, graceful deletion of pods, deletion policies, patches,
selectors and watches. It defaults and validates nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import scheme, selectors
from kaa.api.clock import Clock, VirtualClock, format_time
from kaa.api.custom import CustomObject, from_document
from kaa.api.errors import AlreadyExists, Conflict, Forbidden, NotFound
from kaa.api.names import generate_name
from kaa.api.resources import Resource
from kaa.api.types.autoscaling_v1 import Scale, ScaleSpec, ScaleStatus
from kaa.api.types.core_v1 import Binding, Namespace, Pod
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta, StatusCause
from kaa.client.client import Listing, PatchType, WatchEvent, WatchType
from kaa.client.workqueue import Key


class FakeApi:
    """One server. It is its own client; ``calls`` counts requests by ``(verb, plural)``."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.version = 0
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        #: Called with (verb, object or name) before a write; may raise to refuse it.
        self.refuse: Callable[[str, Any], None] = lambda verb, obj: None
        self._custom: dict[tuple[str, str], Resource[Any]] = {}
        self._objects: dict[Resource[Any], dict[Key, Any]] = defaultdict(dict)
        self._history: dict[Resource[Any], list[WatchEvent[Any]]] = defaultdict(list)
        self._changed: dict[Resource[Any], asyncio.Event] = defaultdict(asyncio.Event)

    # ---------------------------------------------------------------------------------------------- helpers for tests

    def add_resource(self, resource: Resource[Any]) -> None:
        self._custom[resource.api_version, resource.kind] = resource

    def all(self, kind: Any) -> list[Any]:
        return list(self._objects[self._resource(kind)].values())

    def put(self, obj: Any) -> Any:
        """Add or replace without asking: the test's own hand."""
        resource = self._resource(obj)
        old = self._objects[resource].get(self._key(obj))
        if old is None:
            return self._create(resource, obj)
        kept = {"uid": old.metadata.uid, "creation_timestamp": old.metadata.creation_timestamp}
        return self._store(resource, replace(obj, metadata=replace(obj.metadata, **kept)), WatchType.MODIFIED)

    def remove(self, obj: Any) -> None:
        resource = self._resource(obj)
        self._drop(resource, self._objects[resource][self._key(obj)])

    # ---------------------------------------------------------------------------------------------- reading

    async def get(self, kind: Any, name: str, namespace: str | None = None) -> Any:
        resource = self._resource(kind)
        self._called("get", resource)
        return self._found(resource, name, namespace)

    async def list(
        self,
        kind: Any,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_token: str = "",
        resource_version: str = "",
    ) -> Listing[Any]:
        resource = self._resource(kind)
        self._called("list", resource)
        wanted = selectors.parse_labels(label_selector)
        found = [
            obj
            for key, obj in sorted(self._objects[resource].items())
            if (namespace is None or key.namespace == namespace) and wanted.matches(obj.metadata.labels)
        ]
        return Listing(found, str(self.version))

    async def watch(
        self,
        kind: Any,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        bookmarks: bool = True,
        timeout_s: float | None = None,
    ) -> AsyncIterator[WatchEvent[Any]]:
        resource = self._resource(kind)
        self._called("watch", resource)
        history, since = self._history[resource], int(resource_version or 0)
        at = next((n for n, event in enumerate(history) if int(event.resource_version) > since), len(history))
        while True:
            while at < len(history):
                event = history[at]
                at += 1
                if namespace is None or event.object.metadata.namespace == namespace:
                    yield event
            self._changed[resource].clear()
            await self._changed[resource].wait()

    # ---------------------------------------------------------------------------------------------- writing

    async def create(self, obj: Any, *, namespace: str | None = None, subresource: str = "", name: str = "") -> Any:
        await asyncio.sleep(0)
        if subresource == "binding":
            return self._bind(obj)
        resource = self._resource(obj)
        self._called("create", resource)
        self.refuse("create", obj)
        self._check_namespace(resource, obj)
        assert not subresource, "the fake has no POST to other subresources"
        return self._create(resource, obj)

    def _bind(self, binding: Binding) -> Binding:
        """POST to ``pods/NAME/binding``."""
        resource = scheme.resource_of(Pod)
        self.refuse("bind", binding)
        old = self._found(resource, binding.metadata.name or "", binding.metadata.namespace)
        spec = replace(old.spec, node_name=binding.target.name)
        self._store(resource, replace(old, spec=spec), WatchType.MODIFIED)
        return binding

    def _check_namespace(self, resource: Resource[Any], obj: Any) -> None:
        """Nothing comes into a namespace that ends."""
        namespace = self._objects[scheme.resource_of(Namespace)].get(Key("", obj.metadata.namespace or ""))
        if resource.namespaced and namespace is not None and namespace.metadata.deletion_timestamp is not None:
            why = f"unable to create new content in namespace {namespace.metadata.name} because it is being terminated"
            cause = StatusCause(reason="NamespaceTerminating", message=why, field="metadata.namespace")
            raise Forbidden(f'{resource.group_resource} "{obj.metadata.name}" is forbidden: {why}', causes=[cause])

    def _create(self, resource: Resource[Any], obj: Any) -> Any:
        meta = obj.metadata
        name = meta.name or generate_name(meta.generate_name, self.clock.random)
        made = replace(
            meta,
            name=name,
            uid=meta.uid or f"uid-{self.version + 1}-{name}",
            generation=1,
            creation_timestamp=meta.creation_timestamp or format_time(self.clock.now()),
        )
        if Key(made.namespace or "", name) in self._objects[resource]:
            raise AlreadyExists.of(resource, name)
        obj = replace(obj, metadata=made)
        if isinstance(obj, Namespace):
            spec = replace(obj.spec, finalizers=obj.spec.finalizers or ("kubernetes",))
            obj = replace(obj, spec=spec, status=replace(obj.status, phase=obj.status.phase or "Active"))
        return self._store(resource, obj, WatchType.ADDED)

    async def update(self, obj: Any, *, subresource: str = "") -> Any:
        await asyncio.sleep(0)
        resource = self._resource(obj)
        self._called(f"update/{subresource}" if subresource else "update", resource)
        self.refuse("update", obj)
        old = self._found(resource, obj.metadata.name, obj.metadata.namespace)
        if obj.metadata.resource_version not in (None, "", old.metadata.resource_version):
            raise Conflict.of(resource, obj.metadata.name)
        return self._replace(resource, old, obj, subresource)

    async def update_status(self, obj: Any) -> Any:
        return await self.update(obj, subresource="status")

    async def patch(
        self,
        kind: Any,
        name: str,
        patch: Mapping[str, Any] | Sequence[Any],
        namespace: str | None = None,
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> Any:
        await asyncio.sleep(0)
        resource = self._resource(kind)
        self._called(f"patch/{subresource}" if subresource else "patch", resource)
        self.refuse("patch", name)
        old = self._found(resource, name, namespace)
        wanted = (patch.get("metadata") or {}) if isinstance(patch, Mapping) else {}
        if wanted.get("uid", old.metadata.uid) != old.metadata.uid:
            raise Conflict.of(resource, name, "the uid differs")
        if wanted.get("resourceVersion", old.metadata.resource_version) != old.metadata.resource_version:
            raise Conflict.of(resource, name)
        document = old.document() if isinstance(old, CustomObject) else scheme.document(old)
        changed = _merge(document, patch, strategic=type is PatchType.STRATEGIC)
        new = from_document(changed) if isinstance(old, CustomObject) else scheme.convert(old.__class__, changed)
        return self._replace(resource, old, new, subresource)

    def _replace(self, resource: Resource[Any], old: Any, new: Any, subresource: str) -> Any:
        """Store what a write makes of an object; one that changes nothing is no write."""
        meta = replace(
            new.metadata,
            uid=old.metadata.uid,
            creation_timestamp=old.metadata.creation_timestamp,
            deletion_timestamp=old.metadata.deletion_timestamp,
            resource_version=old.metadata.resource_version,
            generation=old.metadata.generation,
        )
        if subresource == "status":
            kept = replace(meta, labels=old.metadata.labels)
            new = replace(old, metadata=kept, status=new.status)
        elif subresource == "approval":
            new = replace(old, status=replace(old.status, conditions=new.status.conditions))
        elif subresource == "finalize":
            new = replace(old, spec=new.spec)
        else:
            new = replace(new, metadata=meta, **({"status": old.status} if hasattr(old, "status") else {}))
            if getattr(new, "spec", None) != getattr(old, "spec", None):
                new = replace(new, metadata=replace(new.metadata, generation=(meta.generation or 0) + 1))
        if new == old:
            return old
        stored = self._store(resource, new, WatchType.MODIFIED)
        if self._over(stored):
            self._drop(resource, stored)
        return stored

    async def delete(
        self, kind: Any, name: str, namespace: str | None = None, *, options: DeleteOptions | None = None
    ) -> None:
        await asyncio.sleep(0)
        resource = self._resource(kind)
        self._called("delete", resource)
        self.refuse("delete", name)
        old, options = self._found(resource, name, namespace), options or DeleteOptions()
        conditions = options.preconditions
        if conditions is not None and conditions.uid not in (None, old.metadata.uid):
            raise Conflict.of(resource, name, "the uid differs")
        if conditions is not None and conditions.resource_version not in (None, old.metadata.resource_version):
            raise Conflict.of(resource, name)
        self._delete(resource, old, options)

    def _delete(self, resource: Resource[Any], old: Any, options: DeleteOptions) -> None:
        finalizers = [f for f in old.metadata.finalizers if f not in ("orphan", "foregroundDeletion")]
        if options.propagation_policy == "Orphan" or options.orphan_dependents:
            finalizers.append("orphan")
        elif options.propagation_policy == "Foreground":
            finalizers.append("foregroundDeletion")
        grace = self._grace(resource, old, options)
        waits = bool(finalizers) or grace > 0 or (isinstance(old, Namespace) and bool(old.spec.finalizers))
        if not waits:
            self._drop(resource, old)
            return
        when = old.metadata.deletion_timestamp or format_time(self.clock.now() + grace)
        meta = replace(old.metadata, finalizers=tuple(finalizers), deletion_timestamp=when)
        meta = replace(meta, deletion_grace_period_seconds=grace)
        new = replace(old, metadata=meta)
        if isinstance(new, Namespace):
            new = replace(new, status=replace(new.status, phase="Terminating"))
        if new != old:
            self._store(resource, new, WatchType.MODIFIED)

    def _grace(self, resource: Resource[Any], pod: Any, options: DeleteOptions) -> int:
        if resource.kind != "Pod" or not pod.spec.node_name or pod.status.phase in ("Succeeded", "Failed"):
            return 0
        if options.grace_period_seconds is not None:
            return options.grace_period_seconds
        return 30 if pod.spec.termination_grace_period_seconds is None else pod.spec.termination_grace_period_seconds

    async def delete_collection(
        self,
        kind: Any,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        options: DeleteOptions | None = None,
    ) -> None:
        resource = self._resource(kind)
        self._called("deletecollection", resource)
        for obj in (await self.list(kind, namespace, label_selector=label_selector)).items:
            self._delete(resource, obj, options or DeleteOptions())

    async def call(
        self,
        resource: Any,
        name: str,
        subresource: str,
        body: Any,
        answer: Any,
        namespace: str | None = None,
        *,
        verb: str = "create",
    ) -> Any:
        await asyncio.sleep(0)
        if subresource != "scale":
            raise NotImplementedError(f"the fake answers no calls on {subresource}")
        row = self._resource(resource)
        self._called(f"{verb}/scale", row)
        old = self._found(row, name, namespace)
        if verb == "update":
            self.refuse("scale", body)
            old = self._replace(row, old, replace(old, spec=replace(old.spec, replicas=body.spec.replicas)), "")
        meta = ObjectMeta(name=name, namespace=namespace, resource_version=old.metadata.resource_version)
        selector = str(selectors.from_label_selector(old.spec.selector))
        current = (old.status.replicas if old.status is not None else 0) or 0
        return Scale(
            metadata=meta,
            spec=ScaleSpec(replicas=old.spec.replicas),
            status=ScaleStatus(replicas=current, selector=selector),
        )

    async def raw(self, method: str, path: str, body: bytes = b"", *, content_type: str = "application/json") -> bytes:
        return json.dumps({}).encode()

    async def close(self) -> None:
        return None

    # ---------------------------------------------------------------------------------------------- the store

    def _resource(self, kind: Any) -> Resource[Any]:
        found = self._custom.get((getattr(kind, "API_VERSION", ""), getattr(kind, "KIND", "")))
        return found or scheme.resource_of(kind)

    def _called(self, verb: str, resource: Resource[Any]) -> None:
        self.calls[verb, resource.plural] += 1

    @staticmethod
    def _key(obj: Any) -> Key:
        return Key(obj.metadata.namespace or "", obj.metadata.name)

    def _found(self, resource: Resource[Any], name: str, namespace: str | None) -> Any:
        found = self._objects[resource].get(Key(namespace or "", name))
        if found is None:
            raise NotFound.of(resource, name)
        return found

    @staticmethod
    def _over(obj: Any) -> bool:
        """Being deleted, and nothing holds it back: a pod with a grace waits for its kubelet."""
        meta = obj.metadata
        held = meta.finalizers or meta.deletion_grace_period_seconds
        return (
            meta.deletion_timestamp is not None
            and not held
            and not (isinstance(obj, Namespace) and obj.spec.finalizers)
        )

    def _store(self, resource: Resource[Any], obj: Any, type: WatchType) -> Any:
        self.version += 1
        obj = replace(obj, metadata=replace(obj.metadata, resource_version=str(self.version)))
        self._objects[resource][self._key(obj)] = obj
        self._tell(resource, WatchEvent(type, obj, str(self.version)))
        return obj

    def _drop(self, resource: Resource[Any], obj: Any) -> None:
        self.version += 1
        del self._objects[resource][self._key(obj)]
        last = replace(obj, metadata=replace(obj.metadata, resource_version=str(self.version)))
        self._tell(resource, WatchEvent(WatchType.DELETED, last, str(self.version)))

    def _tell(self, resource: Resource[Any], event: WatchEvent[Any]) -> None:
        self._history[resource].append(event)
        self._changed[resource].set()


def _merge(value: Any, patch: Any, *, strategic: bool) -> Any:
    """A JSON merge patch; of strategic merge only what controllers use of it on metadata."""
    if isinstance(patch, list) or not isinstance(patch, Mapping):
        return patch
    made = dict(value) if isinstance(value, Mapping) else {}
    for key, inner in patch.items():
        if strategic and key in ("ownerReferences", "reservedFor"):
            made[key] = _merge_by("uid", made.get(key, []), inner)
        elif strategic and key == "conditions":
            made[key] = _merge_by("type", made.get(key, []), inner)
        elif strategic and key == "finalizers":
            made[key] = [*made.get(key, []), *(word for word in inner if word not in made.get(key, []))]
        elif key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            made[field] = [word for word in made.get(field, []) if word not in inner]
        elif inner is None:
            made.pop(key, None)
        else:
            made[key] = _merge(made.get(key), inner, strategic=strategic)
    return made


def _merge_by(name: str, old: list[Any], patch: list[Any]) -> list[Any]:
    changes = {entry[name]: entry for entry in patch}
    kept = [{**entry, **changes.pop(entry[name], {})} for entry in old]
    return [entry for entry in [*kept, *changes.values()] if entry.get("$patch") != "delete"]


@contextlib.asynccontextmanager
async def running(clock: VirtualClock, *parts: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Components at work beside the body, settled before it begins."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part()) for part in parts]
        await clock.settle()
        yield
        for task in tasks:
            task.cancel()
