"""What values do: equality, order, size, arithmetic, looking up.

Functions here take any values and find out what they are; the compiler uses narrower ones where types are known.

Source: cel-go common/types; interpreter/attributes.go for looking up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import isnan
from typing import Any, Final

from .errors import EvaluationError
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
    TYPE,
    UINT,
    Kind,
    ListType,
    MapType,
    OptionalType,
    Type,
)
from .values import (
    INT_MAX,
    INT_MIN,
    NANOS,
    TIMESTAMP_MAX_S,
    TIMESTAMP_MIN_S,
    UINT_MAX,
    Duration,
    OptionalValue,
    Timestamp,
    Uint,
)

NO_OVERLOAD: Final = "no such overload"
MISSING: Final = object()

_LIST = ListType(DYN)
_MAP = MapType(DYN, DYN)
_TYPES: dict[type, Type] = {
    bool: BOOL,
    int: INT,
    Uint: UINT,
    float: DOUBLE,
    str: STRING,
    bytes: BYTES,
    type(None): NULL,
    list: _LIST,
    tuple: _LIST,
    dict: _MAP,
    Timestamp: TIMESTAMP,
    Duration: DURATION,
    OptionalValue: OptionalType(DYN),
}
_NUMBERS = frozenset((int, Uint, float))
_PLAIN = frozenset((bool, int, Uint, float, str, bytes, type(None), Timestamp, Duration))


def no_overload() -> EvaluationError:
    return EvaluationError(NO_OVERLOAD)


def type_of(value: Any) -> Type:
    """The runtime type. An opaque value says it of itself, as ``cel_type``."""
    known = _TYPES.get(type(value))
    if known is not None:
        return known
    declared = getattr(value, "cel_type", None)
    if isinstance(declared, Type):
        return declared
    if isinstance(value, Type):
        return TYPE
    if isinstance(value, Mapping):
        return _MAP
    if isinstance(value, list | tuple):
        return _LIST
    raise EvaluationError(f"unsupported conversion to ref.Val: ({type(value).__name__})")


def type_name(value: Any) -> str:
    return type_of(value).name


def accepts(type_: Type) -> Callable[[Any], bool]:
    """Whether a value may be an argument of that type; of a list or map its first item is looked at."""
    if type_.kind in (Kind.DYN, Kind.PARAMETER, Kind.ANY):
        return lambda value: True
    if type_.kind in (Kind.OPAQUE, Kind.OBJECT):
        return lambda value: type_of(value).name == type_.name
    if type_.kind is Kind.LIST:
        item = accepts(type_.parameters[0])
        return lambda value: isinstance(value, list | tuple) and (not value or item(value[0]))
    if type_.kind is Kind.MAP:
        return _accepts_map(type_)
    return lambda value: type_of(value).kind is type_.kind


def _accepts_map(type_: Type) -> Callable[[Any], bool]:
    key, item = map(accepts, type_.parameters)

    def check(value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        return all(key(name) and item(value[name]) for name in islice(value, 1))

    return check


def size(value: Any) -> int:
    """``size(value)``. An opaque value with a size has it as ``cel_size``."""
    if isinstance(value, str | bytes | Mapping | list | tuple):
        return len(value)
    raise no_overload()


def actual_size(value: Any) -> int:
    """The size that costs go by: 1 for what has none."""
    if isinstance(value, str | bytes | Mapping | list | tuple):
        return len(value)
    if isinstance(value, OptionalValue) and value.present:
        return actual_size(value.value)
    return getattr(value, "cel_size", 1)


# -- equality and order


def equal(one: Any, other: Any) -> bool:
    """``one == other``, of any values: of different types they differ, but numbers compare as numbers."""
    kind, kind2 = type(one), type(other)
    if kind is kind2 and kind in _PLAIN:
        return bool(one == other)
    if kind in _NUMBERS:
        return kind2 in _NUMBERS and _equal_numbers(one, other)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and equal_lists(one, other)
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and equal_maps(one, other)
    if kind is OptionalValue:
        return kind2 is OptionalValue and one.present == other.present and equal(one.value, other.value)
    if isinstance(one, Type):
        return isinstance(other, Type) and one.name == other.name
    return kind is kind2 and bool(one == other)


def _equal_numbers(one: float, other: float) -> bool:
    if type(one) is float or type(other) is float:
        return float(one) == float(other)
    return one == other


def equal_lists(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Item by item, unless a list says by ``cel_equal`` how it compares (sets and maps in lists)."""
    rule = getattr(one, "cel_equal", None)
    if rule is not None:
        return bool(rule(other))
    return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))


def equal_maps(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    if len(one) != len(other):
        return False
    for key, value in one.items():
        there = find(other, key)
        if there is MISSING or not equal(value, there):
            return False
    return True


def compare(one: Any, other: Any) -> int:
    """-1, 0 or 1. Raises EvaluationError where the two have no order."""
    kind, kind2 = type(one), type(other)
    if kind in _NUMBERS and kind2 in _NUMBERS:
        if kind is float or kind2 is float:
            one, other = float(one), float(other)
            if isnan(one) or isnan(other):
                raise EvaluationError("NaN values cannot be ordered")
    elif kind is not kind2 or kind not in _ORDERED:
        raise no_overload()
    return -1 if one < other else 1 if one > other else 0


_ORDERED = frozenset((bool, str, bytes, Timestamp, Duration))


# -- arithmetic


def whole(value: int) -> int:
    """An int within 64 bits. Raises EvaluationError: it is not."""
    if INT_MIN <= value <= INT_MAX:
        return value
    raise EvaluationError("integer overflow")


def unsigned(value: int) -> Uint:
    if 0 <= value <= UINT_MAX:
        return Uint(value)
    raise EvaluationError("unsigned integer overflow")


def span(nanos: int) -> Duration:
    if INT_MIN <= nanos <= INT_MAX:
        return Duration(nanos)
    raise EvaluationError("duration overflow")


def instant(nanos: int, offset_s: int = 0) -> Timestamp:
    if TIMESTAMP_MIN_S * NANOS <= nanos < (TIMESTAMP_MAX_S + 1) * NANOS:
        return Timestamp(nanos, offset_s)
    raise EvaluationError("timestamp overflow")


def add_int(one: int, other: int) -> int:
    total = one + other
    if INT_MIN <= total <= INT_MAX:
        return total
    raise EvaluationError("integer overflow")


def subtract_int(one: int, other: int) -> int:
    return whole(one - other)


def multiply_int(one: int, other: int) -> int:
    return whole(one * other)


def divide_int(one: int, other: int) -> int:
    if other == 0:
        raise EvaluationError("division by zero")
    quotient = abs(one) // abs(other)
    return whole(quotient if (one < 0) == (other < 0) else -quotient)


def modulo_int(one: int, other: int) -> int:
    if other == 0:
        raise EvaluationError("modulus by zero")
    if one == INT_MIN and other == -1:
        raise EvaluationError("integer overflow")
    rest = abs(one) % abs(other)
    return -rest if one < 0 else rest


def divide_uint(one: int, other: int) -> Uint:
    if other == 0:
        raise EvaluationError("division by zero")
    return Uint(int(one) // int(other))


def modulo_uint(one: int, other: int) -> Uint:
    if other == 0:
        raise EvaluationError("modulus by zero")
    return Uint(int(one) % int(other))


def divide_double(one: float, other: float) -> float:
    if other == 0:
        if isnan(one) or one == 0:
            return float("nan")
        return float("inf") if (one > 0) == (str(other)[0] != "-") else float("-inf")
    return one / other


def add_lists(one: Sequence[Any], other: Sequence[Any]) -> Any:
    """Both, one after the other, unless the first says by ``cel_add`` how it adds."""
    rule = getattr(one, "cel_add", None)
    return [*one, *other] if rule is None else rule(other)


_INT = (int, int)
_UINT = (Uint, Uint)
_DOUBLE = (float, float)
_ADD: dict[tuple[type, type], Callable[[Any, Any], Any]] = {
    _INT: add_int,
    _UINT: lambda a, b: unsigned(int(a) + int(b)),
    _DOUBLE: lambda a, b: a + b,
    (str, str): lambda a, b: a + b,
    (bytes, bytes): lambda a, b: a + b,
    (Duration, Duration): lambda a, b: span(a.nanos + b.nanos),
    (Timestamp, Duration): lambda a, b: instant(a.nanos + b.nanos, a.offset_s),
    (Duration, Timestamp): lambda a, b: instant(a.nanos + b.nanos, b.offset_s),
}
_SUBTRACT: dict[tuple[type, type], Callable[[Any, Any], Any]] = {
    _INT: subtract_int,
    _UINT: lambda a, b: unsigned(int(a) - int(b)),
    _DOUBLE: lambda a, b: a - b,
    (Duration, Duration): lambda a, b: span(a.nanos - b.nanos),
    (Timestamp, Duration): lambda a, b: instant(a.nanos - b.nanos, a.offset_s),
    (Timestamp, Timestamp): lambda a, b: span(a.nanos - b.nanos),
}
_MULTIPLY: dict[tuple[type, type], Callable[[Any, Any], Any]] = {
    _INT: multiply_int,
    _UINT: lambda a, b: unsigned(int(a) * int(b)),
    _DOUBLE: lambda a, b: a * b,
}
_DIVIDE: dict[tuple[type, type], Callable[[Any, Any], Any]] = {
    _INT: divide_int,
    _UINT: divide_uint,
    _DOUBLE: divide_double,
}
_MODULO: dict[tuple[type, type], Callable[[Any, Any], Any]] = {_INT: modulo_int, _UINT: modulo_uint}


def _by_types(table: dict[tuple[type, type], Callable[[Any, Any], Any]]) -> Callable[[Any, Any], Any]:
    def operate(one: Any, other: Any) -> Any:
        rule = table.get((type(one), type(other)))
        if rule is None:
            raise no_overload()
        return rule(one, other)

    return operate


subtract = _by_types(_SUBTRACT)
multiply = _by_types(_MULTIPLY)
divide = _by_types(_DIVIDE)
modulo = _by_types(_MODULO)


def add(one: Any, other: Any) -> Any:
    rule = _ADD.get((type(one), type(other)))
    if rule is not None:
        return rule(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return add_lists(one, other)
    raise no_overload()


def negate(value: Any) -> Any:
    if type(value) is int:
        return whole(-value)
    if type(value) is float:
        return -value
    if type(value) is Duration:
        return span(-value.nanos)
    raise no_overload()


def invert(value: Any) -> bool:
    if type(value) is bool:
        return not value
    raise no_overload()


# -- looking up


def find(mapping: Mapping[Any, Any], key: Any) -> Any:
    """The value under a key, or MISSING. Numbers of any type find each other; ``true`` does not find 1."""
    kind = type(key)
    if kind is str:
        try:
            return mapping[key]
        except KeyError:
            return MISSING
    if kind not in _NUMBERS and kind is not bool:
        raise EvaluationError(NO_OVERLOAD if kind not in _PLAIN else f"unsupported key type: {type_name(key)}")
    value = mapping.get(key, MISSING)
    if value is not MISSING and any(there == key and (type(there) is bool) == (kind is bool) for there in mapping):
        return value
    return MISSING


def index(items: Sequence[Any], at: Any) -> Any:
    """The item of a list, or MISSING beyond its ends. Raises EvaluationError for what is no index."""
    kind = type(at)
    if kind is float and at.is_integer():
        at = int(at)
    elif kind is not int and kind is not Uint:
        raise EvaluationError(f"unsupported index type '{type_name(at)}' in list")
    return items[at] if 0 <= at < len(items) else MISSING


def look_up(value: Any, key: Any) -> Any:
    """``value[key]`` or MISSING; what can hold nothing has nothing."""
    if isinstance(value, Mapping):
        return find(value, key)
    if isinstance(value, list | tuple):
        return index(value, key)
    return MISSING


def missing(value: Any, key: Any) -> EvaluationError:
    if isinstance(value, list | tuple):
        return EvaluationError(f"index out of bounds: {shown(key)}")
    return EvaluationError(f"no such key: {shown(key)}")


def shown(value: Any) -> str:
    """A key as Go prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, int) else str(value)


def contains(one: Any, container: Any) -> bool:
    """``one in container``."""
    if isinstance(container, Mapping):
        return find(container, one) is not MISSING
    if isinstance(container, list | tuple):
        return any(equal(item, one) for item in container)
    raise no_overload()
