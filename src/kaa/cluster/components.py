"""The controllers and the scheduler of a control plane, each speaking with the identity that Kubernetes gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import ServiceAccount
from kaa.apiserver.authn.tokens import service_account_groups
from kaa.client.client import Client
from kaa.client.events import EventRecorder
from kaa.client.informer import Informers
from kaa.client.pipeline import User
from kaa.controllers.certificate_authority import Authority
from kaa.controllers.manager import SHARED, ControllerManager
from kaa.scheduler.scheduler import Scheduler

from .config import ClusterConfig
from .pki import Pki

AUTHENTICATED = "system:authenticated"
SYSTEM_NAMESPACE = "kube-system"
#: A client of this process as a user, under a name for audit and managedFields.
ClientOf = Callable[[User, str], Client]

MANAGER = User("system:kube-controller-manager", groups=(AUTHENTICATED,))
SCHEDULER = User("system:kube-scheduler", groups=(AUTHENTICATED,))


def controller_user(name: str) -> User:
    """The service account that a controller works as."""
    groups = service_account_groups(SYSTEM_NAMESPACE)
    return User(f"system:serviceaccount:{SYSTEM_NAMESPACE}:{name}", groups=groups)


async def run_components(
    config: ClusterConfig, clock: Clock, client_of: ClientOf, issue_legacy: Callable[[ServiceAccount, str], str]
) -> None:
    """Run them until cancelled."""
    pki = Pki(config.pki_dir, clock)
    root_ca = pki.ca.read_bytes()
    authority = Authority(root_ca, pki.key("ca").read_bytes())

    def controller_client(name: str) -> Client:
        user = MANAGER if name == SHARED else controller_user(name)
        return client_of(user, "kube-controller-manager")

    manager = ControllerManager(
        controller_client, clock, root_ca=root_ca, issue_legacy=issue_legacy, authority=authority
    )
    scheduling = client_of(SCHEDULER, "kube-scheduler")
    recorder = EventRecorder(scheduling, clock, "default-scheduler")
    informers = Informers(scheduling, clock)
    scheduler = Scheduler(scheduling, clock, recorder, informers=informers)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(manager.run(), name="controllers")
        tasks.create_task(recorder.run(), name="scheduler/events")
        tasks.create_task(informers.run(), name="scheduler/informers")
        tasks.create_task(scheduler.run(), name="scheduler")
