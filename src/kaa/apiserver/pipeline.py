"""One pipeline for every transport: who may, then the verb, then an outcome that is not yet bytes.

``ApiServer`` puts the readers and writers together. The HTTP front and the in-process client both end here, so that a
component in this process is held to the same authorization and admission as one across the network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from kaa.api.clock import Clock
from kaa.api.custom import CustomObject
from kaa.api.errors import ApiError, MethodNotAllowed, NotFound
from kaa.api.resources import Resource
from kaa.api.scheme import encode_inner
from kaa.api.selectors import SelectorError, parse_fields
from kaa.api.types.autoscaling_v1 import Scale
from kaa.api.types.core_v1 import ComponentCondition, ComponentStatus
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.client import WatchEvent, WatchType
from kaa.client.pipeline import Answer, Request, User
from kaa.store.base import Revision, Store

from . import bodies, keys, queries
from .admission.base import Chain
from .authz.base import Authorizer, Decision, Question
from .authz.forbidden import forbidden
from .cacher import Cacher
from .deletes import Deleter
from .entries import Entry, shown_as
from .patches import Patcher
from .reads import ListResult, Reader, Watch
from .registry.conversion import convert
from .registry.scale import checked
from .registry.strategy import Strategy
from .serving import Serving
from .writes import Writer, Written


@dataclass(slots=True)
class Outcome:
    """What a request came to: one entry, one object that is not cached, or a listing."""

    code: int
    entry: Entry | None = None
    object: Any = None
    listing: ListResult | None = None
    warnings: Sequence[str] = ()


#: Answers a create that stores nothing of its own: reviews, tokens, bindings, evictions. (request, body) -> outcome
Virtual = Callable[[Request, Any], Awaitable[Outcome]]


class Conversion(Protocol):
    """Turns objects of a custom resource into another of its versions."""

    async def convert(self, objects: Sequence[CustomObject], api_version: str) -> list[CustomObject]: ...


class Elsewhere(Protocol):
    """What answers for resources and paths that other servers keep."""

    async def call(self, request: Request) -> Answer: ...

    def watch(self, request: Request) -> AsyncIterator[WatchEvent[Any]]: ...

    async def raw(self, user: User, method: str, path: str, body: bytes, content_type: str) -> bytes: ...


class ApiServer:
    """The API server's inside. ``run`` keeps the caches true; ``perform`` answers what is already authorized."""

    def __init__(
        self,
        store: Store,
        cacher: Cacher,
        authorizer: Authorizer,
        admission: Chain,
        strategy_for: Callable[[Resource[Any]], Strategy[Any]],
        serving: Serving | None = None,
    ) -> None:
        self.serving = serving or Serving()
        self.store, self.cacher, self.authorizer = store, cacher, authorizer
        self.admission, self.strategy_for = admission, strategy_for
        self.clock: Clock = cacher.clock
        self.reader = Reader(cacher, store, self.clock)
        self.writer = Writer(cacher, admission, strategy_for)
        self.deleter = Deleter(cacher, self.reader, self.writer, admission)
        self.patcher = Patcher(self.writer)
        #: {(group, plural, subresource): what a POST there does}
        self.virtual: dict[tuple[str, str, str], Virtual] = {}
        #: {(group, version, plural): resource} of what is served beside the built-in resources
        self.custom: dict[tuple[str, str, str], Resource[Any]] = {}
        #: {(group, plural): the webhook that turns its objects from one version into another}
        self.conversions: dict[tuple[str, str], Conversion] = {}
        #: What ComponentStatus looks at: {component: what is wrong with it, empty for nothing}
        self.component_checks: dict[str, Callable[[], Awaitable[str]]] = {}
        #: Paths that are no resource: {path: answer}, for both transports
        self.raw_paths: dict[str, Callable[[User], bytes]] = {}
        self.elsewhere: Elsewhere | None = None

    def find(self, group: str, version: str, plural: str) -> Resource[Any] | None:
        return self.serving.by_path.get((group, version, plural)) or self.custom.get((group, version, plural))

    def served(self) -> set[tuple[str, str]]:
        """Every (group, version) that is served."""
        return {*self.serving.versions, *((group, version) for group, version, _ in self.custom)}

    # ------------------------------------------------------------------------------------------------ authorization

    def authorize(self, request: Request) -> None:
        """Raise Forbidden unless the user may."""
        resource = request.resource
        options = request.options
        fields = options.get("fieldSelector", "") if options else ""
        question = Question(
            request.user,
            request.verb,
            resource.group,
            resource.version,
            resource.plural,
            request.subresource,
            request.namespace,
            request.name or (named_by(fields) if fields else ""),
            label_selector=options.get("labelSelector", "") if options else "",
            field_selector=fields,
        )
        self.allow(question, resource)

    def allow(self, question: Question, resource: Resource[Any] | None = None) -> None:
        decision, reason = self.authorizer.authorize(question, self.cacher)
        if decision is not Decision.ALLOW:
            raise forbidden(question, reason)

    # ------------------------------------------------------------------------------------------------ verbs

    def perform(self, request: Request) -> Outcome | Awaitable[Outcome]:
        """Answer an authorized request. Reads that need not wait are answered at once, without an await."""
        resource = request.resource
        if request.options or request.verb == "patch":
            queries.check(request)
        if keys.storage_resource(resource) is not resource:
            return self._perform_converted(request)
        if resource.plural == "componentstatuses":
            return self._component_statuses(request)
        return self._perform(request)

    def _perform(self, request: Request) -> Outcome | Awaitable[Outcome]:
        match request.verb:
            case "get":
                return self._get(request)
            case "list":
                found = self.reader.list(request)
                return Outcome(200, listing=found) if isinstance(found, ListResult) else _listed(found)
            case "create":
                return self._create(request)
            case "update":
                return self._update(request)
            case "patch":
                return self._patch(request)
            case "delete":
                return self._delete(request)
            case "deletecollection":
                return self._delete_collection(request)
        raise method_not_allowed()

    async def _perform_converted(self, request: Request) -> Outcome:
        """A resource that is another view of stored objects: the stored version is read or written, then converted."""
        shown, stored = request.resource, keys.storage_resource(request.resource)
        inner = replace(request, resource=stored, asked=shown)
        if request.subresource == "scale":
            made = self._perform(inner)
            return made if isinstance(made, Outcome) else await made
        if request.verb in ("create", "update"):
            body = bodies.read(request, shown, unknown=self.strategy_for(shown).unknown_fields)
            inner.body = await self.across(body.object, stored)
        elif request.verb == "patch":
            remote = self._conversion(shown) is not None
            through: Callable[[Any, Resource[Any]], Any] = self.across if remote else convert
            outcome = await self._outcome(
                await self.patcher.patch(
                    inner,
                    shown,
                    convert_in=lambda obj: through(obj, shown),
                    convert_out=lambda obj: through(obj, stored),
                    remote=remote,
                )
            )
            return await self._shown(outcome, shown)
        made = self._perform(inner)
        return await self._shown(made if isinstance(made, Outcome) else await made, shown)

    def _conversion(self, resource: Resource[Any]) -> Conversion | None:
        """The webhook that converts a custom resource; None where versions differ in name alone."""
        return self.conversions.get((resource.group, resource.plural)) if resource.custom else None

    async def across(self, obj: Any, resource: Resource[Any]) -> Any:
        """An object as another version shows it."""
        conversion = self._conversion(resource)
        if conversion is None:
            return convert(obj, resource)
        return (await conversion.convert([obj], resource.api_version))[0]

    async def entries_across(self, entries: Sequence[Entry], resource: Resource[Any]) -> list[Entry]:
        """Entries as another version shows them; a webhook is asked once for all."""
        conversion = self._conversion(resource)
        if conversion is None:
            return [converted_entry(entry, resource) for entry in entries]
        objects = await conversion.convert([entry.object() for entry in entries], resource.api_version)
        return [shown_as(entry, resource, obj) for entry, obj in zip(entries, objects, strict=True)]

    async def _shown(self, outcome: Outcome, resource: Resource[Any]) -> Outcome:
        cache = self.cacher.of(resource)
        if outcome.entry is not None:
            return replace(outcome, entry=(await self.entries_across([outcome.entry], resource))[0])
        if outcome.listing is not None:
            entries = await self.entries_across(outcome.listing.entries, resource)
            return replace(outcome, listing=replace(outcome.listing, entries=entries))
        if isinstance(outcome.object, CustomObject if resource.custom else cache.resource.type):
            return replace(outcome, object=await self.across(outcome.object, resource))
        return outcome

    async def _component_statuses(self, request: Request) -> Outcome:
        """The deprecated report on the control plane: each component is looked at when it is asked for."""
        resource = request.resource
        if request.verb == "list":
            checks = sorted(self.component_checks.items())
            entries = [_component(resource, name, await check()) for name, check in checks]
            return Outcome(200, listing=ListResult(entries, Revision(0)))
        if request.verb != "get":
            raise method_not_allowed()
        check = self.component_checks.get(request.name)
        if check is None:
            raise NotFound.of(resource, request.name)
        return Outcome(200, _component(resource, request.name, await check()))

    def _get(self, request: Request) -> Outcome | Awaitable[Outcome]:
        if request.subresource == "scale":
            return self._get_scale(request)
        if request.subresource and not _is_view(request):
            raise method_not_allowed()
        found = self.reader.get(request)
        return Outcome(200, found) if isinstance(found, Entry) else _got(found)

    async def _get_scale(self, request: Request) -> Outcome:
        found = self.reader.get(request)
        entry = found if isinstance(found, Entry) else await found
        return Outcome(200, object=self.strategy_for(entry.resource).scale(entry.object()))

    async def _create(self, request: Request) -> Outcome:
        resource = request.resource
        virtual = self.virtual.get((resource.group, resource.plural, request.subresource))
        if virtual is not None:
            kind = _body_type(request)
            return await virtual(request, bodies.read(request, resource, kind).object)
        if request.subresource or request.name:
            raise method_not_allowed()
        body = bodies.read(request, resource, unknown=self.strategy_for(resource).unknown_fields)
        return await self._outcome(await self.writer.create(request, body.object, body.warnings))

    async def _update(self, request: Request) -> Outcome:
        if request.subresource == "scale":
            return await self._update_scale(request)
        if request.subresource and not _is_view(request):
            raise method_not_allowed()
        body = bodies.read(request, request.resource, unknown=self.strategy_for(request.resource).unknown_fields)
        return await self._outcome(await self.writer.update(request, body.object, body.warnings))

    async def _update_scale(self, request: Request) -> Outcome:
        strategy = self.strategy_for(request.resource)
        scale = bodies.read(request, request.resource, Scale).object
        written = await self.writer.change(
            request, lambda old: strategy.scaled(old, checked(scale)), expected=scale.metadata.resource_version or ""
        )
        return Outcome(200, object=strategy.scale(written.entry.object() if written.entry else written.object))

    async def _patch(self, request: Request) -> Outcome:
        if request.subresource == "scale":
            written = await self.patcher.patch_scale(request)
            scaled = written.entry.object() if written.entry else written.object
            return Outcome(200, object=self.strategy_for(request.resource).scale(scaled))
        if request.subresource and not _is_view(request):
            raise method_not_allowed()
        return await self._outcome(await self.patcher.patch(request))

    async def _delete(self, request: Request) -> Outcome:
        if request.subresource:
            raise method_not_allowed()
        deleted = await self.deleter.delete(request)
        return Outcome(200, deleted.entry, deleted.object, warnings=deleted.warnings)

    async def _delete_collection(self, request: Request) -> Outcome:
        if "deletecollection" not in request.resource.verbs:
            raise method_not_allowed()
        entries = await self.deleter.delete_collection(request)
        return Outcome(200, listing=ListResult(entries, self.cacher.revision))

    async def _outcome(self, written: Written) -> Outcome:
        return Outcome(written.code, written.entry, written.object, warnings=written.warnings)

    # ------------------------------------------------------------------------------------------------ in process

    async def call(self, request: Request) -> Answer:
        """``client.pipeline.Pipeline.call``."""
        self.authorize(request)
        if self.elsewhere is not None and self._is_elsewhere(request.resource):
            return await self.elsewhere.call(request)
        request = self._of_what_is_served(request)
        made = self.perform(request)
        outcome = made if isinstance(made, Outcome) else await made
        if outcome.listing is not None:
            listing = outcome.listing
            return Answer(
                outcome.code,
                items=[entry.object() for entry in listing.entries],
                resource_version=str(listing.revision),
                continue_token=listing.continue_token,
                remaining=listing.remaining,
                warnings=tuple(outcome.warnings),
            )
        obj = outcome.entry.object() if outcome.entry is not None else outcome.object
        return Answer(outcome.code, object=obj, warnings=tuple(outcome.warnings))

    def watch(self, request: Request) -> AsyncIterator[WatchEvent[Any]]:
        """``client.pipeline.Pipeline.watch``."""
        self.authorize(request)
        if self.elsewhere is not None and self._is_elsewhere(request.resource):
            return self.elsewhere.watch(request)
        request = self._of_what_is_served(request)
        shown = request.resource
        request = replace(request, resource=keys.storage_resource(shown), asked=shown)
        return self._watched(self.reader.open_watch(request), shown)

    async def _watched(self, watch: Watch, shown: Resource[Any]) -> AsyncIterator[WatchEvent[Any]]:
        same = keys.storage_resource(shown) is shown
        steps = watch.steps()
        try:
            async for batch in steps:
                for type, entry, _ in batch:
                    if entry is None:
                        yield WatchEvent(WatchType.BOOKMARK, None, str(watch.revision))
                    else:
                        obj = entry.object() if same else await self.across(entry.object(), shown)
                        yield WatchEvent(type, obj, str(entry.revision))
        finally:
            await steps.aclose()  # type: ignore[attr-defined]  # it is a generator

    def _of_what_is_served(self, request: Request) -> Request:
        """The request, of the row that is served at its path.

        A client in this process made its row by itself, from a definition or from discovery, and may ask for what has
        never been served, or is no more, or is switched off: then NotFound is raised.
        """
        resource = request.resource
        if not resource.custom:
            if (resource.group, resource.version, resource.plural) not in self.serving.by_path:
                raise NotFound("the server could not find the requested resource")
            return request
        served = self.custom.get((resource.group, resource.version, resource.plural))
        if served is not None:
            return replace(request, resource=served)
        if not self.cacher.serves(resource):  # the version that is stored may be one that is not served
            raise NotFound("the server could not find the requested resource")
        return request

    async def raw(self, user: User, method: str, path: str, body: bytes, content_type: str) -> bytes:
        """``client.pipeline.Pipeline.raw``."""
        self.allow(Question(user, method.lower(), path=path))
        answer = self.raw_paths.get(path)
        if answer is not None:
            return answer(user)
        if self.elsewhere is not None:
            return await self.elsewhere.raw(user, method, path, body, content_type)
        raise NotFound("the server could not find the requested resource")

    def _is_elsewhere(self, resource: Resource[Any]) -> bool:
        if not resource.custom or (resource.group, resource.version, resource.plural) in self.custom:
            return False
        return not self.cacher.serves(resource)


def converted_entry(entry: Entry, resource: Resource[Any]) -> Entry:
    """An entry as another resource shows it."""
    obj = convert(entry.object(), resource)
    if resource.custom:  # the version stands in the head alone
        return Entry(resource, entry.key, entry.revision, entry.inner, entry.labels, entry.fields, obj)
    return Entry(resource, entry.key, entry.revision, encode_inner(obj)[1:], entry.labels, entry.fields, obj)


def _component(resource: Resource[Any], name: str, problem: str) -> Entry:
    status = "False" if problem else "True"
    found = ComponentCondition(type="Healthy", status=status, message=problem or "ok", error=problem or None)
    obj = ComponentStatus(metadata=ObjectMeta(name=name), conditions=(found,))
    entry = Entry(resource, name, Revision(0), encode_inner(obj)[1:], {}, {"metadata.name": name}, obj)
    entry.object(keep=True)
    return entry


def named_by(fields: str) -> str:
    """The one object that a field selector speaks of: a list or watch of ``metadata.name=x`` is authorized as of ``x``."""
    try:
        requirements = parse_fields(fields)
    except SelectorError:
        return ""  # the reader refuses it in its own words
    return next((r.value for r in requirements if r.field == "metadata.name" and r.equal), "")


_VIEWS = frozenset({"status", "ephemeralcontainers", "resize", "approval", "finalize"})


def _is_view(request: Request) -> bool:
    """Whether the subresource is the object itself, of which the verb changes only a part."""
    subresource = request.resource.subresource(request.subresource)
    return request.subresource in _VIEWS and subresource is not None


def _body_type(request: Request) -> type | None:
    """The Struct that a POST to a subresource carries; None: the resource's own."""
    if not request.subresource:
        return None
    subresource = request.resource.subresource(request.subresource)
    if subresource is None:
        raise NotFound("the server could not find the requested resource")
    from kaa.api.resources import struct_of

    resource = request.resource
    found: type = struct_of(
        subresource.group or ("" if subresource.version else resource.group),
        subresource.version or resource.version,
        subresource.kind,
    )
    return found


async def _got(found: Awaitable[Entry]) -> Outcome:
    return Outcome(200, await found)


async def _listed(found: Awaitable[ListResult]) -> Outcome:
    return Outcome(200, listing=await found)


def method_not_allowed() -> ApiError:
    error = MethodNotAllowed("the server does not allow this method on the requested resource")
    error.bare_details = True
    return error
