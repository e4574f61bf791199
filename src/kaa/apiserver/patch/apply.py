"""Server-side apply: a client says what it wants, and owns exactly that.

The idea: what was sent is merged into what stands; what this applier sent last time, sends no more, and nobody else owns
is removed; what others own may not change, unless forced. The result goes the way of any other update, and carries its
``managedFields`` with it.

Left to others: field sets and views (field_sets, type_view), merging documents (documents), plain updates
(managed_fields).
Source: apimachinery pkg/util/managedfields (apply, conflict, lastappliedmanager); structured-merge-diff merge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.clock import Clock, format_time
from kaa.api.custom import CustomObject
from kaa.api.errors import ApiError, BadRequest, Conflict, NotFound, Unclassified
from kaa.api.resources import Resource
from kaa.api.types.autoscaling_v1 import Scale
from kaa.api.types.meta_v1 import ManagedFieldsEntry, StatusCause
from kaa.client.pipeline import Request

from .. import bodies
from ..queries import is_true
from ..registry.scale import checked
from ..writes import Writer, Written
from .documents import WrongDocument, fields_of, merged, path_text, with_named, without
from .field_sets import FieldSet, difference, intersection, members, union, without_trees
from .managed_fields import (
    FIELDS_TYPE,
    differences,
    document_view,
    identity,
    in_order,
    nothing_of,
    released,
    resets_of,
    stripped,
)
from .type_view import Node

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
BEFORE_FIRST_APPLY = "before-first-apply"
MAX_ANNOTATIONS = 256 * 1024  # bytes

Json: TypeAlias = dict[str, Any]
Entries: TypeAlias = tuple[ManagedFieldsEntry, ...]
Convert: TypeAlias = Callable[[Any], Any]


def _same(obj: Any) -> Any:
    return obj


class Applier:
    """Answers apply patches."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def apply(
        self,
        request: Request,
        shown: Resource[Any] | None = None,
        convert_in: Convert = _same,
        convert_out: Convert = _same,
        *,
        remote: bool = False,
    ) -> Written:
        """Create an object or change it to what was sent. ``convert_in`` shows the stored object as the version that the
        patch speaks of, ``shown``; ``convert_out`` makes the stored version again. ``remote``: both are coroutines.

        Raises: Conflict: others own what would change. BadRequest, Invalid: it cannot be done at all.
        """
        manager = request.options["fieldManager"]
        sent, warnings = _read(request)
        resource = shown or request.resource
        _check(sent, request, resource)
        strategy = self._writer.strategy_for(resource)
        view = document_view(resource, strategy.type_view)
        patch = _Patch(request, resource, manager, sent, view, self._writer.clock)

        def change(old: Any) -> Any:
            return convert_out(patch.created() if old is None else patch.applied(convert_in(old)))

        async def change_across(old: Any) -> Any:
            made = patch.created() if old is None else patch.applied(await convert_in(old))
            return await convert_out(made)

        written = await self._writer.change(request, change_across if remote else change, operation="Apply")
        written.warnings[:0] = warnings
        return written

    async def apply_scale(self, request: Request) -> Written:
        """Apply a Scale: as an apply of the whole object that speaks of its replicas alone.

        Source: apimachinery pkg/util/managedfields scalehandler.go.
        """
        sent, warnings = _read(request)
        resource = request.resource
        of_scale = dataclasses.replace(resource, group="autoscaling", version="v1", kind="Scale")
        _check(sent, request, of_scale)
        scale = checked(bodies.make(of_scale, Scale, sent, None))
        strategy = self._writer.strategy_for(resource)
        document: Json = {"apiVersion": resource.api_version, "kind": resource.kind}
        if scale.spec is not None and scale.spec.replicas is not None:
            *steps, last = strategy.replicas_path
            inner = document
            for step in steps:
                inner = inner.setdefault(step, {})
            inner[last] = scale.spec.replicas
        view = document_view(resource, strategy.type_view)
        manager, spoken = request.options["fieldManager"], of_scale.api_version
        patch = _Patch(request, resource, manager, document, view, self._writer.clock, spoken)

        def change(old: Any) -> Any:
            return patch.created() if old is None else patch.applied(old)

        written = await self._writer.change(request, change, operation="Apply")
        written.warnings[:0] = warnings
        return written


# ------------------------------------------------------------------------------------------------------ reading


def _read(request: Request) -> tuple[Json, list[str]]:
    """The document that was sent, and warnings about it."""
    body = request.body
    if not isinstance(body, (bytes, bytearray)):
        return dict(body) if isinstance(body, Mapping) else _document(body), []
    data = bytes(body)
    if bodies.media_type(request.content_type).endswith("+cbor"):
        return _from_cbor(data), []
    document = _decoded(data)
    if not isinstance(document, dict):
        word = "array" if isinstance(document, list) else "string"
        raise BadRequest(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal"
            f" {word} into Go value of type map[string]interface {{}}"
        )
    return document, _twice(request, data, document)


def _from_cbor(data: bytes) -> Json:
    from kaa.api.cbor import Malformed, decode  # only clients that send CBOR pay for it

    try:
        document = decode(data)
    except Malformed as err:
        raise BadRequest(f"error decoding CBOR: {err}") from None
    if not isinstance(document, dict):
        raise BadRequest("error decoding CBOR: cbor: cannot unmarshal into Go value of type map[string]interface {}")
    return document


def _decoded(data: bytes) -> Any:
    """JSON is what clients send most; anything else is YAML."""
    try:
        return bodies.json_value(data)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return bodies.plain_document(data, bodies.YAML, "")
    except BadRequest as err:
        raise BadRequest(f"error decoding YAML: {err.message}") from None


def _twice(request: Request, data: bytes, document: Json) -> list[str]:
    """Fields sent twice: refused or warned about, as asked."""
    level = request.options.get("fieldValidation") or "Warn"
    if level == "Ignore" or (data.lstrip().startswith(b"{") and not bodies.duplicate_fields(data, document)):
        return []
    twice = bodies.twice_in_yaml(data)
    if twice and level == "Strict":
        raise BadRequest(f"error strict decoding YAML: error converting YAML to JSON: {bodies.yaml_problem(twice)}")
    return twice


def _check(sent: Json, request: Request, resource: Resource[Any]) -> None:
    """What a document must be before anything else is looked at; its name and namespace become those of the URL."""
    version, kind = sent.get("apiVersion"), sent.get("kind")
    if version != resource.api_version:
        raise BadRequest(
            "Incorrect version specified in apply patch. Specified patch version:"
            f" {version or ''}, expected: {resource.api_version}"
        )
    metadata = sent.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    if metadata.get("managedFields") is not None:
        raise BadRequest("metadata.managedFields must be nil")
    if kind != resource.kind:
        raise Unclassified(_untyped(sent, f"no corresponding type for {_group_kind(sent)}"))
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if name and name != request.name:
        raise BadRequest(f"the name of the object ({name}) does not match the name on the URL ({request.name})")
    if namespace and resource.namespaced and namespace != request.namespace:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")


def _untyped(sent: Json, problem: str) -> str:
    metadata = sent.get("metadata") or {}
    place = f"{metadata.get('namespace') or ''}/{metadata.get('name') or ''}"
    return f"failed to create typed patch object ({place}; {_group_kind(sent)}): {problem}"


def _group_kind(sent: Json) -> str:
    version = str(sent.get("apiVersion") or "")
    return f"{version if '/' in version else '/' + version}, Kind={sent.get('kind') or ''}"


def _document(obj: Any) -> Json:
    return obj.document() if isinstance(obj, CustomObject) else scheme.document(obj)


# ------------------------------------------------------------------------------------------------------ applying


@dataclass(slots=True)
class _Patch:
    """One apply request: what was sent, by whom, through which view."""

    request: Request
    resource: Resource[Any]
    manager: str
    sent: Json
    view: Node
    clock: Clock
    spoken: str = ""  #: the version in which owners are named in conflicts, where it is not each one's own

    def created(self) -> Any:
        """The object that an apply makes where there is none."""
        metadata = self.sent.get("metadata") or {}
        if self.request.subresource:
            raise NotFound.of(self.request.resource, self.request.name)
        if metadata.get("uid"):
            why = f"uid mismatch: the provided object specified uid {metadata['uid']}, and no existing object was found"
            raise Conflict.of(self.request.resource, self.request.name, why)
        sent = {**self.sent, "metadata": {**metadata, "name": self.request.name}}
        mine = stripped(self._fields())
        entries = (self._entry(mine, self._now()),) if mine else ()
        return _with_entries(self._object(sent), entries)

    def applied(self, old: Any) -> Any:
        """The object that stands, with what was sent put in and what is sent no more taken out."""
        fields = self._fields()
        entries = old.metadata.managed_fields or self._unknown_owner(old)
        last = next((entry for entry in entries if self._is_mine(entry)), None)
        others = tuple(entry for entry in entries if entry is not last)
        live = _without_entries(_document(old))
        document = merged(self.view, live, self.sent)
        if last is not None:
            document = self._pruned(document, last.fields_v1, [fields, *(entry.fields_v1 for entry in others)])
        new = self._object(document)
        resets = self._resets
        changed, removed = (without_trees(part, resets) for part in differences(old, new, self._content_view))
        self._refuse_conflicts(others, changed, live)
        kept = [left for entry in others if (left := released(entry, changed, removed)) is not None]
        mine = stripped(fields)
        if mine:
            same = last is not None and new == _with_entries(old, ())
            kept.append(self._entry(mine, last.time if same and last is not None else self._now()))
        return self._with_last_applied(_with_entries(new, in_order(kept)))

    def _pruned(self, document: Json, last: FieldSet, kept: Sequence[FieldSet]) -> Json:
        """The document without what its applier left out and nobody else owns."""
        held: FieldSet = {}
        for fields in kept:
            held = union(held, with_named(self.view, fields))
        pruned: Json = without(self.view, document, difference(with_named(self.view, last), held))
        return pruned

    @property
    def _resets(self) -> FieldSet:
        return resets_of(self.request.resource, self.request.subresource)

    @property
    def _content_view(self) -> Node | None:
        return self.view if self.resource.custom else None

    def _fields(self) -> FieldSet:
        metadata = self.sent.get("metadata")
        named = {**(metadata if isinstance(metadata, dict) else {}), "name": self.request.name}
        try:
            fields = fields_of(self.view, {**self.sent, "metadata": named})
        except WrongDocument as err:
            raise Unclassified(_untyped(self.sent, str(err))) from None
        return without_trees(fields, self._resets)

    def _object(self, document: Json) -> Any:
        return bodies.make(self.resource, None, document, None)

    def _now(self) -> str:
        return format_time(self.clock.now())

    def _is_mine(self, entry: ManagedFieldsEntry) -> bool:
        return identity(entry) == (self.manager, "Apply", None, self.request.subresource or None)

    def _entry(self, fields: FieldSet, time: str | None) -> ManagedFieldsEntry:
        return ManagedFieldsEntry(
            manager=self.manager,
            operation="Apply",
            api_version=self.resource.api_version,
            time=time,
            fields_type=FIELDS_TYPE,
            fields_v1=fields,
            subresource=self.request.subresource or None,
        )

    def _unknown_owner(self, old: Any) -> Entries:
        """Of an object that nothing is known of, everything belongs to whoever was there before."""
        changed, _ = differences(nothing_of(old), old, self._content_view)
        fields = stripped(without_trees(changed, self._resets))
        if not fields:
            return ()
        entry = self._entry(fields, self._now())
        return (replace(entry, manager=BEFORE_FIRST_APPLY, operation="Update"),)

    def _refuse_conflicts(self, others: Entries, changed: FieldSet, live: Json) -> None:
        """Raise a 409 that names every field of somebody else's that would change."""
        if is_true(self.request.options, "force"):
            return
        allowed = self._known_to_kubectl(live) if self.manager == "kubectl" else {}
        conflicts = [
            (entry, path)
            for entry in sorted(others, key=lambda entry: str(identity(entry)))
            for path in members(difference(intersection(entry.fields_v1, changed), allowed))
        ]
        if conflicts:
            if self.spoken:
                conflicts = [(replace(entry, api_version=self.spoken), path) for entry, path in conflicts]
            raise _conflict(conflicts)

    def _known_to_kubectl(self, live: Json) -> FieldSet:
        """What ``kubectl apply`` set from the client's side and still stands so: kubectl may take that over."""
        text = ((live.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
        if not text:
            return {}
        try:
            before = msgspec.json.decode(text)
            fields = fields_of(self.view, before)
            old, known = self._object(live), self._object(merged(self.view, live, before))
        except (msgspec.DecodeError, WrongDocument, BadRequest):
            return {}  # an annotation that is no object of this kind allows nothing
        changed, removed = differences(old, known, self._content_view)
        return difference(difference(fields, changed), removed)

    def _with_last_applied(self, obj: Any) -> Any:
        """Keep kubectl's annotation true, for a kubectl that applies from the client's side again."""
        annotations: dict[str, str] = obj.metadata.annotations
        if self.manager != "kubectl" or LAST_APPLIED not in annotations:
            return obj
        metadata = dict(self.sent.get("metadata") or {})
        named = {key: text for key, text in (metadata.get("annotations") or {}).items() if key != LAST_APPLIED}
        metadata["annotations"] = named
        text = msgspec.json.encode({**self.sent, "metadata": metadata}, order="sorted").decode() + "\n"
        others = {key: value for key, value in annotations.items() if key != LAST_APPLIED}
        total = sum(len(key) + len(value) for key, value in others.items()) + len(LAST_APPLIED) + len(text)
        kept = {**others, LAST_APPLIED: text} if total <= MAX_ANNOTATIONS else others
        return replace(obj, metadata=replace(obj.metadata, annotations=kept))


def _with_entries(obj: Any, entries: Entries) -> Any:
    return replace(obj, metadata=replace(obj.metadata, managed_fields=entries))


def _without_entries(document: Json) -> Json:
    metadata = {key: value for key, value in document["metadata"].items() if key != "managedFields"}
    return {**document, "metadata": metadata}


# ------------------------------------------------------------------------------------------------------ conflicts


def _conflict(conflicts: list[tuple[ManagedFieldsEntry, tuple[str, ...]]]) -> ApiError:
    causes = [
        StatusCause(reason="FieldManagerConflict", message=f"conflict with {_name(entry)}", field=path_text(path))
        for entry, path in conflicts
    ]
    if len(conflicts) == 1:
        entry, path = conflicts[0]
        message = f"Apply failed with 1 conflict: conflict with {_name(entry)}: {path_text(path)}"
        return Conflict(message, causes=causes)
    lines: list[str] = []
    for n, (entry, path) in enumerate(conflicts):
        if n == 0 or conflicts[n - 1][0] is not entry:
            lines.append(f"conflicts with {_name(entry)}:")
        lines.append(f"- {path_text(path)}")
    return Conflict(f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines), causes=causes)


def _name(entry: ManagedFieldsEntry) -> str:
    """Who an entry speaks of, in upstream's words."""
    name = f'"{entry.manager}"'
    if entry.subresource:
        name += f' with subresource "{entry.subresource}"'
    return f"{name} using {entry.api_version}" if entry.operation == "Update" else name
