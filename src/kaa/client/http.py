"""The client over HTTPS, for components in other processes and for any other Kubernetes API server.

Left to others: the bytes of HTTP (connection).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from kaa.api import scheme
from kaa.api.custom import from_document
from kaa.api.errors import ApiError, ServiceUnavailable, from_status
from kaa.api.resources import Resource
from kaa.api.types.meta_v1 import DeleteOptions, ListMeta, Status

from .client import Kind, Listing, PatchType, WatchEvent, WatchType
from .connection import Asks, Connection, Pool
from .inprocess import list_options, parent_of, watch_options

T = TypeVar("T")

TIMEOUT_S = 60.0
LINE_LIMIT = 16 << 20  # bytes of one watch event


class _RawList(msgspec.Struct):
    metadata: ListMeta = msgspec.field(default_factory=ListMeta)
    items: list[msgspec.Raw] | None = None


class _RawEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Meta(msgspec.Struct):
    metadata: Any = None


class HttpClient:
    """``client.Client`` on a server at ``url``. ``token`` is asked for with each request, since tokens are renewed;
    ``pool`` takes the place of connections to ``url``."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None,
        agent: str,
        *,
        token: Callable[[], str] | None = None,
        pool: Asks | None = None,
    ) -> None:
        self._url, self._token = url.rstrip("/"), token
        self._pool: Asks = pool or Pool(self._url, tls, {"User-Agent": agent, "Accept": "application/json"})

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Content-Type": content_type} if content_type else {}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        return headers

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        options: Mapping[str, str] | None = None,
        content_type: str = "",
    ) -> bytes:
        target = path + (f"?{urlencode(options)}" if options else "")
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._pool.ask(method, target, self._headers(content_type), body) as answer,
            ):
                data = await answer.body()
                status = answer.status
        except OSError as err:  # TimeoutError is one
            raise ServiceUnavailable(f"{method} {self._url}{target}: {err or type(err).__name__}") from err
        if status >= 400:
            raise _error(status, data)
        return data

    async def get(self, kind: Kind[T], name: str, namespace: str | None = None) -> T:
        resource = scheme.resource_of(kind)
        found: T = read(resource, await self._send("GET", resource.path(namespace, name)))
        return found

    async def list(
        self,
        kind: Kind[T],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_token: str = "",
        resource_version: str = "",
    ) -> Listing[T]:
        resource = scheme.resource_of(kind)
        options = list_options(label_selector, field_selector, limit, continue_token, resource_version)
        data = await self._send("GET", resource.path(namespace), options=options)
        found = scheme.decode(_RawList, data)
        items: list[T] = [read(resource, item) for item in found.items or ()]
        meta = found.metadata
        return Listing(items, meta.resource_version or "", meta.continue_ or "", meta.remaining_item_count)

    async def watch(
        self,
        kind: Kind[T],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        bookmarks: bool = True,
        timeout_s: float | None = None,
    ) -> AsyncIterator[WatchEvent[T]]:
        resource = scheme.resource_of(kind)
        options = watch_options(label_selector, field_selector, resource_version, bookmarks, timeout_s)
        options["watch"] = "true"
        target = f"{resource.path(namespace)}?{urlencode(options)}"
        try:
            async with self._pool.ask("GET", target, self._headers(""), lasting=True) as answer:
                if answer.status >= 400:
                    raise _error(answer.status, await answer.body())
                async for line in lines(answer):
                    yield _event(resource, line)
        except OSError as err:
            raise ServiceUnavailable(f"watch {self._url}{target}: {err or type(err).__name__}") from err

    async def create(
        self,
        obj: T,
        *,
        namespace: str | None = None,
        subresource: str = "",
        name: str = "",
        resource: Resource[Any] | None = None,
    ) -> T:
        resource = resource or (parent_of(obj, subresource) if subresource else scheme.resource_of(obj))
        where = namespace if namespace is not None else obj.metadata.namespace  # type: ignore[attr-defined]
        path = resource.path(where, name or None, subresource or None)
        data = await self._send("POST", path, write(obj), content_type="application/json")
        if subresource:
            return obj if scheme.decode(scheme.TypeMeta, data).kind == "Status" else scheme.decode(type(obj), data)
        made: T = read(resource, data)
        return made

    async def update(self, obj: T, *, subresource: str = "", resource: Resource[Any] | None = None) -> T:
        resource = resource or scheme.resource_of(obj)
        metadata = obj.metadata  # type: ignore[attr-defined]
        path = resource.path(metadata.namespace, metadata.name, subresource or None)
        made: T = read(resource, await self._send("PUT", path, write(obj), content_type="application/json"))
        return made

    async def update_status(self, obj: T, *, resource: Resource[Any] | None = None) -> T:
        return await self.update(obj, subresource="status", resource=resource)

    async def patch(
        self,
        kind: Kind[T],
        name: str,
        patch: Mapping[str, Any] | Sequence[Any],
        namespace: str | None = None,
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> T:
        resource = scheme.resource_of(kind)
        options = {**({"fieldManager": field_manager} if field_manager else {}), **({"force": "true"} if force else {})}
        path = resource.path(namespace, name, subresource or None)
        body = scheme.encode_inner(patch)
        made: T = read(resource, await self._send("PATCH", path, body, options=options, content_type=type.value))
        return made

    async def delete(
        self, kind: Kind[Any], name: str, namespace: str | None = None, *, options: DeleteOptions | None = None
    ) -> None:
        resource = scheme.resource_of(kind)
        await self._send("DELETE", resource.path(namespace, name), _options(options), content_type="application/json")

    async def delete_collection(
        self,
        kind: Kind[Any],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        options: DeleteOptions | None = None,
    ) -> None:
        resource = scheme.resource_of(kind)
        query = list_options(label_selector, field_selector, 0, "", "")
        await self._send(
            "DELETE", resource.path(namespace), _options(options), options=query, content_type="application/json"
        )

    async def call(
        self,
        resource: Resource[Any],
        name: str,
        subresource: str,
        body: Any,
        answer: type[T],
        namespace: str | None = None,
        *,
        verb: str = "create",
    ) -> T:
        path = resource.path(namespace, name, subresource)
        data = b"" if body is None else write(body)
        kind = "application/json" if data else ""
        return scheme.decode(answer, await self._send(METHODS[verb], path, data, content_type=kind))

    async def raw(self, method: str, path: str, body: bytes = b"", *, content_type: str = "application/json") -> bytes:
        return await self._send(method, path, body, content_type=content_type if body else "")

    async def close(self) -> None:
        self._pool.close()
        await asyncio.sleep(0)


#: {verb: HTTP method}
METHODS = {"get": "GET", "create": "POST", "update": "PUT"}


def write(obj: Any) -> bytes:
    return scheme.encode(obj.document() if hasattr(obj, "document") else obj)


def read(resource: Resource[Any], data: bytes | msgspec.Raw) -> Any:
    """An object off the wire: a Struct, or a CustomObject."""
    if not resource.custom:
        return scheme.decode(resource.type, data if isinstance(data, bytes) else bytes(data))
    document = msgspec.json.decode(data)
    return from_document({"kind": resource.kind, "apiVersion": resource.api_version, **document})


async def lines(answer: Connection) -> AsyncIterator[bytes]:
    """The lines of a stream, however long."""
    rest = b""
    async for chunk in answer.chunks():
        rest += chunk
        if len(rest) > LINE_LIMIT:
            raise ServiceUnavailable(f"a watch event is longer than {LINE_LIMIT} bytes")
        *whole, rest = rest.split(b"\n")
        for line in whole:
            if line:
                yield line


def _event(resource: Resource[Any], line: bytes) -> WatchEvent[Any]:
    event = msgspec.json.decode(line, type=_RawEvent)
    if event.type == "ERROR":
        raise from_status(scheme.decode(Status, bytes(event.object)))
    type = WatchType(event.type)
    if type is WatchType.BOOKMARK:
        metadata = msgspec.json.decode(event.object, type=_Meta).metadata or {}
        return WatchEvent(type, None, metadata.get("resourceVersion", ""))
    obj = read(resource, event.object)
    return WatchEvent(type, obj, obj.metadata.resource_version or "")


def _options(options: DeleteOptions | None) -> bytes:
    if options is None:
        return b""
    return scheme.encode_as(options, "v1", "DeleteOptions")


def _error(code: int, data: bytes) -> ApiError:
    """The exception of an answer that is no success, a Status or not."""
    try:
        status = scheme.decode(Status, data)
    except scheme.DecodeError:
        status = Status(message=data[:500].decode("utf-8", "replace"), code=code)
    return from_status(msgspec.structs.replace(status, code=status.code or code))
