"""Leases.

Source: pkg/registry/coordination/lease/strategy.go; ValidateLease.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.coordination_v1 import Lease

from ...validation.common import SPEC, faults_of, not_negative, positive
from ..strategy import Strategy
from ..tables import age, shape

OLDEST = "OldestEmulationVersion"


def _cells(obj: Lease, now: float) -> Sequence[Any]:
    return obj.metadata.name, obj.spec.holder_identity or "", age(obj.metadata, now)


class LeaseStrategy(Strategy[Lease]):
    kind = Lease
    allows_create_on_update = True
    allows_unconditional_update = False
    table = shape("coordination/leases", "Holder|Age", _cells)

    def validate(self, obj: Lease) -> list[FieldError]:
        return list(_faults(obj))


def _faults(obj: Lease) -> Iterator[FieldError]:
    spec = obj.spec
    yield from positive(SPEC, "leaseDurationSeconds", spec.lease_duration_seconds)
    yield from not_negative(SPEC, "leaseTransitions", spec.lease_transitions)
    if spec.strategy is not None:
        yield from strategy_faults(SPEC.child("strategy"), spec.strategy)
    if spec.preferred_holder and not spec.strategy:
        yield fields.forbidden(SPEC.child("preferredHolder"), "may only be specified if `strategy` is defined")


def strategy_faults(path: Path, strategy: str) -> Iterator[FieldError]:
    """Kubernetes' own, or ``example.com/another``. The path is doubled, as upstream has it."""
    at = path.child("strategy")
    if "/" in strategy:
        yield from faults_of(at, strategy, names.qualified_name(strategy))
    elif strategy != OLDEST:
        yield fields.not_supported(at, strategy, (OLDEST,))


STRATEGY = LeaseStrategy()
