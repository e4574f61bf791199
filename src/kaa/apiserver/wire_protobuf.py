"""Answers in Kubernetes' protobuf form. ``wire`` imports this when a client has asked for it, and not before.

Bytes are made from the cache's JSON, so they hold what JSON holds, but for the few fields whose numbers are not known (see
``tools/protobuf_later.txt``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from kaa.api import protobuf
from kaa.api.protobuf_messages import write_message
from kaa.api.resources import Resource

from .entries import Entry


def _message(resource: Resource[Any]) -> str:
    message = protobuf.message_of(resource.type)
    assert message is not None, resource
    return message


def object_body(entry: Entry) -> bytes:
    return protobuf.encode_document(entry.resource.type, msgspec.json.decode(entry.alone))


def struct_body(obj: Any) -> bytes | None:
    """The body of a Struct; None for an object that protobuf does not carry."""
    return protobuf.encode_object(obj) if protobuf.supports(type(obj)) else None


def list_body(resource: Resource[Any], meta: bytes, entries: Iterable[Entry]) -> bytes:
    """The body of a list. ``meta`` is the inside of its ListMeta's JSON."""
    message = _message(resource)
    items = (write_message(message, msgspec.json.decode(b"{" + entry.inner)) for entry in entries)
    return protobuf.encode_list(
        resource.api_version, resource.kind + "List", msgspec.json.decode(b"{" + meta + b"}"), items
    )


def document_body(resource: Resource[Any], document: bytes) -> bytes:
    """The body of a resource's object, from its JSON."""
    return protobuf.encode_document(resource.type, msgspec.json.decode(document))


def discovery_body(document: dict[str, Any]) -> bytes:
    """The body of an APIVersions, APIGroupList, APIGroup or APIResourceList, from its JSON value."""
    kind = document["kind"]
    return protobuf.envelope(document.get("apiVersion", "v1"), kind, write_message(f"meta_v1.{kind}", document))


def metadata_body(document: dict[str, Any]) -> bytes:
    """The body of a PartialObjectMetadata, or of a list of them, from its JSON value."""
    version, kind = document["apiVersion"], document["kind"]
    if kind == "PartialObjectMetadata":
        return protobuf.envelope(version, kind, _metadata(document))
    return protobuf.encode_list(version, kind, document["metadata"], map(_metadata, document["items"]))


def _metadata(document: dict[str, Any]) -> bytes:
    """The message of a PartialObjectMetadata: its metadata is its first field."""
    return b"\x0a" + protobuf.sized(write_message("meta_v1.ObjectMeta", document["metadata"]))


def watch_frame(type: str, body: bytes) -> bytes:
    return protobuf.encode_watch_event(type, body)
