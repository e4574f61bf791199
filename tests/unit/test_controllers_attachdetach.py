"""Volumes attached to the nodes of their pods, and taken from there in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

from fake_api import FakeApi
from msgspec.structs import replace
from volume_builders import Attacher, make_disk, make_host, make_user, unique

from kaa.api.clock import VirtualClock
from kaa.api.errors import Forbidden
from kaa.api.types.core_v1 import (
    ContainerState,
    ContainerStateTerminated,
    ContainerStatus,
    EphemeralVolumeSource,
    Event,
    Node,
    PersistentVolumeClaim,
    PersistentVolumeClaimTemplate,
    Pod,
    Volume,
)
from kaa.api.types.meta_v1 import ObjectMeta, OwnerReference
from kaa.api.types.storage_v1 import CSIDriver, CSIDriverSpec, VolumeAttachment
from kaa.client.informer import Informers
from kaa.controllers.attachdetach import AttachDetach
from kaa.controllers.attachments import is_over
from kaa.controllers.controller import Context

ATTACHED = 'SuccessfulAttachVolume AttachVolume.Attach succeeded for volume "h" '


class Plant:
    """The controller alone with two nodes, a disk, and an attacher: nobody else takes nodes or pods away."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.api = FakeApi(self.clock)
        self.attacher = Attacher(self.api)

    async def run(self) -> None:
        informers = Informers(self.api, self.clock)
        controller = AttachDetach(Context(lambda name: self.api, informers, self.clock))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(informers.run())
            tasks.create_task(controller.run())

    async def put(self, *objects: Any) -> None:
        for each in objects:
            self.api.put(each)
        await self.settle()

    async def remove(self, *objects: Any) -> None:
        for each in objects:
            self.api.remove(each)
        await self.settle()

    async def settle(self, *, attacher: bool = True) -> None:
        """Long enough for everybody, too short for any clock to run out."""
        for _ in range(6):
            await self.clock.advance(0.6)
            if attacher:
                self.attacher.step()
        await self.clock.advance(0.6)

    async def host(self, name: str, *used: str, **facts: Any) -> None:
        """What a node says next; what is attached to it is not its to say."""
        told = (await self.api.get(Node, name)).status.volumes_attached
        node = make_host(name, *used, **facts)
        assert node.status is not None
        await self.put(replace(node, status=replace(node.status, volumes_attached=told)))

    def standing(self) -> dict[str, str]:
        """{node: the volume that is attached to it}"""
        return {
            each.spec.node_name: each.spec.source.persistent_volume_name or ""
            for each in self.api.all(VolumeAttachment)
        }

    async def told(self, name: str) -> list[str]:
        return [each.name for each in (await self.api.get(Node, name)).status.volumes_attached]

    def said(self, *reasons: str) -> list[str]:
        reasons = reasons or ("SuccessfulAttachVolume", "FailedAttachVolume")
        return [f"{each.reason} {each.message}" for each in self.api.all(Event) if each.reason in reasons]


def in_plant(play: Callable[[Plant], Awaitable[None]]) -> None:
    async def run() -> None:
        plant = Plant()
        task = asyncio.create_task(plant.run())
        await plant.put(make_host("n1"), make_host("n2"), *make_disk())
        await play(plant)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_a_pods_volume_is_attached_and_its_node_told() -> None:
    async def play(plant: Plant) -> None:
        await plant.put(make_user("a", "n1", "h"))
        (made,) = plant.api.all(VolumeAttachment)
        assert made.metadata.name == f"csi-{sha256(b'hd.example.comn1').hexdigest()}"
        assert (made.spec.attacher, made.spec.node_name, made.spec.source.persistent_volume_name) == (
            "d.example.com",
            "n1",
            "h",
        )
        assert await plant.told("n1") == [unique("h")]
        assert plant.said() == [ATTACHED]
        assert (await plant.api.get(Node, "n1")).status.volumes_attached[0].device_path == ""

    in_plant(play)


def test_no_node_is_told_before_the_attacher_has_done_it() -> None:
    async def play(plant: Plant) -> None:
        plant.api.put(make_user("a", "n1", "h"))
        await plant.settle(attacher=False)
        assert plant.standing() == {"n1": "h"}
        assert (await plant.told("n1"), plant.said()) == ([], [])

    in_plant(play)


def test_what_needs_no_attaching_is_left_alone() -> None:
    async def play(plant: Plant) -> None:
        spec = CSIDriverSpec(attach_required=False)
        await plant.put(CSIDriver(metadata=ObjectMeta(name="d.example.com"), spec=spec))
        await plant.put(make_user("a", "n1", "h"), make_user("b", "n2"))
        assert plant.standing() == {}
        await plant.put(make_host("own", managed=False), *make_disk("other"), make_user("c", "own", "other"))
        assert plant.standing() == {}

    in_plant(play)


def test_a_pod_without_a_node_or_a_claim_without_a_volume_waits() -> None:
    async def play(plant: Plant) -> None:
        volume, claim = make_disk("late")
        await plant.put(make_user("a", None, "h"), make_user("b", "n1", "late"), claim)
        assert plant.standing() == {}
        await plant.put(volume)
        assert plant.standing() == {"n1": "late"}

    in_plant(play)


def test_a_volume_stays_while_its_node_uses_it_and_then_goes() -> None:
    async def play(plant: Plant) -> None:
        pod = make_user("a", "n1", "h")
        await plant.put(pod)
        await plant.host("n1", "h")
        await plant.remove(pod)
        await plant.clock.advance(1000)
        assert (plant.standing(), await plant.told("n1")) == ({"n1": "h"}, [unique("h")])
        await plant.host("n1")
        assert (plant.standing(), await plant.told("n1")) == ({}, [])

    in_plant(play)


def test_a_node_that_uses_it_after_all_keeps_it() -> None:
    """The cache says that the volume is free; the server, asked once more, knows better."""

    async def play(plant: Plant) -> None:
        pod = make_user("a", "n1", "h")
        await plant.put(pod)
        asked = plant.api.get

        async def get(kind: Any, name: str, namespace: str | None = None) -> Any:
            found = await asked(kind, name, namespace)
            if kind is Node and name == "n1":
                return replace(found, status=replace(found.status, volumes_in_use=(unique("h"),)))
            return found

        plant.api.get = get  # type: ignore[method-assign]  # a server ahead of the cache
        await plant.remove(pod)
        assert plant.standing() == {"n1": "h"}
        plant.api.get = asked  # type: ignore[method-assign]
        await plant.clock.advance(10)
        await plant.settle()
        assert plant.standing() == {}

    in_plant(play)


def test_an_exclusive_volume_moves_when_it_is_free() -> None:
    async def play(plant: Plant) -> None:
        pod = make_user("a", "n1", "h")
        await plant.put(pod)
        await plant.host("n1", "h")
        await plant.put(make_user("b", "n2", "h"))
        used = 'FailedAttachVolume Multi-Attach error for volume "h" Volume is already used by pod(s) a'
        assert (plant.standing(), plant.said("FailedAttachVolume")) == ({"n1": "h"}, [used])
        await plant.remove(pod)
        assert plant.standing() == {"n1": "h"}, "its kubelet still has it"
        await plant.host("n1")
        assert plant.standing() == {"n2": "h"}
        assert plant.said("FailedAttachVolume") == [used], "it is told once"
        assert await plant.told("n2") == [unique("h")]

    in_plant(play)


def test_the_names_of_pods_elsewhere_are_not_told() -> None:
    async def play(plant: Plant) -> None:
        first, second = make_disk("one"), make_disk("two", namespace="far")
        same = replace(second[0].spec.csi, volume_handle="one")
        await plant.put(*first, replace(second[0], spec=replace(second[0].spec, csi=same)), second[1])
        await plant.put(make_user("a", "n1", "one"))
        await plant.host("n1", "one")
        await plant.put(make_user("b", "n2", "two", namespace="far"))
        text = 'Multi-Attach error for volume "two" Volume is already used by 1 pod(s) in different namespaces'
        assert plant.said("FailedAttachVolume") == [f"FailedAttachVolume {text}"]

    in_plant(play)


def test_a_pod_deleted_while_its_node_is_busy_leaves_a_volume_that_nobody_uses() -> None:
    async def play(plant: Plant) -> None:
        pod = make_user("a", "n1", "h")
        await plant.put(pod)
        await plant.host("n1", "h")
        await plant.remove(pod)
        await plant.put(make_user("b", "n2", "h"))
        text = "Volume is already exclusively attached to one node and can't be attached to another"
        assert plant.said("FailedAttachVolume") == [f'FailedAttachVolume Multi-Attach error for volume "h" {text}']

    in_plant(play)


def test_a_shared_volume_goes_to_all() -> None:
    async def play(plant: Plant) -> None:
        await plant.put(*make_disk("shared", mode="ReadWriteMany"))
        await plant.put(make_user("a", "n1", "shared"), make_user("b", "n2", "shared"))
        assert plant.standing() == {"n1": "shared", "n2": "shared"}
        assert plant.said("FailedAttachVolume") == []

    in_plant(play)


def test_of_a_silent_node_volumes_are_taken_after_six_minutes() -> None:
    async def play(plant: Plant) -> None:
        pod = make_user("a", "n1", "h")
        await plant.put(pod)
        await plant.host("n1", "h", ready=False)
        await plant.remove(pod)
        await plant.put(make_user("b", "n2", "h"))
        await plant.clock.advance(340)
        await plant.settle()
        assert plant.standing() == {"n1": "h"}
        await plant.clock.advance(30)
        await plant.settle()
        assert plant.standing() == {"n2": "h"}

    in_plant(play)


def test_a_node_out_of_service_gives_volumes_up_at_once() -> None:
    async def play(plant: Plant) -> None:
        pod = make_user("a", "n1", "h")
        await plant.put(pod)
        await plant.host("n1", "h", ready=False)
        await plant.remove(pod)
        assert plant.standing() == {"n1": "h"}
        await plant.host("n1", "h", ready=False, taint="node.kubernetes.io/out-of-service")
        assert plant.standing() == {}

    in_plant(play)


def test_a_node_that_is_gone_is_believed_what_it_said_last() -> None:
    async def play(plant: Plant) -> None:
        await plant.put(*make_disk("busy"), make_user("a", "n1", "h", "busy"))
        await plant.host("n1", "busy")
        await plant.remove(await plant.api.get(Node, "n1"), await plant.api.get(Pod, "a", "default"))
        assert plant.standing() == {"n1": "busy"}
        await plant.clock.advance(365)
        await plant.settle()
        assert plant.standing() == {}

    in_plant(play)


def test_an_attacher_that_fails_is_told_of_again_and_again() -> None:
    async def play(plant: Plant) -> None:
        plant.attacher.says = "rpc error: code = Internal desc = no such disk"
        await plant.put(make_user("a", "n1", "h"))
        text = f'FailedAttachVolume AttachVolume.Attach failed for volume "h" : {plant.attacher.says}'
        assert plant.said() == [text]
        plant.attacher.says = ""
        await plant.settle()
        assert plant.said() == [text, ATTACHED]

    in_plant(play)


def test_an_attacher_that_does_not_answer_is_told_of_after_two_minutes() -> None:
    async def play(plant: Plant) -> None:
        plant.api.put(make_user("a", "n1", "h"))
        await plant.settle(attacher=False)
        await plant.clock.advance(110)
        assert plant.said() == []
        await plant.clock.advance(20)
        text = "timed out waiting for external-attacher of d.example.com CSI driver to attach volume h"
        assert plant.said() == [f'FailedAttachVolume AttachVolume.Attach failed for volume "h" : {text}']

    in_plant(play)


def test_an_api_server_that_refuses_is_told_of() -> None:
    async def play(plant: Plant) -> None:
        def refuse(verb: str, obj: Any) -> None:
            if isinstance(obj, VolumeAttachment):
                raise Forbidden("no")

        plant.api.refuse = refuse
        await plant.put(make_user("a", "n1", "h"))
        text = "kubernetes.io/csi: attacher.Attach failed: no"
        assert plant.said() == [f'FailedAttachVolume AttachVolume.Attach failed for volume "h" : {text}']
        plant.api.refuse = lambda verb, obj: None
        await plant.clock.advance(10)
        await plant.settle()
        assert plant.standing() == {"n1": "h"}

    in_plant(play)


def test_an_ended_pod_needs_its_volume_no_more_unless_its_node_says_so() -> None:
    async def play(plant: Plant) -> None:
        pod = make_user("a", "n1", "h")
        await plant.put(pod)
        node = await plant.api.get(Node, "n1")
        notes = {**node.metadata.annotations, "volumes.kubernetes.io/keep-terminated-pod-volumes": "true"}
        await plant.put(replace(node, metadata=replace(node.metadata, annotations=notes)))
        await plant.put(replace(pod, status=replace(pod.status, phase="Succeeded")))
        assert plant.standing() == {"n1": "h"}
        await plant.host("n1")
        assert plant.standing() == {}

    in_plant(play)


def test_a_deleted_pod_is_over_when_its_containers_are() -> None:
    pod = make_user("a", "n1", "h", deleting=True)
    assert is_over(pod)

    def with_state(state: ContainerState) -> Pod:
        status = ContainerStatus(name="c", image="", image_id="", ready=False, restart_count=0, state=state)
        return replace(pod, status=replace(pod.status, container_statuses=(status,)))

    assert is_over(with_state(ContainerState(terminated=ContainerStateTerminated(exit_code=0))))
    assert not is_over(with_state(ContainerState()))
    assert not is_over(make_user("a", "n1", "h"))


def test_a_volume_taken_by_hand_comes_back() -> None:
    async def play(plant: Plant) -> None:
        await plant.put(make_user("a", "n1", "h"))
        await plant.api.delete(VolumeAttachment, plant.api.all(VolumeAttachment)[0].metadata.name)
        await plant.settle()
        assert (plant.standing(), await plant.told("n1")) == ({"n1": "h"}, [unique("h")])

    in_plant(play)


def test_the_claims_of_ephemeral_volumes_count_where_they_are_the_pods_own() -> None:
    async def play(plant: Plant) -> None:
        template = PersistentVolumeClaimTemplate(spec=make_disk()[1].spec)
        scratch = Volume(name="scratch", ephemeral=EphemeralVolumeSource(volume_claim_template=template))
        pod = make_user("a", "n1")
        pod = replace(pod, spec=replace(pod.spec, volumes=(scratch,)))
        volume, claim = make_disk("a-scratch")
        await plant.put(volume, claim, pod)
        assert plant.standing() == {}, "somebody else's"
        owner = OwnerReference(api_version="v1", kind="Pod", name="a", uid="uid-a", controller=True)
        claim = await plant.api.get(PersistentVolumeClaim, "a-scratch", "default")
        await plant.put(replace(claim, metadata=replace(claim.metadata, owner_references=(owner,))))
        assert plant.standing() == {"n1": "a-scratch"}

    in_plant(play)
