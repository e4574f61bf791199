"""ImageLocality: prefer nodes that have a pod's images, the more so the larger and the more widespread they are.

Source: kubernetes/kubernetes pkg/scheduler/framework/plugins/imagelocality.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..columns import Mask, Move, Rows, Vector
from ..framework import MAX_SCORE, ClusterEvent, Score, Unfiltered
from ..snapshot import Snapshot
from ..template import Template

_MIB = 1024 * 1024
LEAST_BYTES = 23 * _MIB  #: an image this small is as good as present
MOST_BYTES_PER_CONTAINER = 1000 * _MIB


class ImageLocality(Unfiltered):
    name = "ImageLocality"
    events: frozenset[ClusterEvent] = frozenset()

    def score(self, template: Template, nodes: Snapshot) -> Score | None:
        held = [nodes.images[image] for image in template.images if nodes.images.get(image)]
        if not held:
            return None
        sums = np.zeros(nodes.size, np.int64)
        for sizes in held:
            spread = len(sizes) / max(nodes.count, 1)
            for row, size in sizes.items():
                sums[row] += int(size * spread)
        most = MOST_BYTES_PER_CONTAINER * len(template.images)
        capped = np.clip(sums, LEAST_BYTES, most)
        return Present(MAX_SCORE * (capped - LEAST_BYTES) // (most - LEAST_BYTES))


class Present:
    """Scores as they are, unnormalized; pods do not change them."""

    local = True

    def __init__(self, raw: Vector) -> None:
        self.raw = raw

    def correct(self, rows: Rows, moves: Sequence[Move]) -> None:
        return

    def normalized(self, feasible: Mask) -> Vector:
        return self.raw
