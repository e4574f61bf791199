"""Load balancers for Services of that type, made by whoever has some: a cloud behind ``LoadBalancers``.

``plan`` says what becomes of a Service's balancer; ``ServiceLoadBalancers`` asks the provider for it, writes what it answers
and holds the Service by a finalizer until its balancer is gone. Where nodes come and go only the balancers' targets change.
A Service with a ``loadBalancerClass`` is somebody else's; without a provider nobody runs this, and Services stay pending.

Source: kubernetes staging/src/k8s.io/cloud-provider/controllers/service/controller.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, Protocol

import structlog

from kaa.api import scheme
from kaa.api.errors import ApiError
from kaa.api.types.core_v1 import LoadBalancerStatus, Node, Service
from kaa.client.client import PatchType
from kaa.client.informer import key_of
from kaa.client.workqueue import Key, WorkQueue

from .controller import Context, Controller

log = structlog.get_logger(__name__)

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
#: The cluster autoscaler's: the node is about to go.
TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
RETRY_S, RETRY_MAX_S = 5.0, 300.0
NODES_EVERY_S = 100.0
NAMES_SHOWN = 20
#: The key of all balancers' targets.
NODES = Key("", "")


# ------------------------------------------------------------------------------------------------ who has balancers


class ProviderError(Exception):
    """A provider could not do it; tried again later."""


class ImplementedElsewhere(ProviderError):
    """Somebody else sees to this balancer: nothing is to be done here."""


class RetryAfter(ProviderError):
    """Not yet: to be asked again after so many seconds, not by the usual backoff."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class LoadBalancers(Protocol):
    """A cloud's load balancers. Each call may be repeated, and raises ProviderError when it cannot be done.

    ``cluster`` tells the balancers of one cluster from those of others in one cloud."""

    async def get_load_balancer(self, cluster: str, service: Service) -> LoadBalancerStatus | None:
        """The state of a Service's balancer; None when it has none."""
        ...

    async def ensure_load_balancer(self, cluster: str, service: Service, nodes: Sequence[Node]) -> LoadBalancerStatus:
        """Make the balancer of a Service, or make it what the Service now asks for."""
        ...

    async def update_load_balancer(self, cluster: str, service: Service, nodes: Sequence[Node]) -> None:
        """Let a balancer that stands send to these nodes, and no others."""
        ...

    async def ensure_load_balancer_deleted(self, cluster: str, service: Service) -> None:
        """Remove the balancer and all that belongs to it; no error when there is none."""
        ...


# ------------------------------------------------------------------------------------------------ deciding


class Plan(Enum):
    ENSURE = auto()
    DELETE = auto()


def wants(service: Service) -> bool:
    return service.spec.type == "LoadBalancer" and service.spec.load_balancer_class is None


def needs_cleanup(service: Service) -> bool:
    """Whether a Service is held for a balancer that it should no longer have."""
    if FINALIZER not in service.metadata.finalizers:
        return False
    return service.metadata.deletion_timestamp is not None or service.spec.type != "LoadBalancer"


def plan(service: Service) -> Plan:
    return Plan.ENSURE if wants(service) and not needs_cleanup(service) else Plan.DELETE


def concerns(old: Service | None, new: Service) -> bool:
    """Whether a change of a Service may change its balancer. What the controller itself writes does not."""
    if needs_cleanup(new):
        return True
    if old is None or wants(old) != wants(new):
        return wants(new) or (old is not None and wants(old))
    return wants(new) and _facts(old) != _facts(new)


def _facts(service: Service) -> tuple[Any, ...]:
    """What a balancer depends on."""
    spec = service.spec
    return (
        service.metadata.uid,
        service.metadata.annotations,
        spec.load_balancer_source_ranges,
        spec.ports,
        spec.session_affinity,
        spec.session_affinity_config,
        spec.load_balancer_ip,
        spec.external_ips,
        spec.external_traffic_policy,
        spec.health_check_node_port,
        len(spec.ip_families),
    )


def is_excluded(node: Node) -> bool:
    """By its label, unless that says ``false``."""
    said = node.metadata.labels.get(EXCLUDED)
    return said is not None and said not in ("0", "f", "F", "FALSE", "false", "False")


def targets(nodes: Iterable[Node]) -> list[Node]:
    """The nodes that balancers send to. One that is not ready stays: connections on it drain, and health checks know."""
    return [
        node
        for node in nodes
        if node.metadata.deletion_timestamp is None
        and not is_excluded(node)
        and not any(taint.key == TO_BE_DELETED for taint in node.spec.taints)
    ]


def identities(nodes: Iterable[Node]) -> dict[str, str]:
    """What of its targets a balancer goes by: ``{name: the cloud's id}``."""
    return {node.metadata.name or "": node.spec.provider_id or "" for node in nodes}


def retargets(old: Node | None, new: Node | None) -> bool:
    """Whether a node's change alone is reason to look at all balancers: the autoscaler's taint waits for another."""
    if old is None or new is None:
        return True
    return (is_excluded(old), old.spec.provider_id) != (is_excluded(new), new.spec.provider_id)


def shown(nodes: Sequence[Node]) -> str:
    """The names of nodes for people, not too many."""
    names = sorted(node.metadata.name or "" for node in nodes[:NAMES_SHOWN])
    more = [f"<{len(nodes) - NAMES_SHOWN} more>"] if len(nodes) > NAMES_SHOWN else []
    return f"[{' '.join([*names, *more])}]"


# ------------------------------------------------------------------------------------------------ doing


class NotSynced(ApiError):
    """A step of a Service's that failed. ``after_s``: when the provider wants to be asked again."""

    after_s: float | None = None


@contextmanager
def step(what: str) -> Iterator[None]:
    """Whatever fails inside is told as: could not do what."""
    try:
        yield
    except ImplementedElsewhere:
        raise
    except (ProviderError, ApiError, OSError, TimeoutError) as err:
        failed = NotSynced(f"failed to {what}: {err}")
        failed.after_s = err.seconds if isinstance(err, RetryAfter) else None
        raise failed from err


class ServiceLoadBalancers(Controller[Key]):
    """Keys are Services, and ``NODES``."""

    name = "service-controller"
    workers = 1

    def __init__(self, context: Context, provider: LoadBalancers, *, cluster: str = "kubernetes") -> None:
        super().__init__(context)
        self.queue = WorkQueue(context.clock, base_s=RETRY_S, max_s=RETRY_MAX_S)
        self.provider, self.cluster = provider, cluster
        #: Services as they were when last seen to, until their balancer is gone.
        self._seen: dict[Key, Service] = {}
        self._targets: dict[Key, dict[str, str]] = {}  #: {Service: whom its balancer was last told to send to}
        self.services = self.watch(Service, self._on_service)
        self.nodes = self.watch(Node, self._on_node)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        if new is not None:
            if concerns(old, new):
                self.queue.add(key_of(new))
        elif old is not None and key_of(old) in self._seen:
            self.queue.add(key_of(old))

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if retargets(old, new):
            self.queue.add(NODES)

    async def reconcile(self, key: Key) -> float | None:
        if key == NODES:
            return await self._retarget_all()
        service, seen = self.services.by_key(key), self._seen.get(key)
        if seen is not None and (service is None or service.metadata.uid != seen.metadata.uid):
            await self._let_go(key, seen)
        if service is None:
            return None
        self._seen[key] = service
        try:
            await (self._ensure(service) if plan(service) is Plan.ENSURE else self._delete(service))
        except NotSynced as err:
            self.events.event(service, "Warning", "SyncLoadBalancerFailed", f"Error syncing load balancer: {err}")
            if err.after_s is None:
                raise
            return err.after_s
        return None

    # ------------------------------------------------------------------------------------------ one Service

    async def _ensure(self, service: Service) -> None:
        self.events.event(service, "Normal", "EnsuringLoadBalancer", "Ensuring load balancer")
        with step("add load balancer cleanup finalizer"):
            await self._hold(service)
        nodes = targets(self.nodes)
        if not nodes:
            self._tell_no_nodes(service)
        self._targets[key_of(service)] = identities(nodes)
        try:
            with step("ensure load balancer"):
                status = await self.provider.ensure_load_balancer(self.cluster, service, nodes)
        except ImplementedElsewhere:
            return
        self.events.event(service, "Normal", "EnsuredLoadBalancer", "Ensured load balancer")
        await self._write_status(service, status)

    async def _delete(self, service: Service) -> None:
        with step("check if load balancer exists before cleanup"):
            standing = await self.provider.get_load_balancer(self.cluster, service)
        if standing is not None:
            self.events.event(service, "Normal", "DeletingLoadBalancer", "Deleting load balancer")
            try:
                with step("delete load balancer"):
                    await self.provider.ensure_load_balancer_deleted(self.cluster, service)
            except ImplementedElsewhere:
                log.debug("load balancer is removed elsewhere", service=str(key_of(service)))
        with step("remove load balancer cleanup finalizer"):
            await self._release(service)
        self.events.event(service, "Normal", "DeletedLoadBalancer", "Deleted load balancer")
        self._forget(key_of(service))

    async def _let_go(self, key: Key, service: Service) -> None:
        """A Service went, and nothing held it until its balancer was gone."""
        if wants(service):
            self.events.event(service, "Normal", "DeletingLoadBalancer", "Deleting load balancer")
            try:
                await self.provider.ensure_load_balancer_deleted(self.cluster, service)
            except ProviderError as err:
                text = f"Error deleting load balancer: {err}"
                self.events.event(service, "Warning", "DeleteLoadBalancerFailed", text)
                raise NotSynced(text) from err
            self.events.event(service, "Normal", "DeletedLoadBalancer", "Deleted load balancer")
        self._forget(key)

    def _forget(self, key: Key) -> None:
        self._seen.pop(key, None)
        self._targets.pop(key, None)

    async def _hold(self, service: Service) -> None:
        if FINALIZER not in service.metadata.finalizers:
            await self._patch(service, {"metadata": {"finalizers": [FINALIZER]}})

    async def _release(self, service: Service) -> None:
        """Let the Service go, and its status with it: no death in between leaves an address of nobody's."""
        if FINALIZER in service.metadata.finalizers or service.status.load_balancer.ingress:
            held = {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}
            await self._patch(service, {"metadata": held, "status": {"loadBalancer": {"ingress": None}}})

    async def _write_status(self, service: Service, status: LoadBalancerStatus) -> None:
        if status == service.status.load_balancer:
            return
        ingress = [scheme.to_builtins(point) for point in status.ingress]
        with step("update load balancer status"):
            await self._patch(service, {"status": {"loadBalancer": {"ingress": ingress or None}}})

    async def _patch(self, service: Service, patch: dict[str, Any]) -> None:
        """Write finalizers or status: the role allows no more than ``services/status``."""
        name, namespace = service.metadata.name or "", service.metadata.namespace
        patch = {**patch, "metadata": {"uid": service.metadata.uid, **patch.get("metadata", {})}}
        written = await self.client.patch(
            Service, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status"
        )
        await self.services.shows(written.metadata.resource_version)

    # ------------------------------------------------------------------------------------------ nodes

    async def _retarget_all(self) -> float:
        nodes = targets(self.nodes)
        for key, known in list(self._targets.items()):
            service = self._seen[key]
            if wants(service) and known != identities(nodes):
                self._targets[key] = identities(nodes)  # should it fail, all of the Service is looked at again
                if not await self._retarget(service, nodes):
                    self.queue.add(key)
        return NODES_EVERY_S

    async def _retarget(self, service: Service, nodes: Sequence[Node]) -> bool:
        """Whether a balancer sends to these nodes now, or there is none of ours that should."""
        try:
            await self.provider.update_load_balancer(self.cluster, service, nodes)
        except ImplementedElsewhere:
            return True
        except ProviderError as err:
            return not await self._tell_failed(service, nodes, err)
        if nodes:
            self.events.event(service, "Normal", "UpdatedLoadBalancer", "Updated load balancer with new hosts")
        else:
            self._tell_no_nodes(service)
        return True

    async def _tell_failed(self, service: Service, nodes: Sequence[Node], error: ProviderError) -> bool:
        """Whether it is a failure: it is none when there is no balancer any more."""
        try:
            if await self.provider.get_load_balancer(self.cluster, service) is None:
                return False
        except ProviderError as err:
            log.warning("load balancer not found out about", service=str(key_of(service)), error=str(err))
        text = (
            f"Error updating load balancer with new hosts {shown(nodes)}"
            f" [node names limited, total number of nodes: {len(nodes)}], error: {error}"
        )
        self.events.event(service, "Warning", "UpdateLoadBalancerFailed", text)
        return True

    def _tell_no_nodes(self, service: Service) -> None:
        text = "There are no available nodes for LoadBalancer"
        self.events.event(service, "Warning", "UnAvailableLoadBalancer", text)
