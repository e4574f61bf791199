"""StorageVersions of servers that are gone, and migrations that write everything again."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from world import World

from kaa.api import scheme
from kaa.api.clock import VirtualClock
from kaa.api.errors import NotFound
from kaa.api.resources import OPTIONAL, RESOURCES
from kaa.api.storage_versions import IDENTITY, SERVER
from kaa.api.types.apiserverinternal_v1alpha1 import ServerStorageVersion, StorageVersion, StorageVersionStatus
from kaa.api.types.coordination_v1 import Lease
from kaa.api.types.core_v1 import ConfigMap, Secret
from kaa.api.types.meta_v1 import GroupResource, ObjectMeta
from kaa.api.types.storagemigration_v1beta1 import StorageVersionMigration, StorageVersionMigrationSpec
from kaa.apiserver.identity import Identity
from kaa.apiserver.options import ApiServerOptions
from kaa.client.informer import Informers
from kaa.cluster.components import MANAGER, controller_user
from kaa.controllers.controller import SHARED, Context
from kaa.controllers.served import Served
from kaa.controllers.storageversionmigrator import StorageVersionMigrator, rewriting
from tests.api_lab import Lab, run

# ------------------------------------------------------------------------------------------------ collection


def in_world(play: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        world.serving = (*RESOURCES, *OPTIONAL)
        async with world:
            await play(world)

    asyncio.run(main())


def server(name: str) -> Lease:
    return Lease(metadata=ObjectMeta(name=name, namespace="kube-system", labels={IDENTITY: SERVER}))


def told(name: str, **versions: str) -> StorageVersion:
    """``told("apps.deployments", a="apps/v1")``: what server ``a`` writes."""
    listed = tuple(
        ServerStorageVersion(api_server_id=id, encoding_version=version, decodable_versions=(version,))
        for id, version in versions.items()
    )
    return StorageVersion(metadata=ObjectMeta(name=name), status=StorageVersionStatus(storage_versions=listed))


def shown(world: World) -> dict[str | None, dict[str, str]]:
    return {
        one.metadata.name: {s.api_server_id: s.encoding_version for s in one.status.storage_versions}
        for one in world.api.all(StorageVersion)
    }


def test_what_a_server_said_goes_with_its_lease() -> None:
    async def play(world: World) -> None:
        for name in ("a", "b"):
            await world.api.create(server(name))
        await world.api.create(told("apps.deployments", a="apps/v1", b="apps/v2"))
        await world.api.create(told("core.pods", b="v1"))
        await world.settle()
        assert shown(world)["core.pods"] == {"b": "v1"}
        await world.api.delete(Lease, "b", "kube-system")
        await world.settle()
        assert shown(world) == {"apps.deployments": {"a": "apps/v1"}}
        status = world.api.all(StorageVersion)[0].status
        assert status.common_encoding_version == "apps/v1"
        (condition,) = status.conditions
        assert (condition.type, condition.status) == ("AllEncodingVersionsEqual", "True")
        assert (condition.reason, condition.message) == ("CommonEncodingVersionSet", "Common encoding version set")

    in_world(play)


def test_a_server_that_nobody_knows_is_none() -> None:
    async def play(world: World) -> None:
        await world.api.create(Lease(metadata=ObjectMeta(name="scheduler", namespace="kube-system")))
        await world.api.create(server("a"))
        await world.api.create(told("core.pods", a="v1", scheduler="v1", nobody="v2"))
        await world.settle()
        assert shown(world) == {"core.pods": {"a": "v1"}}

    in_world(play)


def test_a_server_says_what_it_stores_and_says_it_once() -> None:
    clock = VirtualClock()

    async def use(lab: Lab) -> None:
        serving = lab.plane.api.serving
        identity = Identity(lab.plane.api.cacher, lab.client, clock, serving, "host")
        await lab.client.create(told("apps.deployments"))
        await lab.client.create(server("gone"))
        being = asyncio.create_task(identity.run())
        for _ in range(100):  # two writes a resource take many turns of the event loop
            await clock.settle()
        lease = await lab.client.get(Lease, identity.name, "kube-system")
        assert lease.metadata.labels == {IDENTITY: SERVER, "kubernetes.io/hostname": "host"}
        assert lease.spec.lease_duration_seconds == 3600
        with pytest.raises(NotFound):
            await lab.client.get(Lease, "gone", "kube-system")
        scaler = await lab.client.get(StorageVersion, "autoscaling.horizontalpodautoscalers")
        assert scaler.status is not None
        assert scaler.status.common_encoding_version == "autoscaling/v2"
        (mine,) = scaler.status.storage_versions
        assert set(mine.served_versions) == set(mine.decodable_versions) == {"autoscaling/v1", "autoscaling/v2"}
        assert (await lab.client.get(StorageVersion, "core.pods")).status is not None
        assert (await lab.client.get(StorageVersion, "apps.deployments")).status.common_encoding_version == "apps/v1"  # type: ignore[union-attr]
        versions = (await lab.client.list(StorageVersion)).items
        await clock.advance(1200)
        assert (await lab.client.list(StorageVersion)).items == versions
        renewed = await lab.client.get(Lease, identity.name, "kube-system")
        assert renewed.metadata.resource_version != lease.metadata.resource_version
        being.cancel()
        await asyncio.gather(being, return_exceptions=True)

    run(use, clock=clock, bootstrapped=True, options=ApiServerOptions(runtime_config="api/alpha=true"))


# ------------------------------------------------------------------------------------------------ migration


def migration(resource: str, group: str = "") -> StorageVersionMigration:
    spec = StorageVersionMigrationSpec(resource=GroupResource(group=group, resource=resource))
    return StorageVersionMigration(metadata=ObjectMeta(name="m"), spec=spec)


def conditions(done: StorageVersionMigration) -> dict[str, str]:
    assert done.status is not None
    return {one.type: one.status for one in done.status.conditions}


@asynccontextmanager
async def migrator(lab: Lab) -> AsyncIterator[None]:
    """The controller at work, with the rights that a cluster gives it."""
    client_for = lambda name: lab.plane.client(MANAGER if name == SHARED else controller_user(name), name)  # noqa: E731
    informers = Informers(client_for(SHARED), lab.clock)
    context = Context(client_for, informers, lab.clock)
    served = Served(client_for("namespace-controller"), informers, lab.plane.api.serving.resources)
    controller = StorageVersionMigrator(context, served)
    running = [asyncio.create_task(informers.run()), asyncio.create_task(controller.run())]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def over(lab: Lab) -> StorageVersionMigration:
    for _ in range(200):
        found = await lab.client.get(StorageVersionMigration, "m")
        if {"Succeeded", "Failed"} & conditions(found).keys():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("the migration does not end")


OPTIONS = ApiServerOptions(runtime_config="storagemigration.k8s.io/v1beta1=true")


def test_what_is_stored_otherwise_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "encryption.yaml"
    key = base64.b64encode(bytes(32)).decode()
    file.write_text(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n"
        f"  providers:\n  - aesgcm: {{keys: [{{name: k, secret: {key}}}]}}\n  - identity: {{}}\n"
    )
    options = replace(OPTIONS, encryption_provider_config=str(file))

    async def use(lab: Lab) -> None:
        made = await lab.client.create(Secret(metadata=ObjectMeta(name="fresh", namespace="default")))
        below: Any = lab.plane.store._store  # type: ignore[attr-defined]  # where the bytes lie
        where = "/registry/secrets/default/"
        clear = await lab.plane.store.get(f"{where}fresh")
        assert clear is not None
        assert not clear.stale
        for n in range(3):
            await below.put(f"{where}old-{n}", clear.value.replace(b'"fresh"', b'"old-%d"' % n))
        await asyncio.sleep(0.05)
        async with migrator(lab):
            await lab.client.create(migration("secrets"))
            done = await over(lab)
        assert conditions(done) == {"Running": "False", "Succeeded": "True"}
        assert done.status is not None
        assert {c.reason for c in done.status.conditions} == {"StorageVersionMigrationSucceeded"}
        for n in range(3):
            raw = await below.get(f"{where}old-{n}")
            assert raw.value.startswith(b"k8s:enc:aesgcm:v1:k:")
            kept = await lab.client.get(Secret, f"old-{n}", "default")
            assert kept.metadata.managed_fields == made.metadata.managed_fields
            assert int(kept.metadata.resource_version or 0) > int(done.status.resource_version or 0)
        fresh = await lab.client.get(Secret, "fresh", "default")
        assert fresh.metadata.resource_version == made.metadata.resource_version  # nothing to mend: not written

    run(use, options=options, bootstrapped=True)


def test_what_another_server_wrote_in_its_own_way_is_written_in_ours() -> None:
    async def use(lab: Lab) -> None:
        made = await lab.client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"k": "v"}))
        key = "/registry/configmaps/default/a"
        held = await lab.plane.store.get(key)
        assert held is not None
        document = scheme.document(replace(made, metadata=replace(made.metadata, resource_version=None)))
        turned = scheme.encode(dict(reversed(document.items())))
        await lab.plane.store.put(key, turned)
        await asyncio.sleep(0.05)
        before = await lab.client.get(ConfigMap, "a", "default")
        async with migrator(lab):
            await lab.client.create(migration("configmaps"))
            assert conditions(await over(lab))["Succeeded"] == "True"
        after = await lab.plane.store.get(key)
        assert after is not None
        assert after.value == held.value
        assert (await lab.client.get(ConfigMap, "a", "default")).metadata.uid == before.metadata.uid

    run(use, options=OPTIONS, bootstrapped=True)


def test_an_object_that_goes_meanwhile_stays_gone() -> None:
    async def use(lab: Lab) -> None:
        made = await lab.client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
        await lab.client.delete(ConfigMap, "a", "default")
        row = scheme.resource_of(ConfigMap)
        informers = Informers(lab.client, lab.clock)
        context = Context(lambda name: lab.plane.client(controller_user(name), name), informers, lab.clock)
        await StorageVersionMigrator(context, Served(lab.client, informers))._write(made, row)
        assert rewriting(made, row)["metadata"] == {
            "uid": made.metadata.uid,
            "resourceVersion": made.metadata.resource_version,
        }
        listed = await lab.client.list(ConfigMap, "default")
        assert [one.metadata.name for one in listed.items if one.metadata.name == "a"] == []

    run(use, options=OPTIONS, bootstrapped=True)


def test_a_resource_that_nobody_serves_fails_after_a_minute() -> None:
    async def play(world: World) -> None:
        await world.api.create(migration("widgets", "acme.io"))
        await world.settle()
        found = world.api.all(StorageVersionMigration)[0]
        assert found.status is None or conditions(found) == {}
        await world.clock.advance(70)
        found = world.api.all(StorageVersionMigration)[0]
        assert conditions(found) == {"Failed": "True"}
        assert found.status is not None
        assert found.status.conditions[0].message == (
            "migration encountered unhandled error: unable to obtain GVR from discovery"
        )

    in_world(play)
