"""A cluster of devices under a drawn history: whatever comes, goes and fails, no device has two claims, and who could run does."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from device_lab import asks, device, make_class, make_node, make_slice, request
from fake_api import FakeApi, running

from kaa.api.clock import VirtualClock
from kaa.api.errors import Conflict, InternalError
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Pod
from kaa.api.types.resource_v1 import ResourceClaim, ResourceClaimTemplate
from kaa.client.events import EventRecorder
from kaa.client.informer import Informers
from kaa.controllers.controller import Context
from kaa.controllers.resourceclaim import ResourceClaims
from kaa.scheduler.scheduler import Scheduler

NODES, DEVICES = 3, 3
GPU = "example.com/gpu"


def make_pod(name: str, count: int, *, extended: bool) -> Pod:
    """Asks for devices by a template, or as an extended resource."""
    meta = {"name": name, "namespace": "d", "uid": f"uid-{name}", "labels": {"count": str(count)}}
    claims = [] if extended else [{"name": "own", "resourceClaimTemplateName": f"t{count}"}]
    resources = {"requests": {GPU: str(count)}} if extended else {}
    container = {"name": "c", "resources": resources}
    return convert(Pod, {"metadata": meta, "spec": {"containers": [container], "resourceClaims": claims}})


def claim_of(pod: Pod) -> str:
    """The claim that a pod uses."""
    extended = pod.status.extended_resource_claim_status
    return extended.resource_claim_name if extended else pod.status.resource_claim_statuses[0].resource_claim_name or ""


def make_template(count: int) -> ResourceClaimTemplate:
    meta = {"name": f"t{count}", "namespace": "d"}
    spec = {"spec": {"devices": {"requests": [request("r", **asks(count))]}}}
    return convert(ResourceClaimTemplate, {"metadata": meta, "spec": spec})


class History:
    """One seed's cluster. ``faulty``: writes of claims and bindings fail now and then."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = VirtualClock(seed=seed)
        self.api = FakeApi(self.clock)
        self.faulty = False
        self.made = 0
        self.generation = [1] * NODES
        self.api.refuse = self._refuse

    def _refuse(self, verb: str, obj: Any) -> None:
        about_claims = isinstance(obj, ResourceClaim) and verb in ("create", "update")
        if self.faulty and (about_claims or verb == "bind") and self.random.random() < 0.25:
            raise self.random.choice((Conflict("somebody was first"), InternalError("no")))

    def publish(self, node: int) -> None:
        """A node's slice anew, in a new generation."""
        self.generation[node] += 1
        made = make_slice(
            f"s{node}",
            *(device(f"g{n}") for n in range(DEVICES)),
            pool=f"n{node}",
            nodeName=f"n{node}",
            generation=self.generation[node],
        )
        self.api.put(made)

    async def step(self) -> None:
        match self.random.randrange(6):
            case 0 | 1 | 2:
                self.made += 1
                wish = self.random.randint(1, DEVICES)
                self.api.put(make_pod(f"p{self.made}", wish, extended=self.random.random() < 0.5))
            case 3 | 4:
                pods = self.api.all(Pod)
                if pods:
                    self.api.remove(self.random.choice(pods))
            case _:
                self.publish(self.random.randrange(NODES))
        if self.random.random() < 0.5:
            await self.collect()
        await self.clock.advance(self.random.choice((0.0, 0.05, 1.0, 5.0)))
        self.check()

    async def collect(self) -> None:
        """What the garbage collector does: claims go with their pods."""
        pods = {pod.metadata.uid for pod in self.api.all(Pod)}
        for claim in self.api.all(ResourceClaim):
            if claim.metadata.owner_references[0].uid not in pods and claim.metadata.deletion_timestamp is None:
                await self.api.delete(ResourceClaim, claim.metadata.name, "d")

    def given(self) -> dict[str, ResourceClaim]:
        """{device: the claim that has it}. Fails when it is two."""
        found: dict[str, ResourceClaim] = {}
        for claim in self.api.all(ResourceClaim):
            allocation = claim.status.allocation
            for one in allocation.devices.results if allocation is not None else ():
                key = f"{one.pool}/{one.device}"
                assert key not in found, f"{key} is given to {found[key].metadata.name} and {claim.metadata.name}"
                found[key] = claim
        return found

    def check(self) -> None:
        given = self.given()
        for pod in self.api.all(Pod):
            if not pod.spec.node_name:
                continue
            mine = [key for key, claim in given.items() if claim.metadata.name == claim_of(pod)]
            assert mine, f"{pod.metadata.name} was bound without its devices"
            assert {key.partition("/")[0] for key in mine} == {pod.spec.node_name}
            users = [user.uid for key in mine for user in given[key].status.reserved_for]
            assert pod.metadata.uid in users

    def settled(self) -> None:
        """Nobody waits who could run: no node has room for the least that is asked for."""
        used = {n: sum(key.startswith(f"n{n}/") for key in self.given()) for n in range(NODES)}
        most = max(DEVICES - count for count in used.values())
        waiting = [pod for pod in self.api.all(Pod) if not pod.spec.node_name]
        wishes = [int(pod.metadata.labels["count"]) for pod in waiting]
        assert all(wish > most for wish in wishes), f"{wishes} wait while there are {most} on a node"
        owned = {claim.metadata.owner_references[0].uid for claim in self.given().values()}
        assert owned == {pod.metadata.uid for pod in self.api.all(Pod) if pod.spec.node_name}, "what is free is free"


async def play(seed: int) -> None:
    history = History(seed)
    recorder = EventRecorder(history.api, history.clock, "default-scheduler")
    informers = Informers(history.api, history.clock)
    scheduler = Scheduler(history.api, history.clock, recorder, informers=informers)
    controller = ResourceClaims(Context(lambda name: history.api, informers, history.clock))
    history.api.put(make_class("gpu", extendedResourceName=GPU))
    for n in range(NODES):
        history.api.put(make_node(f"n{n}"))
        history.publish(n)
        history.api.put(make_template(n + 1))
    async with running(history.clock, informers.run, scheduler.run, controller.run, recorder.run):
        history.faulty = True
        for _ in range(40):
            await history.step()
        history.faulty = False
        for _ in range(40):
            await history.clock.advance(2)
            await history.collect()
            history.check()
        history.settled()


@pytest.mark.parametrize("seed", range(12))
def test_no_device_has_two_claims_and_nobody_waits_in_vain(seed: int) -> None:
    asyncio.run(play(seed))
