"""EndpointSlices of Services: who serves them, in slices of at most a hundred, changed as little as can be.

``plan`` compares what should be with what is and says which slices to write. Slices that someone else manages are left
alone; those of a deleted Service go with it through the garbage collector.

Source: kubernetes pkg/controller/endpointslice, staging/src/k8s.io/endpointslice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from kaa.api.errors import NotFound
from kaa.api.types.core_v1 import Node, Pod, Service
from kaa.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.client import Client
from kaa.client.informer import Indexer, Informer, key_of
from kaa.client.workqueue import Key

from . import service_pods
from .controller import Context, Controller, in_parallel
from .owners import newest
from .pods import controller_reference, is_finished, is_ready

MANAGER = "endpointslice-controller.k8s.io"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
SERVICE_NAME = "kubernetes.io/service-name"
ZONE = "topology.kubernetes.io/zone"
MOST_ENDPOINTS = 100
BY_SERVICE = "service"

Ports = tuple[EndpointPort, ...]
#: (address type, ports): endpoints of slices of their own
Shelf = tuple[str, Ports]
#: (service, pod, the zone of its node) -> what the pod adds to the service's slices
EndpointsOf = Callable[[Service, Pod, str | None], Sequence[tuple[Shelf, Endpoint]]]


# ------------------------------------------------------------------------------------------------ what should be


def families_of(service: Service) -> tuple[str, ...]:
    if service.spec.ip_families:
        return service.spec.ip_families
    return ("IPv6" if ":" in (service.spec.cluster_ip or "") else "IPv4",)


def endpoint_of(pod: Pod, service: Service, address: str, zone: str | None) -> Endpoint:
    serving, terminating = is_ready(pod), pod.metadata.deletion_timestamp is not None
    ready = bool(service.spec.publish_not_ready_addresses) or (serving and not terminating)
    return Endpoint(
        addresses=(address,),
        conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating),
        hostname=service_pods.hostname_of(pod, service),
        node_name=pod.spec.node_name or None,
        zone=zone,
        target_ref=service_pods.reference_to(pod),
    )


def ports_of(service: Service, pod: Pod) -> Ports:
    """The pod's ports behind the service's, without those that the pod does not have."""
    found = ((port, service_pods.target_port(port, pod)) for port in service.spec.ports)
    return tuple(
        EndpointPort(name=port.name or "", port=number, protocol=port.protocol or "TCP", app_protocol=port.app_protocol)
        for port, number in found
        if number is not None
    )


def endpoints_of(service: Service, pod: Pod, zone: str | None) -> list[tuple[Shelf, Endpoint]]:
    if is_finished(pod):
        return []
    ports = ports_of(service, pod)
    found = ((family, service_pods.address_of(pod, family)) for family in families_of(service))
    return [((family, ports), endpoint_of(pod, service, ip, zone)) for family, ip in found if ip is not None]


def wanted_endpoints(
    service: Service, pods: Iterable[Pod], zones: Mapping[str, str], of: EndpointsOf = endpoints_of
) -> dict[Shelf, list[Endpoint]]:
    """The endpoints of a service. ``zones``: {node name: zone}."""
    wanted: dict[Shelf, list[Endpoint]] = defaultdict(list)
    for pod in pods:
        for shelf, endpoint in of(service, pod, zones.get(pod.spec.node_name or "")):
            wanted[shelf].append(endpoint)
    return wanted


def metadata_of(service: Service) -> ObjectMeta:
    """What a new slice of a service says of itself."""
    return ObjectMeta(
        generate_name=f"{(service.metadata.name or '')[:57]}-",
        namespace=service.metadata.namespace,
        labels=labels_of(service),
        owner_references=(controller_reference(service),),
    )


def labels_of(service: Service) -> dict[str, str]:
    reserved = (SERVICE_NAME, MANAGED_BY, service_pods.HEADLESS_LABEL)
    labels = {key: value for key, value in service.metadata.labels.items() if key not in reserved}
    if service_pods.is_headless(service):
        labels[service_pods.HEADLESS_LABEL] = ""
    return {**labels, SERVICE_NAME: service.metadata.name or "", MANAGED_BY: MANAGER}


# ------------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True, slots=True)
class Plan:
    """Slices to create, update and delete."""

    create: tuple[EndpointSlice, ...] = ()
    update: tuple[EndpointSlice, ...] = ()
    delete: tuple[EndpointSlice, ...] = ()


def plan(
    service: Service,
    pods: Iterable[Pod],
    slices: Sequence[EndpointSlice],
    zones: Mapping[str, str],
    *,
    most: int = MOST_ENDPOINTS,
    of: EndpointsOf = endpoints_of,
) -> Plan:
    """Decide which slices to write so that they hold the service's endpoints, and each at most once.

    Endpoints stay in the slice they are in; new ones fill slices that are written anyway, then the fullest one that has room
    for all that is left, then new slices. A service without endpoints keeps one empty slice an address type.
    """
    wanted = wanted_endpoints(service, pods, zones, of)
    for family in families_of(service):
        if not any(each == family for each, _ in wanted):
            wanted[family, ()] = []
    return fit(metadata_of(service), wanted, slices, most)


def fit(
    meta: ObjectMeta, wanted: Mapping[tuple[str, Ports], Sequence[Endpoint]], slices: Sequence[EndpointSlice], most: int
) -> Plan:
    """Decide which slices to write so that they hold ``wanted``: {(address type, ports): endpoints}.

    ``meta`` is what a new slice says of itself; labels and owners of standing ones are kept to it.
    """
    standing: dict[tuple[str, Ports], list[EndpointSlice]] = defaultdict(list)
    for each in slices:
        standing[each.address_type, each.ports].append(each)
    made = [_fit(meta, key, endpoints, standing.pop(key, []), most) for key, endpoints in wanted.items()]
    obsolete = tuple(each for group in standing.values() for each in group)
    return Plan(
        tuple(each for part in made for each in part.create),
        tuple(each for part in made for each in part.update),
        tuple(each for part in made for each in part.delete) + obsolete,
    )


def _fit(
    meta: ObjectMeta,
    key: tuple[str, Ports],
    endpoints: Sequence[Endpoint],
    slices: Sequence[EndpointSlice],
    most: int,
) -> Plan:
    missing = {_identity(each): each for each in endpoints}
    kept = {each.metadata.name: _kept(each, missing) for each in slices}
    touched = {each.metadata.name for each in slices if kept[each.metadata.name] != list(each.endpoints)}
    left = list(missing.values())
    for name in [name for name in kept if name in touched]:
        left = _fill(kept[name], left, most)
    roomy = [name for name in kept if name not in touched and len(kept[name]) + len(left) <= most]
    if left and roomy:
        left = _fill(kept[max(roomy, key=lambda name: len(kept[name]))], left, most)
    create = [
        EndpointSlice(metadata=meta, address_type=key[0], endpoints=tuple(left[at : at + most]), ports=key[1])
        for at in range(0, len(left), most)
    ]
    return _as_plan(meta, key, slices, kept, create)


def _as_plan(
    meta: ObjectMeta,
    key: tuple[str, Ports],
    slices: Sequence[EndpointSlice],
    kept: Mapping[str | None, list[Endpoint]],
    create: list[EndpointSlice],
) -> Plan:
    full = [each for each in slices if kept[each.metadata.name]]
    if not full and not create:  # a service with nobody behind it still has a slice that says so
        full = list(slices[:1])
        if not full:
            create = [EndpointSlice(metadata=meta, address_type=key[0], ports=key[1])]
    delete = tuple(each for each in slices if each not in full)
    written = ((each, _written(meta, each, kept[each.metadata.name])) for each in full)
    return Plan(tuple(create), tuple(new for old, new in written if new != old), delete)


def _written(wanted: ObjectMeta, old: EndpointSlice, endpoints: Sequence[Endpoint]) -> EndpointSlice:
    meta = replace(old.metadata, labels=wanted.labels, owner_references=wanted.owner_references)
    return replace(old, metadata=meta, endpoints=tuple(endpoints))


def _identity(endpoint: Endpoint) -> tuple[str, tuple[str, ...]]:
    return (endpoint.target_ref.uid or "") if endpoint.target_ref else "", endpoint.addresses


def _kept(each: EndpointSlice, missing: dict[tuple[str, tuple[str, ...]], Endpoint]) -> list[Endpoint]:
    """The endpoints of a slice that are still wanted, as they are now; those found are missing no more."""
    found = (missing.pop(_identity(endpoint), None) for endpoint in each.endpoints)
    return [endpoint for endpoint in found if endpoint is not None]


def _fill(endpoints: list[Endpoint], left: list[Endpoint], most: int) -> list[Endpoint]:
    room = max(0, most - len(endpoints))
    endpoints.extend(left[:room])
    return left[room:]


# ------------------------------------------------------------------------------------------------ doing


class EndpointSlices(Controller[Key]):
    """Keys are services."""

    name = "endpointslice-controller"
    component = "endpoint-slice-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._made: dict[Key, dict[str, Found]] = {}  #: {service: what its last look found of its pods}
        self.pods = context.informers.of(Pod)
        self.pods.add_index(service_pods.BY_LABEL, service_pods.label_words)
        services = context.informers.of(Service)
        services.add_index(service_pods.BY_SELECTOR, service_pods.selector_words)
        self.slices = context.informers.of(EndpointSlice)
        self.slices.add_index(BY_SERVICE, of_manager(MANAGER))
        self.nodes = self.watch(Node, self._on_node)
        self.services = self.watch(Service, self._on_service)
        self.watch(EndpointSlice, self._on_slice)
        self.watch(Pod, self._on_pod)

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    def _on_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for each in (old, new):
            if each is not None and each.metadata.labels.get(MANAGED_BY) == MANAGER:
                self._look_soon(Key(each.metadata.namespace or "", each.metadata.labels.get(SERVICE_NAME, "")))

    def _look_soon(self, key: Key) -> None:
        self.look_soon(key, service_pods.count_of(self.services.by_key(key), self.pods))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and not service_pods.matters(old, new):
            return
        concerned = {key_of(s): s for pod in (old, new) if pod for s in service_pods.services_of(pod, self.services)}
        for key in concerned:
            self._look_soon(key)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        """A node's zone is part of its pods' endpoints."""
        if old is None or new is None or old.metadata.labels.get(ZONE) == new.metadata.labels.get(ZONE):
            return
        for service in self.services:
            self.queue.add(key_of(service))

    async def reconcile(self, key: Key) -> None:
        service = self.services.by_key(key)
        if service is None or not service_pods.is_served(service) or service.metadata.deletion_timestamp is not None:
            self._made.pop(key, None)
            return
        standing = self.slices.by_index(BY_SERVICE, str(key))
        slices = [each for each in standing if each.metadata.deletion_timestamp is None]
        slices.sort(key=lambda each: each.metadata.name or "")
        pods = service_pods.pods_of(service, self.pods)
        of = _Remembered(self._made.get(key, {}))
        wanted = plan(service, pods, slices, self._zones(pods), of=of)
        self._made[key] = of.made
        await apply(self.client, self.slices, wanted)

    def _zones(self, pods: Iterable[Pod]) -> dict[str, str]:
        names = {pod.spec.node_name or "" for pod in pods}
        nodes = (self.nodes.get(name) for name in names)
        return {n.metadata.name or "": n.metadata.labels[ZONE] for n in nodes if n and ZONE in n.metadata.labels}


#: What was found of a pod, for the service, the pod and the zone as they were.
Found = tuple[Service, Pod, str | None, Sequence[tuple[Shelf, Endpoint]]]


class _Remembered:
    """``endpoints_of``, asked anew only for what has changed: of thousands of pods a look finds few that have."""

    def __init__(self, known: Mapping[str, Found]) -> None:
        self._known = known
        self.made: dict[str, Found] = {}  #: {pod uid: what was found}

    def __call__(self, service: Service, pod: Pod, zone: str | None) -> Sequence[tuple[Shelf, Endpoint]]:
        uid = pod.metadata.uid or ""
        found = self._known.get(uid)
        if found is None or found[0] is not service or found[1] is not pod or found[2] != zone:
            found = service, pod, zone, endpoints_of(service, pod, zone)
        self.made[uid] = found
        return found[3]


async def apply(client: Client, informer: Informer[EndpointSlice], wanted: Plan) -> None:
    """Write slices, and wait until the cache shows them: a slice written twice would be two."""
    work = [*(client.create(each) for each in wanted.create), *(client.update(each) for each in wanted.update)]
    results = await in_parallel(work, at_once=10)
    written = [each for each in results if isinstance(each, EndpointSlice)]
    await informer.shows(newest([each.metadata.resource_version for each in written]))
    for each in wanted.delete:
        try:
            await client.delete(EndpointSlice, each.metadata.name or "", each.metadata.namespace)
        except NotFound:
            continue
    await informer.gone(wanted.delete)
    for result in results:
        if isinstance(result, Exception):
            raise result


def of_manager(manager: str) -> Indexer[EndpointSlice]:
    """An index of a manager's slices by ``namespace/service``."""

    def words(each: EndpointSlice) -> tuple[str, ...]:
        if each.metadata.labels.get(MANAGED_BY) != manager:
            return ()
        return (f"{each.metadata.namespace}/{each.metadata.labels.get(SERVICE_NAME, '')}",)

    return words
