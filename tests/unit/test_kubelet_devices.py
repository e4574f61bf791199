"""Device plugins over real sockets: registration, health, allocation, restarts of either side."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from kubelet_world import make_container, make_pod
from msgspec.structs import replace
from plugin_lab import DevicePlugin, device, run

from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import Pod, ResourceRequirements
from kaa.kubelet.devices import checkpoint
from kaa.kubelet.devices import messages as api
from kaa.kubelet.devices.manager import ANYWHERE, GRACE_S, DevicePlugins
from kaa.kubelet.env import ConfigError
from kaa.kubelet.listener import Listener
from kaa.kubelet.plugins import SOCKET
from kaa.kubelet.topology.base import Hint, NotGiven
from kaa.runtime.base import Device, Mount

NAME = "example.com/dev"


class LateClock(SystemClock):
    """Real time, and some more."""

    def __init__(self) -> None:
        super().__init__()
        self.later_s = 0.0

    def now(self) -> float:
        return super().now() + self.later_s


class Node:
    """A kubelet's device plugins; ``news`` counts what the node's keeper and pods were told."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock = root, LateClock()
        self.told = asyncio.Event()
        self.news, self.ill = 0, list[str]()
        self.made = self.fresh()

    def fresh(self) -> DevicePlugins:
        def changed() -> None:
            self.news += 1
            self.told.set()

        return DevicePlugins(
            self.root,
            self.clock,
            changed=changed,
            health_changed=self.ill.append,
            machine_nodes=(0, 1),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[DevicePlugins]:
        """One life of the kubelet."""
        self.made = made = self.fresh()
        listener = Listener(self.root / SOCKET, made.serve, keep=checkpoint.FILE)
        task = asyncio.create_task(listener.run())
        await listener.listening.wait()
        try:
            yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await made.close()

    async def has(self, capacity: int | None, allocatable: int | None, resource: str = NAME) -> None:
        """Wait until the node has so much of a resource."""

        def there() -> bool:
            both = self.made.resources()
            return (both[0].get(resource), both[1].get(resource)) == (capacity, allocatable)

        async with asyncio.timeout(5):
            while not there():
                self.told.clear()
                await self.told.wait()


@pytest.fixture
def node() -> Iterator[Node]:
    root = Path(tempfile.mkdtemp(prefix="kdp"))  # short: a socket's path has 107 bytes
    yield Node(root)
    shutil.rmtree(root)


def pod_of(name: str, count: int = 1, *, inits: int = 0, sidecars: int = 0, resource: str = NAME) -> Pod:
    wants = ResourceRequirements(limits={resource: str(count)}, requests={resource: str(count)})
    plain = tuple(make_container(f"init{n}", resources=wants) for n in range(inits))
    side = tuple(make_container(f"side{n}", resources=wants, restart_policy="Always") for n in range(sidecars))
    return make_pod(name, init_containers=(*plain, *side), containers=(make_container(resources=wants),))


async def allocate(made: DevicePlugins, pod: Pod, where: Hint = ANYWHERE) -> dict[str, list[str]]:
    """{container: its devices}."""
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        await made.allocate(pod, container, where)
    return {name: sorted(every[NAME].all) for (uid, name), every in made.pool.held.items() if uid == pod.metadata.uid}


@contextlib.asynccontextmanager
async def plugin(node: Node, *devices: api.Device, **options: Any) -> AsyncIterator[DevicePlugin]:
    made = DevicePlugin(node.root / "device-plugins", *devices, **options)
    await made.start()
    try:
        await made.register()
        yield made
    finally:
        await made.stop()


def test_devices_come_fall_ill_and_go(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made:
            async with plugin(node, device("a"), device("b"), device("c", health=api.UNHEALTHY)) as fake:
                await node.has(3, 2)
                pod = pod_of("web")
                assert await allocate(made, pod) == {"main": ["a"]}
                assert made.given(pod, pod.spec.containers[0]).env == {"DEVICES": "a"}
                before = node.news
                await fake.tell(device("a", health=api.UNHEALTHY), device("b"))
                await node.has(2, 1)
                assert node.news > before, "the node's status is told"
                assert node.ill == ["uid-web"], "the pod is told, and no other"
                (status,) = made.health("uid-web", "main")
                assert [(one.resource_id, one.health) for one in status.resources] == [("a", "Unhealthy")]
            await node.has(2, 0)
            node.clock.later_s = GRACE_S + 1
            await node.has(0, 0)
            with pytest.raises(NotGiven, match=f"{NAME}, requested: 2, used: 0, capacity: 0") as refused:
                await allocate(made, pod_of("late", 2))
            assert refused.value.reason == f"OutOf{NAME}"
            (status,) = made.health("uid-web", "main")
            assert [one.health for one in status.resources] == ["Unknown"]

    run(body)


def test_there_are_no_more_than_there_are(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made, plugin(node, device("a")):
            await node.has(1, 1)
            first, second = pod_of("one"), pod_of("two")
            await allocate(made, first)
            with pytest.raises(NotGiven) as refused:
                await allocate(made, second)
            assert refused.value.reason == "UnexpectedAdmissionError"
            assert refused.value.message == (
                f"Allocate failed due to requested number of devices unavailable for {NAME}. Requested: 1, Available: 0,"
                " which is unexpected"
            )
            made.release("uid-one")
            assert await allocate(made, second) == {"main": ["a"]}
            assert made.holders() == {"uid-two"}

    run(body)


def test_many_ask_at_once(node: Node) -> None:
    """Each device goes to one of them, whatever the plugin's answers take."""

    async def body() -> None:
        async with node.running() as made, plugin(node, *(device(f"d{n}") for n in range(5))):
            await node.has(5, 5)
            asking = [allocate(made, pod_of(f"pod{n}")) for n in range(8)]
            found = await asyncio.gather(*asking, return_exceptions=True)
            given = [one["main"] for one in found if isinstance(one, dict)]
            assert sorted(given) == [[f"d{n}"] for n in range(5)]
            assert sum(isinstance(one, NotGiven) for one in found) == 3

    run(body)


def test_what_a_container_gets(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made, plugin(node, device("a"), device("b")) as fake:
            await node.has(2, 2)
            fake.allocation = lambda ids: api.ContainerAllocation(
                envs={"IDS": " ".join(ids)},
                mounts=(api.Mount("/lib/vendor", "/opt/vendor", True),),
                devices=tuple(api.DeviceSpec(f"/dev/{one}", f"/dev/real-{one}", "rw") for one in ids),
                annotations={"vendor.com/ids": "2"},
                cdi_devices=(api.CdiDevice("vendor.com/dev=a"), api.CdiDevice("vendor.com/dev=a")),
            )
            pod = pod_of("web", 2)
            await allocate(made, pod)
            given = made.given(pod, pod.spec.containers[0])
            assert given.env == {"IDS": "a b"}
            assert given.mounts == (Mount("/opt/vendor", "/lib/vendor", read_only=True),)
            assert given.devices == (Device("/dev/real-a", "/dev/a", "rw"), Device("/dev/real-b", "/dev/b", "rw"))
            assert (given.annotations, given.cdi_devices) == ({"vendor.com/ids": "2"}, ("vendor.com/dev=a",))
            other = make_container("other")
            assert made.given(pod, other).env == {}
            await made.allocate(pod, pod.spec.containers[0], ANYWHERE)
            assert [call for call in fake.calls if call[0] == "allocate"] == [("allocate", ("a", "b"))], "repeatable"

    run(body)


def test_init_containers_leave_theirs_to_others_and_sidecars_keep_them(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made, plugin(node, *(device(one) for one in "abcd")):
            await node.has(4, 4)
            found = await allocate(made, pod_of("web", inits=2, sidecars=1))
            assert found["init0"] == found["init1"] == found["side0"]
            assert found["main"] != found["side0"]
            assert len({one for ids in found.values() for one in ids}) == 2

    run(body)


def test_a_plugins_liking_and_its_word_before_a_start(node: Node) -> None:
    async def body() -> None:
        options = api.Options(pre_start_required=True, preferred_allocation=True)
        async with node.running() as made, plugin(node, *(device(one) for one in "abc"), options=options) as fake:
            await node.has(3, 3)
            fake.liked = ("c", "a")
            pod = pod_of("web", 2)
            assert await allocate(made, pod) == {"main": ["a", "c"]}
            assert fake.calls[0] == ("prefer", api.ContainerPreference(("a", "b", "c"), (), 2))
            await made.before_start(pod, pod.spec.containers[0])
            assert fake.calls[-1] == ("start", ("a", "c"))
            fake.refuse = "not now"
            with pytest.raises(ConfigError, match="PreStartContainer rpc failed with err: rpc error: code = Unknown"):
                await made.before_start(pod, pod.spec.containers[0])

    run(body)


def test_a_plugin_that_refuses(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made, plugin(node, device("a")) as fake:
            await node.has(1, 1)
            fake.refuse = "broken"
            with pytest.raises(NotGiven) as refused:
                await allocate(made, pod_of("web"))
            text = "Allocate failed due to rpc error: code = Unknown desc = broken, which is unexpected"
            assert refused.value.message == text
            fake.refuse = ""
            assert await allocate(made, pod_of("next")) == {"main": ["a"]}, "nothing stayed taken"

    run(body)


def test_a_plugin_that_is_replaced_while_it_is_asked(node: Node) -> None:
    """Who asks is told, and not cancelled."""

    async def body() -> None:
        async with node.running() as made, plugin(node, device("a")) as slow:
            await node.has(1, 1)
            slow.hang = asyncio.Event()
            asking = asyncio.create_task(allocate(made, pod_of("web")))
            await slow.asked.wait()
            async with plugin(node, device("a"), device("b"), name="second.sock"):
                with pytest.raises(NotGiven, match="code = Canceled"):
                    await asking
                assert not asking.cancelled()
                await node.has(2, 2)
                assert await allocate(made, pod_of("web")) == {"main": ["a"]}
            slow.hang.set()

    run(body)


def test_a_plugin_that_speaks_nonsense(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made:
            async with plugin(node, device("a")) as fake:
                await node.has(1, 1)
                fake.nonsense = True
                with pytest.raises(NotGiven, match="code = Internal desc = grpc: failed to unmarshal"):
                    await allocate(made, pod_of("web"))
                await fake.tell(device("b"))
                await node.has(1, 0)
            async with plugin(node, device("a", -5, 1 << 40), device("a"), device("")) as fake:
                await node.has(2, 2)
                pod = pod_of("web", 2)
                assert len((await allocate(made, pod))["main"]) == 2

    run(body)


def test_near_devices_come_first(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made:
            devices = (device("a", 0), device("b", 1), device("c", 1), device("d"))
            async with plugin(node, *devices):
                await node.has(4, 4)
                pod = pod_of("web", 2)
                hints = made.hints(pod, pod.spec.containers[0])[NAME]
                assert hints == (Hint(frozenset({1}), True), Hint(frozenset({0, 1}), False))
                assert await allocate(made, pod, Hint(frozenset({1}))) == {"main": ["b", "c"]}
                told = [(one.device_ids, one.topology and one.topology.nodes[0].id) for one in made.all_devices()]
                assert told == [(("a",), 0), (("b",), 1), (("c",), 1), (("d",), None)]
                assert [one.device_ids for one in made.devices_of("uid-web", "main")] == [("b",), ("c",)]
                (again,) = made.hints(pod, pod.spec.containers[0]).values()
                assert again == hints, "of what it has already"
                assert made.hints(pod_of("more", 3), pod_of("more", 3).spec.containers[0]) == {NAME: ()}
                assert await allocate(made, pod_of("far", 2), Hint(frozenset({1}))) == {"main": ["a", "d"]}

    run(body)


def test_devices_of_no_place_have_no_preference(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made, plugin(node, device("a")):
            await node.has(1, 1)
            pod = pod_of("web")
            assert made.hints(pod, pod.spec.containers[0]) == {NAME: None}
            assert made.hints(pod, pod_of("x", resource="other.com/y").spec.containers[0]) == {}

    run(body)


def test_the_kubelet_restarts(node: Node) -> None:
    """Pods keep their devices; plugins see a new socket, register again, and until then the node has none to give."""

    async def body() -> None:
        pod, container = pod_of("web"), pod_of("web").spec.containers[0]
        fake = DevicePlugin(node.root / "device-plugins", device("a"), device("b"))
        async with node.running() as made:
            await fake.start()
            await fake.register()
            await node.has(2, 2)
            await allocate(made, pod)
            socket = node.root / "device-plugins/kubelet.sock"
            before = socket.stat().st_ino, socket.stat().st_ctime_ns
        await fake.stop()
        async with node.running() as made:
            assert (socket.stat().st_ino, socket.stat().st_ctime_ns) != before
            assert not fake.path.exists(), "stale sockets are removed"
            await node.has(0, 0)
            assert made.given(pod, container).env == {"DEVICES": "a"}
            await made.before_start(pod, container)
            with pytest.raises(NotGiven, match="no healthy devices present; cannot allocate unhealthy devices"):
                await allocate(made, pod_of("two"))
            await fake.start()
            await fake.register()
            await node.has(2, 2)
            assert await allocate(made, pod_of("two")) == {"main": ["b"]}
            await fake.stop()

    run(body)


def test_a_plugin_restarts(node: Node) -> None:
    """The new one takes over, even while the old one still stands; its devices are still the pods'."""

    async def body() -> None:
        async with node.running() as made, plugin(node, device("a"), device("b")):
            await node.has(2, 2)
            await allocate(made, pod_of("web"))
            async with plugin(node, device("a"), device("b"), device("c"), name="second.sock"):
                await node.has(3, 3)
                assert await allocate(made, pod_of("two")) == {"main": ["b"]}
            await node.has(3, 0)

    run(body)


@pytest.mark.parametrize(
    ("version", "resource", "text"),
    [
        (
            "v1alpha",
            NAME,
            'requested API version "v1alpha" is not supported by kubelet. Supported version is ["v1beta1"]',
        ),
        ("v1beta1", "cpu", 'the ResourceName "cpu" is invalid'),
        ("v1beta1", "kubernetes.io/x", 'the ResourceName "kubernetes.io/x" is invalid'),
    ],
)
def test_registrations_that_are_refused(node: Node, version: str, resource: str, text: str) -> None:
    async def body() -> None:
        async with node.running():
            fake = DevicePlugin(node.root / "device-plugins", resource=resource)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await fake.register(version)
            assert refused.value.details() == text

    run(body)


def test_what_is_on_disk(node: Node) -> None:
    """Upstream's form, by upstream's sum; a damaged file is told of and left."""

    async def body() -> None:
        async with node.running() as made, plugin(node, device("a", 1), device("b")):
            await node.has(2, 2)
            await allocate(made, pod_of("web"))
            written.append(file.read_text())

    written: list[str] = []
    file = node.root / "device-plugins" / checkpoint.FILE
    run(body)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = json.loads(written[0])
    answer = base64.b64encode(api.ContainerAllocation(envs={"DEVICES": "a"}).encode()).decode()
    entry = {"PodUID": "uid-web", "ContainerName": "main", "ResourceName": NAME, "DeviceIDs": {"1": ["a"]}}
    assert found["Data"]["PodDeviceEntries"] == [{**entry, "AllocResp": answer}]
    assert found["Data"]["RegisteredDevices"] == {NAME: ["a", "b"]}
    file.write_text(file.read_text().replace("uid-web", "uid-bad"))
    with pytest.raises(ValueError, match="checkpoint is corrupted"):
        checkpoint.load(file)
    assert node.fresh().pool.held == {}


def test_the_dump_is_gos() -> None:
    entry = checkpoint.Entry(
        pod_uid="u", container_name="c", resource_name="r", device_ids={1: ("b",), -1: ("a", "d")}, alloc_resp="Cgs="
    )
    data = checkpoint.Data((entry,), {"s": ("x",), "r": ()})
    assert checkpoint.dump(data) == (
        "(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)[{PodUID:(string)u"
        " ContainerName:(string)c ResourceName:(string)r DeviceIDs:(checkpoint.DevicesPerNUMA)map[-1:[a d] 1:[b]]"
        " AllocResp:([]uint8)[10 11]}] RegisteredDevices:(map[string][]string)map[r:[] s:[x]]}"
    )
    assert checkpoint.dump(replace(data, pod_device_entries=None)).count("<nil>") == 1
