"""Where pods with volumes go, what is written before they are bound, and what is said when they cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from fake_api import FakeApi, running
from msgspec.structs import replace

from kaa.api.clock import VirtualClock
from kaa.api.errors import Conflict
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim, Pod
from kaa.api.types.storage_v1 import CSIDriver, CSINode, CSIStorageCapacity, StorageClass
from kaa.client.events import EventRecorder
from kaa.client.informer import Informers
from kaa.controllers.controller import Context
from kaa.controllers.persistentvolume import PersistentVolumes
from kaa.scheduler.scheduler import Scheduler

FACTS = (
    "architecture bootID containerRuntimeVersion kernelVersion kubeProxyVersion kubeletVersion machineID operatingSystem"
    " osImage systemUUID"
)
ZONE = "topology.kubernetes.io/zone"
SELECTED = "volume.kubernetes.io/selected-node"


def make_node(name: str, **labels: str) -> Node:
    has = {"cpu": "4", "memory": "4Gi", "pods": "10"}
    status = {"allocatable": has, "daemonEndpoints": {}, "nodeInfo": dict.fromkeys(FACTS.split(), "")}
    marks = {"kubernetes.io/hostname": name, **{key.replace("_", "/"): word for key, word in labels.items()}}
    return convert(Node, {"metadata": {"name": name, "labels": marks}, "status": status})


def make_pod(name: str, *claims: str, **spec: Any) -> Pod:
    volumes = [{"name": f"v{n}", "persistentVolumeClaim": {"claimName": claim}} for n, claim in enumerate(claims)]
    volumes += spec.pop("volumes", [])
    meta = {"name": name, "namespace": "d", "uid": f"uid-{name}"}
    return convert(Pod, {"metadata": meta, "spec": {"containers": [{"name": "c"}], "volumes": volumes, **spec}})


def make_claim(name: str, cls: str | None = "wait", size: str = "1Gi", **more: Any) -> PersistentVolumeClaim:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **more.pop("spec", {})}
    meta = {"name": name, "namespace": "d", **more.pop("metadata", {})}
    return convert(PersistentVolumeClaim, {"metadata": meta, "spec": {**spec, "storageClassName": cls}, **more})


def make_volume(name: str, *nodes: str, size: str = "1Gi", cls: str = "wait", **more: Any) -> PersistentVolume:
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "storageClassName": cls}
    if nodes:
        wish = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(nodes)}
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [wish]}]}}
    meta = {"name": name, "labels": more.pop("labels", {})}
    return convert(PersistentVolume, {"metadata": meta, "spec": {**spec, **more}, "status": {"phase": "Available"}})


def make_class(name: str = "wait", provisioner: str = "kubernetes.io/no-provisioner", **more: Any) -> StorageClass:
    made = {"volumeBindingMode": "WaitForFirstConsumer", **more}
    return convert(StorageClass, {"metadata": {"name": name}, "provisioner": provisioner, **made})


class Bench:
    """A scheduler and a volume binder on one fake API."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.api = FakeApi(self.clock)
        recorder = EventRecorder(self.api, self.clock, "default-scheduler")
        self.informers = Informers(self.api, self.clock)
        self.scheduler = Scheduler(self.api, self.clock, recorder, informers=self.informers)
        self.binder = PersistentVolumes(Context(lambda name: self.api, self.informers, self.clock))

    async def put(self, *objects: Any) -> None:
        for obj in objects:
            self.api.put(obj)
        await self.clock.advance(3)

    def pod(self, name: str) -> Pod:
        return next(pod for pod in self.api.all(Pod) if pod.metadata.name == name)

    def node_of(self, name: str) -> str:
        return self.pod(name).spec.node_name or ""

    def why(self, name: str) -> str:
        return next(c.message or "" for c in self.pod(name).status.conditions if c.type == "PodScheduled")

    def claim(self, name: str) -> PersistentVolumeClaim:
        return next(claim for claim in self.api.all(PersistentVolumeClaim) if claim.metadata.name == name)


def play(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def body() -> None:
        bench = Bench()
        async with running(bench.clock, bench.informers.run, bench.scheduler.run, bench.binder.run):
            await story(bench)

    asyncio.run(body())


OWN = {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}, "name": "scratch"}


@pytest.mark.parametrize(
    ("objects", "pod", "message"),
    [
        pytest.param((), make_pod("p", "data"), 'persistentvolumeclaim "data" not found', id="no such claim"),
        pytest.param(
            (),
            make_pod("p", volumes=[OWN]),
            'waiting for ephemeral volume controller to create the persistentvolumeclaim "p-scratch"',
            id="its own claim is not made yet",
        ),
        pytest.param(
            (make_claim("p-scratch"),),
            make_pod("p", volumes=[OWN]),
            "PVC d/p-scratch was not created for pod d/p (pod is not owner)",
            id="a claim that is not its own",
        ),
        pytest.param(
            (make_claim("data", "now"), make_class("now", volumeBindingMode="Immediate")),
            make_pod("p", "data"),
            "pod has unbound immediate PersistentVolumeClaims",
            id="immediate, and not bound",
        ),
        pytest.param(
            (make_claim("data", metadata={"deletionTimestamp": "2030-01-01T00:00:00Z", "finalizers": ["x/y"]}),),
            make_pod("p", "data"),
            'persistentvolumeclaim "data" is being deleted',
            id="a claim on its way out",
        ),
    ],
)
def test_pods_that_no_node_can_help(objects: tuple[Any, ...], pod: Pod, message: str) -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_node("a"), *objects, pod)
        assert bench.why("p") == f"0/1 nodes are available: {message}. not found"

    play(story)


def test_a_pod_wakes_when_its_claim_comes_and_is_bound() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_node("a"), make_class("now", volumeBindingMode="Immediate"), make_pod("p", "data"))
        await bench.put(make_claim("data", "now"))
        assert "unbound immediate" in bench.why("p")
        await bench.put(make_volume("one", cls="now"))
        await bench.clock.advance(5)
        assert bench.node_of("p") == "a"

    play(story)


def test_a_pod_goes_where_its_volume_is() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class("now", volumeBindingMode="Immediate"), make_volume("one", "b", cls="now"))
        await bench.put(make_claim("data", "now"), make_node("a"), make_pod("p", "data"))
        assert bench.why("p").startswith(
            "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity. no new claims"
        )
        await bench.put(make_node("b"))
        assert bench.node_of("p") == "b"

    play(story)


def test_a_delayed_claim_gets_a_volume_that_its_node_reaches() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class(), make_node("a"), make_node("b"), make_node("c"))
        await bench.put(make_volume("on-b", "b", size="5Gi"), make_volume("small", "c", size="512Mi"))
        await bench.put(make_claim("data", size="2Gi"))
        assert bench.claim("data").status.phase == "Pending"
        await bench.put(make_pod("p", "data"))
        assert bench.node_of("p") == "b"
        claim = bench.claim("data")
        assert (claim.spec.volume_name, claim.status.phase) == ("on-b", "Bound")
        assert SELECTED not in claim.metadata.annotations

    play(story)


def test_what_no_volume_fits_is_told_and_woken_by_one() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class(), make_node("a"), make_node("b"), make_claim("data"), make_pod("p", "data"))
        assert bench.why("p").startswith(
            "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. no new claims"
        )
        await bench.put(make_volume("one", "b"))
        await bench.clock.advance(10)
        assert bench.node_of("p") == "b"

    play(story)


def test_two_pods_never_get_one_volume() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class(), make_node("a"), make_volume("one", "a"))
        await bench.put(make_claim("x"), make_claim("y"), make_pod("p", "x"), make_pod("q", "y"))
        assert sorted([bench.node_of("p"), bench.node_of("q")]) == ["", "a"]
        await bench.put(make_volume("two", "a"))
        await bench.clock.advance(10)
        assert {bench.claim("x").spec.volume_name, bench.claim("y").spec.volume_name} == {"one", "two"}
        assert [bench.node_of("p"), bench.node_of("q")] == ["a", "a"]

    play(story)


def test_a_provisioner_is_told_the_node_and_waited_for() -> None:
    async def story(bench: Bench) -> None:
        only = [{"matchLabelExpressions": [{"key": ZONE, "values": ["z2"]}]}]
        await bench.put(make_class("made", "maker.example.com", allowedTopologies=only), make_claim("data", "made"))
        await bench.put(make_node("a", **{ZONE: "z1"}), make_node("b", **{ZONE: "z2"}), make_pod("p", "data"))
        claim = bench.claim("data")
        assert claim.metadata.annotations[SELECTED] == "b"
        assert not bench.node_of("p"), "its volume is not there yet"
        aside = {"kind": "PersistentVolumeClaim", "namespace": "d", "name": "data", "uid": claim.metadata.uid}
        await bench.put(make_volume("made-1", "b", cls="made", claimRef=aside))
        assert bench.node_of("p") == "b"

    play(story)


def test_a_provisioner_that_gives_up_makes_the_pod_be_decided_anew() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class("made", "maker.example.com"), make_claim("data", "made"), make_node("a"))
        await bench.put(make_pod("p", "data"))
        claim = bench.claim("data")
        left = {key: word for key, word in claim.metadata.annotations.items() if key != SELECTED}
        bench.api.put(replace(claim, metadata=replace(claim.metadata, annotations=left)))
        await bench.clock.advance(0.5)
        text = 'running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC "data"'
        assert bench.why("p") == text
        await bench.clock.advance(20)
        assert bench.claim("data").metadata.annotations[SELECTED] == "a"

    play(story)


def test_a_volume_that_another_took_first_is_given_up() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class(), make_node("a"), make_volume("one"), make_volume("two", size="2Gi"))
        refused = []

        def refuse(verb: str, obj: Any) -> None:
            if verb == "update" and isinstance(obj, PersistentVolume) and not refused:
                refused.append(obj.metadata.name)
                raise Conflict("the object has been modified")

        bench.api.refuse = refuse
        await bench.put(make_claim("data"), make_pod("p", "data"))
        await bench.clock.advance(20)
        assert (refused, bench.node_of("p"), bench.claim("data").status.phase) == (["one"], "a", "Bound")

    play(story)


def test_a_driver_without_room_is_passed_by() -> None:
    async def story(bench: Bench) -> None:
        driver = convert(CSIDriver, {"metadata": {"name": "maker"}, "spec": {"storageCapacity": True}})
        there = {"matchLabels": {"kubernetes.io/hostname": "b"}}
        told = {"metadata": {"name": "t", "namespace": "d"}, "storageClassName": "made", "capacity": "5Gi"}
        room = convert(CSIStorageCapacity, {**told, "nodeTopology": there})
        await bench.put(make_node("a"), make_node("b"), make_class("made", "maker"), driver, room)
        await bench.put(make_claim("big", "made", "9Gi"), make_pod("p", "big"))
        assert bench.why("p").startswith("0/2 nodes are available: 2 node(s) did not have enough free storage. ")
        await bench.put(make_claim("fits", "made", "4Gi"), make_pod("q", "fits"))
        assert bench.claim("fits").metadata.annotations[SELECTED] == "b"

    play(story)


def test_a_claim_for_one_pod_alone() -> None:
    async def story(bench: Bench) -> None:
        alone = {"accessModes": ["ReadWriteOncePod"]}
        await bench.put(make_class(), make_node("a"), make_node("b"), make_volume("one", **alone))
        await bench.put(make_claim("data", spec=alone), make_pod("p", "data"))
        await bench.put(make_pod("q", "data"))
        assert bench.node_of("p")
        assert "2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode" in (
            bench.why("q")
        )
        await bench.api.delete(Pod, "p", "d")
        bench.api.remove(bench.pod("p"))
        await bench.clock.advance(5)
        assert bench.node_of("q")

    play(story)


def test_disks_that_cannot_be_shared() -> None:
    async def story(bench: Bench) -> None:
        def user(name: str, **disk: Any) -> Pod:
            return make_pod(name, volumes=[{"name": "d", "gcePersistentDisk": {"pdName": "disk", **disk}}])

        await bench.put(make_node("a"), user("r1", readOnly=True), user("r2", readOnly=True), user("w"))
        assert [bench.node_of(name) for name in ("r1", "r2", "w")] == ["a", "a", ""]
        assert "1 node(s) had no available disk" in bench.why("w")

    play(story)


def test_a_volume_keeps_its_pod_in_its_zone() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class("now", volumeBindingMode="Immediate"))
        await bench.put(make_volume("one", cls="now", labels={ZONE: "z2__z3"}), make_claim("data", "now"))
        await bench.put(make_node("a", **{ZONE: "z1"}), make_pod("p", "data"))
        assert "1 node(s) had no available volume zone" in bench.why("p")
        await bench.put(make_node("b", **{ZONE: "z3"}))
        assert bench.node_of("p") == "b"

    play(story)


def test_no_more_volumes_than_a_node_holds() -> None:
    def limit(node: str, count: int) -> CSINode:
        driver = {"name": "maker", "nodeID": node, "allocatable": {"count": count}}
        return convert(CSINode, {"metadata": {"name": node}, "spec": {"drivers": [driver]}})

    def csi(name: str) -> Mapping[str, Any]:
        return {"csi": {"driver": "maker", "volumeHandle": name}, "cls": "now"}

    async def story(bench: Bench) -> None:
        await bench.put(make_class("now", volumeBindingMode="Immediate"), make_node("a"), limit("a", 1))
        await bench.put(make_volume("one", **csi("one")), make_claim("x", "now"))
        await bench.put(make_volume("two", **csi("two")), make_claim("y", "now"))
        await bench.put(make_pod("p", "x"), make_pod("same", "x"), make_pod("q", "y"))
        assert [bench.node_of(name) for name in ("p", "same", "q")] == ["a", "a", ""]
        assert "1 node(s) exceed max volume count" in bench.why("q")
        await bench.put(limit("a", 2))
        await bench.clock.advance(5)
        assert bench.node_of("q") == "a"

    play(story)
