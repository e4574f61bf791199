"""Answers on the wire: entries and objects as JSON, YAML, protobuf, CBOR, Table or PartialObjectMetadata.

JSON is the cache's own bytes. The other forms are made when asked for: they cost a decoding that JSON does not.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from kaa.api import scheme
from kaa.api.clock import format_duration, parse_time
from kaa.api.errors import ApiError, NotAcceptable
from kaa.api.resources import Resource
from kaa.client.client import WatchType

from .entries import Entry
from .http import HttpResponse
from .reads import ListResult
from .registry.strategy import Column, Strategy, TableShape
from .watchers import watch_line

PIECE = 256 << 10  # bytes of a list written at a time, about
STREAM_FROM = 2 << 20  # bytes from which a list is streamed
GZIP_FROM = 128 << 10  # bytes over which an answer is compressed
_GZIP = 31  # zlib's word for a gzip head and tail

AVAILABLE = (
    "application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch,"
    " application/vnd.kubernetes.protobuf;stream=watch"
)
NAME_DOC = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a"
    " client to request the generation of an appropriate name automatically. Name is primarily intended for creation"
    " idempotence and configuration definition. Cannot be updated. More info:"
    " https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
)
AGE_DOC = (
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to"
    " be set in happens-before order across separate operations. Clients may not set this value. It is represented in"
    " RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info:"
    " https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
)


@dataclass(frozen=True, slots=True)
class Media:
    """The form that a client asked for."""

    format: str = "json"  #: json, yaml, protobuf (of objects and their metadata), cbor
    shape: str = ""  #: empty for the object itself, else Table, PartialObjectMetadata, PartialObjectMetadataList
    version: str = "v1"  #: of meta.k8s.io
    pretty: bool = False

    @property
    def plain(self) -> bool:
        return self.format == "json" and not self.shape and not self.pretty

    @property
    def content_type(self) -> str:
        return _CONTENT_TYPES[self.format]

    @property
    def stream_type(self) -> str:
        """The content type of a watch."""
        return _STREAM_TYPES.get(self.format, self.content_type)


PROTOBUF, CBOR, CBOR_SEQUENCE = "application/vnd.kubernetes.protobuf", "application/cbor", "application/cbor-seq"
PLAIN = Media()
_CONTENT_TYPES = {"json": "application/json", "yaml": "application/yaml", "protobuf": PROTOBUF, "cbor": CBOR}
_STREAM_TYPES = {"protobuf": PROTOBUF + ";stream=watch", "cbor": CBOR_SEQUENCE}
_FORMATS = {name: format for format, name in _CONTENT_TYPES.items()} | {"*/*": "json", "application/*": "json"}
_SHAPES = frozenset({"Table", "PartialObjectMetadata", "PartialObjectMetadataList"})


@lru_cache(maxsize=256)
def negotiate(accept: str, *, protobuf: bool = False, stream: bool = False, tables: bool = True) -> Media:
    """The form that an Accept header likes best of those that we speak. Raises NotAcceptable.

    ``protobuf`` says that the answer has such a form: custom resources have none but for their metadata. Tables have none at
    all. ``stream`` asks for a form of watches, of which YAML has none; one that begins with a list has no ``tables``.
    """
    for name, given in _clauses(accept):
        format = "cbor" if stream and name == CBOR_SEQUENCE else _FORMATS.get(name)
        if (
            format is None
            or given.get("stream", "watch") != "watch"
            or (format == "yaml" and (stream or "stream" in given))
        ):
            continue
        shape = given.get("as", "")
        if not given.keys() & {"as", "g", "v"}:
            if format != "protobuf" or protobuf:
                return PLAIN if format == PLAIN.format else Media(format)
        elif (
            shape in _SHAPES
            and given.get("g") == "meta.k8s.io"
            and given.get("v") in ("v1", "v1beta1")
            and (shape != "Table" or (tables and format != "protobuf"))
        ):
            return Media(format, shape, given["v"])
    raise not_acceptable()


def _clauses(accept: str) -> list[tuple[str, dict[str, str]]]:
    """(media type, parameters) of an Accept header's clauses: by their weight, then the exact before the general."""
    found = []
    for clause in accept.split(",") if accept else ["*/*"]:
        name, *parameters = (part.strip() for part in clause.split(";"))
        given = {key.strip(): value.strip(' "') for key, _, value in (part.partition("=") for part in parameters)}
        found.append((_weight(given.pop("q", "")), name.lower(), given))
    found.sort(key=lambda one: (-one[0], one[1].count("*")))
    return [(name, given) for _, name, given in found]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0


def not_acceptable() -> NotAcceptable:
    error = NotAcceptable(f"406: Not Acceptable\n\nAvailable representations: {AVAILABLE}")
    error.bare_details = True
    return error


class _Head(msgspec.Struct):
    metadata: msgspec.Raw


_HEAD = msgspec.json.Decoder(_Head)


def metadata_bytes(entry: Entry) -> bytes:
    """The JSON of an entry's metadata, cut out without decoding it."""
    return bytes(_HEAD.decode(b"{" + entry.inner).metadata)


# -------------------------------------------------------------------------------------------------------- objects


def status_response(error: ApiError, media: Media = PLAIN) -> HttpResponse:
    """A refusal as a Status."""
    headers = []
    if error.details.retry_after_seconds:
        headers.append(("Retry-After", str(error.details.retry_after_seconds)))
    body = scheme.encode(error.status)
    if error.status.details is None and error.bare_details:
        body = body[:-1] + b',"details":{}}'
    if media.format == "protobuf":
        return struct_response(error.status.code or 500, error.status, media, headers)
    if media.format != "json":
        body = encoded(media, body)
    return HttpResponse(error.status.code or 500, body, media.content_type, headers)


def encoded(media: Media, document: bytes) -> bytes:
    """A JSON document in the client's format. Of metadata alone when that is protobuf."""
    match media.format:
        case "yaml":
            return to_yaml(msgspec.json.decode(document))
        case "cbor":
            from kaa.api import cbor  # only clients that ask for CBOR pay for it

            return cbor.encode(msgspec.json.decode(document))
        case "protobuf":
            from . import wire_protobuf

            return wire_protobuf.metadata_body(msgspec.json.decode(document))
    return msgspec.json.format(document, indent=2) if media.pretty else document


def discovery_body(document: bytes, media: Media) -> tuple[bytes, str]:
    """(body, content type) of a discovery document in the client's format."""
    if media.format != "protobuf":
        return encoded(media, document), media.content_type
    from . import wire_protobuf

    return wire_protobuf.discovery_body(msgspec.json.decode(document)), PROTOBUF


def to_yaml(value: Any) -> bytes:
    import yaml  # only clients that ask for YAML pay for it

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: bytes = yaml.dump(value, Dumper=dumper, default_flow_style=False, sort_keys=True, encoding="utf-8")
    return text


def object_response(
    code: int, entry: Entry, media: Media, strategy: Strategy[Any], now: float, include: str = "Metadata"
) -> HttpResponse:
    if media.plain:
        return HttpResponse(code, entry.alone)
    if media.format == "protobuf" and not media.shape:
        from . import wire_protobuf

        return HttpResponse(code, wire_protobuf.object_body(entry), PROTOBUF)
    if media.shape == "Table":
        document = table([entry], strategy, now, media, include, f'"resourceVersion":"{entry.revision}"'.encode())
    elif media.shape == "PartialObjectMetadata":
        document = partial(entry, media)
    elif media.shape:
        raise not_acceptable()
    else:
        document = entry.alone
    return HttpResponse(code, encoded(media, document), media.content_type)


def struct_response(code: int, obj: Any, media: Media, headers: Sequence[tuple[str, str]] = ()) -> HttpResponse:
    """An object that is not in the cache: a review, a dry run, a Status. What protobuf does not carry is JSON."""
    if media.format == "protobuf":
        from . import wire_protobuf

        body = wire_protobuf.struct_body(obj)
        if body is not None:
            return HttpResponse(code, body, PROTOBUF, list(headers))
        media = PLAIN
    document = scheme.encode(obj.document() if hasattr(obj, "document") else obj)
    return HttpResponse(code, encoded(media, document), media.content_type, list(headers))


def partial(entry: Entry, media: Media) -> bytes:
    head = scheme.prefix(f"meta.k8s.io/{media.version}", "PartialObjectMetadata")
    return b'%s"metadata":%s}' % (head, metadata_bytes(entry))


# -------------------------------------------------------------------------------------------------------- lists


def list_meta(result: ListResult) -> bytes:
    meta = f'"resourceVersion":"{result.revision}"'
    if result.continue_token:
        meta += f',"continue":"{result.continue_token}"'
    if result.remaining is not None and result.continue_token:
        meta += f',"remainingItemCount":{result.remaining}'
    return meta.encode()


def list_response(
    result: ListResult,
    resource: Resource[Any],
    media: Media,
    strategy: Strategy[Any],
    now: float,
    include: str = "Metadata",
) -> HttpResponse:
    if media.shape == "Table":
        document = table(result.entries, strategy, now, media, include, list_meta(result))
        return HttpResponse(200, encoded(media, document), media.content_type)
    if media.format == "protobuf" and not media.shape:
        from . import wire_protobuf

        return HttpResponse(200, wire_protobuf.list_body(resource, list_meta(result), result.entries), PROTOBUF)
    separator = b","
    items: Sequence[bytes]
    if media.shape:
        items = [partial(entry, media) for entry in result.entries]
        head = scheme.prefix(f"meta.k8s.io/{media.version}", "PartialObjectMetadataList")
    else:
        head = scheme.prefix(resource.api_version, resource.kind + "List")
        if resource.custom:
            items = [entry.alone for entry in result.entries]
        else:  # without kind and apiVersion: what entries hold, uncopied
            items, separator = [entry.inner for entry in result.entries], b",{"
    start = b'%s"metadata":{%s},"items":[%s' % (head, list_meta(result), separator[1:] if items else b"")
    size = sum(map(len, items))
    if media.format == "json" and not media.pretty and size > STREAM_FROM:
        return HttpResponse(200, _pieces(start, items, separator, len(items) * PIECE // size + 1))
    return HttpResponse(200, encoded(media, b"".join((start, separator.join(items), b"]}"))), media.content_type)


async def _pieces(start: bytes, items: Sequence[bytes], separator: bytes, count: int) -> AsyncIterator[bytes]:
    """A long list, so many items a piece."""
    yield start
    for first in range(0, len(items), count):
        piece = items[first : first + count]
        yield separator.join((b"", *piece) if first else piece)  # in one copy, the separator before it too
    yield b"]}"


# -------------------------------------------------------------------------------------------------------- compression


@lru_cache(maxsize=64)
def wants_gzip(accept_encoding: str) -> bool:
    """Whether a client takes gzip. Upstream reads no weights: a clause is ``gzip`` or something else."""
    return any(clause.strip() == "gzip" for clause in accept_encoding.split(","))


def gzipped(response: HttpResponse) -> HttpResponse:
    """An answer as upstream sends it to clients that take gzip: squeezed, lightly, when it is large."""
    body = response.body
    if isinstance(body, bytes):
        if len(body) <= GZIP_FROM:
            return response
        squeeze = zlib.compressobj(1, wbits=_GZIP)
        body = squeeze.compress(body) + squeeze.flush()
    else:
        body = _gzipped_pieces(body)
    response.body = body
    response.headers += (("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    return response


async def _gzipped_pieces(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    squeeze = zlib.compressobj(1, wbits=_GZIP)
    async for piece in pieces:
        yield squeeze.compress(piece)
    yield squeeze.flush()


# -------------------------------------------------------------------------------------------------------- tables

_DEFAULT_COLUMNS = (
    Column("Name", "string", "name", NAME_DOC),
    Column("Created At", "date", "", AGE_DOC),
)
_DEFAULT_SHAPE: TableShape[Any] = TableShape(
    _DEFAULT_COLUMNS, lambda obj, now: [obj.metadata.name, obj.metadata.creation_timestamp]
)


def age(timestamp: str | None, now: float) -> str:
    return format_duration(now - parse_time(timestamp)) if timestamp else "<unknown>"


def column_definitions(shape: TableShape[Any]) -> list[dict[str, Any]]:
    return [
        {"name": c.name, "type": c.type, "format": c.format, "description": c.description, "priority": c.priority}
        for c in shape.columns
    ]


def table(
    entries: Iterable[Entry],
    strategy: Strategy[Any],
    now: float,
    media: Media,
    include: str,
    meta: bytes,
    *,
    with_columns: bool = True,
) -> bytes:
    """A Table of entries. ``include`` says what each row carries: Metadata, Object or None."""
    shape = strategy.table or _DEFAULT_SHAPE
    rows = [_row(entry, shape, now, media, include) for entry in entries]
    columns = msgspec.json.encode(column_definitions(shape)) if with_columns else b"[]"
    head = scheme.prefix(f"meta.k8s.io/{media.version}", "Table")
    return b'%s"metadata":{%s},"columnDefinitions":%s,"rows":[%s]}' % (head, meta, columns, b",".join(rows))


def _row(entry: Entry, shape: TableShape[Any], now: float, media: Media, include: str) -> bytes:
    cells = scheme.encode_inner(list(shape.cells(entry.object(), now)))
    if include == "None":
        return b'{"cells":%s,"object":null}' % cells
    shown = entry.alone if include == "Object" else partial(entry, media)
    return b'{"cells":%s,"object":%s}' % (cells, shown)


# -------------------------------------------------------------------------------------------------------- watches


def watch_document(
    type: WatchType, entry: Entry, media: Media, strategy: Strategy[Any], now: float, include: str, first: bool
) -> bytes:
    """One watch event in another shape than plain JSON."""
    if media.format == "protobuf" and not media.shape:
        from . import wire_protobuf

        return wire_protobuf.watch_frame(type.value, wire_protobuf.object_body(entry))
    if media.shape == "Table":
        meta = f'"resourceVersion":"{entry.revision}"'.encode()
        document = table([entry], strategy, now, media, include, meta, with_columns=first)
    elif media.shape:
        document = partial(entry, media)
    else:
        document = entry.alone
    return _event(type, document, media)


def _event(type: WatchType, document: bytes, media: Media) -> bytes:
    """A watch event around a JSON document, in the client's format."""
    match media.format:
        case "cbor":
            from kaa.api import cbor

            return cbor.encode_watch_event(type.value, encoded(media, document))
        case "protobuf":
            from . import wire_protobuf

            return wire_protobuf.watch_frame(type.value, encoded(media, document))
    return watch_line(type, document)


def error_line(error: ApiError, media: Media = PLAIN) -> bytes:
    """What ends a watch that cannot go on."""
    if media.format == "json":
        return b'{"type":"ERROR","object":%s}\n' % scheme.encode(error.status)
    body = status_response(error, media).body
    assert isinstance(body, bytes)
    if media.format == "cbor":
        from kaa.api import cbor

        return cbor.encode_watch_event("ERROR", body)
    from . import wire_protobuf

    return wire_protobuf.watch_frame("ERROR", body)


def bookmark_line(resource: Resource[Any], revision: int, *, initial_end: bool, media: Media) -> bytes:
    """A BOOKMARK: an object of the kind that has a resource version and nothing else."""
    note = b',"annotations":{"k8s.io/initial-events-end":"true"}' if initial_end else b""
    tail = b""
    if media.shape:
        kind = "Table" if media.shape == "Table" else "PartialObjectMetadata"
        head = scheme.prefix(f"meta.k8s.io/{media.version}", kind)
        if media.shape == "Table":
            note = b""
            tail = b',"columnDefinitions":null,"rows":[]'
    else:
        head = scheme.prefix(resource.api_version, resource.kind)
    document = b'%s"metadata":{"resourceVersion":"%d"%s}%s}' % (head, revision, note, tail)
    if media.format == "protobuf" and not media.shape:
        from . import wire_protobuf

        return wire_protobuf.watch_frame("BOOKMARK", wire_protobuf.document_body(resource, document))
    return _event(WatchType.BOOKMARK, document, media)
