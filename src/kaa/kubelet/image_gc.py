"""Which images to remove when their disk fills: the longest unused first, down to the low mark. Pure.

Source: pkg/kubelet/images/image_gc_manager.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from kaa.runtime.base import Container, Image


class Policy(msgspec.Struct, frozen=True):
    """Percent of the disk: over ``high`` images go until ``low`` is reached. Younger ones than ``min_age_s`` stay.

    Those that nothing used for ``max_age_s`` go in any case; 0: never.
    """

    high: int = 85
    low: int = 80
    min_age_s: float = 120.0
    max_age_s: float = 0.0


class Record(msgspec.Struct, frozen=True):
    """When an image was first seen here, and when a container last needed it (0: never)."""

    seen_at: float
    used_at: float = 0.0


def observe(
    records: Mapping[str, Record], images: Iterable[Image], used: frozenset[str], now: float
) -> dict[str, Record]:
    """What is known of each image: ``used`` are the ids of those that containers need."""
    made = {}
    for image in images:
        before = records.get(image.id, Record(now))
        made[image.id] = Record(before.seen_at, now if image.id in used else before.used_at)
    return made


def in_use(containers: Iterable[Container]) -> frozenset[str]:
    """Ids of the images that containers are made of, or mount as volumes."""
    return frozenset(image for one in containers for image in (one.image_id, *one.volume_images))


def too_old(
    images: Iterable[Image], records: Mapping[str, Record], used: frozenset[str], now: float, max_age_s: float
) -> list[Image]:
    """The images that nothing used for so long. When one was used is known from ``records``' beginning only."""
    idle = [one for one in images if one.id not in used]
    return [one for one in idle if now - max(records[one.id].used_at, records[one.id].seen_at) > max_age_s > 0]


def bytes_to_free(policy: Policy, used: int, capacity: int) -> int:
    """How much must go; 0 while the disk is under the high mark."""
    if not capacity or used * 100 < policy.high * capacity:
        return 0
    return used - capacity * policy.low // 100


def to_remove(
    images: Iterable[Image],
    records: Mapping[str, Record],
    used: frozenset[str],
    now: float,
    free: int,
    min_age_s: float,
) -> list[Image]:
    """The images that no container is made of, longest unused first, until ``free`` bytes are gone."""
    idle = [one for one in images if one.id not in used and now - records[one.id].seen_at >= min_age_s]
    idle.sort(key=lambda one: (records[one.id].used_at, records[one.id].seen_at))
    chosen: list[Image] = []
    for image in idle:
        if free <= 0:
            break
        chosen.append(image)
        free -= image.size_bytes
    return chosen
