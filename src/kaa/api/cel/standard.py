"""The functions and operators that CEL itself defines.

Source: cel-go common/stdlib/standard.go, common/overloads; optionals: cel/library.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import conversions, operations
from .declarations import Library, Overload, function, member
from .errors import EvaluationError
from .instants import part_of, part_of_duration
from .macros import OPTIONALS, STANDARD
from .regex import matches
from .types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    Kind,
    ListType,
    MapType,
    OptionalType,
    Parameter,
    Type,
    TypeType,
)
from .values import NOTHING, OptionalValue

A, B, K, V = Parameter("A"), Parameter("B"), Parameter("K"), Parameter("V")
LIST_A, MAP_AB = ListType(A), MapType(A, B)

#: {the word in overloads' ids: type}
_ID_WORDS = {
    "bool": BOOL,
    "int64": INT,
    "uint64": UINT,
    "double": DOUBLE,
    "string": STRING,
    "bytes": BYTES,
    "timestamp": TIMESTAMP,
    "duration": DURATION,
}
_NUMBER_WORDS = ("int64", "uint64", "double")

Run = Callable[..., Any]


def _same(name: str, id: str, run: Run, *words: str) -> list[Overload]:
    """One overload a type: both operands and the result are of it."""
    return [function(name, f"{id}_{word}", (_ID_WORDS[word], _ID_WORDS[word]), _ID_WORDS[word], run) for word in words]


def _ordered(name: str, id: str, run: Run) -> list[Overload]:
    same = [function(name, f"{id}_{word}", (_ID_WORDS[word], _ID_WORDS[word]), BOOL, run) for word in _ID_WORDS]
    mixed = [
        function(name, f"{id}_{one}_{other}", (_ID_WORDS[one], _ID_WORDS[other]), BOOL, run)
        for one in _NUMBER_WORDS
        for other in _NUMBER_WORDS
        if one != other
    ]
    return same + mixed


def _arithmetic() -> list[Overload]:
    add, subtract = operations.add, operations.subtract
    times, spans = TIMESTAMP, DURATION
    return [
        *_same("_+_", "add", add, "int64", "uint64", "double", "string", "bytes"),
        function("_+_", "add_list", (LIST_A, LIST_A), LIST_A, operations.add_lists),
        function("_+_", "add_duration_duration", (spans, spans), spans, add),
        function("_+_", "add_duration_timestamp", (spans, times), times, add),
        function("_+_", "add_timestamp_duration", (times, spans), times, add),
        *_same("_-_", "subtract", subtract, *_NUMBER_WORDS),
        function("_-_", "subtract_duration_duration", (spans, spans), spans, subtract),
        function("_-_", "subtract_timestamp_duration", (times, spans), times, subtract),
        function("_-_", "subtract_timestamp_timestamp", (times, times), spans, subtract),
        *_same("_*_", "multiply", operations.multiply, *_NUMBER_WORDS),
        *_same("_/_", "divide", operations.divide, *_NUMBER_WORDS),
        *_same("_%_", "modulo", operations.modulo, "int64", "uint64"),
        function("-_", "negate_int64", (INT,), INT, operations.negate),
        function("-_", "negate_double", (DOUBLE,), DOUBLE, operations.negate),
        function("!_", "logical_not", (BOOL,), BOOL, operations.invert),
    ]


def _not_lazy(*_values: Any) -> Any:
    raise AssertionError("compiled in place")


def _comparisons() -> list[Overload]:
    compare = operations.compare
    return [
        function("_==_", "equals", (A, A), BOOL, operations.equal),
        function("_!=_", "not_equals", (A, A), BOOL, lambda a, b: not operations.equal(a, b)),
        *_ordered("_<_", "less", lambda a, b: compare(a, b) < 0),
        *_ordered("_<=_", "less_equals", lambda a, b: compare(a, b) <= 0),
        *_ordered("_>_", "greater", lambda a, b: compare(a, b) > 0),
        *_ordered("_>=_", "greater_equals", lambda a, b: compare(a, b) >= 0),
        function("@in", "in_list", (A, LIST_A), BOOL, operations.contains),
        function("@in", "in_map", (A, MAP_AB), BOOL, operations.contains),
        function("_?_:_", "conditional", (BOOL, A, A), A, _not_lazy),
        function("@not_strictly_false", "not_strictly_false", (BOOL,), BOOL, _not_lazy),
        function("_[_]", "index_list", (LIST_A, INT), A, _not_lazy),
        function("_[_]", "index_map", (MAP_AB, A), B, _not_lazy),
    ]


def _sizes() -> list[Overload]:
    size = operations.size
    sized = {"string": STRING, "bytes": BYTES, "list": LIST_A, "map": MAP_AB}
    return [function("size", f"size_{word}", (type_,), INT, size) for word, type_ in sized.items()] + [
        member("size", f"{word}_size", (type_,), INT, size) for word, type_ in sized.items()
    ]


def _conversions() -> list[Overload]:
    made: dict[str, tuple[Type, Run, str, tuple[str, ...]]] = {
        "bool": (BOOL, conversions.to_bool, "bool", ("bool", "string")),
        "bytes": (BYTES, conversions.to_bytes, "bytes", ("bytes", "string")),
        "double": (DOUBLE, conversions.to_double, "double", ("double", "int64", "string", "uint64")),
        "duration": (DURATION, conversions.to_duration, "duration", ("duration", "int64", "string")),
        "int": (
            INT,
            conversions.to_int,
            "int64",
            ("int64", "double", "duration", "string", "timestamp", "uint64"),
        ),
        "string": (STRING, conversions.to_string, "string", tuple(_ID_WORDS)),
        "timestamp": (TIMESTAMP, conversions.to_timestamp, "timestamp", ("timestamp", "int64", "string")),
        "uint": (UINT, conversions.to_uint, "uint64", ("uint64", "double", "int64", "string")),
    }
    found = [
        function(name, f"{word}_to_{to}", (_ID_WORDS[word],), type_, run)
        for name, (type_, run, to, words) in made.items()
        for word in words
    ]
    return [
        *found,
        function("dyn", "to_dyn", (A,), DYN, lambda value: value),
        function("type", "type", (A,), TypeType(A), operations.type_of),
    ]


def _strings() -> list[Overload]:
    two = (STRING, STRING)
    return [
        member("contains", "contains_string", two, BOOL, str.__contains__),
        member("startsWith", "starts_with_string", two, BOOL, str.startswith),
        member("endsWith", "ends_with_string", two, BOOL, str.endswith),
        function("matches", "matches", two, BOOL, matches),
        member("matches", "matches_string", two, BOOL, matches),
    ]


_PARTS = {
    "getFullYear": "year",
    "getMonth": "month",
    "getDayOfYear": "day_of_year",
    "getDayOfMonth": "day_of_month",
    "getDate": "day_of_month_1_based",
    "getDayOfWeek": "day_of_week",
    "getHours": "hours",
    "getMinutes": "minutes",
    "getSeconds": "seconds",
    "getMilliseconds": "milliseconds",
}


def _part(name: str) -> Run:
    return lambda value, zone=None: part_of(value, name, zone)


def _times() -> list[Overload]:
    found: list[Overload] = []
    for name, word in _PARTS.items():
        found.append(member(name, f"timestamp_to_{word}", (TIMESTAMP,), INT, _part(name)))
        found.append(member(name, f"timestamp_to_{word}_with_tz", (TIMESTAMP, STRING), INT, _part(name)))
    for name in ("getHours", "getMinutes", "getSeconds", "getMilliseconds"):
        run = lambda value, name=name: part_of_duration(value, name)  # noqa: E731
        found.append(member(name, f"duration_to_{_PARTS[name]}", (DURATION,), INT, run))
    return found


TYPES: dict[str, Type] = {
    "bool": BOOL,
    "bytes": BYTES,
    "double": DOUBLE,
    "int": INT,
    "list": ListType(DYN),
    "map": MapType(DYN, DYN),
    "null_type": NULL,
    "string": STRING,
    "type": TypeType(DYN),
    "uint": UINT,
    "google.protobuf.Duration": DURATION,
    "google.protobuf.Timestamp": TIMESTAMP,
}

LIBRARY = Library(
    "standard",
    tuple(_arithmetic() + _comparisons() + _sizes() + _conversions() + _strings() + _times()),
    STANDARD,
    TYPES,
)


# -- optionals


def _value(optional: OptionalValue) -> Any:
    if optional.present:
        return optional.value
    raise EvaluationError("optional.none() dereference")


def _is_zero(value: Any) -> bool:
    """Whether it is what its type starts from: 0, "", an empty list, null."""
    if value is None or value is False:
        return True
    if isinstance(value, OptionalValue):
        return not value.present
    kind = operations.type_of(value).kind
    if kind in (Kind.INT, Kind.UINT, Kind.DOUBLE):
        return bool(value == 0)
    if kind in (Kind.STRING, Kind.BYTES, Kind.LIST, Kind.MAP, Kind.OBJECT):
        return len(value) == 0
    return kind is Kind.DURATION and value.nanos == 0


def _of_non_zero(value: Any) -> OptionalValue:
    return NOTHING if _is_zero(value) else OptionalValue(value)


def _optionals() -> list[Overload]:
    some, some_list, some_map = OptionalType(V), OptionalType(ListType(V)), OptionalType(MapType(K, V))
    return [
        function("optional.of", "optional_of", (V,), some, OptionalValue),
        function("optional.ofNonZeroValue", "optional_ofNonZeroValue", (V,), some, _of_non_zero),
        function("optional.none", "optional_none", (), some, lambda: NOTHING),
        member("value", "optional_value", (some,), V, _value),
        member("hasValue", "optional_hasValue", (some,), BOOL, lambda optional: optional.present),
        member("or", "optional_or_optional", (some, some), some, _not_lazy),
        member("orValue", "optional_orValue_value", (some, V), V, _not_lazy),
        function("cel.@mapInsert", "cel_@mapInsert_map_map", (MapType(K, V), MapType(K, V)), MapType(K, V), _not_lazy),
        function("cel.@mapInsert", "cel_@mapInsert_map_key_value", (MapType(K, V), K, V), MapType(K, V), _not_lazy),
        function("_[?_]", "list_optindex_optional_int", (ListType(V), INT), some, _not_lazy),
        function("_[?_]", "optional_list_optindex_optional_int", (some_list, INT), some, _not_lazy),
        function("_[?_]", "map_optindex_optional_value", (MapType(K, V), K), some, _not_lazy),
        function("_[?_]", "optional_map_optindex_optional_value", (some_map, K), some, _not_lazy),
        function("_[_]", "optional_list_index_int", (some_list, INT), some, _not_lazy),
        function("_[_]", "optional_map_index_value", (some_map, K), some, _not_lazy),
    ]


OPTIONAL_TYPES = Library("optional", tuple(_optionals()), OPTIONALS, {"optional_type": OptionalType(DYN)})
