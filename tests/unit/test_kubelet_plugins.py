"""Plugins that register by a socket in a folder, and DRA drivers among them: claims prepared, used, taken back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubelet_world import FakeClient, make_container, make_pod
from msgspec.structs import replace
from plugin_lab import DevicePlugin, Driver, RegisteredPlugin, device, run

from kaa.api.clock import SystemClock, VirtualClock
from kaa.api.types.core_v1 import Pod, PodResourceClaim, PodResourceClaimStatus, ResourceRequirements
from kaa.api.types.core_v1 import ResourceClaim as Use
from kaa.api.types.meta_v1 import ObjectMeta, OwnerReference
from kaa.api.types.resource_v1 import (
    AllocationResult,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    ResourceClaim,
    ResourceClaimConsumerReference,
    ResourceClaimSpec,
    ResourceClaimStatus,
)
from kaa.kubelet.claims import ClaimFailure, checkpoint
from kaa.kubelet.claims import messages as dra
from kaa.kubelet.claims.health import HealthBook
from kaa.kubelet.claims.messages import SERVICES
from kaa.kubelet.devices import messages as api
from kaa.kubelet.plugins import Plugins

DRIVER = "driver.example.com"


class QuickClock(SystemClock):
    """Long sleeps end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await (super().sleep(seconds) if seconds < 10 else self.over.wait())


class Node:
    def __init__(self, root: Path) -> None:
        self.root, self.client = root, FakeClient()
        self.cdi = root / "cdi"
        self.woken: list[str] = []  #: uids of pods
        self.cdi.mkdir()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Plugins]:
        """One life of the kubelet."""
        self.clock = QuickClock()
        made = Plugins(
            self.client,  # type: ignore[arg-type]  # a fake
            self.clock,
            self.root,
            "n1",
            changed=lambda: None,
            wake=self.woken.append,
            loaded=lambda made: None,
        )
        ready = asyncio.Event()
        task = asyncio.create_task(made.run(ready))
        ready.set()
        await made.serving.wait()
        try:
            yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @contextlib.asynccontextmanager
    async def driver(self, **options: Any) -> AsyncIterator[Driver]:
        made = Driver(self.root, DRIVER, self.cdi, **options)
        await made.start()
        try:
            assert await made.registration.status.get() == api.RegistrationStatus(True)
            yield made
        finally:
            await made.stop()

    @contextlib.asynccontextmanager
    async def driver_of_two_lives(self, *pods: Pod) -> AsyncIterator[tuple[Plugins, Driver]]:
        """A driver that prepared the claims of pods for a kubelet before this one."""
        driver = Driver(self.root, DRIVER, self.cdi)
        async with self.running() as made:
            await driver.start()
            assert (await driver.registration.status.get()).registered
            for pod in pods:
                await made.prepare(pod)
        async with self.running() as made:
            assert (await driver.registration.status.get()).registered
            yield made, driver
        await driver.stop()

    def claim(self, name: str, *pods: str, allocated: bool = True, **meta: Any) -> ResourceClaim:
        """A claim that is reserved for pods."""
        result = DeviceRequestAllocationResult(device="dev", driver=DRIVER, pool="pool", request="one")
        allocation = AllocationResult(devices=DeviceAllocationResult(results=(result,))) if allocated else None
        users = tuple(ResourceClaimConsumerReference(name=pod, resource="pods", uid=f"uid-{pod}") for pod in pods)
        status = ResourceClaimStatus(allocation=allocation, reserved_for=users)
        about = ObjectMeta(name=name, namespace="default", uid=meta.pop("uid", f"claim-{name}"), **meta)
        return self.client.put(ResourceClaim(metadata=about, spec=ResourceClaimSpec(), status=status))  # type: ignore[no-any-return]


@pytest.fixture
def node() -> Iterator[Node]:
    root = Path(tempfile.mkdtemp(prefix="kdra"))
    yield Node(root)
    shutil.rmtree(root)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  # what is waited for is another program's doing
            await asyncio.sleep(0.005)


def pod_with(name: str, claim: str, *requests: str) -> Pod:
    """A pod that uses a claim; its container all of it, or some of its requests."""
    uses = tuple(Use(name="dev", request=one or None) for one in requests or ("",))
    container = make_container(resources=ResourceRequirements(claims=uses))
    claims = (PodResourceClaim(name="dev", resource_claim_name=claim),)
    return make_pod(name, containers=(container, make_container("other")), resource_claims=claims)


def cdi(made: Plugins, pod: Pod, index: int = 0) -> tuple[str, ...]:
    return made.given(pod, pod.spec.containers[index]).cdi_devices


# ---------------------------------------------------------------------------------------------------------- the folder


def test_a_device_plugin_registers_by_its_socket(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made:
            plugin = DevicePlugin(node.root, device("a"))
            await plugin.start()
            info = api.PluginInfo("DevicePlugin", "example.com/dev", str(plugin.path), ("v1beta1",))
            below = node.root / "plugins_registry" / "vendor"
            below.mkdir()
            shown = RegisteredPlugin(below / "dev.sock", info)
            await shown.start()
            assert await shown.status.get() == api.RegistrationStatus(True)
            await until(lambda: made.resources() == ({"example.com/dev": 1}, {"example.com/dev": 1}))
            await shown.stop()
            await until(lambda: made.resources() == ({"example.com/dev": 1}, {"example.com/dev": 0}))
            await plugin.stop()

    run(body)


@pytest.mark.parametrize(
    ("info", "error"),
    [
        (
            api.PluginInfo("CSIPlugin", "csi.example.com", "", ("1.0",)),
            "no handler registered for plugin type: CSIPlugin",
        ),
        (
            api.PluginInfo("DevicePlugin", "example.com/dev", "", ("v2",)),
            "plugin registration failed with err: manager version, v1beta1, is not among plugin supported versions [v2]",
        ),
        (
            api.PluginInfo("DevicePlugin", "cpu", "", ("v1beta1",)),
            "invalid name of device plugin socket: the ResourceName",
        ),
        (
            api.PluginInfo("DRAPlugin", DRIVER, "/x", ()),
            "empty list of supported gRPC services (aka supported versions)",
        ),
        (
            api.PluginInfo("DRAPlugin", DRIVER, "/x", ("v9.DRAPlugin",)),
            'none of services supported by the plugin (["v9.DRAPlugin"]) are supported by the kubelet (["v1.DRAPlugin"'
            ' "v1beta1.DRAPlugin"])',
        ),
    ],
    ids=["a type that nobody serves", "device plugin's version", "resource name", "no services", "unknown services"],
)
def test_plugins_that_are_refused_are_told_why(node: Node, info: api.PluginInfo, error: str) -> None:
    async def body() -> None:
        async with node.running():
            shown = RegisteredPlugin(node.root / "plugins_registry" / "x.sock", info)
            await shown.start()
            status = await shown.status.get()
            assert not status.registered
            assert error in status.error
            await shown.stop()

    run(body)


# -------------------------------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_claims_are_prepared_and_taken_back(node: Node, service: str) -> None:
    async def body() -> None:
        async with node.running() as made, node.driver(service=service) as driver:
            pod = pod_with("web", "gpu")
            node.claim("gpu", "web")
            await made.prepare(pod)
            await made.prepare(pod)
            assert driver.calls == [("prepare", ("gpu",))], "once"
            assert cdi(made, pod) == (f"{DRIVER}/claim=claim-gpu",)
            assert cdi(made, pod, 1) == (), "a container that names no claim gets none"
            (told,) = made.claims_of(pod, pod.spec.containers[0])
            (device_told,) = told.claim_resources
            assert (told.claim_name, device_told.driver_name, device_told.device_name) == ("gpu", DRIVER, "dev")
            assert [one.name for one in device_told.cdi_devices] == list(cdi(made, pod))
            assert made.claims_of(pod, pod.spec.containers[1]) == []
            (status,) = made.health(pod)["main"]
            assert (status.name, status.resources[0].health) == ("claim:dev", "Unknown")
            await made.unprepare(pod)
            await made.unprepare(pod)
            assert driver.calls[1:] == [("unprepare", ("gpu",))]
            assert driver.prepared == {}
            assert checkpoint.load(node.root / checkpoint.FILE) == ()

    run(body)


def test_requests_of_a_claim(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made, node.driver() as driver:
            driver.requests = {"a": ("one",), "b": ("two",), "c": ()}
            node.claim("gpu", "web")
            for asked, expected in ((("one",), "ac"), (("one", "two"), "acb"), ((), "abc")):
                pod = pod_with("web", "gpu", *asked)
                await made.prepare(pod)
                assert cdi(made, pod) == tuple(f"{DRIVER}/claim={key}" for key in expected)

    run(body)


def test_a_shared_claim_is_taken_back_with_its_last_pod(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made, node.driver() as driver:
            first, second = pod_with("one", "gpu"), pod_with("two", "gpu")
            node.claim("gpu", "one", "two")
            await made.prepare(first)
            await made.prepare(second)
            await made.unprepare(first)
            assert driver.calls == [("prepare", ("gpu",))]
            await made.unprepare(second)
            assert driver.calls[1:] == [("unprepare", ("gpu",))]

    run(body)


def test_the_kubelet_restarts(node: Node) -> None:
    """What containers have is known from disk; what belongs to pods that are gone is taken back; preparing is repeated."""

    async def body() -> None:
        pod, gone = pod_with("web", "gpu"), pod_with("gone", "old")
        node.claim("gpu", "web")
        node.claim("old", "gone")
        async with node.driver_of_two_lives(pod, gone) as (made, driver):
            assert cdi(made, pod) == (f"{DRIVER}/claim=claim-gpu",)
            await made.prepare(pod)
            assert driver.calls[-1] == ("prepare", ("gpu",))
            await made.keep_only({"uid-web"})
            assert driver.calls[-1] == ("unprepare", ("old",))
            assert list(driver.prepared) == ["claim-gpu"]

    run(body)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda node: None, "fetch ResourceClaim gpu: "),
        (lambda node: node.claim("gpu"), "pod web (uid-web) is not allowed to use ResourceClaim gpu (claim-gpu)"),
        (lambda node: node.claim("gpu", "web", allocated=False), "ResourceClaim gpu: not allocated"),
    ],
    ids=["no such claim", "not reserved", "not allocated"],
)
def test_claims_that_may_not_be_used(node: Node, change: Callable[[Node], Any], error: str) -> None:
    async def body() -> None:
        async with node.running() as made, node.driver() as driver:
            change(node)
            with pytest.raises(ClaimFailure) as refused:
                await made.prepare(pod_with("web", "gpu"))
            assert str(refused.value).startswith(f"prepare dynamic resources: {error}")
            assert driver.calls == []
            assert made.claims is not None
            assert made.claims.claims == {}, "the pod can be deleted without the driver"

    run(body)


def test_generated_claims(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made, node.driver():
            claims = (PodResourceClaim(name="dev", resource_claim_template_name="t"),)
            pod = replace(pod_with("web", ""), spec=replace(pod_with("web", "").spec, resource_claims=claims))
            with pytest.raises(ClaimFailure, match='pod "default/web": ResourceClaim not created yet'):
                await made.prepare(pod)
            none = replace(pod.status, resource_claim_statuses=(PodResourceClaimStatus(name="dev"),))
            await made.prepare(replace(pod, status=none))
            known = (PodResourceClaimStatus(name="dev", resource_claim_name="web-dev-x"),)
            pod = replace(pod, status=replace(pod.status, resource_claim_statuses=known))
            node.claim("web-dev-x", "web")
            text = r"ResourceClaim default/web-dev-x was not created for pod default/web \(pod is not owner\)"
            with pytest.raises(ClaimFailure, match=text):
                await made.prepare(pod)
            owner = OwnerReference(api_version="v1", kind="Pod", name="web", uid="uid-web", controller=True)
            node.claim("web-dev-x", "web", owner_references=(owner,))
            await made.prepare(pod)
            assert cdi(made, pod) == (f"{DRIVER}/claim=claim-web-dev-x",)

    run(body)


def test_drivers_that_fail(node: Node) -> None:
    async def body() -> None:
        pod = pod_with("web", "gpu")
        node.claim("gpu", "web")
        async with node.running() as made:
            with pytest.raises(ClaimFailure, match=f"prepare dynamic resources: DRA driver {DRIVER} is not registered"):
                await made.prepare(pod)
            async with node.driver() as driver:
                driver.refuse = "no more"
                text = "NodePrepareResources failed for ResourceClaim gpu: no more"
                with pytest.raises(ClaimFailure, match=text):
                    await made.prepare(pod)
                with pytest.raises(ClaimFailure, match=text.replace("Prepare", "Unprepare")):
                    await made.unprepare(pod)
                driver.refuse = ""
                await made.prepare(pod)
                assert cdi(made, pod) != ()
                node.claim("gpu", "web", uid="another")
                with pytest.raises(
                    ClaimFailure, match="old ResourceClaim with same name gpu and different UID claim-gpu"
                ):
                    await made.prepare(pod)
                await made.unprepare(pod)
                assert driver.prepared == {}

    run(body)


def test_slices_of_a_driver_that_is_gone_are_deleted(node: Node) -> None:
    async def body() -> None:
        where = "/apis/resource.k8s.io/v1/resourceslices?fieldSelector="
        async with node.running():
            await until(lambda: node.client.asked == [("DELETE", f"{where}spec.nodeName%3Dn1")])
            async with node.driver() as driver:
                await driver.registration.stop()
                await driver.registration.start()
                assert (await driver.registration.status.get()).registered
                await asyncio.sleep(0.05)
                node.clock.over.set()
                await asyncio.sleep(0.05)
                assert len(node.client.asked) == 1, "it came back in time"
                node.clock.over.clear()
            await asyncio.sleep(0.05)
            assert len(node.client.asked) == 1
            node.clock.over.set()
            fields = f"spec.driver%3D{DRIVER}%2Cspec.nodeName%3Dn1"
            await until(lambda: node.client.asked[1:] == [("DELETE", f"{where}{fields}")])

    run(body)


def test_drivers_tell_how_devices_are(node: Node) -> None:
    async def body() -> None:
        async with node.running() as made, node.driver(health=True) as driver:
            pod = pod_with("web", "gpu")
            node.claim("gpu", "web")
            await made.prepare(pod)

            def health() -> tuple[str | None, str | None]:
                ((found,),) = (one.resources for one in made.health(pod)["main"])
                assert found.resource_id == f"{DRIVER}/claim=claim-gpu"
                return found.health, found.message

            def said(health: int, text: str = "", seconds: int = 0) -> dra.WatchResponse:
                device = dra.DeviceIdentifier("pool", "dev")
                return dra.WatchResponse((dra.DeviceHealth(device, health, 0, seconds, text),))

            assert health() == ("Unknown", None)
            await driver.health.put(said(1))
            await until(lambda: health() == ("Healthy", None))
            await driver.health.put(said(2, "too hot"))
            await until(lambda: health() == ("Unhealthy", "too hot"))
            assert node.woken == ["uid-web", "uid-web"]
            await driver.health.put(said(2, "too hot"))
            await driver.health.put(None)
            await until(lambda: health() == ("Unknown", None))
            assert node.woken == ["uid-web"] * 3

    run(body)


def test_health_is_unknown_after_a_while() -> None:
    clock, told = VirtualClock(), list[set[Any]]()
    book = HealthBook(clock, lambda devices: told.append(set(devices)))

    async def body() -> None:
        one, other = dra.DeviceIdentifier("p", "one"), dra.DeviceIdentifier("p", "other")
        book.told("d", (dra.DeviceHealth(one, 1, 0, 5), dra.DeviceHealth(other, 1), dra.DeviceHealth(other, 9)))
        assert [book.of(("d", "p", name)).status for name in ("one", "other", "none")] == [
            "Healthy",
            "Unknown",
            "Unknown",
        ]
        await clock.advance(7)
        assert book.of(("d", "p", "one")).status == "Unknown"
        assert told == [{("d", "p", "one"), ("d", "p", "other")}, {("d", "p", "one")}]

    asyncio.run(body())


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=5)
devices = st.builds(
    checkpoint.Device,
    texts,
    texts,
    st.none() | texts,
    st.none() | st.lists(texts).map(tuple),
    st.lists(texts).map(tuple),
)
states = st.builds(
    checkpoint.ClaimState,
    texts,
    texts,
    texts,
    st.dictionaries(texts, st.just({})),
    st.dictionaries(texts, st.builds(checkpoint.DriverState, st.lists(devices).map(tuple))),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(states, max_size=3).map(tuple))
def test_what_is_written_is_what_is_read(entries: tuple[checkpoint.ClaimState, ...]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / checkpoint.FILE
        checkpoint.save(path, entries)
        assert checkpoint.load(path) == entries


def test_claims_on_disk_are_in_upstreams_form(tmp_path: Path) -> None:
    device = checkpoint.Device("pool", "dev", None, ("one",), ("v/c=x",))
    state = checkpoint.ClaimState("u", "gpu", "default", {"uid-web": {}}, {"d": checkpoint.DriverState((device,))})
    path = tmp_path / checkpoint.FILE
    checkpoint.save(path, (state,))
    data = json.loads(json.loads(path.read_text())["Data"])
    assert data == {
        "kind": "DRACheckpoint",
        "apiVersion": "checkpoint.dra.kubelet.k8s.io/v1",
        "Entries": [
            {
                "ClaimUID": "u",
                "ClaimName": "gpu",
                "Namespace": "default",
                "PodUIDs": {"uid-web": {}},
                "DriverState": {
                    "d": {
                        "Devices": [
                            {
                                "PoolName": "pool",
                                "DeviceName": "dev",
                                "ShareID": None,
                                "RequestNames": ["one"],
                                "CDIDeviceIDs": ["v/c=x"],
                            }
                        ]
                    }
                },
            }
        ],
    }
    path.write_text(path.read_text().replace("gpu", "gpX"))
    with pytest.raises(ValueError, match="corrupted"):
        checkpoint.load(path)
