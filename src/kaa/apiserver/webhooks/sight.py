"""One write as webhooks and policies see it: upstream's words for what it is, and its objects in the version asked for.

The idea: plugins of this server look at the stored Struct; whoever is outside sees what the API says. So a scale is a
Scale, a deletion has an old object only, and an object that is being created has no uid and no generated name yet
while it may still be changed (`Stage.MUTATING`), as upstream makes those after mutating admission.

Source: apiserver pkg/admission (attributes.go, conversion.go); pkg/admission/plugin/webhook/request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.custom import CustomObject, from_document
from kaa.api.errors import InternalError
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import Namespace
from kaa.api.types.meta_v1 import StatusCause

from ..admission.base import Attributes
from ..deletes import read_options
from ..registry.conversion import convert as convert_struct
from ..registry.strategy import Strategy
from ..serving import Serving
from ..view import View
from ..writes import readmitted

_META = "meta.k8s.io/v1"
#: Query parameters that say how, as options carry them, in the order of the wire.
_OPTIONS = ("dryRun", "fieldManager", "fieldValidation")

#: The strategy of a resource.
StrategyFor = Callable[[Resource[Any]], Strategy[Any]]


class Shape(NamedTuple):
    """A group-version with one of its resources and its kind, as a rule names it and a review shows it."""

    group: str
    version: str
    plural: str
    kind_group: str
    kind_version: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.kind_group}/{self.kind_version}" if self.kind_group else self.kind_version

    @property
    def gvk(self) -> str:
        """The kind as Go prints it."""
        return f"{self.kind_group}/{self.kind_version}, Kind={self.kind}"


class Stage(Enum):
    MUTATING = "mutating"
    VALIDATING = "validating"


class Versions:
    """Which versions one kind is served in, and how its objects get from one to another.

    ``custom`` are the resources served beside the built-in ones: {(group, version, plural): resource}.
    """

    def __init__(self) -> None:
        self.serving = Serving()
        self.custom: Mapping[tuple[str, str, str], Resource[Any]] = {}
        #: What turns custom resources from one version into another
        self.across: Callable[[Any, Resource[Any]], Awaitable[Any]] | None = None

    def find_kind(self, api_version: str, kind: str) -> Resource[Any] | None:
        """The served resource of a kind."""
        custom = (r for r in self.custom.values() if r.kind == kind and r.api_version == api_version)
        return self.serving.by_kind(api_version, kind) or next(custom, None)

    def equivalents(self, resource: Resource[Any]) -> Sequence[Resource[Any]]:
        """The other resources that show the same objects."""
        if resource.custom:
            same = (r for r in self.custom.values() if (r.group, r.plural) == (resource.group, resource.plural))
            return [other for other in same if other.version != resource.version]
        return self.serving.others(resource)

    async def convert(self, obj: Any, resource: Resource[Any]) -> Any:
        """``obj`` as a resource shows it. Raises ApiError."""
        if resource.custom and self.across is not None:
            return await self.across(obj, resource)
        return convert_struct(obj, resource)


class Sight:
    """A write on its way, in one stage."""

    def __init__(
        self, attributes: Attributes, view: View, stage: Stage, strategy_for: StrategyFor, versions: Versions
    ) -> None:
        self.attributes, self.view, self.stage = attributes, view, stage
        self._strategy_for, self._versions = strategy_for, versions
        request = attributes.request
        self.operation = attributes.operation
        self.user = request.user
        self.dry_run = attributes.dry_run
        self.resource = request.asked or request.resource
        self._stored = request.resource
        self.subresource = request.subresource
        self.shape = shape_of(attributes)
        self.name = self._name()
        self.namespace = self._namespace()
        #: {(which object, shape): it}, of the objects that it was made of
        self._shown: dict[tuple[bool, Shape], tuple[Any, Any]] = {}
        #: What policies have made of it, for the next policy: {shape: (the object, the variables of expressions)}
        self.variables: dict[Shape, tuple[Any, dict[str, Any]]] = {}

    def _name(self) -> str:
        request, attributes = self.attributes.request, self.attributes
        if request.name or attributes.name_generated or self.operation != "CREATE":
            return request.name
        metadata = getattr(attributes.object, "metadata", None)
        return (metadata.name if metadata is not None else "") or ""

    def _namespace(self) -> str:
        """A namespace stands in itself."""
        if self.is_namespace:
            return self.name
        return self.attributes.request.namespace if self.resource.namespaced else ""

    @property
    def strategy(self) -> Strategy[Any]:
        return self._strategy_for(self._stored)

    @property
    def is_namespace(self) -> bool:
        return self.resource.plural == "namespaces" and not self.resource.group

    # ---------------------------------------------------------------------------------------------------- objects

    async def object(self, shape: Shape) -> Any:
        """The object in a version; None on deletion."""
        return await self._in(False, self.attributes.object, shape)

    async def old(self, shape: Shape) -> Any:
        return await self._in(True, self.attributes.old, shape)

    async def _in(self, old: bool, obj: Any, shape: Shape) -> Any:
        if obj is None:
            return None
        kept = self._shown.get((old, shape))
        if kept is not None and kept[0] is obj:
            return kept[1]
        shown = self._outside(obj) if old else self._unfinished(self._outside(obj))
        if self._is_own(obj):
            shown = await self._versions.convert(shown, self._version(shape))
        self._shown[old, shape] = obj, shown
        return shown

    def _is_own(self, obj: Any) -> bool:
        """Whether an object is one of the resource itself, that versions show differently."""
        return self.subresource != "scale" and bool(obj.KIND == self._stored.kind)

    def _version(self, shape: Shape) -> Resource[Any]:
        return next(r for r in self._versions_served() if (r.group, r.version) == (shape.group, shape.version))

    def _versions_served(self) -> list[Resource[Any]]:
        """The resource as the client speaks of it, then its other versions."""
        every = (self.resource, self._stored, *self._versions.equivalents(self._stored))
        found: dict[tuple[str, str], Resource[Any]] = {}
        for row in every:
            found.setdefault((row.group, row.version), row)
        return list(found.values())

    def _outside(self, obj: Any) -> Any:
        return self.strategy.scale(obj) if self.subresource == "scale" and not _is_scale(obj) else obj

    def _unfinished(self, obj: Any) -> Any:
        """An object to be created, without what the server sets once nobody changes it any more."""
        if self.stage is Stage.VALIDATING or self.operation != "CREATE" or self.subresource:
            return obj
        metadata = obj.metadata
        name = None if self.attributes.name_generated else metadata.name
        return replace(obj, metadata=replace(metadata, name=name, uid=None, creation_timestamp=None, generation=None))

    async def put(self, document: dict[str, Any], shape: Shape) -> bool:
        """Make the object what a webhook or a policy says, with its defaults; whether it has changed. Raises ApiError."""
        shown = await self.object(shape)
        made = _read(shown, document)
        if made == shown:
            return False
        if self._is_own(self.attributes.object):
            made = await self._versions.convert(made, self._stored)
        attributes = self.attributes
        before = attributes.object
        attributes.object = self._inside(made, before)
        return bool(attributes.object != before)

    def _inside(self, made: Any, before: Any) -> Any:
        attributes = self.attributes
        if self.subresource == "scale" and not _is_scale(before):
            made = self.strategy.scaled(before, made)
        elif self.operation == "CREATE" and not self.subresource:
            made = replace(made, metadata=_finished(made.metadata, before.metadata))
        elif self.operation not in ("CREATE", "UPDATE") or self.operation == "CREATE":
            return made
        return readmitted(attributes.request, self.strategy, made, attributes.old)

    # ---------------------------------------------------------------------------------------------------- options

    def options(self) -> dict[str, Any] | None:
        """The options of the operation as a document; a CONNECT has none."""
        request, operation = self.attributes.request, self.operation
        if operation == "CONNECT":
            return None
        if operation == "DELETE":
            return {"kind": "DeleteOptions", "apiVersion": _META, **scheme.to_builtins(read_options(request))}
        made: dict[str, Any] = {"kind": f"{operation.capitalize()}Options", "apiVersion": _META}
        for key in _OPTIONS:
            value = request.options.get(key) if request.options else None
            if value:
                made[key] = [value] if key == "dryRun" else value
        return made

    # ---------------------------------------------------------------------------------------------------- matching

    def shapes(self) -> list[Shape]:
        """The same write as the other versions of its resource would show it."""
        return [
            Shape(r.group, r.version, r.plural, r.group, r.version, r.kind)
            if self.shape.kind == self.resource.kind
            else self.shape._replace(group=r.group, version=r.version, plural=r.plural)
            for r in self._versions_served()[1:]
        ]

    def labels(self, *, old: bool) -> dict[str, str] | None:
        """The labels of the object (or of the one that it replaces); None when there is none. A scale has none."""
        if self.subresource == "scale":
            return {}
        obj = self.attributes.old if old else self.attributes.object
        metadata = getattr(obj, "metadata", None)
        return None if metadata is None else metadata.labels

    def namespace_labels(self) -> dict[str, str] | None:
        """The labels of the write's namespace; None when there is no such namespace."""
        if self.is_namespace and not self.subresource and self.operation in ("CREATE", "UPDATE"):
            return self.labels(old=False)
        found = self.view.get(Namespace, self.namespace)
        return None if found is None else found.metadata.labels


def _finished(made: Any, before: Any) -> Any:
    return replace(
        made,
        name=made.name or before.name,
        namespace=before.namespace,
        uid=before.uid,
        creation_timestamp=before.creation_timestamp,
        generation=before.generation,
    )


def _is_scale(obj: Any) -> bool:
    return getattr(obj, "KIND", "") == "Scale"


def _read(shown: Any, document: dict[str, Any]) -> Any:
    """The object in a document, of the type of another. Raises ApiError."""
    try:
        if isinstance(shown, CustomObject):
            return from_document({**document, "kind": shown.kind, "apiVersion": shown.api_version})
        return scheme.convert(type(shown), document)
    except (scheme.DecodeError, msgspec.ValidationError) as err:
        raise internal_error(str(err)) from None


def shape_of(attributes: Attributes) -> Shape:
    """What a request is on, and of what kind its object is."""
    request = attributes.request
    stored, asked = request.resource, request.asked or request.resource
    if request.subresource == "scale":
        return Shape(asked.group, asked.version, asked.plural, "autoscaling", "v1", "Scale")
    obj = attributes.object if attributes.object is not None else attributes.old
    version, kind = asked.api_version, asked.kind
    if obj is not None and obj.KIND != stored.kind:
        version, kind = obj.API_VERSION, obj.KIND
    group, _, version = version.rpartition("/")
    return Shape(asked.group, asked.version, asked.plural, group, version, kind)


def document_of(obj: Any) -> dict[str, Any] | None:
    """An object as plain JSON; None when there is none."""
    if obj is None:
        return None
    return obj.document() if isinstance(obj, CustomObject) else scheme.document(obj)


def internal_error(message: str) -> InternalError:
    """As upstream answers for what went wrong on its side."""
    return InternalError(f"Internal error occurred: {message}", causes=[StatusCause(message=message)])
