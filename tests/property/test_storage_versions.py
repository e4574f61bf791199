"""What must hold of StorageVersions and migrations, whatever was told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kaa.api.storage_versions import servers
from kaa.api.types.apiserverinternal_v1alpha1 import ServerStorageVersion, StorageVersion, StorageVersionStatus
from kaa.api.types.core_v1 import ConfigMap
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.storagemigration_v1beta1 import StorageVersionMigrationStatus
from kaa.controllers.storageversionmigrator import FAILED, RUNNING, SUCCEEDED, due, with_condition
from kaa.controllers.storageversions import plan

SERVERS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(("v1", "v2")), max_size=6)


@given(told=SERVERS, gone=st.sets(st.sampled_from("abcdef")))
def test_only_those_who_are_gone_are_forgotten(told: dict[str, str], gone: set[str]) -> None:
    listed = tuple(
        ServerStorageVersion(api_server_id=id, encoding_version=version, decodable_versions=(version,))
        for id, version in told.items()
    )
    version = StorageVersion(metadata=ObjectMeta(name="x.y"), status=StorageVersionStatus(storage_versions=listed))
    status = plan(version, gone, "2026-01-01T00:00:00Z")
    if status is None:
        assert not gone & told.keys()
        return
    left = {one.api_server_id: one.encoding_version for one in status.storage_versions}
    assert left == {id: word for id, word in told.items() if id not in gone}
    assert status.common_encoding_version == (set(left.values()).pop() if len(set(left.values())) == 1 else None)
    after = replace(version, status=status)
    assert plan(after, gone, "2026-01-02T00:00:00Z") is None
    assert len(servers(after)) < len(listed)


@given(steps=st.lists(st.sampled_from((RUNNING, SUCCEEDED, FAILED)), min_size=1, max_size=4))
def test_what_is_over_does_not_run(steps: list[str]) -> None:
    status = StorageVersionMigrationStatus()
    for n, step in enumerate(steps):
        status = with_condition(status, step, f"2026-01-01T00:00:0{n}Z")
        held = {one.type: one.status for one in status.conditions}
        assert len(held) == len(status.conditions)
        assert held[step] == "True"
        if step != RUNNING:
            assert held.get(RUNNING) != "True"


@given(versions=st.lists(st.integers(0, 100)), began=st.integers(0, 100))
def test_what_was_written_since_is_left_alone(versions: list[int], began: int) -> None:
    objects = [ConfigMap(metadata=ObjectMeta(name="a", resource_version=str(n))) for n in versions]
    found = [int(one.metadata.resource_version or 0) for one in due(objects, str(began))]
    assert found == [n for n in versions if n <= began]
