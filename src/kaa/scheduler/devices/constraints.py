"""What the devices of a claim must have in common (``matchAttribute``), or must not (``distinctAttribute``).

Source: API reference "DeviceConstraint"; structured/internal constraint.go.
"""

from __future__ import annotations

from kaa.api.types.resource_v1 import DeviceConstraint, ResourceClaim

from .offers import Fault, Offer, Value


class Constraint:
    """Told of every device as it is chosen and given up again; the last chosen goes first."""

    def __init__(self, constraint: DeviceConstraint) -> None:
        self._distinct = constraint.distinct_attribute is not None
        self._attribute = constraint.match_attribute or constraint.distinct_attribute or ""
        self._requests = frozenset(constraint.requests)
        self._values: list[Value] = []

    def add(self, request: str, alternative: str, offer: Offer) -> bool:
        """Whether the device may be chosen besides those that are. If not, nothing is noted.

        ``alternative``: which of the request's it is; empty where it has none.
        """
        if not self._concerns(request, alternative):
            return True
        value = offer.attribute(self._attribute)
        if value is None:
            return False
        if value in self._values if self._distinct else self._values and value != self._values[0]:
            return False
        self._values.append(value)
        return True

    def remove(self, request: str, alternative: str) -> None:
        if self._concerns(request, alternative):
            self._values.pop()

    def _concerns(self, request: str, alternative: str) -> bool:
        names = self._requests
        return not names or request in names or bool(alternative and f"{request}/{alternative}" in names)


def constraints_of(claim: ResourceClaim) -> list[Constraint]:
    """Raises Fault: a constraint of a kind that is not known."""
    for number, each in enumerate(claim.spec.devices.constraints):
        if each.match_attribute is None and each.distinct_attribute is None:
            where = f"claim {claim.metadata.namespace}/{claim.metadata.name}, constraint #{number}"
            raise Fault(f"{where}: empty constraint (unsupported constraint type?)")
    return [Constraint(each) for each in claim.spec.devices.constraints]
