"""One object at one revision, as the API server keeps it: the JSON bytes of the wire beside what selectors ask for.

Bytes are kept without what differs between their uses. ``inner`` is ``"metadata":{"resourceVersion":"7",…}…}``: an object
on its own is ``{"kind":"Pod","apiVersion":"v1",`` + inner; in a list it is ``{`` + inner.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.custom import CustomObject, from_document
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import Pod, PodSpec
from kaa.store.base import Revision

from .memo import Memo

METADATA = b'"metadata":{'
_Reference = weakref.ref
_VERSION = b'"metadata":{"resourceVersion":"%d"'


@lru_cache(maxsize=1024)
def _head_of(resource: Resource[Any]) -> bytes:
    return scheme.prefix(resource.api_version, resource.kind)


class Entry:
    """One object at one revision: bytes for the wire, what selectors ask for, and the Struct when somebody wants it."""

    __slots__ = ("_object", "fields", "inner", "key", "labels", "resource", "revision")

    def __init__(
        self,
        resource: Resource[Any],
        key: str,
        revision: Revision,
        inner: bytes,
        labels: Mapping[str, str],
        fields: Mapping[str, str],
        obj: Any,
    ) -> None:
        self.resource, self.key, self.revision, self.inner = resource, key, revision, inner
        self.labels, self.fields = labels, fields
        self._object: Any = obj

    @property
    def alone(self) -> bytes:
        """The object as GET answers it."""
        return _head_of(self.resource) + self.inner

    def object(self, *, keep: bool = False) -> Any:
        """The Struct; decoded again if nobody held it. ``keep`` holds it from now on, for what decisions read often."""
        held = self._object
        obj = held() if type(held) is _Reference else held
        if obj is None:
            obj = read_object(self.resource, self.alone)
            self._object = weakref.ref(obj)
        if keep:
            self._object = obj
        return obj

    def release(self) -> None:
        """Hold the Struct no longer: it lives as long as somebody else holds it."""
        held = self._object
        if held is not None and type(held) is not _Reference:
            self._object = _Reference(held)

    def at(self, revision: Revision) -> Entry:
        """The same object under another resource version: a deletion shows its last state so."""
        end = self.inner.index(b'"', len(_VERSION) - 3) + 1
        inner = _VERSION % revision + self.inner[end:]
        return Entry(self.resource, self.key, revision, inner, self.labels, self.fields, None)


def read_object(resource: Resource[Any], data: bytes) -> Any:
    """The object in a document: a Struct, or a CustomObject."""
    if resource.custom:
        return from_document(scheme.decode(dict, data))
    return scheme.decode(resource.type, data)


@Memo
def _spec_bytes(spec: PodSpec) -> msgspec.Raw:
    """The JSON of a spec, which the encoder takes as it is in the spec's place."""
    return msgspec.Raw(scheme.encode_inner(spec))


def stored_bytes(resource: Resource[Any], obj: Any) -> bytes:
    """What the store keeps: the object's document without its resource version."""
    metadata = obj.metadata
    if metadata.resource_version is not None:
        obj = replace(obj, metadata=replace(metadata, resource_version=None))
    if isinstance(obj, Pod):
        obj = replace(obj, spec=_spec_bytes(obj.spec))
    return scheme.encode(obj.document() if isinstance(obj, CustomObject) else obj)


def inner_of(value: bytes, head: int, revision: Revision) -> bytes:
    """An entry's bytes of a stored document, whose kind and version take ``head`` bytes."""
    rest = value[head + len(METADATA) :]
    return b"".join((_VERSION % revision, b"}" if rest[:1] == b"}" else b",", rest.removeprefix(b"}")))


def shown_as(entry: Entry, resource: Resource[Any], obj: Any) -> Entry:
    """An entry as another version shows it: ``obj`` is the object in that version."""
    head = scheme.prefix(resource.api_version, resource.kind)
    inner = inner_of(stored_bytes(resource, obj), len(head), entry.revision)
    return Entry(resource, entry.key, entry.revision, inner, entry.labels, entry.fields, obj)
