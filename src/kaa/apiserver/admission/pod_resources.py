"""What a pod asks for in all, and amounts as admission's messages print them."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from kaa.api import quantity
from kaa.api.quota import Amounts, pod_total
from kaa.api.types.core_v1 import Pod

_BYTES = ("memory", "storage", "hugepages-")


def pod_amounts(pod: Pod) -> tuple[Amounts, Amounts]:
    """Requests and limits of the whole pod, overhead included."""
    return pod_total(pod, "requests"), pod_total(pod, "limits")


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
