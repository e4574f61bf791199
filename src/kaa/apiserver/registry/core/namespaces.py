"""Namespaces.

Source: pkg/registry/core/namespace/strategy.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import Namespace, NamespaceStatus

from ..strategy import Strategy
from ..tables import age, shape

_NAME_LABEL = "kubernetes.io/metadata.name"


def _cells(obj: Namespace, now: float) -> Sequence[Any]:
    return obj.metadata.name, obj.status.phase or "", age(obj.metadata, now)


class NamespaceStrategy(Strategy[Namespace]):
    kind = Namespace
    name_faults = staticmethod(names.dns_label)
    table = shape("core/namespaces", "Status|Age", _cells)
    field_names = frozenset(("status.phase", "name"))

    def default(self, obj: Namespace) -> Namespace:
        name = obj.metadata.name
        if not name or obj.metadata.labels.get(_NAME_LABEL) == name:
            return obj
        return replace(obj, metadata=replace(obj.metadata, labels={**obj.metadata.labels, _NAME_LABEL: name}))

    def prepare_create(self, obj: Namespace) -> Namespace:
        finalizers = obj.spec.finalizers
        if "kubernetes" not in finalizers:
            finalizers += ("kubernetes",)
        return replace(obj, spec=replace(obj.spec, finalizers=finalizers), status=NamespaceStatus(phase="Active"))

    def prepare_update(self, new: Namespace, old: Namespace) -> Namespace:
        return replace(new, spec=old.spec, status=old.status)

    def prepare_deletion(self, obj: Namespace) -> Namespace:
        return replace(obj, status=replace(obj.status, phase="Terminating"))

    def validate(self, obj: Namespace) -> list[FieldError]:
        return [fault for n, text in enumerate(obj.spec.finalizers) for fault in _finalizer(text, n)]

    def validate_status_update(self, new: Namespace, old: Namespace) -> list[FieldError]:
        deleting = new.metadata.deletion_timestamp is not None
        if deleting and new.status.phase != "Terminating":
            return [
                fields.invalid(
                    Path("status.Phase"),
                    new.status.phase or "",
                    "may only be 'Terminating' if `deletionTimestamp` is not empty",
                )
            ]
        if not deleting and new.status.phase != "Active":
            return [
                fields.invalid(
                    Path("status.Phase"), new.status.phase or "", "may only be 'Active' if `deletionTimestamp` is empty"
                )
            ]
        return []

    def fields(self, obj: Namespace) -> Mapping[str, str]:
        return {"status.phase": obj.status.phase or "", "name": obj.metadata.name or ""}

    def subresource_update(self, subresource: str, new: Namespace, old: Namespace) -> Namespace | None:
        if subresource != "finalize":
            return None
        return replace(old, metadata=new.metadata, spec=new.spec)


def _finalizer(text: str, n: int) -> list[FieldError]:
    at = Path("spec").child("finalizers").index(n)
    faults = names.qualified_name(text)
    found = [fields.invalid(at, text, fault) for fault in faults]
    if not faults and "/" not in text and text not in ("kubernetes", "orphan", "foregroundDeletion"):
        found.append(fields.invalid(at, text, "name is neither a standard finalizer name nor is it fully qualified"))
    return found


STRATEGY = NamespaceStrategy()
