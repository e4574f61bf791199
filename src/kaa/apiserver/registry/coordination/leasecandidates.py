"""LeaseCandidates: who could hold a lease that the API server gives.

Source: pkg/registry/coordination/leasecandidate/strategy.go; ValidateLeaseCandidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kaa.api import fields, names
from kaa.api.cel.errors import EvaluationError
from kaa.api.cel.library.semvers import SemverValue, compare, parse
from kaa.api.fields import FieldError
from kaa.api.types.coordination_v1beta1 import LeaseCandidate

from ...validation.common import SPEC, immutable
from ..strategy import Strategy
from ..tables import age, shape
from .leases import OLDEST, strategy_faults

_ZERO = SemverValue(0, 0, 0)


def _cells(obj: LeaseCandidate, now: float) -> Sequence[Any]:
    spec = obj.spec
    return obj.metadata.name, spec.lease_name, spec.binary_version, spec.emulation_version or "", age(obj.metadata, now)


class LeaseCandidateStrategy(Strategy[LeaseCandidate]):
    kind = LeaseCandidate
    allows_create_on_update = True
    allows_unconditional_update = False
    table = shape("coordination/leasecandidates", "LeaseName|BinaryVersion|EmulationVersion|Age", _cells)

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        return names.config_key(name)

    def validate(self, obj: LeaseCandidate) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: LeaseCandidate, old: LeaseCandidate) -> list[FieldError]:
        return [*self.validate(new), *immutable(SPEC.child("leaseName"), new.spec.lease_name, old.spec.lease_name)]


def _version(text: str | None) -> SemverValue | None:
    """The version; None for what is none."""
    try:
        return parse(text) if text else _ZERO
    except EvaluationError:
        return None


def _faults(obj: LeaseCandidate) -> Iterator[FieldError]:
    spec = obj.spec
    if not spec.lease_name:
        yield fields.required(SPEC.child("leaseName"))
    emulated, binary = _version(spec.emulation_version), _version(spec.binary_version)
    if emulated is None:
        yield fields.invalid(SPEC.child("emulationVersion"), spec.emulation_version, "must be a valid semantic version")
    if not spec.binary_version:
        yield fields.required(SPEC.child("binaryVersion"))
    elif binary is None:
        yield fields.invalid(SPEC.child("binaryVersion"), spec.binary_version, "must be a valid semantic version")
    if spec.binary_version and spec.emulation_version and compare(binary or _ZERO, emulated or _ZERO) < 0:
        why = "must be greater than or equal to `emulationVersion`"
        yield fields.invalid(SPEC.child("binaryVersion"), spec.binary_version, why)
    if not spec.strategy:
        yield fields.required(SPEC.child("strategy"))
        return
    if spec.strategy == OLDEST and (emulated is None or emulated == _ZERO):
        why = "must be specified when `strategy` is 'OldestEmulationVersion'"
        yield fields.required(SPEC.child("emulationVersion"), why)
    yield from strategy_faults(SPEC.child("strategy"), spec.strategy)


STRATEGY = LeaseCandidateStrategy()
