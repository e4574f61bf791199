"""HTTP meets the pipeline: authentication, the URL's meaning, authorization, and the answer's bytes.

The idea: a cached read goes from parsed request to written bytes in one turn of the event loop. Everything that may wait
is one coroutine. Refusals are Statuses everywhere but on paths that were never Kubernetes' own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import structlog

from kaa.api.errors import ApiError, BadRequest, InternalError, NotFound, TooLarge, Unauthorized
from kaa.api.resources import Resource
from kaa.client.client import WatchType
from kaa.client.pipeline import Request, User

from . import keys, routes, wire
from .aggregation.aggregator import Aggregator
from .authn.base import Credentials
from .authn.chain import UnionAuthenticator
from .authn.impersonation import impersonate, read_headers
from .authz.base import Question
from .entries import Entry
from .http import APART, Answer, Connection, HttpRequest, HttpResponse
from .metrics import Metrics, Series
from .pipeline import ApiServer, Outcome, method_not_allowed
from .queries import is_true
from .reads import Watch, WatchStep
from .routes import Target
from .timeouts import time_limit, timed_out
from .watchers import watch_line

if TYPE_CHECKING:  # loaded only where it is on
    from .audit.auditor import Trail
    from .audit.requests import FrontAuditor
    from .flowcontrol.seating import Seating

log = structlog.get_logger(__name__)

#: Serves a path that is no resource. (request, user, options) -> response
PathHandler = Callable[[HttpRequest, User, dict[str, str]], Answer | Awaitable[Answer]]
#: Serves log, exec, attach, port-forward and proxy. (http request, request, target) -> response or upgrade
Connector = Callable[[HttpRequest, Request, Target], Awaitable[Answer]]

#: What a request's line comes to: its target, its query, and where it is counted. Shared by requests: never changed.
_Meaning = tuple[Target, dict[str, str], Series]
KEPT_MEANINGS = 1024

#: {(group, plural): what those who use it are told}
_DEPRECATED = {
    ("", "endpoints"): ("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",),
    ("", "componentstatuses"): ("v1 ComponentStatus is deprecated in v1.19+",),
}
_NOT_FOUND = b"404 page not found\n"


class Front:
    """The HTTP application of an ApiServer."""

    def __init__(
        self,
        api: ApiServer,
        authenticator: UnionAuthenticator,
        metrics: Metrics,
        *,
        paths: dict[str, PathHandler],
        connect: Connector,
        aggregator: Aggregator | None = None,
        auditor: FrontAuditor | None = None,
        seating: Seating | None = None,
        request_timeout_s: float = 60.0,
    ) -> None:
        self._api, self._authenticator, self._metrics = api, authenticator, metrics
        self._paths, self._connect = paths, connect
        self._aggregator, self._auditor, self._seating = aggregator, auditor, seating
        self._request_timeout_s = request_timeout_s
        self._known: dict[tuple[str, bytes], _Meaning] = {}

    def __call__(self, http: HttpRequest) -> Answer | Awaitable[Answer]:
        began = self._api.clock.monotonic()
        series: Series | None = None
        trail: Trail | None = None
        lines = b""
        try:
            target, options, series = self._known.get((http.method, http.target)) or self._understand(http)
            asker = self._asker(http)
            if self._auditor is not None:
                trail = self._auditor.arrived(http, asker, target)
            user = self._acting(http, asker)
            if trail is not None and user is not asker:
                trail.impersonated(user)
            if self._seating is None:
                answer = self._dispatch(http, user, target, options)
            else:
                flow = self._seating.flow(user, target, http.method)
                lines = flow.lines
                answer = self._seating.serve(flow, self._dispatch, http, user, target, options, trail)
            if http.remarks:
                lines += b"".join(_warning(text) for _, _, text in http.remarks if text)
        except Exception as err:
            answer = self._failure(http, err, trail)
        if trail is not None:
            trail.decided()
            if self._auditor is not None and not isinstance(answer, Awaitable):
                answer = self._auditor.answered(trail, answer)
        if isinstance(answer, HttpResponse):
            (series or self._metrics.series(None)).observe(answer.status, self._api.clock.monotonic() - began)
            answer.lines = lines
            if "audit-id" in http.headers:
                answer.audit_id = http.headers["audit-id"]
            return answer
        if isinstance(answer, Awaitable):
            return self._finish(http, answer, series or self._metrics.series(None), began, trail, lines)
        return answer

    def _understand(self, http: HttpRequest) -> _Meaning:
        """What method and URL mean. It is kept where it cannot change: not for custom resources, which come and go."""
        raw, _, query = http.target.decode("latin-1").partition("?")
        options = routes.parse_query(query) if query else {}
        target = routes.resolve(http.method, raw, options, self._api.find)
        meaning = target, options, self._metrics.series(target)
        if target.resource is not None and not target.resource.custom:
            if len(self._known) >= KEPT_MEANINGS:
                self._known.clear()
            self._known[http.method, http.target] = meaning
        return meaning

    async def _finish(
        self,
        http: HttpRequest,
        waiting: Awaitable[Answer],
        series: Series,
        began: float,
        trail: Trail | None,
        lines: bytes,
    ) -> Answer:
        inflight = self._metrics.inflight
        kind = "readOnly" if http.method in ("GET", "HEAD") else "mutating"
        inflight[kind] += 1
        try:
            answer = await waiting
        except Exception as err:
            answer = self._failure(http, err, trail)
        finally:
            inflight[kind] -= 1
        if self._auditor is not None and trail is not None:
            answer = self._auditor.answered(trail, answer)
        if isinstance(answer, HttpResponse):
            series.observe(answer.status, self._api.clock.monotonic() - began)
            answer.lines = lines
            answer.audit_id = answer.audit_id or http.headers.get("audit-id", "")
        return answer

    def _failure(self, http: HttpRequest, error: Exception, trail: Trail | None) -> HttpResponse:
        """The answer to what went wrong; what nobody foresaw is logged, and told without its details."""
        if self._auditor is not None and trail is None and isinstance(error, Unauthorized):
            self._auditor.unknown(http)
        if isinstance(error, ApiError):
            return self._refusal(http, error)
        if isinstance(error, RecursionError):  # only what was sent can nest so deeply
            return self._refusal(http, BadRequest("the object provided is nested too deeply"))
        if isinstance(error, TimeoutError):
            return self._refusal(http, timed_out())
        if trail is not None:
            trail.panicked()
        log.error("request failed", method=http.method, target=http.target.decode("latin-1"), exc_info=error)
        return self._refusal(http, InternalError("an error on the server prevented the request from succeeding"))

    def _asker(self, http: HttpRequest) -> User:
        """Who sends the request. Raises Unauthorized."""
        credentials = Credentials(http.headers.get("authorization", ""), http.connection.peer_certificate, http.remark)
        return self._authenticator.authenticate(credentials, self._api.cacher)

    def _acting(self, http: HttpRequest, user: User) -> User:
        """Whom the sender acts as: another, if it says so and may."""
        headers = http.headers
        for name in headers:
            if name.startswith("impersonate-"):
                break
        else:
            return user
        wish = read_headers((name, part) for name, value in headers.items() for part in value.split(APART))
        return user if wish is None else impersonate(user, wish, self._api.authorizer, self._api.cacher)

    def _refusal(self, http: HttpRequest, error: ApiError) -> HttpResponse:
        try:
            media = wire.negotiate(http.headers.get("accept", ""), protobuf=True)
        except ApiError:
            media = wire.PLAIN
        response = wire.status_response(error, media)
        if error.status.code == 401:
            response.headers.append(("WWW-Authenticate", 'Basic realm="kubernetes-master"'))
        _warn(response, error.warnings)
        return response

    # ------------------------------------------------------------------------------------------------ dispatching

    def _dispatch(
        self, http: HttpRequest, user: User, target: Target, options: dict[str, str]
    ) -> Answer | Awaitable[Answer]:
        if target.resource is None:
            return self._path(http, user, target, options)
        headers = http.headers
        request = Request(
            user,
            target.verb,
            target.resource,
            target.namespace if target.resource.namespaced else "",
            target.name,
            target.subresource,
            http.body,
            headers.get("content-type", "application/json"),
            options,
            headers.get("user-agent", ""),
            note=http.note,
        )
        self._api.authorize(request if target.resource.namespaced else _with_namespace(request, target))
        if target.subresource in routes.CONNECTS:
            return self._connect(http, request, target)
        self._check_verb(target)
        stream = target.verb == "watch"
        listed = stream and is_true(options, "sendInitialEvents") and is_true(options, "allowWatchBookmarks")
        accept, custom = headers.get("accept", ""), target.resource.custom
        media = wire.negotiate(accept, protobuf=not custom, stream=stream, tables=not listed)
        if media.shape == "Table" and "get" not in target.resource.verbs:
            raise wire.not_acceptable()  # a review is no row
        if "pretty" in options and options["pretty"] in ("true", "1"):
            media = wire.Media(media.format, media.shape, media.version, True)
        if stream:
            return self._watch(request, media, http.connection)
        zipped = wire.wants_gzip(headers["accept-encoding"]) if "accept-encoding" in headers else False
        limit_s = self._request_timeout_s
        if "timeout" in options:
            limit_s = time_limit(options["timeout"], limit_s)
        made = self._api.perform(request)
        if isinstance(made, Outcome):
            answer = self._render(made, request, media)
            return wire.gzipped(answer) if zipped else answer
        return self._rendered(made, request, media, zipped, limit_s)

    def _check_verb(self, target: Target) -> None:
        resource = target.resource
        assert resource is not None
        if target.subresource:
            if resource.subresource(target.subresource) is None:
                raise _no_such_resource()
        elif (
            target.verb not in resource.verbs
            or (target.verb == "patch" and not target.name)
            or (resource.namespaced and not target.namespace and target.verb not in routes.ACROSS_NAMESPACES)
        ):
            raise method_not_allowed()

    def _path(
        self, http: HttpRequest, user: User, target: Target, options: dict[str, str]
    ) -> Answer | Awaitable[Answer]:
        path = target.path
        service = self._aggregator.serving(target) if self._aggregator is not None else None
        if self._aggregator is not None and service is not None:
            self._api.allow(question_of(http, user, target))
            limit_s = time_limit(options.get("timeout", ""), self._request_timeout_s)
            return self._aggregator.answer(http, user, service, target, limit_s)
        if target.unknown_resource:
            if (target.group, target.version) in self._api.served():
                self._api.allow(question_of(http, user, target))
                raise _no_such_resource()
            self._api.allow(Question(user, http.method.lower(), path=path))
            return HttpResponse(404, _NOT_FOUND, "text/plain; charset=utf-8")
        self._api.allow(Question(user, http.method.lower(), path=path))
        handler = self._handler(path)
        if handler is None:
            return HttpResponse(404, _NOT_FOUND, "text/plain; charset=utf-8")
        return handler(http, user, options)

    def _handler(self, path: str) -> PathHandler | None:
        """The handler of a path, or of the nearest ``/…/`` above it."""
        found = self._paths.get(path)
        while found is None and path.count("/") > 1:
            path = path[: path.rstrip("/").rfind("/") + 1]
            found = self._paths.get(path) if path != "/" else None
        return found

    # ------------------------------------------------------------------------------------------------ rendering

    async def _rendered(
        self, made: Awaitable[Outcome], request: Request, media: wire.Media, zipped: bool, limit_s: float
    ) -> HttpResponse:
        async with asyncio.timeout(limit_s):
            answer = self._render(await made, request, media)
        return wire.gzipped(answer) if zipped else answer

    def _render(self, outcome: Outcome, request: Request, media: wire.Media) -> HttpResponse:
        if (
            outcome.entry is not None
            and media is wire.PLAIN
            and not outcome.warnings
            and not self._deprecation(request)
        ):
            return HttpResponse(outcome.code, outcome.entry.alone)
        include = request.options.get("includeObject") or "Metadata"
        if outcome.entry is not None:
            strategy = self._api.strategy_for(outcome.entry.resource)
            response = wire.object_response(
                outcome.code, outcome.entry, media, strategy, self._api.clock.now(), include
            )
        elif outcome.listing is not None:
            strategy = self._api.strategy_for(request.resource)
            response = wire.list_response(
                outcome.listing, request.resource, media, strategy, self._api.clock.now(), include
            )
        else:
            response = wire.struct_response(outcome.code, outcome.object, media)
        _warn(response, (*self._deprecation(request), *outcome.warnings))
        return response

    def _deprecation(self, request: Request) -> tuple[str, ...]:
        resource = request.resource
        if resource.custom:
            return self._api.strategy_for(resource).deprecation
        return _DEPRECATED.get((resource.group, resource.plural), ())

    # ------------------------------------------------------------------------------------------------ watching

    def _watch(self, request: Request, media: wire.Media, connection: Connection) -> HttpResponse:
        shown = request.resource
        stored = keys.storage_resource(shown)
        if stored is not shown:
            request.resource, request.asked = stored, shown
        watch = self._api.reader.open_watch(request)
        request.resource = shown
        if media.plain and stored is shown:
            watch.watcher.at_once = lambda type, entry, change: connection.write_chunk(change.line(type, entry))
        return HttpResponse(200, self._watch_lines(watch, request, media), media.stream_type, endless=True)

    async def _watch_lines(self, watch: Watch, request: Request, media: wire.Media) -> AsyncIterator[bytes]:
        shown = request.resource
        same = keys.storage_resource(shown) is shown
        include = request.options.get("includeObject") or "Metadata"
        strategy = self._api.strategy_for(shown)
        first = True
        steps = watch.steps()
        scope = "namespace" if request.namespace else "cluster"
        watches, labels = self._metrics.watches, (shown.group, shown.version, shown.plural, scope)
        watches[labels] = watches.get(labels, 0) + 1
        try:
            async for batch in steps:
                if not same:
                    batch = await self._across(batch, shown)
                lines: list[bytes] = []
                for type, entry, change in batch:
                    if entry is None:
                        lines.append(
                            wire.bookmark_line(shown, watch.revision, initial_end=watch.initial_ended, media=media)
                        )
                    elif media.plain and same:
                        lines.append(change.line(type, entry) if change is not None else watch_line(type, entry.alone))
                    else:
                        lines.append(self._shaped(type, entry, request, media, strategy, include, first))
                        first = False
                yield b"".join(lines)
        except ApiError as err:
            yield wire.error_line(err, media)
        finally:
            watches[labels] -= 1
            await steps.aclose()  # type: ignore[attr-defined]  # it is a generator

    async def _across(self, batch: list[WatchStep], shown: Resource[Any]) -> list[WatchStep]:
        """Steps as another version shows them."""
        found = await self._api.entries_across([entry for _, entry, _ in batch if entry is not None], shown)
        entries = iter(found)
        return [(type, next(entries) if entry is not None else None, None) for type, entry, _ in batch]

    def _shaped(
        self,
        type: WatchType,
        entry: Entry,
        request: Request,
        media: wire.Media,
        strategy: Any,
        include: str,
        first: bool,
    ) -> bytes:
        return wire.watch_document(type, entry, media, strategy, self._api.clock.now(), include, first)


def question_of(http: HttpRequest, user: User, target: Target) -> Question:
    """What a request asks to do that is for no resource of this server."""
    if not target.unknown_resource:
        return Question(user, http.method.lower(), path=target.path)
    return Question(
        user, target.verb, target.group, target.version, target.unknown_resource, target.subresource,
        target.namespace, target.name,
    )  # fmt: skip


def _warning(text: str) -> bytes:
    """The header line of a text of ours."""
    return f'Warning: 299 - "{text}"\r\n'.encode()


def _warn(response: HttpResponse, texts: Iterable[str]) -> None:
    """Texts as Warning headers; one with control characters is none, whoever wrote it."""
    for text in texts:
        if not text.isprintable():
            continue
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.append(("Warning", f'299 - "{escaped}"'))


def _with_namespace(request: Request, target: Target) -> Request:
    """Namespaces themselves are authorized in their own namespace, as upstream does."""
    if not target.namespace:
        return request
    from dataclasses import replace

    return replace(request, namespace=target.namespace)


def _no_such_resource() -> ApiError:
    error = NotFound("the server could not find the requested resource")
    error.bare_details = True
    return error


def body_too_large(size: int) -> HttpResponse:
    """The refusal of a body over the limit, before it was read."""
    error = TooLarge(f"Request entity too large: limit is {3 * 1024 * 1024}")
    return wire.status_response(error)


def body_too_late() -> HttpResponse:
    """The refusal of a body that did not come within a request's time."""
    return wire.status_response(timed_out())
