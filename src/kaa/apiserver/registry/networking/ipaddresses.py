"""IPAddresses: who holds which cluster address.

Source: pkg/registry/networking/ipaddress/strategy.go; ValidateIPAddress.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from kaa.api import fields, names
from kaa.api.fields import FieldError
from kaa.api.types.networking_v1 import IPAddress

from ...validation.common import SPEC, immutable
from ..strategy import Strategy
from ..tables import shape


def _cells(obj: IPAddress, now: float) -> Sequence[Any]:
    ref = obj.spec.parent_ref
    resource = f"{ref.resource}.{ref.group}" if ref.group else ref.resource
    name = f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name
    return obj.metadata.name, f"{resource}/{name}"


class IPAddressStrategy(Strategy[IPAddress]):
    kind = IPAddress
    table = shape("networking/ipaddresses", "ParentRef", _cells)
    field_names = frozenset(("spec.parentRef.name", "spec.parentRef.namespace"))

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        faults = names.ip_address(name)
        if faults or str(ipaddress.ip_address(name)) == name:
            return faults
        return ['must be in canonical form ("' + str(ipaddress.ip_address(name)) + '")']

    def fields(self, obj: IPAddress) -> Mapping[str, str]:
        ref = obj.spec.parent_ref
        return {"spec.parentRef.name": ref.name, "spec.parentRef.namespace": ref.namespace or ""}

    def validate(self, obj: IPAddress) -> list[FieldError]:
        ref, at = obj.spec.parent_ref, SPEC.child("parentRef")
        found = [
            fields.required(at.child(wire))
            for wire, text in (("resource", ref.resource), ("name", ref.name))
            if not text
        ]
        for wire, text in (("resource", ref.resource), ("name", ref.name), ("namespace", ref.namespace)):
            found += (fields.invalid(at.child(wire), text, fault) for fault in names.path_segment(text or ""))
        return found

    def validate_update(self, new: IPAddress, old: IPAddress) -> list[FieldError]:
        return [*self.validate(new), *immutable(SPEC.child("parentRef"), new.spec.parent_ref, old.spec.parent_ref)]


STRATEGY = IPAddressStrategy()
