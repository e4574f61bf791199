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


def watch_frame(type: str, entry: Entry) -> bytes:
    return protobuf.encode_watch_event(type, object_body(entry))


def bookmark_frame(resource: Resource[Any], metadata: dict[str, Any]) -> bytes:
    """A BOOKMARK: an object of the kind with this metadata and nothing else."""
    document = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return protobuf.encode_watch_event("BOOKMARK", protobuf.encode_document(resource.type, document))
