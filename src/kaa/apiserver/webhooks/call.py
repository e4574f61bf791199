"""HTTPS to a webhook: where it is, whom it must prove to be, and what went wrong in Go's words.

    caller = Caller(view)
    data = await caller.post(hook.client_config, body, timeout_s=10)     # raises BadConfig, CallFailed

A service is reached at one of its endpoints, so that no proxy need run beside this server (upstream's
``--enable-aggregator-routing``), under the name ``<service>.<namespace>.svc``. We show no certificate. Connections are
kept by endpoint and trust, and used again.

Left to others: what is asked and answered (review; conversion of custom resources).
Source: apiserver pkg/util/webhook client.go, error.go; client-go rest/request.go; apimachinery NewGenericServerResponse.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from kaa.api.types.core_v1 import Service
from kaa.client.connection import Connection, Pool

from ..aggregation.backend import BadTrust, client_context, trust
from ..aggregation.resolve import DEFAULT_PORT, Unresolved, address_of, slices_of
from ..go_words import go_words
from ..view import View

AGENT = "kube-apiserver-admission"
KEPT_POOLS = 64
ANSWER_LIMIT = 16 << 20  # bytes of an answer
_HEADERS = {"Accept": "application/json, */*", "Content-Type": "application/json"}


class ClientConfig(Protocol):
    """A ``WebhookClientConfig`` of admissionregistration or apiextensions."""

    @property
    def ca_bundle(self) -> str | None: ...
    @property
    def service(self) -> Any: ...
    @property
    def url(self) -> str | None: ...


class CallError(Exception):
    """A webhook gave no answer; the text says why."""


class BadConfig(CallError):
    """It cannot even be tried."""


class CallFailed(CallError):
    """It was tried: ``Post "https://…": connect: connection refused``, or the server's own no."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a webhook is: ``authority`` (``host:port`` as messages show it), its parts, and the path."""

    authority: str
    host: str
    port: int
    path: str
    service: Any = None

    def url(self, timeout_s: float | None) -> str:
        query = "" if timeout_s is None else f"?timeout={math.ceil(timeout_s)}s"
        return f"https://{self.authority}{self.path}{query}"


def target_of(config: ClientConfig) -> Target:
    """Raises BadConfig."""
    service = config.service
    if service is not None:
        port = service.port or DEFAULT_PORT
        host = f"{service.name}.{service.namespace}.svc"
        return Target(f"{host}:{port}", host, port, _rooted(service.path or ""), service)
    if not config.url:
        raise BadConfig("webhook configuration must have either service or URL")
    parts = urlsplit(config.url)
    return Target(parts.netloc, parts.hostname or "", parts.port or 443, _rooted(parts.path))


def _rooted(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


class Caller:
    """Posts to webhooks. ``view`` knows services and their endpoints."""

    def __init__(self, view: View) -> None:
        self._view = view
        #: {(host, port, authority, caBundle): connections}
        self._pools: dict[tuple[str, int, str, str], _Kept] = {}

    async def post(self, config: ClientConfig, body: bytes, timeout_s: float, *, tells_timeout: bool = True) -> bytes:
        """The body of a webhook's answer. ``tells_timeout``: the query says how long we wait, as admission does.

        Raises: BadConfig, CallFailed.
        """
        target = target_of(config)
        url = target.url(timeout_s if tells_timeout else None)
        tls = context_for(config.ca_bundle or "")
        host, port = target.host, target.port
        try:
            async with asyncio.timeout(timeout_s):
                host, port = self._address(target)
                async with self._pool(target, host, port, config.ca_bundle or "", tls) as pool:
                    return await _answer(pool, url[len(f"https://{target.authority}") :], body)
        except (OSError, Unresolved) as err:  # TimeoutError is an OSError
            raise CallFailed(f'Post "{url}": {go_words(err, host, port, target.host)}') from err

    def _address(self, target: Target) -> tuple[str, int]:
        """Raises Unresolved."""
        reference = target.service
        if reference is None:
            return target.host, target.port
        service = self._view.get(Service, reference.name, reference.namespace)
        return address_of(service, slices_of(self._view, reference), reference, self._view.clock.random)

    @asynccontextmanager
    async def _pool(
        self, target: Target, host: str, port: int, bundle: str, tls: ssl.SSLContext
    ) -> AsyncIterator[Pool]:
        key = host, port, target.authority, bundle
        kept = self._pools.pop(key, None)
        if kept is None:
            shown = f"[{host}]" if ":" in host else host
            headers = {"Host": target.authority, "User-Agent": AGENT}
            kept = _Kept(Pool(f"https://{shown}:{port}", tls, headers, server_name=target.host))
        self._pools[key] = kept  # the last used stand last
        kept.busy += 1
        try:
            yield kept.pool
        finally:
            kept.busy -= 1
            self._trim()

    def _trim(self) -> None:
        """Endpoints come and go: the connections that were used longest ago are let go."""
        for key, kept in list(self._pools.items()):
            if len(self._pools) <= KEPT_POOLS:
                return
            if not kept.busy:
                kept.pool.close()
                del self._pools[key]

    def close(self) -> None:
        for kept in self._pools.values():
            kept.pool.close()
        self._pools.clear()


@dataclass(slots=True)
class _Kept:
    pool: Pool
    busy: int = 0


async def _answer(pool: Pool, path: str, body: bytes) -> bytes:
    """Raises OSError, CallFailed."""
    async with pool.ask("POST", path, _HEADERS, body, again=True) as answer:
        data = await _whole(answer)
        status = answer.status
        content_type = next((value for name, value in answer.headers if name == "content-type"), "")
    if not 200 <= status <= 206:
        shown = data.decode("utf-8", "replace").strip() if _is_text(content_type) else "unknown"
        raise CallFailed(refusal(status, shown))
    if not data:
        raise CallFailed(f"0-length response with status code: {status} and content type: {content_type}")
    return data


async def _whole(answer: Connection) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.chunks():
        size += len(chunk)
        if size > ANSWER_LIMIT:
            raise CallFailed(f"the answer is longer than {ANSWER_LIMIT} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


@lru_cache(maxsize=KEPT_POOLS)
def context_for(bundle: str) -> ssl.SSLContext:
    """TLS that trusts the authorities of a caBundle, or the machine's when there is none. Raises BadConfig."""
    context = client_context(None)
    try:
        trust(context, bundle)
    except BadTrust as err:
        raise BadConfig(str(err)) from err
    return context


# -------------------------------------------------------------------------------------------------------- words

_REFUSALS = {
    400: "the server rejected our request for an unknown reason",
    401: "the server has asked for the client to provide credentials",
    404: "the server could not find the requested resource",
    405: "the server does not allow this method on the requested resource",
    409: "the server reported a conflict",
    422: "the server rejected our request due to an error in our request",
    429: "the server has received too many requests and has asked us to try again later",
    503: "the server is currently unable to handle the request",
    504: "the server was unable to return a response in the time allotted, but may still be processing the request",
}


def refusal(status: int, text: str) -> str:
    """What a status that is no success means; ``text`` is what the server wrote."""
    text = text or "unknown"
    if status == 403:
        return text
    if status in (406, 415):
        return (
            text
            if text != "unknown"
            else "the server was unable to respond with a content type that the client supports"
        )
    if status in _REFUSALS:
        return _REFUSALS[status]
    if status >= 500:
        quoted = msgspec.json.encode(text).decode()
        return f"an error on the server ({quoted}) has prevented the request from succeeding"
    return f"the server responded with the status code {status} but did not return more information"


def _is_text(content_type: str) -> bool:
    return not content_type or content_type.lower().startswith("text/")
