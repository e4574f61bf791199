"""What of a StorageClass may change."""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api.scheme import resource_of
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.storage_v1 import StorageClass
from kaa.apiserver.registry import strategy_for


def test_parameters_are_immutable() -> None:
    strategy = strategy_for(resource_of(StorageClass))
    old = strategy.default(
        StorageClass(metadata=ObjectMeta(name="fast"), provisioner="example.com/x", parameters={"a": "1"})
    )
    faults = strategy.validate_update(replace(old, parameters={"a": "2"}), old)
    assert [str(fault) for fault in faults] == ['parameters: Invalid value: {"a":"2"}: field is immutable']
    assert not strategy.validate_update(replace(old, allow_volume_expansion=True), old)
