"""Lists: Kubernetes' own functions, cel-go's extension in version 3, and sets over lists.

Source: apiserver pkg/cel/library/lists.go; cel-go ext/lists.go, ext/sets.go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cmp_to_key
from itertools import pairwise
from typing import Any

from .. import costs
from ..declarations import CostTracker, Library, Overload, function, member
from ..errors import EvaluationError
from ..macros import SORT_BY
from ..operations import actual_size, add, compare, contains, equal, type_name
from ..types import BOOL, BYTES, DOUBLE, DURATION, DYN, INT, STRING, TIMESTAMP, UINT, ListType, Parameter, Type
from ..values import Duration, Uint

Items = Sequence[Any]
_A = Parameter("A")
_T = Parameter("T")
_LIST_A, _LIST_T = ListType(_A), ListType(_T)
_MOST_IN_RANGE = 10_000_000

_SUMMABLE: dict[str, tuple[Type, Any]] = {
    "int": (INT, 0),
    "uint": (UINT, Uint(0)),
    "double": (DOUBLE, 0.0),
    "duration": (DURATION, Duration(0)),
}
_COMPARABLE: dict[str, Type] = {
    "int": INT,
    "uint": UINT,
    "double": DOUBLE,
    "bool": BOOL,
    "duration": DURATION,
    "timestamp": TIMESTAMP,
    "string": STRING,
    "bytes": BYTES,
}


# -- Kubernetes' own


def _is_sorted(items: Items) -> bool:
    return all(compare(one, other) <= 0 for one, other in pairwise(items))


def _sum(zero: Any) -> Callable[[Items], Any]:
    def run(items: Items) -> Any:
        total = zero
        for item in items:
            total = add(total, item)
        return total

    return run


def _extreme(name: str, sign: int) -> Callable[[Items], Any]:
    def run(items: Items) -> Any:
        if not items:
            raise EvaluationError(f"{name} called on empty list")
        best = items[0]
        for item in items[1:]:
            if compare(item, best) == sign:
                best = item
        return best

    return run


def _index_of(items: Items, wanted: Any) -> int:
    return next((n for n, item in enumerate(items) if equal(item, wanted)), -1)


def _last_index_of(items: Items, wanted: Any) -> int:
    return next((n for n in range(len(items) - 1, -1, -1) if equal(items[n], wanted)), -1)


def _own() -> list[Overload]:
    found: list[Overload] = []
    for name, type_ in _COMPARABLE.items():
        of = (ListType(type_),)
        found.append(member("isSorted", f"list_{name}_is_sorted_bool", of, BOOL, _is_sorted))
        found.append(member("max", f"list_{name}_max_{name}", of, type_, _extreme("max", 1)))
        found.append(member("min", f"list_{name}_min_{name}", of, type_, _extreme("min", -1)))
    for name, (type_, zero) in _SUMMABLE.items():
        found.append(member("sum", f"list_{name}_sum_{name}", (ListType(type_),), type_, _sum(zero)))
    found.append(member("indexOf", "list_a_index_of_int", (_LIST_A, _A), INT, _index_of))
    found.append(member("lastIndexOf", "list_a_last_index_of_int", (_LIST_A, _A), INT, _last_index_of))
    return found


KUBERNETES_LISTS = Library("kubernetes.lists", tuple(_own()))


# -- cel-go's


def _slice(items: Items, start: int, end: int) -> list[Any]:
    if start < 0 or end < 0:
        raise EvaluationError(f"cannot slice({start}, {end}), negative indexes not supported")
    if start > end:
        text = f"cannot slice({start}, {end}), start index must be less than or equal to end index"
        raise EvaluationError(text)
    if len(items) < end:
        raise EvaluationError(f"cannot slice({start}, {end}), list is length {len(items)}")
    return list(items[start:end])


def _flatten(items: Items, depth: int = 1) -> list[Any]:
    if depth < 0:
        raise EvaluationError("level must be non-negative")
    found: list[Any] = []
    for item in items:
        if depth > 0 and isinstance(item, list | tuple):
            found.extend(_flatten(item, depth - 1))
        else:
            found.append(item)
    return found


def _reverse(items: Items) -> list[Any]:
    return list(reversed(items))


def _range(count: int) -> list[int]:
    if count < 0:
        raise EvaluationError(f"lists.range: size must be non-negative, got {count}")
    if count > _MOST_IN_RANGE:
        raise EvaluationError(f"lists.range: size {count} exceeds maximum allowed ({_MOST_IN_RANGE})")
    return list(range(count))


def _distinct(items: Items) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if not contains(item, found):
            found.append(item)
    return found


def _sort(items: Items) -> list[Any]:
    return _sort_by(items, items)


def _sort_by(items: Items, keys: Items) -> list[Any]:
    if len(items) != len(keys):
        text = (
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list,"
            f" but got {len(items)} and {len(keys)} elements respectively"
        )
        raise EvaluationError(text)
    names = {type_name(key) for key in keys}
    if not names <= {type_.name for type_ in _COMPARABLE.values()}:
        raise EvaluationError("list elements must be comparable")
    if len(names) > 1:
        raise EvaluationError("list elements must have the same type")
    order = cmp_to_key(compare)
    ranked = sorted(zip(keys, items, strict=True), key=lambda pair: order(pair[0]))
    return [item for _, item in ranked]


def _allocating(factor: float, size: int) -> int:
    return int(size * factor) + 1 + costs.LIST


def _by_output(_arguments: Items, result: Any) -> int:
    return _allocating(1, actual_size(result))


def _number(value: Any) -> int:
    """An argument's value; 1 for one that failed."""
    return value if isinstance(value, int) else 1


def _by_count(arguments: Items, _result: Any) -> int:
    return _allocating(1, max(_number(arguments[0]), 0))


def _by_depth(arguments: Items, _result: Any) -> int:
    depth = float(_number(arguments[1])) if len(arguments) == 2 else 1.0
    return _allocating(depth, actual_size(arguments[0]))


def _by_itself(at: int) -> CostTracker:
    def track(arguments: Items, _result: Any) -> int:
        items: Items = arguments[at] if isinstance(arguments[at], list | tuple) else ()
        text = len(items) > 0 and isinstance(items[0], str | bytes)
        return _allocating(2.0 + costs.STRING_FACTOR if text else 2.0, len(items) ** 2)

    return track


def _priced(overload: Overload, cost: CostTracker) -> Overload:
    return replace(overload, cost=cost)


def _extension() -> list[Overload]:
    nested, anything = ListType(_LIST_T), ListType(DYN)
    found = [
        _priced(member("slice", "list_slice", (_LIST_T, INT, INT), _LIST_T, _slice), _by_output),
        _priced(member("flatten", "list_flatten", (nested,), _LIST_T, _flatten), _by_depth),
        _priced(member("flatten", "list_flatten_int", (anything, INT), anything, _flatten), _by_depth),
        _priced(function("lists.range", "lists_range", (INT,), ListType(INT), _range), _by_count),
        _priced(member("reverse", "list_reverse", (_LIST_T,), _LIST_T, _reverse), _by_output),
        _priced(member("distinct", "list_distinct", (_LIST_T,), _LIST_T, _distinct), _by_itself(0)),
    ]
    for type_ in _COMPARABLE.values():
        of = ListType(type_)
        by = "@sortByAssociatedKeys"
        found.append(_priced(member("sort", f"list_{type_.name}_sort", (of,), of, _sort), _by_itself(0)))
        id = f"list_{type_.name}_sortByAssociatedKeys"
        found.append(_priced(member(by, id, (_LIST_T, of), _LIST_T, _sort_by), _by_itself(1)))
    return found


LISTS = Library("lists", tuple(_extension()), SORT_BY)


# -- sets


def _contains_all(items: Items, wanted: Items) -> bool:
    return all(contains(one, items) for one in wanted)


def _equivalent(one: Items, other: Items) -> bool:
    return _contains_all(one, other) and _contains_all(other, one)


def _intersects(one: Items, other: Items) -> bool:
    return any(contains(item, other) for item in one)


def _pairwise(factor: int) -> CostTracker:
    def track(arguments: Items, _result: Any) -> int:
        return 1 + actual_size(arguments[0]) * actual_size(arguments[1]) * factor

    return track


def _set(name: str, run: Callable[[Items, Items], bool], factor: int) -> Overload:
    overload = function(f"sets.{name}", f"list_sets_{name}_list", (_LIST_T, _LIST_T), BOOL, run)
    return _priced(overload, _pairwise(factor))


SETS = Library(
    "sets",
    (_set("contains", _contains_all, 1), _set("equivalent", _equivalent, 2), _set("intersects", _intersects, 1)),
)


def _includes(target: Any, wanted: Any) -> bool:
    return contains(wanted, target) if isinstance(target, list | tuple) else equal(target, wanted)


#: for device selectors alone: attributes may be lists
INCLUDES = Library("includes", (member("includes", "list_includes_dyn_dyn", (DYN, DYN), BOOL, _includes),))
