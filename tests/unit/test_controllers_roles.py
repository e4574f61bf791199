"""What acts on clouds and drives can do so with the roles it has, on a real API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from api_lab import Lab, run
from fake_cloud import FakeCloud
from msgspec.structs import replace
from volume_builders import make_claim, make_disk, make_host, make_user, make_volume, unique

from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import (
    Event,
    Node,
    PersistentVolumeClaim,
    PersistentVolumeClaimStatus,
    Pod,
    Service,
    ServiceAccount,
    ServicePort,
    ServiceSpec,
)
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta
from kaa.api.types.storage_v1 import StorageClass, VolumeAttachment, VolumeAttachmentStatus
from kaa.client.informer import Informers
from kaa.cluster.components import MANAGER, controller_user
from kaa.controllers.attachdetach import AttachDetach
from kaa.controllers.controller import SHARED, Context, Controller
from kaa.controllers.expand import RESIZER, Expander
from kaa.controllers.persistentvolume import PersistentVolumes
from kaa.controllers.service_loadbalancer import FINALIZER, ServiceLoadBalancers


@contextlib.asynccontextmanager
async def working(lab: Lab, *makers: Callable[[Context], Controller[Any]]) -> AsyncIterator[None]:
    """Controllers under their own accounts, on informers of the manager's."""

    def client_for(name: str) -> Any:
        return lab.plane.client(MANAGER if name == SHARED else controller_user(name), "kube-controller-manager")

    informers = Informers(client_for(SHARED), lab.clock)
    controllers = [make(Context(client_for, informers, lab.clock)) for make in makers]
    tasks = [asyncio.create_task(each.run()) for each in (informers, *controllers)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await true():  # noqa: ASYNC110  # the controllers' own tasks
            await asyncio.sleep(0.02)


def test_the_service_controller_holds_services_by_their_status_alone() -> None:
    async def use(lab: Lab) -> None:
        cloud = FakeCloud()
        async with working(lab, lambda context: ServiceLoadBalancers(context, cloud)):
            spec = ServiceSpec(type="LoadBalancer", ports=(ServicePort(port=80),))
            await lab.client.create(Service(metadata=ObjectMeta(name="web", namespace="default"), spec=spec))

            async def is_balanced() -> bool:
                service = await lab.client.get(Service, "web", "default")
                return bool(service.status.load_balancer.ingress) and service.metadata.finalizers == (FINALIZER,)

            await until(is_balanced)
            await lab.client.patch(Service, "web", {"spec": {"type": "ClusterIP"}}, "default")

            async def is_released() -> bool:
                service = await lab.client.get(Service, "web", "default")
                return not (service.metadata.finalizers or service.status.load_balancer.ingress or cloud.balancers)

            await until(is_released)
            await lab.client.patch(Service, "web", {"spec": {"type": "LoadBalancer"}}, "default")
            await until(is_balanced)
            await lab.client.delete(Service, "web", "default")

            async def is_gone() -> bool:
                names = {service.metadata.name for service in (await lab.client.list(Service, "default")).items}
                return "web" not in names and not cloud.balancers

            await until(is_gone)

    run(use, clock=SystemClock(seed=1), bootstrapped=True)


def test_the_expand_controller_marks_claims_by_their_status_alone() -> None:
    async def use(lab: Lab) -> None:
        source = {"awsElasticBlockStore": {"volumeID": "vol-1"}}
        await lab.client.create(
            StorageClass(metadata=ObjectMeta(name="c"), provisioner="p", allow_volume_expansion=True)
        )
        await lab.client.create(make_volume(**source))
        await lab.client.create(make_claim())
        async with working(lab, PersistentVolumes, Expander):

            async def is_bound() -> bool:
                return (await lab.client.get(PersistentVolumeClaim, "data", "default")).status.phase == "Bound"

            await until(is_bound)
            patch = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
            await lab.client.patch(PersistentVolumeClaim, "data", patch, "default")

            async def is_marked() -> bool:
                claim = await lab.client.get(PersistentVolumeClaim, "data", "default")
                return claim.metadata.annotations.get(RESIZER) == "ebs.csi.aws.com"

            await until(is_marked)
            (event,) = [each for each in (await lab.client.list(Event)).items if each.reason == "ExternalExpanding"]
            assert event.source.component == "volume_expand"

    run(use, clock=SystemClock(seed=1), bootstrapped=True)


def test_the_attach_detach_controller_tells_nodes_what_is_attached() -> None:
    async def use(lab: Lab) -> None:
        host = make_host("n1")
        node = await lab.client.create(host)
        await lab.client.update_status(replace(node, status=host.status))
        volume, claim = make_disk()
        await lab.client.create(replace(claim, status=PersistentVolumeClaimStatus()))
        claim = await lab.client.get(PersistentVolumeClaim, "h", "default")
        assert volume.spec.claim_ref is not None
        ref = replace(volume.spec.claim_ref, uid=claim.metadata.uid)
        await lab.client.create(replace(volume, spec=replace(volume.spec, claim_ref=ref)))
        await lab.client.update_status(replace(claim, status=PersistentVolumeClaimStatus(phase="Bound")))
        await lab.client.create(ServiceAccount(metadata=ObjectMeta(name="default", namespace="default")))
        await lab.client.create(make_user("a", "n1", "h"))
        async with working(lab, AttachDetach):

            async def attached() -> list[str]:
                return [each.name for each in (await lab.client.get(Node, "n1")).status.volumes_attached]

            async def is_asked_for() -> bool:
                return bool((await lab.client.list(VolumeAttachment)).items)

            await until(is_asked_for)
            (made,) = (await lab.client.list(VolumeAttachment)).items
            await lab.client.update_status(replace(made, status=VolumeAttachmentStatus(attached=True)))

            async def is_told() -> bool:
                return await attached() == [unique("h")]

            await until(is_told)
            await lab.client.delete(Pod, "a", "default", options=DeleteOptions(grace_period_seconds=0))

            async def is_detached() -> bool:
                return await attached() == [] and not await is_asked_for()

            await until(is_detached)
            reasons = [each.reason for each in (await lab.client.list(Event)).items]
            assert "SuccessfulAttachVolume" in reasons

    run(use, clock=SystemClock(seed=1), bootstrapped=True)
