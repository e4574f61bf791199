"""What a pod asks for in all: containers together, init containers one after the other, sidecars throughout.

Source: component-helpers resource PodRequests, PodLimits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from kaa.api import quantity
from kaa.api.types.core_v1 import Container, Pod
from kaa.api.values import Quantity

#: {resource: amount in base units}
Amounts = dict[str, Fraction]
_BYTES = ("memory", "storage", "hugepages-")


def pod_amounts(pod: Pod) -> tuple[Amounts, Amounts]:
    """Requests and limits of the whole pod, overhead included."""
    return _total(pod, "requests"), _total(pod, "limits")


def _total(pod: Pod, which: str) -> Amounts:
    spec = pod.spec
    total: Amounts = {}
    for container in spec.containers:
        _add(total, _of(container, which))
    started: Amounts = {}
    peak: Amounts = {}
    for container in spec.init_containers:
        own = _of(container, which)
        if container.restart_policy == "Always":
            _add(total, own)
            _add(started, own)
            own = dict(started)
        else:
            _add(own, started)
        _raise(peak, own)
    _raise(total, peak)
    if spec.resources is not None:
        total |= {k: quantity.parse(v) for k, v in getattr(spec.resources, which).items()}
    for name, text in spec.overhead.items():
        if which == "requests" or name in total:
            total[name] = total.get(name, Fraction(0)) + quantity.parse(text)
    return total


def _of(container: Container, which: str) -> Amounts:
    amounts: Mapping[str, Quantity] = getattr(container.resources, which)
    return {name: quantity.parse(text) for name, text in amounts.items()}


def _add(total: Amounts, more: Mapping[str, Fraction]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, Fraction(0)) + amount


def _raise(total: Amounts, other: Mapping[str, Fraction]) -> None:
    for name, amount in other.items():
        if amount > total.get(name, Fraction(-1)):
            total[name] = amount


def shown(name: str, amount: Fraction) -> str:
    """An amount as messages print it: bytes in binary units, all else decimal."""
    if any(word in name for word in _BYTES) and amount.denominator == 1:
        return quantity.format_bytes(int(amount))
    return (
        quantity.canonical(str(amount)) if amount.denominator == 1 else quantity.format_millis(-(-amount * 1000 // 1))
    )


def listed(amounts: Iterable[tuple[str, Fraction]]) -> str:
    """``pods=1,requests.cpu=500m``"""
    return ",".join(f"{name}={shown(name, amount)}" for name, amount in sorted(amounts))
