"""``/healthz``, ``/livez`` and ``/readyz``: whether this server works, looked at when it is asked.

Source: Kubernetes API health endpoints; the words are apiserver pkg/server/healthz's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

import structlog

from kaa.client.pipeline import User

from . import keys
from .http import HttpRequest, HttpResponse
from .pipeline import ApiServer

log = structlog.get_logger(__name__)

TEXT = "text/plain; charset=utf-8"
STORE_S = 2.0  # how long the store may take to answer a check
_NO_SNIFF = ("X-Content-Type-Options", "nosniff")
#: What a start does, by the names of upstream's hooks: caches are filled and followed, definitions and APIServices served,
#: and what every cluster holds is made. All of it is done before the server is ready.
_STARTED = (
    *(
        f"poststarthook/{hook}"
        for hook in (
            "start-apiserver-admission-initializer",
            "generic-apiserver-start-informers",
            "priority-and-fairness-config-consumer",
            "priority-and-fairness-filter",
            "start-apiextensions-informers",
            "start-apiextensions-controllers",
            "crd-informer-synced",
            "start-system-namespaces-controller",
            "start-cluster-authentication-info-controller",
            "start-legacy-token-tracking-controller",
            "rbac/bootstrap-roles",
            "scheduling/bootstrap-system-priority-classes",
            "priority-and-fairness-config-producer",
            "bootstrap-controller",
            "start-kubernetes-service-cidr-controller",
            "start-kube-aggregator-informers",
            "apiservice-status-local-available-controller",
            "apiservice-status-remote-available-controller",
            "apiservice-registration-controller",
            "apiservice-discovery-controller",
            "kube-apiserver-autoregistration",
        )
    ),
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
)
CHECKS = ("ping", "log", "etcd", *_STARTED)
READY_CHECKS = ("ping", "log", "etcd", "etcd-readiness", "informer-sync", *_STARTED, "shutdown")

#: What is wrong; empty: nothing.
Check = Callable[[], Awaitable[str]]


class Health:
    """The checks of one server. ``ready`` is set once it has started, ``stopping`` when it begins to end."""

    def __init__(self, api: ApiServer, ready: asyncio.Event) -> None:
        self._api, self._ready = api, ready
        self.stopping = asyncio.Event()
        self._checks: dict[str, Check] = {
            "etcd": self._store,
            "etcd-readiness": self._store,
            "informer-sync": self._synced,
            "shutdown": self._serving,
        }
        self._checks.update(dict.fromkeys(_STARTED, self._started))

    async def report(self, http: HttpRequest, user: User, options: dict[str, str]) -> HttpResponse:
        """``/readyz?verbose&exclude=etcd``: all checks. A failure is always told in full, but for its reason."""
        path, _, query = http.target.decode("latin-1").partition("?")
        kind = path.strip("/")
        excluded = set(parse_qs(query).get("exclude", ()))
        lines, failed = [], False
        for name in _named(kind):
            if name in excluded:
                excluded.remove(name)
                lines.append(f"[+]{name} excluded: ok\n")
                continue
            problem = await self._problem(name)
            failed = failed or bool(problem)
            lines.append(f"[-]{name} failed: reason withheld\n" if problem else f"[+]{name} ok\n")
        if excluded:
            unknown = ", ".join(f'"{name}"' for name in sorted(excluded))
            lines.append(f"warn: some health checks cannot be excluded: no matches for {unknown}\n")
        if failed:
            return _text(500, "".join((*lines, f"{kind} check failed\n")))
        return _text(200, "".join((*lines, f"{kind} check passed\n")) if "verbose" in options else "ok")

    async def one(self, http: HttpRequest, user: User, options: dict[str, str]) -> HttpResponse:
        """``/readyz/etcd``: one check."""
        kind, _, name = http.target.partition(b"?")[0].decode("latin-1").strip("/").partition("/")
        if name not in _named(kind):
            return HttpResponse(404, b"404 page not found\n", TEXT)
        problem = await self._problem(name)
        return _text(500, f"internal server error: {problem}\n") if problem else _text(200, "ok")

    async def _problem(self, name: str) -> str:
        check = self._checks.get(name)
        problem = await check() if check is not None else ""
        if problem:
            log.warning("health check failed", check=name, problem=problem)
        return problem

    async def _store(self) -> str:
        return await store_problem(self._api)

    async def _synced(self) -> str:
        """The caches are filled and follow the log."""
        api = self._api
        try:
            async with asyncio.timeout(STORE_S):
                await api.cacher.reach(api.store.revision)
        except TimeoutError:
            return f"caches are at {api.cacher.revision}, the store is at {api.store.revision}"
        return ""

    async def _started(self) -> str:
        return "" if self._ready.is_set() else "not finished"

    async def _serving(self) -> str:
        return "process is shutting down" if self.stopping.is_set() else ""


async def store_problem(api: ApiServer) -> str:
    """What keeps the store from answering; empty: it answers."""
    try:
        async with asyncio.timeout(STORE_S):
            await api.store.range(f"{keys.ROOT}health", limit=1)
    except TimeoutError:
        return "error getting data from etcd: context deadline exceeded"
    except Exception as err:  # whatever a store may raise: its failure is what is asked for
        return f"error getting data from etcd: {err}"
    return ""


def _named(kind: str) -> tuple[str, ...]:
    return READY_CHECKS if kind == "readyz" else CHECKS


def _text(code: int, text: str) -> HttpResponse:
    return HttpResponse(code, text.encode(), TEXT, [_NO_SNIFF])
