"""ConfigMaps.

Source: pkg/registry/core/configmap/strategy.go; ValidateConfigMap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import ConfigMap

from ..strategy import Strategy
from ..tables import age, shape

#: Bytes that a ConfigMap or Secret may hold.
LIMIT_BYTES = 1024 * 1024
_LOCKED = "field is immutable when `immutable` is set"


def _cells(obj: ConfigMap, now: float) -> Sequence[Any]:
    return obj.metadata.name, len(obj.data) + len(obj.binary_data), age(obj.metadata, now)


class ConfigMapStrategy(Strategy[ConfigMap]):
    kind = ConfigMap
    table = shape("core/configmaps", "Data|Age", _cells)

    def validate(self, obj: ConfigMap) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: ConfigMap, old: ConfigMap) -> list[FieldError]:
        return [*locked(new, old, ("data", "binary_data")), *_faults(new)]


def locked(new: Any, old: Any, attributes: Sequence[str]) -> Iterator[FieldError]:
    """Faults of changing what ``immutable: true`` has locked."""
    if not old.immutable:
        return
    if not new.immutable:
        yield fields.forbidden(Path("immutable"), _LOCKED)
    for attribute in attributes:
        if getattr(new, attribute) != getattr(old, attribute):
            yield fields.forbidden(Path("binaryData" if attribute == "binary_data" else attribute), _LOCKED)


def _faults(obj: ConfigMap) -> Iterator[FieldError]:
    size = 0
    for key, value in obj.data.items():
        yield from _key(Path("data"), key)
        if key in obj.binary_data:
            yield fields.invalid(Path("data").key(key), key, "duplicate of key present in binaryData")
        size += len(value) if value.isascii() else len(value.encode())
    for key, value in obj.binary_data.items():
        yield from _key(Path("binaryData"), key)
        size += len(value) * 3 // 4
    if size > LIMIT_BYTES:
        yield fields.too_long(Path(), LIMIT_BYTES)


def _key(path: Path, key: str) -> Iterator[FieldError]:
    for fault in names.config_key(key):
        yield fields.invalid(path.key(key), key, fault)


STRATEGY = ConfigMapStrategy()
