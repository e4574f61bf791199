"""Numbers in the Prometheus text format: counted as things happen, or gathered when somebody scrapes.

Counting must cost next to nothing, so it is plain dictionaries; text is made for a scrape. A ``Family`` is what is written;
``Counter``, ``Gauge`` and ``Histogram`` are counted into and become one.
Source: prometheus.io "Text-based format", version 0.0.4.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]  #: the values, in the order of a family's label names

#: Upper bounds of a histogram of seconds, as every Prometheus client has them.
DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """``count`` bounds, each ``factor`` times the one before."""
    return tuple(first * factor**step for step in range(count))


class Family:
    """Samples of one name. ``add`` takes label values in the order of ``labels``."""

    __slots__ = ("_ordered", "help", "kind", "labels", "lines", "name")

    def __init__(self, name: str, kind: Kind, help: str, labels: Labels = ()) -> None:
        self.name, self.kind, self.help, self.labels = name, kind, help, labels
        self.lines: list[str] = []
        #: (name with its equals sign, where its value stands), by name
        self._ordered = tuple(sorted((f'{label}="', place) for place, label in enumerate(labels)))

    def add(self, value: float, *values: str, at: float | None = None) -> None:
        """One sample; ``at`` is when it was measured, in seconds since 1970, where that is not now."""
        stamp = "" if at is None else f" {int(at * 1000)}"
        pairs = [f'{label}{escaped(values[place])}"' for label, place in self._ordered]
        shown = f"{{{','.join(pairs)}}}" if pairs else ""
        self.lines.append(f"{self.name}{shown} {number(value)}{stamp}")

    def __iter__(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self.lines


def text(families: Iterable[Family]) -> bytes:
    """The exposition of what has samples, by name."""
    told = sorted((one for one in families if one.lines), key=lambda one: one.name)
    return "".join(f"{line}\n" for family in told for line in family).encode()


def label_text(names: Labels, values: Labels) -> str:
    """``{a="1",b="2"}``, by the names' order; nothing without labels."""
    pairs = sorted(zip(names, values, strict=True))
    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in pairs) + "}" if pairs else ""


def escaped(value: str) -> str:
    if "\\" not in value and '"' not in value and "\n" not in value:
        return value
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def number(value: float) -> str:
    """Whole numbers without a point; the rest as exactly as it is known."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


class Counter:
    """Only grows, by label values."""

    kind: Kind = "counter"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.values: dict[Labels, float] = {}

    def inc(self, *values: str, by: float = 1) -> None:
        self.values[values] = self.values.get(values, 0) + by

    def value(self, *values: str) -> float:
        return self.values.get(values, 0)

    def family(self) -> Family:
        made = Family(self.name, self.kind, self.help, self.labels)
        for values, value in sorted(self.values.items()):
            made.add(value, *values)
        return made


class Gauge(Counter):
    """Stands for what is now."""

    kind = "gauge"

    def set(self, value: float, *values: str) -> None:
        self.values[values] = value


class Histogram:
    """How many observations were at most each of ``buckets``, their number and their sum."""

    def __init__(self, name: str, help: str, labels: Labels = (), buckets: tuple[float, ...] = DEFAULT_BUCKETS) -> None:
        self.name, self.help, self.labels, self.buckets = name, help, labels, buckets
        self._series: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *values: str) -> None:
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = ([0] * (len(self.buckets) + 1), [0.0])
        found[0][bisect_left(self.buckets, value)] += 1
        found[1][0] += value

    def count(self, *values: str) -> int:
        return sum(self._series[values][0]) if values in self._series else 0

    def family(self) -> Family:
        made = Family(self.name, "histogram", self.help, self.labels)
        for values, (counts, total) in sorted(self._series.items()):
            made.lines.extend(self._lines(values, counts, total[0]))
        return made

    def _lines(self, values: Labels, counts: list[int], total: float) -> Iterator[str]:
        below = 0
        for bound, count in zip((*map(number, self.buckets), "+Inf"), counts, strict=True):
            below += count
            yield f"{self.name}_bucket{label_text((*self.labels, 'le'), (*values, bound))} {below}"
        shown = label_text(self.labels, values)
        yield f"{self.name}_sum{shown} {number(total)}"
        yield f"{self.name}_count{shown} {below}"
