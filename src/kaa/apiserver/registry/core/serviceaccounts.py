"""ServiceAccounts.

Source: pkg/registry/core/serviceaccount/strategy.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api.types.core_v1 import ServiceAccount

from ..strategy import Strategy
from ..tables import age, shape


def _cells(obj: ServiceAccount, now: float) -> Sequence[Any]:
    return obj.metadata.name, age(obj.metadata, now)


class ServiceAccountStrategy(Strategy[ServiceAccount]):
    kind = ServiceAccount
    table = shape("core/serviceaccounts", "Age", _cells)

    def prepare_create(self, obj: ServiceAccount) -> ServiceAccount:
        """References to secrets keep nothing but the name."""
        if not obj.secrets:
            return obj
        plain = tuple(type(one)(name=one.name) for one in obj.secrets)
        return obj if plain == obj.secrets else replace(obj, secrets=plain)

    def prepare_update(self, new: ServiceAccount, old: ServiceAccount) -> ServiceAccount:
        return self.prepare_create(new)


STRATEGY = ServiceAccountStrategy()
