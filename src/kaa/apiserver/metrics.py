"""What the API server counts, under upstream's metric names.

Counting must cost next to nothing per request, so it is plain dictionaries; text is made when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from .routes import Target

BUCKETS_S = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
Labels = tuple[str, str, str, str, str, str]  #: verb, group, version, resource, subresource, scope


class Metrics:
    """Request counts and durations."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Labels, int], int] = defaultdict(int)
        self._durations: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = defaultdict(float)

    def observe(self, target: Target | None, code: int, seconds: float) -> None:
        labels = _labels(target)
        self._counts[labels, code] += 1
        buckets = self._durations.get(labels)
        if buckets is None:
            buckets = self._durations[labels] = [0] * (len(BUCKETS_S) + 1)
        buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._sums[labels] += seconds

    def text(self) -> str:
        """The Prometheus exposition of everything counted."""
        lines = [
            "# HELP apiserver_request_total Counter of apiserver requests.",
            "# TYPE apiserver_request_total counter",
        ]
        for (labels, code), count in sorted(self._counts.items()):
            lines.append(f'apiserver_request_total{{{_text(labels)},code="{code}"}} {count}')
        lines.append("# HELP apiserver_request_duration_seconds Response latency distribution in seconds.")
        lines.append("# TYPE apiserver_request_duration_seconds histogram")
        name = "apiserver_request_duration_seconds"
        for labels, buckets in sorted(self._durations.items()):
            total = 0
            for bound, count in zip((*BUCKETS_S, "+Inf"), buckets, strict=True):
                total += count
                lines.append(f'{name}_bucket{{{_text(labels)},le="{bound}"}} {total}')
            lines.append(f"{name}_sum{{{_text(labels)}}} {self._sums[labels]:.6f}")
            lines.append(f"{name}_count{{{_text(labels)}}} {total}")
        return "\n".join(lines) + "\n"


def _labels(target: Target | None) -> Labels:
    if target is None or target.resource is None:
        return ("other" if target is None else target.verb.upper(), "", "", "", "", "")
    resource = target.resource
    scope = "resource" if target.name else "namespace" if target.namespace else "cluster"
    return (target.verb.upper(), resource.group, resource.version, resource.plural, target.subresource, scope)


def _text(labels: Labels) -> str:
    names = ("verb", "group", "version", "resource", "subresource", "scope")
    return ",".join(f'{name}="{value}"' for name, value in zip(names, labels, strict=True))
