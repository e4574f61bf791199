"""The controllers and the scheduler of a control plane, each speaking with the identity that Kubernetes gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kaa.api.clock import Clock
from kaa.api.types.coordination_v1beta1 import LeaseCandidate
from kaa.api.types.core_v1 import ServiceAccount
from kaa.apiserver.authn.tokens import service_account_groups
from kaa.apiserver.discovery import VERSION
from kaa.apiserver.serving import serving_of
from kaa.client.candidates import Candidacy
from kaa.client.client import Client
from kaa.client.events import LATE_S, EventRecorder
from kaa.client.informer import Informers
from kaa.client.leases import LeaderElector, lead_forever
from kaa.client.pipeline import User
from kaa.controllers.certificate_authority import Authority
from kaa.controllers.manager import SHARED, ControllerManager
from kaa.scheduler.scheduler import Scheduler

from .config import ClusterConfig
from .pki import Pki

AUTHENTICATED = "system:authenticated"
#: The version of Kubernetes that these components are.
EMULATED = f"{VERSION['major']}.{VERSION['minor']}.0"
SYSTEM_NAMESPACE = "kube-system"
#: The scheduler's requests for events a second, and at once after a rest: upstream's ``clientConnection``.
EVENTS_PACE = (50, 100)
#: A client of this process as a user, under a name for audit and managedFields.
ClientOf = Callable[[User, str], Client]

MANAGER = User("system:kube-controller-manager", groups=(AUTHENTICATED,))
SCHEDULER = User("system:kube-scheduler", groups=(AUTHENTICATED,))


def controller_user(name: str) -> User:
    """The service account that a controller works as."""
    groups = service_account_groups(SYSTEM_NAMESPACE)
    return User(f"system:serviceaccount:{SYSTEM_NAMESPACE}:{name}", groups=groups)


async def run_components(
    config: ClusterConfig,
    clock: Clock,
    client_of: ClientOf,
    issue_legacy: Callable[[ServiceAccount, str], str],
    *,
    elect: bool = False,
    behind: dict[str, Callable[[], list[str]]] | None = None,
) -> None:
    """Run them until cancelled. ``elect``: there may be others of this cluster, and of each kind one acts at a time.

    ``behind`` is told, of each component that runs, the kinds that it does not know yet.

    A server alone on its store needs no election: the lock on the store is one, and leases would be written for nobody.
    """

    known = behind if behind is not None else {}

    async def manage() -> None:
        pki = Pki(config.pki_dir, clock)
        root_ca = pki.ca.read_bytes()
        authority = Authority(root_ca, pki.key("ca").read_bytes())

        def controller_client(name: str) -> Client:
            user = MANAGER if name == SHARED else controller_user(name)
            return client_of(user, "kube-controller-manager")

        manager = ControllerManager(
            controller_client,
            clock,
            root_ca=root_ca,
            issue_legacy=issue_legacy,
            authority=authority,
            pod_ranges=((config.pod_cidr, config.node_mask),),
            serving=served.resources,
            events_late_s=LATE_S,
        )
        known["controller-manager"] = lambda: manager.informers.behind
        await manager.run()

    async def schedule() -> None:
        client = client_of(SCHEDULER, "kube-scheduler")
        recorder = EventRecorder(client, clock, "default-scheduler", pace=EVENTS_PACE, late_s=LATE_S)
        informers = Informers(client, clock)
        known["scheduler"] = lambda: informers.behind
        scheduler = Scheduler(client, clock, recorder, informers=informers)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(recorder.run(), name="scheduler/events")
            tasks.create_task(informers.run(), name="scheduler/informers")
            tasks.create_task(scheduler.run(), name="scheduler")

    identity = f"{config.node_name}_{config.name}"
    served = serving_of(config.api_server.runtime_config)
    coordinated = served.by_kind(LeaseCandidate.API_VERSION, LeaseCandidate.KIND) is not None
    hold = stood_for if coordinated else elected
    async with asyncio.TaskGroup() as tasks:
        for user, component, work in (
            (MANAGER, "kube-controller-manager", manage),
            (SCHEDULER, "kube-scheduler", schedule),
        ):
            run = hold(client_of(user, component), clock, component, identity, work) if elect else work()
            tasks.create_task(run, name=component)


async def elected(
    client: Client,
    clock: Clock,
    lease: str,
    identity: str,
    lead: Callable[[], Awaitable[None]],
    *,
    coordinated: bool = False,
) -> None:
    """Be a candidate for a lease until cancelled, and do what its holder does while it is held."""
    events = EventRecorder(client, clock, lease)

    def elector() -> LeaderElector:
        return LeaderElector(client, clock, events, lease, identity=identity, coordinated=coordinated)

    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(events.run(), name=f"{lease}/events")
        await lead_forever(elector, lead)
        telling.cancel()


async def stood_for(
    client: Client,
    clock: Clock,
    lease: str,
    identity: str,
    lead: Callable[[], Awaitable[None]],
    *,
    version: str = EMULATED,
) -> None:
    """The same where the API server chooses who holds the lease. Candidates of several leases need names of their own."""
    identity = f"{identity}.{lease}"
    candidacy = Candidacy(client, clock, lease, identity=identity, version=version)
    async with asyncio.TaskGroup() as tasks:
        standing = tasks.create_task(candidacy.run(), name=f"{lease}/candidacy")
        await elected(client, clock, lease, identity, lead, coordinated=True)
        standing.cancel()
