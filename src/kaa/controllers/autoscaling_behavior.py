"""From a number that metrics ask for to the one that is set: stabilization windows, rates, limits. No I/O.

Source: API concepts "Horizontal Pod Autoscaling" (behavior); kubernetes pkg/controller/podautoscaler/horizontal.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

from kaa.api.types.autoscaling_v2 import HorizontalPodAutoscalerBehavior, HPAScalingRules

DOWN_WINDOW_S = 300.0
#: Without ``behavior``, one step at most doubles the replicas, and may always reach this many.
LIMIT_FACTOR, LIMIT_LEAST = 2, 4

WITHIN = ("DesiredWithinRange", "the desired count is within the acceptable range")
TOO_FEW = ("TooFewReplicas", "the desired replica count is less than the minimum replica count")
TOO_MANY = ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
UP_LIMIT = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
DOWN_LIMIT = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
READY = ("ReadyForNewScale", "recommended size matches current size")
UP_STABILIZED = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
)
DOWN_STABILIZED = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
)


class Stamped(NamedTuple):
    """A number and when it was (seconds since 1970): a recommendation, or by how much was scaled."""

    at: float
    number: int


@dataclass(slots=True)
class Memory:
    """What is remembered of one autoscaler."""

    recommendations: list[Stamped] = field(default_factory=list)
    ups: list[Stamped] = field(default_factory=list)
    downs: list[Stamped] = field(default_factory=list)

    def scaled(self, now: float, before: int, after: int, longest_s: float) -> None:
        """Note a change of replicas; changes older than the longest period count nowhere any more."""
        changes, change = (self.ups, after - before) if after > before else (self.downs, before - after)
        changes[:] = [each for each in changes if each.at > now - longest_s]
        changes.append(Stamped(now, change))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The number to set. ``able`` and ``limited``: (reason, message) of two conditions; ``is_limited``: the second's value."""

    replicas: int
    able: tuple[str, str]
    limited: tuple[str, str]
    is_limited: bool


def decide(
    memory: Memory,
    behavior: HorizontalPodAutoscalerBehavior | None,
    *,
    current: int,
    desired: int,
    least: int,
    most: int,
    now: float,
) -> Verdict:
    """What becomes of a recommendation; it is remembered for the next ones."""
    if behavior is None or behavior.scale_up is None or behavior.scale_down is None:
        floor = max([desired, *(each.number for each in memory.recommendations if each.at > now - DOWN_WINDOW_S)])
        _remember(memory, desired, DOWN_WINDOW_S, now)
        stable, able = floor, DOWN_STABILIZED
        number, limited = _plainly_limited(current, stable, least, most)
    else:
        up, down = behavior.scale_up, behavior.scale_down
        stable, able = _stabilized(memory, current, desired, _window(up, 0.0), _window(down, DOWN_WINDOW_S), now)
        number, limited = _limited(memory, up, down, current, stable, least, most, now)
    return Verdict(number, able if stable != desired else READY, limited, number != stable)


def _window(rules: HPAScalingRules, default: float) -> float:
    window = rules.stabilization_window_seconds
    return default if window is None else float(window)


def _remember(memory: Memory, desired: int, window_s: float, now: float) -> None:
    memory.recommendations = [each for each in memory.recommendations if each.at > now - window_s]
    memory.recommendations.append(Stamped(now, desired))


def _stabilized(
    memory: Memory, current: int, desired: int, up_s: float, down_s: float, now: float
) -> tuple[int, tuple[str, str]]:
    """The number between the lowest that was lately recommended for going up and the highest for going down."""
    lately = memory.recommendations
    ceiling = min([desired, *(each.number for each in lately if each.at > now - up_s)])
    floor = max([desired, *(each.number for each in lately if each.at > now - down_s)])
    _remember(memory, desired, max(up_s, down_s), now)
    stable = min(max(current, ceiling), floor)
    return stable, UP_STABILIZED if desired >= current else DOWN_STABILIZED


def _plainly_limited(current: int, desired: int, least: int, most: int) -> tuple[int, tuple[str, str]]:
    step = max(LIMIT_FACTOR * current, LIMIT_LEAST)
    if desired < least:
        return least, TOO_FEW
    if desired > min(most, step):
        return (step, UP_LIMIT) if most > step else (most, TOO_MANY)
    return desired, WITHIN


def _limited(
    memory: Memory,
    up: HPAScalingRules,
    down: HPAScalingRules,
    current: int,
    desired: int,
    least: int,
    most: int,
    now: float,
) -> tuple[int, tuple[str, str]]:
    if desired > current:
        rate = max(current, up_limit(memory, up, current, now))
        limit, why = (rate, UP_LIMIT) if most > rate else (most, TOO_MANY)
        return (limit, why) if desired > limit else (desired, WITHIN)
    if desired < current:
        rate = min(current, down_limit(memory, down, current, now))
        limit, why = (rate, DOWN_LIMIT) if least < rate else (least, TOO_FEW)
        return (limit, why) if desired < limit else (desired, WITHIN)
    return desired, WITHIN


def _changed(changes: Iterable[Stamped], period_s: float, now: float) -> int:
    return sum(each.number for each in changes if each.at > now - period_s)


def _by_policies(
    memory: Memory,
    rules: HPAScalingRules,
    current: int,
    now: float,
    proposed: Callable[[int, str, int], int],
) -> list[int]:
    """What each policy allows, from the replicas there were when its period began."""
    found = []
    for policy in rules.policies:
        added = _changed(memory.ups, policy.period_seconds, now)
        dropped = _changed(memory.downs, policy.period_seconds, now)
        found.append(proposed(current - added + dropped, policy.type, policy.value))
    return found


def up_limit(memory: Memory, rules: HPAScalingRules, current: int, now: float) -> int:
    """The most replicas that rules allow to go up to now."""
    if rules.select_policy == "Disabled":
        return current

    def proposed(start: int, type: str, value: int) -> int:
        return start + value if type == "Pods" else ceil(start * (1 + value / 100))

    limits = _by_policies(memory, rules, current, now, proposed)
    return min(limits) if rules.select_policy == "Min" else max(limits)


def down_limit(memory: Memory, rules: HPAScalingRules, current: int, now: float) -> int:
    """The fewest replicas that rules allow to go down to now."""
    if rules.select_policy == "Disabled":
        return current

    def proposed(start: int, type: str, value: int) -> int:
        return start - value if type == "Pods" else int(start * (1 - value / 100))

    limits = _by_policies(memory, rules, current, now, proposed)
    return max(limits) if rules.select_policy == "Min" else min(limits)
