"""The control plane in one process: store, API server, controllers, scheduler, each with its own identity.

Order of a start: the store opens, the caches fill, bootstrap objects are made, the API server listens; only then do the
controllers and the scheduler begin, and their modules are imported: a client is answered as early as can be.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from kaa.api.clock import Clock, SystemClock
from kaa.api.errors import AlreadyExists, ApiError, Conflict
from kaa.api.resources import Resource
from kaa.api.types.apiregistration_v1 import APIService
from kaa.apiserver.admission.plugins import default_chain
from kaa.apiserver.aggregation.aggregator import Aggregator
from kaa.apiserver.aggregation.backend import Identity
from kaa.apiserver.aggregation.calls import RemoteCalls
from kaa.apiserver.aggregation.openapi import RemoteOpenAPI
from kaa.apiserver.authn import legacy
from kaa.apiserver.authn.chain import DefaultAuthenticator
from kaa.apiserver.authn.jwt import SigningKey, VerifyingKey
from kaa.apiserver.authn.tokens import ISSUER, TokenIssuer
from kaa.apiserver.authz.union import DefaultAuthorizer
from kaa.apiserver.bootstrap import objects
from kaa.apiserver.cacher import Cacher
from kaa.apiserver.connect import Connector
from kaa.apiserver.custom.definitions import Definitions
from kaa.apiserver.encryption import encrypted
from kaa.apiserver.flowcontrol import report
from kaa.apiserver.flowcontrol.control import FlowControl
from kaa.apiserver.flowcontrol.seating import Seating
from kaa.apiserver.flowcontrol.upkeep import keep
from kaa.apiserver.front import Front, body_too_large, body_too_late
from kaa.apiserver.health import TEXT, store_problem
from kaa.apiserver.http import HttpRequest, HttpResponse, HttpServer
from kaa.apiserver.metrics import Metrics, objects_text, process_text
from kaa.apiserver.options import ApiServerOptions, OptionError
from kaa.apiserver.paths import Paths
from kaa.apiserver.pipeline import ApiServer
from kaa.apiserver.registry import ServiceRanges, build_strategies
from kaa.apiserver.registry.strategy import Strategy
from kaa.apiserver.serving import serving_of
from kaa.apiserver.virtual import Virtuals
from kaa.apiserver.webhooks.plugin import DynamicAdmission
from kaa.client.inprocess import InProcessClient
from kaa.client.pipeline import User
from kaa.store.base import Store
from kaa.store.sqlite import open_sqlite

from . import addons
from .config import ClusterConfig, ConfigError
from .pki import Pki

if TYPE_CHECKING:
    from kaa.apiserver.audit.setup import Audit

log = structlog.get_logger("kaa.apiserver")

COMPACT_EVERY_S = 300.0
SYSTEM = User("system:apiserver", groups=("system:masters", "system:authenticated"))


@dataclass(slots=True)
class ControlPlane:
    """An API server put together, and the tasks that it lives by."""

    config: ClusterConfig
    clock: Clock
    store: Store
    api: ApiServer
    server: HttpServer
    paths: Paths
    issuer: TokenIssuer
    aggregator: Aggregator
    definitions: Definitions
    dynamic: DynamicAdmission
    legacy_tokens: legacy.LegacyTokens
    audit: Audit | None = None
    seating: Seating | None = None
    #: {component: the kinds that it does not know yet} of those that run
    behind: dict[str, Callable[[], list[str]]] = field(default_factory=dict)

    def client(self, user: User, agent: str) -> InProcessClient:
        return InProcessClient(self.api if self.audit is None else self.audit.pipeline, user, agent)

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self.api.cacher.fill()
                tasks.create_task(self.api.cacher.follow(), name="cacher")
                await bootstrap(self.client(SYSTEM, "kube-apiserver"), self.api, self.config, self.clock)
                await self.definitions.start()
                tasks.create_task(self.definitions.run(), name="definitions")
                tasks.create_task(self.server.run(), name="http")
                tasks.create_task(self._compact(), name="compactor")
                tasks.create_task(self.aggregator.run(), name="aggregator")
                own = self.client(SYSTEM, "kube-apiserver")
                tasks.create_task(self.legacy_tokens.run(own, self.clock), name="legacy tokens")
                tasks.create_task(legacy.keep_since(self.api.cacher, own, self.clock), name="legacy tokens/since")
                if self.audit is not None:
                    tasks.create_task(self.audit.run(), name="audit")
                if self.seating is not None:
                    tasks.create_task(self.seating.control.run(), name="flow control")
                    keeping = keep(self.api.cacher, own, self.clock)
                    tasks.create_task(keeping, name="flow control/objects")
                for name, work in self._of_optional_kinds(own):
                    tasks.create_task(work, name=name)
                self.paths.ready.set()
                ready()
                tasks.create_task(self._components(), name="components")
                try:
                    await asyncio.Event().wait()
                finally:
                    self.paths.health.stopping.set()
        finally:
            self.dynamic.caller.close()
            self.definitions.close()
            if self.audit is not None:
                self.audit.close()
            await self.store.close()

    def _of_optional_kinds(self, client: InProcessClient) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """What kinds that are off by default need done, as (name, work); its modules are read only then."""
        view, serving = self.api.cacher, self.api.serving
        if serving.by_kind("coordination.k8s.io/v1beta1", "LeaseCandidate") is not None:
            from kaa.apiserver.election import Elections

            yield "elections", Elections(view, client, self.clock).run()
        if serving.by_kind("internal.apiserver.k8s.io/v1alpha1", "StorageVersion") is not None:
            from kaa.apiserver.identity import Identity

            yield "identity", Identity(view, client, self.clock, serving, self.config.node_name).run()

    async def _compact(self) -> None:
        """Forget what the log held five minutes ago, as upstream does."""
        before = self.store.revision
        while True:
            await self.clock.sleep(COMPACT_EVERY_S)
            if before:
                await self.store.compact(before)
            before = self.store.revision

    async def _components(self) -> None:
        """Their modules (NumPy among them) are read in a thread: clients are answered meanwhile."""
        components = await asyncio.to_thread(importlib.import_module, "kaa.cluster.components")
        await components.run_components(
            self.config, self.clock, self.client, self.issuer.issue_legacy, behind=self.behind
        )

    def watch_components(self) -> None:
        """Have ComponentStatus look at the store, and at what each component knows."""

        async def look(name: str) -> str:
            known = self.behind.get(name)
            lacking = known() if known is not None else ["anything: it has not started"]
            return f"does not know {', '.join(lacking)}" if lacking else ""

        self.api.component_checks["etcd-0"] = lambda: store_problem(self.api)
        for name in ("controller-manager", "scheduler"):
            self.api.component_checks[name] = partial(look, name)


def build(
    config: ClusterConfig,
    clock: Clock,
    store: Store,
    *,
    signing_key: SigningKey,
    verifying_key: VerifyingKey,
    kubelet_tls: ssl.SSLContext,
) -> ControlPlane:
    """Put the API server together; nothing runs yet."""
    serving = serving_of(config.api_server.runtime_config)
    strategies = build_strategies(ServiceRanges(cluster_cidrs=(config.service_cidr,)))

    def strategy_for(resource: Resource[Any]) -> Strategy[Any]:
        return strategies[resource]

    authorizer = DefaultAuthorizer()
    authenticator = DefaultAuthenticator((verifying_key,), issuer=ISSUER)
    cacher = Cacher(store, clock, strategy_for, serving)
    dynamic = DynamicAdmission(cacher, strategy_for, authorizer)
    admission = default_chain(authorizer, dynamic, rbac=authorizer.rbac)
    api = ApiServer(store, cacher, authorizer, admission, strategy_for, serving)
    dynamic.versions.serving = serving
    dynamic.versions.custom, dynamic.versions.across = api.custom, api.across
    issuer = TokenIssuer(signing_key, ISSUER)
    Virtuals(api, authenticator, authorizer, issuer).install()
    metrics = Metrics()
    paths = Paths(api, metrics, verifying_key, config.advertised_url)
    connector = Connector(cacher, admission, kubelet_tls)
    aggregator = Aggregator(
        cacher, InProcessClient(api, SYSTEM, "kube-aggregator"), clock, paths.discovery, front_proxy(config, clock)
    )
    own = InProcessClient(api, SYSTEM, "kube-apiserver")
    definitions = Definitions(api, own, strategies, paths.discovery, paths.openapi)
    api.elsewhere = RemoteCalls(aggregator)
    paths.merge_openapi = RemoteOpenAPI(aggregator).merged
    auditor = auditor_of(config.api_server, api)
    seating = seating_of(config.api_server, cacher)
    metrics.sources.append(lambda: objects_text(stored_counts(cacher)))
    metrics.sources += (aggregator.metrics, process_text, authenticator.tokens.legacy.metrics)
    if seating is not None:
        expose(seating.control, metrics, paths)
    front = Front(
        api,
        authenticator,
        metrics,
        paths=paths.handlers,
        connect=connector,
        aggregator=aggregator,
        auditor=auditor.front if auditor is not None else None,
        seating=seating,
        request_timeout_s=config.api_server.request_timeout_s,
    )
    server = HttpServer(
        front,
        too_large=body_too_large,
        too_late=body_too_late,
        body_timeout_s=config.api_server.request_timeout_s,
    )
    plane = ControlPlane(
        config=config,
        clock=clock,
        store=store,
        api=api,
        server=server,
        paths=paths,
        issuer=issuer,
        aggregator=aggregator,
        definitions=definitions,
        dynamic=dynamic,
        legacy_tokens=authenticator.tokens.legacy,
        audit=auditor,
        seating=seating,
    )
    plane.watch_components()
    return plane


def stored_counts(cacher: Cacher) -> list[tuple[str, str, int]]:
    """(group, resource, how many) of what is kept."""
    return [(cache.resource.group, cache.resource.plural, len(cache.entries)) for cache in cacher.caches()]


def expose(control: FlowControl, metrics: Metrics, paths: Paths) -> None:
    """Flow control's metrics, and its debug paths."""

    def dump(http: HttpRequest, user: User, options: dict[str, str]) -> HttpResponse:
        text = report.table(control, http.target.partition(b"?")[0].decode("latin-1"))
        if text is None:
            return HttpResponse(404, b"404 page not found\n", TEXT)
        return HttpResponse(200, text.encode(), TEXT)

    metrics.sources.append(lambda: report.metrics(control))
    paths.handlers[report.ROOT] = dump


def seating_of(options: ApiServerOptions, cacher: Cacher) -> Seating | None:
    """Priority and fairness, unless it is switched off."""
    if not options.enable_priority_and_fairness:
        return None
    total = options.max_requests_inflight + options.max_mutating_requests_inflight
    return Seating(FlowControl(cacher, cacher.clock, total=total, patience_s=options.request_timeout_s), cacher)


def auditor_of(options: ApiServerOptions, api: ApiServer) -> Audit | None:
    """Audit as the options ask for it; its modules are read only then."""
    if not options.audit_policy_file:
        return None
    from kaa.apiserver.audit.setup import build_audit

    return build_audit(options, api)


def front_proxy(config: ClusterConfig, clock: Clock) -> Identity | None:
    """The certificate that servers behind this one know it by, where the cluster's folder has one."""
    pki = Pki(config.pki_dir, clock)
    name = "front-proxy-client"
    return Identity(pki.cert(name), pki.key(name)) if pki.cert(name).exists() else None


async def serve(config: ClusterConfig) -> None:
    """Run the control plane of a cluster on its addresses until cancelled."""
    clock = SystemClock()
    pki = Pki(config.pki_dir, clock)
    store = await open_sqlite(config.root / "store.db")
    try:
        plane = build(
            config,
            clock,
            encrypted(store, config.api_server.encryption_provider_config),
            signing_key=SigningKey(pki.token_key.read_bytes()),
            verifying_key=VerifyingKey(pki.token_public_key.read_bytes()),
            kubelet_tls=kubelet_context(pki),
        )
    except OptionError as err:
        await store.close()
        raise ConfigError(f"the API server's options: {err}") from err
    context = serving_context(pki)
    for address in config.listen:
        await plane.server.listen(address, config.api_port, context)
    log.info("serving", addresses=" ".join(config.listen), port=config.api_port, store=str(config.root / "store.db"))
    await plane.run()


def serving_context(pki: Pki) -> ssl.SSLContext:
    """TLS 1.2 and later; client certificates are asked for, and verified when they come."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.cert("apiserver"), pki.key("apiserver"))
    context.load_verify_locations(pki.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


def kubelet_context(pki: Pki) -> ssl.SSLContext:
    """How this server calls kubelets: with its own certificate, trusting the cluster's authority."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.load_cert_chain(pki.cert("apiserver-kubelet-client"), pki.key("apiserver-kubelet-client"))
    return context


async def bootstrap(client: InProcessClient, api: ApiServer, config: ClusterConfig, clock: Clock) -> None:
    """Make what every cluster holds and this one lacks."""
    pki = Pki(config.pki_dir, clock)
    ca, front_proxy = (path.read_text() if path.exists() else "" for path in (pki.ca, pki.front_proxy_ca))
    versions = api.serving.versions
    wanted = objects.objects(
        clock.now(), service_cidr=config.service_cidr, client_ca=ca, front_proxy_ca=front_proxy, versions=versions
    )
    for group in (wanted, addons.objects(config, ca)):
        served = [obj for obj in group if api.serving.by_kind(obj.API_VERSION, obj.KIND) is not None]
        create, update = objects.due(served, api.cacher)
        await _write_all(client, create, update)
    for service in objects.withdrawn(api.cacher.list(APIService), versions):
        await client.delete(APIService, service.metadata.name or "")


async def _write_all(client: InProcessClient, create: list[Any], update: list[Any]) -> None:
    """Namespaces first, then the rest together, so that one fsync serves many."""
    first = [obj for obj in create if obj.KIND == "Namespace"]
    rest = [obj for obj in create if obj.KIND != "Namespace"]
    for batch in (first, rest):
        async with asyncio.TaskGroup() as tasks:
            for obj in batch:
                tasks.create_task(_create(client, obj), name=f"bootstrap/{obj.KIND}/{obj.metadata.name}")
    async with asyncio.TaskGroup() as tasks:
        for obj in update:
            tasks.create_task(_update(client, obj), name=f"bootstrap/{obj.KIND}/{obj.metadata.name}")


async def _create(client: InProcessClient, obj: Any) -> None:
    try:
        made = await client.create(obj)
    except AlreadyExists:
        return
    except ApiError as err:
        _stood_against(obj, err)
        return
    status = getattr(obj, "status", None)
    if status is not None and status != made.status:
        from msgspec.structs import replace

        await client.update_status(replace(made, status=status))


async def _update(client: InProcessClient, obj: Any) -> None:
    try:
        await client.update(obj)
    except Conflict:
        return  # somebody else has just written it: the next start looks again
    except ApiError as err:
        _stood_against(obj, err)


def _stood_against(obj: Any, err: ApiError) -> None:
    """A webhook that is down, perhaps since it runs here, must not keep the server from starting: the next start tries
    again. Any other refusal is a fault of ours."""
    if not err.dynamic:
        raise err
    log.warning("bootstrap object not written", kind=obj.KIND, name=obj.metadata.name, error=str(err))
