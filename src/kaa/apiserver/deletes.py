"""DELETE: at once, after a grace period, or once the finalizers are done.

Source: API concepts, "Garbage collection", "Finalizers"; the decision table is apiserver pkg/registry/rest/delete.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from kaa.api.clock import format_time
from kaa.api.errors import BadRequest, Conflict, Invalid, NotFound
from kaa.api.fields import FieldError, Path, invalid, not_supported
from kaa.api.resources import Resource
from kaa.api.scheme import DecodeError, convert
from kaa.api.types.meta_v1 import DeleteOptions, ListMeta, ObjectMeta, Preconditions, Status, StatusDetails
from kaa.client.pipeline import Request
from kaa.store.base import RevisionMismatch

from .admission.base import Attributes, Chain
from .cacher import Cacher
from .entries import Entry, stored_bytes
from .queries import is_true, parse_int64
from .reads import Reader, parse_limit
from .writes import RETRIES, Writer, is_finished

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
END_OF_TIME = 253_402_300_799.0  # seconds since 1970 of the last second that RFC 3339 can write
POLICIES = ("Background", "Foreground", "Orphan")


@dataclass(slots=True)
class Deleted:
    """What came of a deletion: the object that goes on being deleted (or was, for kinds that answer so), or a Status."""

    entry: Entry | None = None
    object: Any = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What one deletion does: remove now, or mark (``object`` is the marked one, None when it is marked already)."""

    remove: bool
    object: Any = None


def decide(obj: Any, options: DeleteOptions, grace_s: int, now: float) -> Decision:
    """Decide from the object, what was asked, and the grace that its kind gives (0: none)."""
    metadata: ObjectMeta = obj.metadata
    finalizers = finalizers_for(metadata.finalizers, options)
    if metadata.deletion_timestamp is not None:
        held = metadata.deletion_grace_period_seconds
        if held and grace_s < held:
            if grace_s > 0:
                return Decision(False, _marked(obj, finalizers, grace_s, now))
            return _final(obj, finalizers, now)
        if finalizers != metadata.finalizers:
            return Decision(False, replace(obj, metadata=replace(metadata, finalizers=finalizers)))
        waits = bool(finalizers or held or getattr(getattr(obj, "spec", None), "finalizers", ()))
        return Decision(not waits)
    if grace_s > 0:
        return Decision(False, _marked(obj, finalizers, grace_s, now))
    return _final(obj, finalizers, now)


def _final(obj: Any, finalizers: tuple[str, ...], now: float) -> Decision:
    marked = _marked(obj, finalizers, 0, now)
    return Decision(True, marked) if is_finished(marked) else Decision(False, marked)


def _marked(obj: Any, finalizers: tuple[str, ...], grace_s: int, now: float) -> Any:
    metadata: ObjectMeta = obj.metadata
    return replace(
        obj,
        metadata=replace(
            metadata,
            finalizers=finalizers,
            deletion_timestamp=format_time(min(now + grace_s, END_OF_TIME)),
            deletion_grace_period_seconds=grace_s,
            generation=metadata.generation + 1 if metadata.generation else metadata.generation,
        ),
    )


def finalizers_for(finalizers: tuple[str, ...], options: DeleteOptions) -> tuple[str, ...]:
    """The finalizers that a propagation policy leaves an object with."""
    policy = options.propagation_policy
    if options.orphan_dependents is not None:
        policy = "Orphan" if options.orphan_dependents else "Background"
    if policy is None:
        return finalizers
    rest = tuple(word for word in finalizers if word not in (ORPHAN, FOREGROUND))
    wanted = {"Orphan": ORPHAN, "Foreground": FOREGROUND}.get(policy)
    return (*rest, wanted) if wanted else rest


class Deleter:
    def __init__(self, cacher: Cacher, reader: Reader, writer: Writer, admission: Chain) -> None:
        self._cacher, self._reader, self._writer, self._admission = cacher, reader, writer, admission

    async def delete(self, request: Request) -> Deleted:
        options = read_options(request)
        for _ in range(RETRIES):
            entry = self._reader.find(request.resource, request.namespace, request.name)
            warnings: list[str] = []
            try:
                deleted = await self._delete_once(request, entry, options, warnings)
            except RevisionMismatch as err:
                if err.current is None:
                    raise NotFound.of(request.resource, request.name) from None
                await self._cacher.reach(err.current.mod_revision)
                continue
            deleted.warnings = warnings
            return deleted
        raise Conflict.of(request.resource, request.name)

    async def _delete_once(
        self, request: Request, entry: Entry, options: DeleteOptions, warnings: list[str]
    ) -> Deleted:
        resource = request.resource
        obj = entry.object()
        check_preconditions(resource, obj, options)
        attributes = Attributes(request, "DELETE", None, obj, bool(options.dry_run), warnings)
        await self._admission.admit(attributes, self._cacher)
        await self._admission.validate(attributes, self._cacher)
        strategy = self._writer.strategy_for(resource)
        if strategy.deletion_finalizers and obj.metadata.deletion_timestamp is None:
            finalizers = tuple(dict.fromkeys((*obj.metadata.finalizers, *strategy.deletion_finalizers)))
            obj = replace(obj, metadata=replace(obj.metadata, finalizers=finalizers))
        asked = options.grace_period_seconds
        decision = decide(obj, options, strategy.grace_s(obj, asked), self._cacher.clock.now())
        if decision.remove:
            if not options.dry_run:
                await self._cacher.remove(resource, entry.key, entry.revision)
            shown = decision.object or obj
            return Deleted(object=shown if resource.answers_deletion_with_object else _success(resource, shown))
        if decision.object is None:
            return Deleted(entry)
        marked = strategy.prepare_deletion(decision.object)
        if options.dry_run:
            return Deleted(object=marked)
        data = stored_bytes(resource, marked)
        return Deleted(await self._cacher.put(resource, entry.key, marked, data, entry.revision))

    async def delete_collection(self, request: Request) -> list[Entry]:
        """Delete what a list would show; answers with what it was."""
        read_options(request)
        selection = self._reader.selection(request)
        cache = self._cacher.of(request.resource)
        entries = cache.select(selection.namespace, selection.labels, selection.fields)
        limit = parse_limit(request.options.get("limit", ""))
        if limit:
            entries = entries[:limit]
        for entry in entries:
            namespace, _, name = entry.key.rpartition("/")
            one = Request(
                user=request.user,
                verb="delete",
                resource=request.resource,
                namespace=namespace,
                name=name,
                body=request.body,
                content_type=request.content_type,
                options=request.options,
                user_agent=request.user_agent,
                asked=request.asked,
                note=request.note,
            )
            try:
                await self.delete(one)
            except NotFound:
                continue
        return entries


def _success(resource: Resource[Any], obj: Any) -> Status:
    details = StatusDetails(
        name=obj.metadata.name, group=resource.group or None, kind=resource.plural, uid=obj.metadata.uid
    )
    return Status(metadata=ListMeta(), status="Success", details=details)


def check_preconditions(resource: Resource[Any], obj: Any, options: DeleteOptions) -> None:
    wanted = options.preconditions
    if wanted is None:
        return
    metadata: ObjectMeta = obj.metadata
    problem = ""
    if wanted.uid and wanted.uid != metadata.uid:
        problem = f"the UID in the precondition ({wanted.uid}) does not match the UID in record ({metadata.uid})."
    elif wanted.resource_version and wanted.resource_version != metadata.resource_version:
        problem = (
            f"the ResourceVersion in the precondition ({wanted.resource_version}) does not match the ResourceVersion in"
            f" record ({metadata.resource_version})."
        )
    if problem:
        message = (
            f'Operation cannot be fulfilled on {resource.kind} "{metadata.name}": {problem}'
            " The object might have been modified"
        )
        raise Conflict(message, name=metadata.name or "", group=resource.group, kind=resource.kind)


def read_options(request: Request) -> DeleteOptions:
    """DeleteOptions from the body or, where there is none, from the query. Raises Invalid, BadRequest."""
    body = request.body
    if isinstance(body, DeleteOptions):
        options = body
    elif body:
        from .bodies import plain_document  # only deletions with a body read one

        document = plain_document(bytes(body), request.content_type, "DeleteOptions")
        _check_kind(document)
        try:
            options = convert(DeleteOptions, document)
        except DecodeError as err:
            raise BadRequest(str(err)) from None
    else:
        options = _from_query(request)
    asked = request.options.get("dryRun")
    if asked and not options.dry_run:
        options = replace(options, dry_run=(asked,))
    _check_options(options)
    return options


def _check_kind(document: Any) -> None:
    """A body says that it is DeleteOptions, of whatever group, or does not say what it is."""
    if not isinstance(document, dict):
        raise BadRequest("couldn't get version/kind; json parse error: the body is no object")
    kind, version = document.get("kind") or "DeleteOptions", document.get("apiVersion") or "meta.k8s.io/v1"
    if kind != "DeleteOptions":
        raise BadRequest(
            f'no kind "{kind}" is registered for version "{version}" in scheme'
            ' "pkg/apis/meta/internalversion/scheme/register.go:34"'
        )


def _from_query(request: Request) -> DeleteOptions:
    query = request.options
    grace, uid, version = query.get("gracePeriodSeconds"), query.get("uid"), query.get("resourceVersion")
    return DeleteOptions(
        grace_period_seconds=None if grace is None else parse_int64(grace),
        orphan_dependents=is_true(query, "orphanDependents") if "orphanDependents" in query else None,
        propagation_policy=query.get("propagationPolicy"),
        preconditions=Preconditions(uid=uid or None, resource_version=version or None) if uid or version else None,
    )


def _check_options(options: DeleteOptions) -> None:
    faults: list[FieldError] = []
    policy = options.propagation_policy
    path = Path("propagationPolicy")
    if policy is not None and options.orphan_dependents is not None:
        faults.append(invalid(path, policy, "orphanDependents and deletionPropagation cannot be both set"))
    elif policy is not None and policy not in POLICIES:
        faults.append(not_supported(path, policy, [*POLICIES, "nil"]))
    if any(word != "All" for word in options.dry_run):
        faults.append(not_supported(Path("dryRun"), list(options.dry_run), ["All"]))
    if faults:
        raise Invalid.of("meta.k8s.io", "DeleteOptions", "", faults)
