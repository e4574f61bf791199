"""Serves what CustomResourceDefinitions declare, while the server runs.

Each definition goes through: its names are accepted, unless another of its group has them; it is established; its versions
are served; and when it is deleted, its objects go first. What to say of a definition is a plain function of it and of the
others (``status_of``); the loop around it writes that down, and serves what is established.

A change of the spec takes the resource down and puts it up again in one step: its watches end, and clients begin anew, as
upstream; no request in between finds nothing.

Source: apiextensions-apiserver pkg/controller/{status,establish,finalizer,apiapproval}, pkg/apiserver/customresource_handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from kaa.api.clock import format_time
from kaa.api.custom import CustomObject, from_document
from kaa.api.errors import ApiError, Conflict, NotFound, ServiceUnavailable
from kaa.api.resources import Resource, Subresource
from kaa.api.selectors import EVERYTHING
from kaa.api.types.apiextensions_v1 import (
    CustomResourceDefinition,
    CustomResourceDefinitionCondition,
    CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec,
    CustomResourceDefinitionStatus,
    CustomResourceDefinitionVersion,
)
from kaa.client.client import Client
from kaa.store.base import KeyValue, RevisionMismatch

from .. import keys
from ..discovery import Discovery
from ..entries import stored_bytes
from ..openapi import OpenAPI
from ..openapi.documents import CustomSchema
from ..pipeline import ApiServer
from ..registry import Strategies
from ..registry.apiextensions.customresourcedefinitions import (
    APPROVED,
    CLEANUP_FINALIZER,
    TERMINATING,
    approval_of,
    with_condition,
)
from ..watchers import Watcher
from ..webhooks.call import Caller
from .conversion import Conversion
from .strategy import CustomStrategy, schema_text

log = structlog.get_logger(__name__)

VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")
RETRY_S = 1.0
GATHER_TRIES = 20  # times that objects are read, until none has changed meanwhile
WRITE_S = 0.005  # about what a write takes
_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


@dataclass
class _Serving:
    """What is served of one definition. ``rows`` are the versions; the first of ``all`` is the one that is stored."""

    spec: CustomResourceDefinitionSpec
    names: CustomResourceDefinitionNames
    stored: Resource[Any]
    rows: list[Resource[Any]] = field(default_factory=list)
    #: what OpenAPI is told of it: made once, for each change of any definition tells of all
    schemas: list[CustomSchema] = field(default_factory=list)


class Definitions:
    """``start`` serves what is established already; ``run`` follows the definitions until cancelled."""

    def __init__(
        self,
        api: ApiServer,
        client: Client,
        strategies: Strategies,
        discovery: Discovery,
        openapi: OpenAPI,
    ) -> None:
        self._api, self._client, self._strategies = api, client, strategies
        self._discovery, self._openapi = discovery, openapi
        self._cacher, self._clock = api.cacher, api.clock
        self._serving: dict[str, _Serving] = {}
        self._switching = asyncio.Lock()  # one at a time: what failed is tried again beside what follows
        self._finishing: set[str] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._watcher = Watcher("", EVERYTHING, ())
        self._caller = Caller(api.cacher)

    async def start(self) -> None:
        """Before the server listens: what was served in its last life is served from the first request on."""
        self._cacher.of(CustomResourceDefinition).watchers.add(self._watcher)
        for definition in list(self._cacher.list(CustomResourceDefinition)):
            if is_established(definition):
                await self._serve_surely(definition)
        self._publish()

    def close(self) -> None:
        """Let go of the connections to webhooks that convert."""
        self._caller.close()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for definition in list(self._cacher.list(CustomResourceDefinition)):
                await self._settle_surely(definition.metadata.name or "")
            while True:
                await self._watcher.wait()
                names = dict.fromkeys(entry.key for _, entry, _ in self._watcher.changes)
                self._watcher.changes.clear()
                for name in names:
                    await self._settle_surely(name)

    async def _settle_surely(self, name: str) -> None:
        try:
            await self._settle(name)
        except Conflict:
            return  # it is another now: its event comes
        except Exception as err:  # one definition's fault is not the others'
            log.warning("definition not settled", name=name, error=repr(err))
            assert self._tasks is not None
            self._tasks.create_task(self._again(name), name=f"definitions/{name}")

    async def _again(self, name: str) -> None:
        await self._clock.sleep(RETRY_S)
        await self._settle_surely(name)

    async def _settle(self, name: str) -> None:
        definition = self._cacher.get(CustomResourceDefinition, name)
        if definition is None:
            if self._stop(name):
                self._publish()
                await self._others(name)
            return
        wanted = status_of(definition, self._cacher.list(CustomResourceDefinition), format_time(self._clock.now()))
        if wanted != definition.status:
            definition = await self._client.update_status(replace(definition, status=wanted))
        if is_established(definition) and await self._serve(definition):
            self._publish()
            await self._others(name)
        if definition.metadata.deletion_timestamp and CLEANUP_FINALIZER in definition.metadata.finalizers:
            self._finish_soon(definition)

    async def _others(self, name: str) -> None:
        """Names that were taken or given back concern the rest of the group."""
        group = name.partition(".")[2]
        for other in list(self._cacher.list(CustomResourceDefinition)):
            known = other.metadata.name or ""
            if known != name and other.spec.group == group and not _true(other, "NamesAccepted"):
                await self._settle_surely(known)

    # ------------------------------------------------------------------------------------------------ serving

    async def _serve_surely(self, definition: CustomResourceDefinition) -> None:
        try:
            await self._serve(definition)
        except Exception as err:  # ``run`` tries again; the server starts without it
            log.warning("definition not served", name=definition.metadata.name, error=repr(err))

    async def _serve(self, definition: CustomResourceDefinition) -> bool:
        """Serve what a definition says; False when it is served so already, or says something else by now."""
        async with self._switching:
            newest = self._cacher.get(CustomResourceDefinition, definition.metadata.name or "")
            return newest is not None and newest.spec == definition.spec and await self._switch(definition)

    async def _switch(self, definition: CustomResourceDefinition) -> bool:
        name = definition.metadata.name or ""
        assert definition.status is not None
        held = self._serving.get(name)
        if held is not None and held.spec == definition.spec and held.names == definition.status.accepted_names:
            return False
        made = serving_of(definition)
        conversion = self._conversion_of(definition)
        page, moved = await self._gather(made.stored, conversion, None if held is None else held.stored)
        self._stop(name)  # from here on nothing awaits: a request meets the one or the other, and never neither
        if conversion is not None:
            self._api.conversions[made.stored.group, made.stored.plural] = conversion
        for version in definition.spec.versions:
            row = next((row for row in (made.stored, *made.rows) if row.version == version.name), None)
            if row is not None:
                self._strategies[row] = CustomStrategy(row, definition, version)
        self._cacher.serve(made.stored)
        self._cacher.take(made.stored, [moved.get(kv.key, kv) for kv in page])
        for row in made.rows:
            self._api.custom[row.group, row.version, row.plural] = row
        self._serving[name] = made
        for kv in moved.values():
            with contextlib.suppress(RevisionMismatch):
                await self._api.store.put(kv.key, kv.value, expected=kv.mod_revision)
        return True

    async def _gather(
        self, stored: Resource[Any], conversion: Conversion | None, held: Resource[Any] | None
    ) -> tuple[Sequence[KeyValue], dict[str, KeyValue]]:
        """What the store holds of a resource now, and by key what of it another version has written, in today's.

        Raises ApiError: the webhook does not convert; or the objects change faster than they are read.
        """
        moved: dict[str, KeyValue] = {}
        for _ in range(GATHER_TRIES):
            page = await self._api.store.range(keys.prefix(stored))
            await self._cacher.reach(page.revision)
            cache = None if held is None else self._cacher.of(held)
            if (self._cacher.revision if cache is None else cache.changed) > page.revision:
                continue
            moved = {
                kv.key: done
                for kv in page.items
                if (done := moved.get(kv.key)) and done.mod_revision == kv.mod_revision
            }
            left = _of_others(stored, page.items, moved) if conversion is not None else []
            if conversion is None or not left:
                if cache is None or not cache.writing:  # else it would be stored in the version of before
                    return page.items, moved
                await self._clock.sleep(WRITE_S)
                continue
            converted = await conversion.convert([obj for _, obj in left], stored.api_version)
            for (kv, _), obj in zip(left, converted, strict=True):
                moved[kv.key] = dataclasses.replace(kv, value=stored_bytes(stored, obj))
        raise ServiceUnavailable(f"{stored.group_resource} change faster than they are read")

    def _conversion_of(self, definition: CustomResourceDefinition) -> Conversion | None:
        given = definition.spec.conversion
        if given is None or given.strategy != "Webhook" or given.webhook is None:
            return None
        return Conversion(self._caller, given.webhook, self._clock)

    def _stop(self, name: str) -> bool:
        held = self._serving.pop(name, None)
        if held is None:
            return False
        for row in held.rows:
            self._api.custom.pop((row.group, row.version, row.plural), None)
        self._api.conversions.pop((held.stored.group, held.stored.plural), None)
        self._cacher.drop(held.stored)
        for row in (held.stored, *held.rows):
            self._strategies.pop(row)
        return True

    def _publish(self) -> None:
        """Have discovery and OpenAPI speak of what is served now."""
        rows = [row for one in self._serving.values() for row in one.rows]
        versions: dict[str, list[str]] = {}
        for row in rows:
            versions.setdefault(row.group, []).append(row.version)
        ordered = {group: tuple(sorted(set(found), key=version_rank)) for group, found in versions.items()}
        self._discovery.serve(sorted(rows, key=lambda row: row.plural), ordered)
        self._openapi.serve(schema for one in self._serving.values() for schema in one.schemas)

    # ------------------------------------------------------------------------------------------------ ending

    def _finish_soon(self, definition: CustomResourceDefinition) -> None:
        name = definition.metadata.name or ""
        serving = self._serving.get(name)
        for row in (serving.stored, *serving.rows) if serving is not None else ():
            strategy = self._strategies[row]
            if isinstance(strategy, CustomStrategy):
                strategy.terminating = True
        if name not in self._finishing and self._tasks is not None:
            self._finishing.add(name)
            self._tasks.create_task(self._finish(name), name=f"definitions/finish/{name}")

    async def _finish(self, name: str) -> None:
        """Delete the objects, wait until they are gone, and let the definition go."""
        try:
            while (definition := self._cacher.get(CustomResourceDefinition, name)) is not None:
                try:
                    if await self._finished(definition):
                        return
                except ApiError as err:
                    log.warning("definition not finished", name=name, error=str(err))
                await self._clock.sleep(RETRY_S)
        finally:
            self._finishing.discard(name)

    async def _finished(self, definition: CustomResourceDefinition) -> bool:
        serving = self._serving.get(definition.metadata.name or "")
        if serving is not None:
            await self._delete_objects(serving.stored)
            if self._cacher.of(serving.stored).entries:
                return False
        newest = await self._client.get(CustomResourceDefinition, definition.metadata.name or "")
        kept = tuple(one for one in newest.metadata.finalizers if one != CLEANUP_FINALIZER)
        await self._client.update(replace(newest, metadata=replace(newest.metadata, finalizers=kept)))
        return True

    async def _delete_objects(self, stored: Resource[Any]) -> None:
        for key in list(self._cacher.of(stored).entries):
            namespace, _, name = key.rpartition("/")
            try:
                await self._client.delete(stored, name, namespace or None)
            except NotFound:
                continue


# ------------------------------------------------------------------------------------------------------------- rows


def _of_others(
    stored: Resource[Any], found: Iterable[KeyValue], moved: Container[str]
) -> list[tuple[KeyValue, CustomObject]]:
    """What was written in another version than the one that is stored today, and has not been moved."""
    objects = ((kv, from_document(msgspec.json.decode(kv.value))) for kv in found if kv.key not in moved)
    return [(kv, obj) for kv, obj in objects if obj.api_version != stored.api_version]


def serving_of(definition: CustomResourceDefinition) -> _Serving:
    """The rows of a definition: one that is stored, and one a served version."""
    assert definition.status is not None
    stored = next(version for version in definition.spec.versions if version.storage)
    row = row_of(definition, stored)
    made = _Serving(definition.spec, definition.status.accepted_names, row)
    for version in definition.spec.versions:
        if version.served:
            made.rows.append(row if version is stored else row_of(definition, version, row))
            made.schemas.append(CustomSchema(made.rows[-1], schema_text(version)))
    return made


def row_of(
    definition: CustomResourceDefinition, version: CustomResourceDefinitionVersion, stored: Resource[Any] | None = None
) -> Resource[Any]:
    assert definition.status is not None
    names, subresources = definition.status.accepted_names, version.subresources
    subs: list[Subresource] = []
    if subresources is not None and subresources.scale is not None:
        subs.append(Subresource("scale", "Scale", group="autoscaling", version="v1"))
    if subresources is not None and subresources.status is not None:
        subs.append(Subresource("status", names.kind))
    return Resource(
        definition.spec.group,
        version.name,
        names.plural,
        names.kind,
        definition.spec.scope == "Namespaced",
        names.singular or names.kind.lower(),
        names.short_names,
        names.categories,
        VERBS,
        tuple(subs),
        custom=True,
        stored_as=stored,
    )


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Stable before beta before alpha, the newer first; other names last. Source: apimachinery pkg/version."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return (3, 0, 0, version)
    stage = {"": 0, "beta": 1, "alpha": 2}[found[2] or ""]
    return (stage, -int(found[1]), -int(found[3] or 0), version)


# ----------------------------------------------------------------------------------------------------------- status


def is_established(definition: CustomResourceDefinition) -> bool:
    return _true(definition, "Established")


def _true(definition: CustomResourceDefinition, type: str) -> bool:
    conditions = definition.status.conditions if definition.status is not None else None
    return any(one.type == type and one.status == "True" for one in conditions or ())


def status_of(
    definition: CustomResourceDefinition, all: Iterable[CustomResourceDefinition], now: str
) -> CustomResourceDefinitionStatus:
    """What a definition's status should say, given the others of its group. ``now`` is the time of what changes."""
    status = definition.status or CustomResourceDefinitionStatus(
        accepted_names=CustomResourceDefinitionNames(kind="", plural="")
    )
    if definition.metadata.deletion_timestamp:
        text = "CustomResource deletion is in progress"
        status = with_condition(status, _condition(TERMINATING, True, "InstanceDeletionInProgress", text), now)
    others = [
        one.status.accepted_names
        for one in all
        if one.spec.group == definition.spec.group
        and one.metadata.name != definition.metadata.name
        and one.status is not None
    ]
    accepted, conflict = accepted_names(definition.spec.names, status.accepted_names, others)
    status = replace(status, accepted_names=accepted)
    named = conflict or _condition("NamesAccepted", True, "NoConflicts", "no conflicts found")
    status = with_condition(status, named, now)
    if conflict is None:
        made = _condition("Established", True, "InitialNamesAccepted", "the initial names have been accepted")
        if not _true(replace(definition, status=status), "Established"):
            status = with_condition(status, made, now)
    elif not _true(replace(definition, status=status), "Established"):
        refused = _condition("Established", False, "NotAccepted", "not all names are accepted")
        status = with_condition(status, refused, now)
    approval = _approval(definition)
    return with_condition(status, approval, now) if approval is not None else status


def _condition(type: str, true: bool, reason: str, message: str) -> CustomResourceDefinitionCondition:
    word = "True" if true else "False"
    return CustomResourceDefinitionCondition(type=type, status=word, reason=reason, message=message)


def _approval(definition: CustomResourceDefinition) -> CustomResourceDefinitionCondition | None:
    """Groups of Kubernetes' own need its word."""
    reason, text = approval_of(definition)
    return _condition("KubernetesAPIApprovalPolicyConformant", reason == APPROVED, reason, text) if reason else None


def accepted_names(
    wanted: CustomResourceDefinitionNames,
    held: CustomResourceDefinitionNames,
    others: Sequence[CustomResourceDefinitionNames],
) -> tuple[CustomResourceDefinitionNames, CustomResourceDefinitionCondition | None]:
    """The names that a definition may have, and the condition that says which it may not."""
    taken = {name for one in others for name in (one.plural, one.singular, *one.short_names) if name}
    kinds = {name for one in others for name in (one.kind, one.list_kind) if name}
    accepted, refused = held, None
    for attribute, reason, used in (
        ("plural", "PluralConflict", taken),
        ("singular", "SingularConflict", taken),
        ("short_names", "ShortNamesConflict", taken),
        ("kind", "KindConflict", kinds),
        ("list_kind", "ListKindConflict", kinds),
    ):
        asked, had = getattr(wanted, attribute), getattr(held, attribute)
        mine = had if isinstance(had, tuple) else (had,)
        clash = [
            name for name in (asked if isinstance(asked, tuple) else (asked,)) if name in used and name not in mine
        ]
        if clash:
            words = list(dict.fromkeys(f'"{name}" is already in use' for name in clash))
            text = words[0] if len(words) == 1 else f"[{', '.join(words)}]"
            refused = _condition("NamesAccepted", False, reason, text)  # the last conflict is the one that is told
        else:
            accepted = replace(accepted, **{attribute: asked})
    return replace(accepted, categories=wanted.categories), refused
