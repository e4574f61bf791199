"""What the API server counts, under upstream's metric names.

Counting must cost next to nothing per request, so it is plain dictionaries; text is made when somebody scrapes.
"""

from __future__ import annotations

import resource
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .routes import Target

BUCKETS_S = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
Labels = tuple[str, str, str, str, str, str]  #: verb, group, version, resource, subresource, scope


class Series:
    """What is counted of the requests of one set of labels."""

    __slots__ = ("buckets", "codes", "seconds")

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0

    def observe(self, code: int, seconds: float) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds


class Metrics:
    """Request counts and durations."""

    def __init__(self) -> None:
        self._series: dict[Labels, Series] = {}
        #: Requests that are being answered, by whether they may change anything.
        self.inflight = {"mutating": 0, "readOnly": 0}
        #: {(group, version, resource, scope): watches that are on}
        self.watches: dict[tuple[str, str, str, str], int] = {}
        #: What else has something to tell: each gives whole families.
        self.sources: list[Callable[[], str]] = []

    def series(self, target: Target | None) -> Series:
        """Where requests like this one are counted."""
        labels = _labels(target)
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = Series()
        return found

    def text(self) -> str:
        """The Prometheus exposition of everything counted."""
        lines = [
            "# HELP apiserver_request_total Counter of apiserver requests.",
            "# TYPE apiserver_request_total counter",
        ]
        counted = sorted(
            ((labels, series) for labels, series in self._series.items() if series.codes), key=lambda pair: pair[0]
        )
        for labels, series in counted:
            for code, count in sorted(series.codes.items()):
                lines.append(f'apiserver_request_total{{{_text(labels)},code="{code}"}} {count}')
        lines.append("# HELP apiserver_request_duration_seconds Response latency distribution in seconds.")
        lines.append("# TYPE apiserver_request_duration_seconds histogram")
        name = "apiserver_request_duration_seconds"
        for labels, series in counted:
            total = 0
            for bound, count in zip((*BUCKETS_S, "+Inf"), series.buckets, strict=True):
                total += count
                lines.append(f'{name}_bucket{{{_text(labels)},le="{bound}"}} {total}')
            lines.append(f"{name}_sum{{{_text(labels)}}} {series.seconds:.6f}")
            lines.append(f"{name}_count{{{_text(labels)}}} {total}")
        lines += self._gauges()
        return "\n".join(lines) + "\n" + "".join(source() for source in self.sources)

    def _gauges(self) -> Iterator[str]:
        name = "apiserver_current_inflight_requests"
        yield f"# HELP {name} Maximal number of currently used inflight request limit of this apiserver per request kind."
        yield f"# TYPE {name} gauge"
        for kind, count in self.inflight.items():
            yield f'{name}{{request_kind="{kind}"}} {count}'
        name = "apiserver_longrunning_requests"
        yield f"# HELP {name} Gauge of all active long-running apiserver requests."
        yield f"# TYPE {name} gauge"
        for (group, version, plural, scope), count in sorted(self.watches.items()):
            labels = ("WATCH", group, version, plural, "", scope)
            yield f'{name}{{{_text(labels)},component="apiserver"}} {count}'


def objects_text(counts: Iterable[tuple[str, str, int]]) -> str:
    """How many objects are kept: (group, resource, count)."""
    found = sorted(counts)
    lines = [
        "# HELP apiserver_resource_objects Number of stored objects at the time of last check split by kind.",
        "# TYPE apiserver_resource_objects gauge",
        *(f'apiserver_resource_objects{{group="{g}",resource="{r}"}} {count}' for g, r, count in found),
        "# HELP apiserver_storage_objects Number of stored objects at the time of last check split by kind.",
        "# TYPE apiserver_storage_objects gauge",
        *(f'apiserver_storage_objects{{resource="{f"{r}.{g}" if g else r}"}} {count}' for g, r, count in found),
    ]
    return "\n".join(lines) + "\n"


def process_text() -> str:
    """What every Prometheus client library tells of its process, as Linux has it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    samples = (
        ("cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.",
         f"{usage.ru_utime + usage.ru_stime:.2f}"),
        ("resident_memory_bytes", "gauge", "Resident memory size in bytes.", pages * resource.getpagesize()),
        ("open_fds", "gauge", "Number of open file descriptors.", len(list(Path("/proc/self/fd").iterdir()))),
        ("max_fds", "gauge", "Maximum number of open file descriptors.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    )  # fmt: skip
    return "".join(
        f"# HELP process_{name} {help}\n# TYPE process_{name} {kind}\nprocess_{name} {value}\n"
        for name, kind, help, value in samples
    )


def _labels(target: Target | None) -> Labels:
    if target is None or target.resource is None:
        return ("other" if target is None else target.verb.upper(), "", "", "", "", "")
    resource = target.resource
    scope = "resource" if target.name else "namespace" if target.namespace else "cluster"
    return (target.verb.upper(), resource.group, resource.version, resource.plural, target.subresource, scope)


def _text(labels: Labels) -> str:
    names = ("verb", "group", "version", "resource", "subresource", "scope")
    return ",".join(f'{name}="{value}"' for name, value in zip(names, labels, strict=True))
