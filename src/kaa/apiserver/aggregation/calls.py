"""Calls from this process to servers behind APIServices: the namespace controller empties their resources too.

A component's client speaks to the pipeline; what this server does not keep goes on over HTTPS, as the component's user.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from kaa.api.errors import NotFound, ServiceUnavailable
from kaa.api.types.apiregistration_v1 import APIService
from kaa.client.client import PatchType, WatchEvent
from kaa.client.connection import Connection, Headers
from kaa.client.http import HttpClient, write
from kaa.client.pipeline import Answer, Request, User

from .aggregator import Aggregator
from .backend import user_headers


class RemoteCalls:
    """``pipeline.Elsewhere``: requests and paths that are not this server's own."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator

    def _client(self, user: User, agent: str, group: str, version: str) -> HttpClient:
        service = self._aggregator.find(group, version)
        if service is None:
            raise NotFound("the server could not find the requested resource")
        return HttpClient("", None, agent, pool=_Routed(self._aggregator, service, user, agent))

    async def raw(self, user: User, method: str, path: str, body: bytes, content_type: str) -> bytes:
        """Ask for a path. Raises NotFound for one that no APIService hands on, and whatever its server refuses with."""
        match path.partition("?")[0].strip("/").split("/"):
            case ["apis", group, version, *_]:
                client = self._client(user, "", group, version)
                return await client.raw(method, path, body, content_type=content_type)
        raise NotFound("the server could not find the requested resource")

    async def call(self, request: Request) -> Answer:
        """An authorized request on a resource of another server."""
        resource, options = request.resource, request.options
        client = self._client(request.user, request.user_agent, resource.group, resource.version)
        where = request.namespace or None
        selectors = {
            "label_selector": options.get("labelSelector", ""),
            "field_selector": options.get("fieldSelector", ""),
        }
        found: Any = None
        match request.verb:
            case "list":
                listing: Any = await client.list(
                    resource,
                    where,
                    limit=int(options.get("limit") or 0),
                    continue_token=options.get("continue", ""),
                    resource_version=options.get("resourceVersion", ""),
                    **selectors,
                )
                return Answer(
                    200,
                    items=listing.items,
                    resource_version=listing.resource_version,
                    continue_token=listing.continue_token,
                )
            case "get":
                found = await client.get(resource, request.name, where)
            case "create" if request.subresource:
                path = resource.path(where, request.name, request.subresource)
                await client.raw("POST", path, write(request.body))
                found = request.body
            case "create":
                found = await client.create(request.body, namespace=where)
            case "update":
                found = await client.update(request.body, subresource=request.subresource)
            case "patch":
                found = await client.patch(
                    resource,
                    request.name,
                    request.body,
                    where,
                    type=PatchType(request.content_type),
                    subresource=request.subresource,
                    field_manager=options.get("fieldManager", ""),
                    force=options.get("force") == "true",
                )
            case "delete":
                await client.delete(resource, request.name, where, options=request.body)
            case "deletecollection":
                await client.delete_collection(resource, where, options=request.body, **selectors)
        return Answer(200, object=found)

    def watch(self, request: Request) -> AsyncIterator[WatchEvent[Any]]:
        resource, options = request.resource, request.options
        client = self._client(request.user, request.user_agent, resource.group, resource.version)
        return client.watch(
            resource,
            request.namespace or None,
            label_selector=options.get("labelSelector", ""),
            field_selector=options.get("fieldSelector", ""),
            resource_version=options.get("resourceVersion", ""),
        )


class _Routed:
    """A pool whose requests go to whichever server is there now, in a user's name."""

    def __init__(self, aggregator: Aggregator, service: APIService, user: User, agent: str) -> None:
        self._aggregator, self._service = aggregator, service
        self._headers = [*user_headers(user), ("Accept", "application/json")]
        if agent:
            self._headers.append(("User-Agent", agent))

    def ask(
        self, method: str, path: str, headers: Headers, body: bytes = b"", *, lasting: bool = False
    ) -> AbstractAsyncContextManager[Connection]:
        address = self._aggregator.address(self._service)
        if address is None:
            raise ServiceUnavailable("service unavailable")
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        pool = self._aggregator.backend(self._service).pool(*address)
        return pool.ask(method, path, [*pairs, *self._headers], body, lasting=lasting)

    def close(self) -> None:
        """The connections are the aggregator's."""
