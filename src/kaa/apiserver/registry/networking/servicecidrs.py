"""ServiceCIDRs: the networks that cluster addresses come from.

Source: pkg/registry/networking/servicecidr/strategy.go; ValidateServiceCIDR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.networking_v1 import ServiceCIDR, ServiceCIDRStatus

from ...validation.common import NO_CIDR, SPEC, network_of
from ..strategy import Strategy
from ..tables import age, shape


def _cells(obj: ServiceCIDR, now: float) -> Sequence[Any]:
    return obj.metadata.name, ",".join(obj.spec.cidrs), age(obj.metadata, now)


class ServiceCIDRStrategy(Strategy[ServiceCIDR]):
    kind = ServiceCIDR
    table = shape("networking/servicecidrs", "CIDRs|Age", _cells)

    def prepare_create(self, obj: ServiceCIDR) -> ServiceCIDR:
        return replace(obj, status=ServiceCIDRStatus())

    def validate(self, obj: ServiceCIDR) -> list[FieldError]:
        at = SPEC.child("cidrs")
        if not obj.spec.cidrs:
            return [fields.required(at, "at least one CIDR required")]
        if len(obj.spec.cidrs) > 2:
            return [fields.invalid(at, list(obj.spec.cidrs), "may only hold up to 2 values")]
        found: list[FieldError] = []
        networks = [network_of(text) for text in obj.spec.cidrs]
        for n, (text, network) in enumerate(zip(obj.spec.cidrs, networks, strict=True)):
            if network is None:
                found.append(fields.invalid(at.index(n), text, NO_CIDR))
            elif str(network) != text:
                detail = f'must be in canonical form ("{network}")'
                found.append(fields.invalid(at.index(n), text, detail))
        if len(networks) == 2 and all(networks) and len({network.version for network in networks if network}) == 1:
            detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96"
            found.append(fields.invalid(at, list(obj.spec.cidrs), detail))
        return found

    def validate_update(self, new: ServiceCIDR, old: ServiceCIDR) -> list[FieldError]:
        at = SPEC.child("cidrs")
        grown = len(old.spec.cidrs) == 1 and len(new.spec.cidrs) == 2
        found = []
        if not grown and len(new.spec.cidrs) != len(old.spec.cidrs):
            found.append(fields.invalid(at, list(new.spec.cidrs), "field is immutable"))
        for n, (mine, its) in enumerate(zip(new.spec.cidrs, old.spec.cidrs, strict=False)):
            if mine != its:
                found.append(fields.invalid(at.index(n), mine, "field is immutable"))
        return [*found, *self.validate(new)]


STRATEGY = ServiceCIDRStrategy()
