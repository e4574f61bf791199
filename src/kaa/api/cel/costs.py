"""What a call costs when it runs.

Units are cel-go's: one for a step, a tenth for a character that is looked at. Kubernetes prices calls by the function's
name first, whatever its overload; then cel-go by the overload; any other call costs one.

Source: cel-go interpreter/runtimecost.go, common/cost.go; apiserver pkg/cel/library/cost.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any, Final

from .declarations import CostTracker
from .operations import actual_size

LIST: Final = 10
MAP: Final = 30
STRUCT: Final = 40
STRING_FACTOR: Final = 0.1
REGEX_FACTOR: Final = 0.25
CHECK: Final = 350_000

Arguments = Sequence[Any]


def traversal(units: float) -> int:
    """The cost of looking at that many characters."""
    return ceil(units * STRING_FACTOR)


class Traversal:
    """The price of looking at the first argument, ``factor`` times."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, arguments: Arguments, result: Any, /) -> int:
        return ceil(actual_size(arguments[0]) * self.factor * STRING_FACTOR)


def _of_result(_arguments: Arguments, result: Any) -> int:
    return ceil(actual_size(result) * 2 * STRING_FACTOR)


def _regex(arguments: Arguments, _result: Any) -> int:
    return traversal(1.0 + actual_size(arguments[0])) * ceil(actual_size(arguments[1]) * REGEX_FACTOR)


def _selector(arguments: Arguments, _result: Any) -> int:
    length = actual_size(arguments[1])
    return LIST + traversal(length) + ceil(ceil(length * 0.5) * float(LIST + STRUCT))


def _tree(value: Any) -> int:
    if isinstance(value, str):
        return int(len(value.encode("utf-8", "surrogatepass")) * STRING_FACTOR)
    if isinstance(value, bytes):
        return int(len(value) * STRING_FACTOR)
    if isinstance(value, list | tuple):
        return sum(map(_tree, value))
    if isinstance(value, Mapping):
        return sum(_tree(key) + _tree(inner) for key, inner in value.items())
    return 1


def _whole_tree(arguments: Arguments, _result: Any) -> int:
    return _tree(arguments[0])


def _contains_ip(*, text: bool) -> CostTracker:
    def track(arguments: Arguments, _result: Any) -> int:
        cost = traversal(2 * actual_size(arguments[0]))
        return cost + traversal(actual_size(arguments[1])) if text else cost

    return track


def _contains_cidr(*, text: bool) -> CostTracker:
    within = _contains_ip(text=text)

    def track(arguments: Arguments, result: Any) -> int:
        return within(arguments, result) + traversal(actual_size(arguments[0])) + 1

    return track


def _format(arguments: Arguments, _result: Any) -> int:
    longest = getattr(arguments[0], "regex_size", 0)
    return traversal(1.0 + actual_size(arguments[1])) * ceil(longest * REGEX_FACTOR)


def _second(arguments: Arguments, _result: Any) -> int:
    return actual_size(arguments[1])


def smaller(arguments: Arguments, _result: Any = None) -> int:
    """Comparing two texts, lists or maps: as far as the shorter goes."""
    return ceil(min(actual_size(arguments[0]), actual_size(arguments[1])) * STRING_FACTOR)


def _together(arguments: Arguments, _result: Any) -> int:
    return ceil((actual_size(arguments[0]) + actual_size(arguments[1])) * STRING_FACTOR)


def _each_other(arguments: Arguments, _result: Any) -> int:
    return traversal(actual_size(arguments[0])) * traversal(actual_size(arguments[1]))


#: overloads that compare two values, as far as the shorter goes
COMPARING = (
    "equals not_equals less_string less_bytes less_equals_string less_equals_bytes"
    " greater_string greater_bytes greater_equals_string greater_equals_bytes"
).split()
#: functions that cost one, whatever they are given
ONE_EACH = (
    "serviceAccount path group resource subresource namespace name allowed reason error errored"
    " masked prefixLength family isUnspecified isLoopback isLinkLocalMulticast isLinkLocalUnicast isGlobalUnicast"
    " sign asInteger isInteger asApproximateFloat isGreaterThan isLessThan compareTo add sub major minor patch"
    " getScheme getHostname getHost getPort getEscapedPath getQuery format.named"
).split()


def _each(names: Iterable[str], price: CostTracker | int) -> dict[str, CostTracker | int]:
    return dict.fromkeys(names, price)


#: {function: its price}, for every overload
_BY_NAME: dict[str, CostTracker | int] = {
    **_each(ONE_EACH, 1),
    "check": CHECK,
    **_each(("fieldSelector", "labelSelector"), _selector),
    **_each("isSorted sum max min indexOf lastIndexOf".split(), _whole_tree),
    **_each("url lowerAscii upperAscii substring trim jsonpatch.escapeKey".split(), Traversal(1)),
    **_each("cidr isIP isCIDR ip quantity isQuantity semver isSemver".split(), Traversal(1)),
    **_each(("replace", "split", "ip.isCanonical"), Traversal(2)),
    "join": _of_result,
    **_each(("find", "findAll"), _regex),
    "validate": _format,
}
#: the overloads among them that are priced apart
_EXCEPTIONS: dict[str, CostTracker | int] = {
    "cidr_ip": 1,
    "cidr_contains_ip_ip": _contains_ip(text=False),
    "cidr_contains_ip_string": _contains_ip(text=True),
    "cidr_contains_cidr": _contains_cidr(text=False),
    "cidr_contains_cidr_string": _contains_cidr(text=True),
}
#: {overload: its price}
_BY_OVERLOAD: dict[str, CostTracker | int] = {
    **_each(
        "starts_with_string ends_with_string string_to_bytes bytes_to_string strings_quote string_format".split(),
        Traversal(1),
    ),
    "in_list": _second,
    **_each(
        COMPARING,
        smaller,
    ),
    **_each(("add_string", "add_bytes"), _together),
    "matches_string": _regex,
    "contains_string": _each_other,
}
#: functions whose price is known only with their result
BY_RESULT: Final = frozenset(("join", "slice", "reverse"))


def price(function: str, overload: str, own: CostTracker | None = None) -> CostTracker | int:
    """What a call of an overload costs; ``overload`` is "" where several may apply. ``own`` is the library's say."""
    if own is not None:
        return own
    known = _EXCEPTIONS.get(overload) or _BY_NAME.get(function) or _BY_OVERLOAD.get(overload, 1)
    if function == "containsIP" and overload == "":
        return _contains_ip(text=False)
    if function == "containsCIDR" and overload == "":
        return _contains_cidr(text=False)
    return known
