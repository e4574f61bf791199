"""CREATE, UPDATE and PATCH: from what was sent to what is stored.

The idea: a write is a plain function of the newest object, tried again while somebody else was faster. Order as upstream:
defaults, what the server sets, mutating admission, allocation, validation, validating admission, store.

Left to others: which change a patch says (patch), deletion (deletes), special subresources (subresources).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from kaa.api import names
from kaa.api.clock import format_time
from kaa.api.custom import CustomObject
from kaa.api.errors import AlreadyExists, BadRequest, Conflict, InternalError, Invalid, NotFound
from kaa.api.fields import FieldError, Path
from kaa.api.resources import Resource
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.pipeline import Request
from kaa.store.base import Revision, RevisionMismatch

from . import keys
from .admission.base import Attributes, Chain
from .cacher import Cacher
from .entries import Entry, stored_bytes
from .patch.managed_fields import Tracker, without_new_times
from .registry.strategy import Strategy
from .validation.meta import validate_meta, validate_meta_update

RETRIES = 5  # of an update that another one overtook
_UUID_VERSION_4 = 0x4000_8000_0000_0000_0000
_UUID_RANDOM = (1 << 128) - 1 & ~(0xF000_C000_0000_0000_0000)
NAME_RETRIES = 8  # of a generated name that was taken


@dataclass(slots=True)
class Written:
    """What came of a write. ``entry`` is None for dry runs, which have an ``object`` only."""

    code: int
    entry: Entry | None
    object: Any
    warnings: list[str] = field(default_factory=list)


#: The subresources whose changes of the spec ``metadata.generation`` counts, besides the object itself.
_COUNTED = frozenset({"", "scale", "resize", "ephemeralcontainers"})

#: (core resource, subresource): updates that may ask more of a quota. What is made is charged at once, and takes no turns.
_GROWING = frozenset({("persistentvolumeclaims", ""), ("pods", "resize")})

#: Makes the wanted object of the newest one (None: there is none, and this may create it).
Change = Callable[[Any], Any | Awaitable[Any]]


class Writer:
    def __init__(
        self, cacher: Cacher, admission: Chain, strategy_for: Callable[[Resource[Any]], Strategy[Any]]
    ) -> None:
        self._cacher, self._clock = cacher, cacher.clock
        self.clock = cacher.clock
        self._admission, self.strategy_for = admission, strategy_for
        #: Held from allocation to commit by writes that take from a shared pool: {what: lock}
        self._pools: dict[str, asyncio.Lock] = {}

    # ------------------------------------------------------------------------------------------------------- create

    async def create(self, request: Request, obj: Any, warnings: tuple[str, ...] = ()) -> Written:
        """Store a new object; a name that was generated and taken is drawn again."""
        dry_run = is_dry_run(request)
        obj = self._named(request, obj)
        generated = not obj.metadata.name and obj.metadata.generate_name
        for attempt in range(NAME_RETRIES):
            try:
                return await self._create_once(request, obj, list(warnings), dry_run)
            except AlreadyExists:
                if not generated or attempt == NAME_RETRIES - 1:
                    raise
        raise AssertionError("the loop returns or raises")

    def _named(self, request: Request, obj: Any) -> Any:
        """The object in the namespace of the URL, and under its name where the URL has one."""
        metadata: ObjectMeta = obj.metadata
        if request.resource.namespaced:
            if metadata.namespace and metadata.namespace != request.namespace:
                raise BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            metadata = replace(metadata, namespace=request.namespace)
        elif metadata.namespace:
            if request.namespace != metadata.namespace:
                raise BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            metadata = replace(metadata, namespace=None)
        return obj if metadata is obj.metadata else replace(obj, metadata=metadata)

    async def _create_once(self, request: Request, obj: Any, warnings: list[str], dry_run: bool) -> Written:
        strategy = self.strategy_for(request.resource)
        nameless = not obj.metadata.name
        obj = strategy.default(self._with_system_fields(obj, strategy))
        obj = Tracker(request, strategy, self._clock).created(obj)
        obj = strategy.asked_by(strategy.prepare_create(obj), request.user)
        attributes = Attributes(request, "CREATE", obj, None, dry_run, warnings, nameless)
        await self._admission.admit(attributes, self._cacher)
        if attributes.object is not obj:
            attributes.object = strategy.default(attributes.object)
        lock = self._pool(strategy, request)
        if lock is None:
            return await self._commit_new(request, strategy, attributes)
        if self._admission.consults:
            obj = attributes.object = strategy.allocate(attributes.object, None, self._cacher)
            self._refuse(request.resource, obj.metadata.name, _creation_faults(strategy, obj))
            await self._admission.consult(attributes, self._cacher)
        async with lock:
            return await self._commit_new(request, strategy, attributes)

    async def _commit_new(self, request: Request, strategy: Strategy[Any], attributes: Attributes) -> Written:
        resource = request.resource
        obj = strategy.allocate(attributes.object, None, self._cacher)
        self._refuse(resource, obj.metadata.name, _creation_faults(strategy, obj))
        attributes.object = obj
        await self._admission.validate(attributes, self._cacher)
        attributes.warnings.extend(strategy.warnings(obj, None))
        if obj.metadata.resource_version and not attributes.dry_run:  # what the store refuses comes after admission
            raise InternalError("resourceVersion should not be set on objects to be created")
        key = keys.object_key(resource, request.namespace, obj.metadata.name)
        if key in self._cacher.of(resource).entries:
            raise AlreadyExists.of(resource, obj.metadata.name)
        if attributes.dry_run:
            return Written(201, None, obj, attributes.warnings)
        try:
            entry = await self._cacher.put(resource, key, obj, stored_bytes(resource, obj), Revision(0))
        except RevisionMismatch:
            raise AlreadyExists.of(resource, obj.metadata.name) from None
        return Written(201, entry, obj, attributes.warnings)

    def _with_system_fields(self, obj: Any, strategy: Strategy[Any]) -> Any:
        metadata: ObjectMeta = obj.metadata
        clock = self._clock
        name = metadata.name
        if not name and metadata.generate_name:
            name = names.generate_name(metadata.generate_name, clock.random)
        return replace(
            obj,
            metadata=replace(
                metadata,
                name=name,
                uid=new_uid(clock.random.getrandbits(128)),
                creation_timestamp=format_time(clock.now()),
                deletion_timestamp=None,
                deletion_grace_period_seconds=None,
                self_link=None,
                generation=1 if strategy.counts_generation else None,
            ),
        )

    def _pool(self, strategy: Strategy[Any], request: Request) -> asyncio.Lock | None:
        """The lock of writes whose check and commit must not interleave: allocation, and what grows under a quota.

        What a quota lets be created is charged at once, and needs none.
        """
        if type(strategy).allocate is not Strategy.allocate:
            return self._pools.setdefault(request.resource.group_resource, asyncio.Lock())
        resource = request.resource
        grows = not resource.group and (resource.plural, request.subresource) in _GROWING
        if grows and any(self._cacher.keys_in("resourcequotas", request.namespace)):
            return self._pools.setdefault(f"quota/{request.namespace}", asyncio.Lock())
        return None

    # ------------------------------------------------------------------------------------------------------- update

    async def update(self, request: Request, obj: Any, warnings: tuple[str, ...] = ()) -> Written:
        """Replace an object (or its status) by one that was sent whole."""
        strategy = self.strategy_for(request.resource)
        sent: ObjectMeta = obj.metadata
        if sent.name and sent.name != request.name:
            raise BadRequest(
                f"the name of the object ({sent.name}) does not match the name on the URL ({request.name})"
            )
        if request.resource.namespaced and sent.namespace and sent.namespace != request.namespace:
            raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
        metadata = replace(
            sent,
            name=request.name,
            namespace=request.namespace if request.resource.namespaced else None,
            resource_version=None if is_no_version(sent.resource_version) else sent.resource_version,
        )
        obj = replace(obj, metadata=metadata)

        def change(old: Any) -> Any:
            if old is not None and not metadata.resource_version and not strategy.allows_unconditional_update:
                fault = FieldError("FieldValueInvalid", "metadata.resourceVersion", 'Invalid value: 0: must be specified for an update')  # fmt: skip
                raise Invalid.of(request.resource.group, request.resource.plural, request.name, [fault])
            return obj

        return await self.change(request, change, list(warnings))

    async def change(
        self,
        request: Request,
        change: Change,
        warnings: list[str] | None = None,
        *,
        expected: str = "",
        operation: str = "Update",
    ) -> Written:
        """Apply a change to the newest object until it sticks. ``expected`` is the version it must be made on."""
        for _ in range(RETRIES):
            try:
                return await self._change_once(request, change, list(warnings or ()), expected, operation)
            except RevisionMismatch as err:
                if err.current is not None:
                    await self._cacher.reach(err.current.mod_revision)
        raise Conflict.of(request.resource, request.name)

    async def _change_once(
        self, request: Request, change: Change, warnings: list[str], expected: str, operation: str
    ) -> Written:
        resource, cacher = request.resource, self._cacher
        strategy = self.strategy_for(resource)
        key = keys.object_key(resource, request.namespace, request.name)
        entry = cacher.of(resource).entries.get(key)
        if entry is None:
            return await self._create_by_change(request, change, strategy)
        old = entry.object()
        if expected != str(entry.revision) and not is_no_version(expected):
            raise Conflict.of(resource, request.name)
        made = change(old)
        new = await made if isinstance(made, Awaitable) else made
        based_on = new.metadata.resource_version
        if based_on != str(entry.revision) and not is_no_version(based_on):
            raise Conflict.of(resource, request.name)
        self._check_identity(request, new, old)
        new = self._prepared(request, strategy, new, old, operation)
        dry_run = is_dry_run(request)
        attributes = Attributes(request, "UPDATE", new, old, dry_run, warnings)
        await self._admission.admit(attributes, cacher)
        lock = self._pool(strategy, request) if request.subresource in ("", "resize") else None
        if lock is None:
            return await self._commit_change(request, strategy, attributes, entry)
        if self._admission.consults:
            new = attributes.object = strategy.allocate(attributes.object, old, cacher)
            self._refuse(resource, request.name, _update_faults(strategy, request, new, old))
            await self._admission.consult(attributes, cacher)
        async with lock:
            return await self._commit_change(request, strategy, attributes, entry)

    async def _create_by_change(self, request: Request, change: Change, strategy: Strategy[Any]) -> Written:
        """An update of an absent object: upstream creates some kinds by PUT, and anything by apply."""
        applies = request.verb == "patch" and request.content_type.startswith("application/apply-patch")
        may_create = applies or (request.verb == "update" and strategy.allows_create_on_update)
        if request.subresource or not may_create:
            raise NotFound.of(request.resource, request.name)
        made = change(None)
        return await self.create(request, await made if isinstance(made, Awaitable) else made)

    def _check_identity(self, request: Request, new: Any, old: Any) -> None:
        uid = new.metadata.uid
        if uid and uid != old.metadata.uid:
            key = keys.prefix(request.resource) + keys.object_key(request.resource, request.namespace, request.name)
            raise Conflict.of(
                request.resource,
                request.name,
                f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition"
                f" failed: UID in precondition: {uid}, UID in object meta: {old.metadata.uid}",
            )

    def _prepared(self, request: Request, strategy: Strategy[Any], new: Any, old: Any, operation: str) -> Any:
        """Defaults, owners of fields, and everything that this update may not change put back."""
        new = strategy.default(new)
        new = replace(new, metadata=_kept_metadata(new.metadata, old.metadata))
        new = Tracker(request, strategy, self._clock).updated(new, old, operation)
        return _settled(request, strategy, new, old)

    async def _commit_change(
        self, request: Request, strategy: Strategy[Any], attributes: Attributes, entry: Entry
    ) -> Written:
        resource, old = request.resource, attributes.old
        new = attributes.object
        if request.subresource in ("", "status"):
            new = strategy.allocate(new, old, self._cacher)
        self._refuse(resource, request.name, _update_faults(strategy, request, new, old))
        attributes.object = new
        await self._admission.validate(attributes, self._cacher)
        attributes.warnings.extend(strategy.warnings(new, old))
        new = without_new_times(new, old)
        key = entry.key
        if is_finished(new):
            if not attributes.dry_run:
                await self._cacher.remove(resource, key, entry.revision)
            return Written(200, None, new, attributes.warnings)
        if attributes.dry_run:
            return Written(200, None, new, attributes.warnings)
        if new == old and key not in self._cacher.of(resource).stale:
            return Written(200, entry, old, attributes.warnings)
        stored = await self._cacher.put(resource, key, new, stored_bytes(resource, new), entry.revision)
        return Written(200, stored, new, attributes.warnings)

    def _refuse(self, resource: Resource[Any], name: str, faults: list[FieldError]) -> None:
        if faults:
            raise Invalid.of(resource.group, resource.kind, name or "", faults)


def is_no_version(resource_version: str | None) -> bool:
    """Whether a write says nothing of the version it is made on: zero is none, too."""
    return not resource_version or (resource_version.isdecimal() and not int(resource_version))


def readmitted(request: Request, strategy: Strategy[Any], new: Any, old: Any) -> Any:
    """An object that webhooks or policies have changed, with its defaults and what the server alone decides.

    ``old`` is None for an object that is to be created.
    """
    new = strategy.default(new)
    if old is None:
        return strategy.asked_by(strategy.prepare_create(new), request.user)
    return _settled(request, strategy, replace(new, metadata=_kept_metadata(new.metadata, old.metadata)), old)


def _settled(request: Request, strategy: Strategy[Any], new: Any, old: Any) -> Any:
    """Everything that this update may not change put back, and the generation counted."""
    if not request.subresource or request.subresource == "scale":
        new = strategy.prepare_update(new, old)
    elif request.subresource == "status":
        new = strategy.prepare_status_update(new, old)
    else:
        made = strategy.subresource_update(request.subresource, new, old)
        new = new if made is None else made
    counts = strategy.counts_generation and request.subresource in _COUNTED
    if counts and strategy.spec_changed(new, old):
        generation = (old.metadata.generation or 0) + 1
        new = replace(new, metadata=replace(new.metadata, generation=generation))
    return new


def _creation_faults(strategy: Strategy[Any], obj: Any) -> list[FieldError]:
    faults = validate_meta(
        obj.metadata,
        namespaced=strategy.resource.namespaced,
        name_faults=type(strategy).name_faults,
        free_finalizers=strategy.free_finalizers,
        path=Path("metadata"),
    )
    return faults + strategy.validate(obj)


def _update_faults(strategy: Strategy[Any], request: Request, new: Any, old: Any) -> list[FieldError]:
    faults = validate_meta_update(new.metadata, old.metadata, free_finalizers=strategy.free_finalizers)
    if request.subresource == "status":
        return faults + strategy.validate_status_update(new, old)
    if request.subresource in ("", "scale"):
        return faults + strategy.validate_update(new, old)
    return faults + strategy.validate_subresource_update(request.subresource, new, old)


def _kept_metadata(new: ObjectMeta, old: ObjectMeta) -> ObjectMeta:
    """What the server alone decides stays as it was."""
    return replace(
        new,
        uid=old.uid,
        creation_timestamp=old.creation_timestamp,
        deletion_timestamp=old.deletion_timestamp,
        deletion_grace_period_seconds=old.deletion_grace_period_seconds,
        generation=old.generation,
        generate_name=new.generate_name or old.generate_name,
        self_link=None,
        resource_version=old.resource_version,
    )


def new_uid(bits: int) -> str:
    """A random UUID (version 4) of 128 random bits."""
    digits = f"{bits & _UUID_RANDOM | _UUID_VERSION_4:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def is_finished(obj: Any) -> bool:
    """Whether an object that is being deleted has nothing left to wait for."""
    metadata: ObjectMeta = obj.metadata
    if not metadata.deletion_timestamp or metadata.finalizers or metadata.deletion_grace_period_seconds:
        return False
    spec = getattr(obj, "spec", None)
    return isinstance(obj, CustomObject) or not getattr(spec, "finalizers", ())


def is_dry_run(request: Request) -> bool:
    """Whether nothing is to be stored."""
    return bool(request.options.get("dryRun"))
