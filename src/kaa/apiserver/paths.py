"""Paths that are no resource: health, version, metrics, discovery, OpenAPI, the token issuer's documents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from kaa.client.pipeline import User

from . import wire
from .authn.discovery import CONFIGURATION_TYPE, KEYS_PATH, KEYS_TYPE, configuration, key_set
from .authn.jwt import VerifyingKey
from .authn.tokens import ISSUER
from .discovery import VERSION, Discovery
from .front import PathHandler
from .health import CHECKS, TEXT, Health
from .http import Answer, HttpRequest, HttpResponse
from .metrics import Metrics
from .openapi import OpenAPI
from .openapi.documents import Document
from .pipeline import ApiServer

_PLAIN_PATHS = (
    "/api", "/api/v1", "/apis", "/healthz", "/livez", "/readyz", "/metrics", "/openapi/v2", "/openapi/v3",
    "/openid/v1/jwks", "/version",
)  # fmt: skip


class Paths:
    """The handlers by path; a key that ends in ``/`` serves what is below it."""

    def __init__(self, api: ApiServer, metrics: Metrics, key: VerifyingKey, server_url: str) -> None:
        self._api, self._metrics, self._key, self._server_url = api, metrics, key, server_url
        self.ready = asyncio.Event()
        self.health = Health(api, self.ready)
        self.discovery = Discovery(server_url.removeprefix("https://"), api.serving.resources)
        self.openapi = OpenAPI(api.serving.resources)
        #: Adds what other servers say to the two documents that speak of all.
        self.merge_openapi: Callable[[str, Document], Awaitable[Document]] | None = None
        self.handlers: dict[str, PathHandler] = {
            "/version": lambda http, user, options: HttpResponse(
                200, msgspec.json.format(msgspec.json.encode(VERSION), indent=2)
            ),
            "/version/": lambda http, user, options: HttpResponse(
                200, msgspec.json.format(msgspec.json.encode(VERSION), indent=2)
            ),
            "/metrics": lambda http, user, options: HttpResponse(
                200, self._metrics.text().encode(), "text/plain; version=0.0.4"
            ),
            "/": self._root,
            KEYS_PATH: lambda http, user, options: HttpResponse(200, key_set([self._key]), KEYS_TYPE),
            "/.well-known/openid-configuration": lambda http, user, options: HttpResponse(
                200, configuration(ISSUER, self._server_url, [self._key]), CONFIGURATION_TYPE
            ),
        }
        for word in ("healthz", "livez", "readyz"):
            self.handlers[f"/{word}"] = self.health.report
            self.handlers[f"/{word}/"] = self.health.one
        for path in ("/api", "/apis", "/api/", "/apis/"):
            self.handlers[path] = self._discovery
        for path in ("/openapi/v2", "/openapi/v3", "/openapi/v3/", "/openapi/"):
            self.handlers[path] = self._openapi
        for path in ("/api", "/apis", "/version", *self._group_paths()):
            self._api.raw_paths[path] = self._raw(path)

    def _group_paths(self) -> list[str]:
        versions = sorted({resource.root for resource in self.discovery.resources()})
        return [*versions, *(f"/apis/{group}" for group in self.discovery.groups())]

    def _raw(self, path: str) -> Callable[[User], bytes]:
        def answer(_: User) -> bytes:
            if path == "/version":
                return msgspec.json.encode(VERSION)
            found = self.discovery.document(path, "application/json")
            return found[0] if found else b"{}"

        return answer

    def _root(self, http: HttpRequest, user: User, options: dict[str, str]) -> Answer | Awaitable[Answer]:
        paths = sorted({*_PLAIN_PATHS, *self._group_paths(), *(f"/healthz/{check}" for check in CHECKS)})
        return HttpResponse(200, msgspec.json.format(msgspec.json.encode({"paths": paths}), indent=2))

    def _discovery(self, http: HttpRequest, user: User, options: dict[str, str]) -> HttpResponse:
        path = http.target.partition(b"?")[0].decode("latin-1").rstrip("/")
        found = self.discovery.document(path, http.headers.get("accept", ""))
        if found is None:
            return HttpResponse(404, b"404 page not found\n", TEXT)
        body, content_type, etag = found
        if content_type == wire.PLAIN.content_type:
            body, content_type = wire.discovery_body(
                body, wire.negotiate(http.headers.get("accept", ""), protobuf=True)
            )
        if etag and http.headers.get("if-none-match") == etag:
            return HttpResponse(304, b"", "", [("ETag", etag)])
        headers = [("ETag", etag), ("Vary", "Accept")] if etag else []
        return HttpResponse(200, body, content_type, headers)

    async def _openapi(self, http: HttpRequest, user: User, options: dict[str, str]) -> HttpResponse:
        """Documents are built on first demand, which takes a while: off the event loop."""
        path = http.target.partition(b"?")[0].decode("latin-1")
        headers = http.headers
        found = await asyncio.to_thread(
            self.openapi.document, path, headers.get("accept", ""), headers.get("accept-encoding", "")
        )
        if found is None:
            return HttpResponse(404, b"404 page not found\n", TEXT)
        if self.merge_openapi is not None and path.rstrip("/") in ("/openapi/v2", "/openapi/v3"):
            found = await self.merge_openapi(path, found)
        asked = options.get("hash")
        if asked and found.hash and asked != found.hash:
            return HttpResponse(301, b"", "", [("Location", f"{path}?hash={found.hash}")])
        shown = [("ETag", found.etag), ("Vary", "Accept-Encoding"), ("Vary", "Accept")]
        if headers.get("if-none-match") == found.etag:
            return HttpResponse(304, b"", "", shown)
        if found.encoding:
            shown.append(("Content-Encoding", found.encoding))
        return HttpResponse(200, found.body, found.content_type, shown)
