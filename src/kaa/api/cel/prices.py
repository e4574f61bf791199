"""What a call may cost, by what is known of its arguments' sizes: the foresight to what `costs` counts afterwards.

Source: apiserver pkg/cel/library/cost.go (EstimateCallCost); cel-go checker/cost.go, ext/lists.go, ext/sets.go.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Protocol

from .costs import CHECK, COMPARING, LIST, ONE_EACH, REGEX_FACTOR, STRING_FACTOR, STRUCT
from .ranges import ONE, UNKNOWN, UNLIMITED, ZERO, Operand, Path, Priced, Range, fixed
from .syntax import Literal
from .types import Kind, Type


class Promises(Protocol):
    def promised(self, path: Path, type_of_value: Type) -> Range | None: ...


class Known:
    """A call to be priced: its target and arguments, and the sizes of these."""

    def __init__(self, promises: Promises, overload: str, target: Operand | None, arguments: list[Operand]) -> None:
        self.promises = promises
        self.overload = overload
        self.target = target
        self.arguments = arguments

    def size(self, operand: Operand) -> Range:
        return operand.size or self.promises.promised(operand.path, operand.type) or UNKNOWN

    def target_size(self) -> Range:
        return UNKNOWN if self.target is None else self.size(self.target)

    def argument(self, at: int) -> Range:
        return self.size(self.arguments[at])

    def first(self) -> Range:
        """Of the target, or the first argument where the function has none."""
        return self.argument(0) if self.target is None else self.target_size()

    def element(self) -> Operand | None:
        """An item of the target, where that has items."""
        target = self.target
        if target is None or not target.type.parameters:
            return None
        path = (*target.path, "@items") if target.path else ()
        return Operand(None, target.type.parameters[0], path, None)


Pricing = Callable[[Known], Priced | None]


def price(promises: Promises, function: str, overload: str, target: Operand | None, arguments: list[Operand]) -> Priced:
    """The cost of the call itself."""
    known = Known(promises, overload, target, arguments)
    for table, key in ((_OWN, overload), (_BY_NAME, function), (_BY_OVERLOAD, overload)):
        pricing = table.get(key)
        found = None if pricing is None else pricing(known)
        if found is not None:
            return found
    return Priced(ONE)


def _fixed(cost: int) -> Pricing:
    return lambda known: Priced(fixed(cost))


def _traversal(*, factor: float = STRING_FACTOR, sized: bool = False) -> Pricing:
    """Looking at the target (or the argument of a function that has none)."""

    def pricing(known: Known) -> Priced | None:
        if known.target is None and not known.arguments:
            return None
        size = known.first()
        return Priced(size.scaled(factor), size if sized else None)

    return pricing


def _parse_argument(known: Known) -> Priced | None:
    if not known.arguments:
        return None
    return Priced(known.argument(0).scaled(STRING_FACTOR))


def _selector(known: Known) -> Priced | None:
    if len(known.arguments) != 1:
        return None
    length = known.argument(0)
    requirements = length.scaled(0.5).scaled(float(LIST + STRUCT))
    return Priced(fixed(LIST).plus(length.scaled(STRING_FACTOR)).plus(requirements))


def _over_items(known: Known) -> Priced | None:
    if known.target is None:
        return None
    element = known.element()
    if element is None:
        return Priced(known.target_size().scaled(STRING_FACTOR))
    each = ONE
    if element.type.kind in (Kind.STRING, Kind.BYTES):
        each = each.plus(known.size(element).scaled(STRING_FACTOR))
    return Priced(known.target_size().times(each))


def _replace(known: Known) -> Priced | None:
    if known.target is None or len(known.arguments) < 2:
        return None
    size, old, new = known.target_size(), known.argument(0), known.argument(1)
    most, kept_most = _replaced(size.high, old.low, longest=new.high <= old.low)
    least, kept_least = _replaced(size.low, old.high, longest=old.high <= new.low)
    result = Range(least, most).times(new).plus(Range(kept_least, kept_most))
    return Priced(size.scaled(2 * STRING_FACTOR), result)


def _replaced(size: int, old: int, *, longest: bool) -> tuple[int, int]:
    """How often something of a length is replaced in a text at this extreme, and how much of the text stays."""
    if old == 0:
        return min(size + 1, UNLIMITED), size
    if longest:
        return 0, size
    return ceil(float(size) / float(old)), 0


def _split(known: Known) -> Priced | None:
    if known.target is None:
        return None
    size = known.target_size()
    most = size.high
    if len(known.arguments) > 1:
        limit = known.arguments[1].node
        if isinstance(limit, Literal) and type(limit.value) is int:
            most = limit.value % 2**64
    return Priced(size.scaled(2 * STRING_FACTOR), Range(0, most))


def _join(known: Known) -> Priced | None:
    if known.target is None:
        return None
    count = known.target_size()
    size = ZERO
    element = known.element()
    if element is not None:
        size = count.times(known.size(element))
    if known.arguments:
        gaps = Range(max(count.low - 1, 0), max(count.high - 1, 0))
        size = size.plus(known.argument(0).times(gaps))
    return Priced(size.scaled(STRING_FACTOR), size)


def _search(known: Known) -> Priced | None:
    if known.target is None or not known.arguments:
        return None
    size = known.target_size()
    cost = size.plus(ONE).scaled(STRING_FACTOR).times(known.argument(0).scaled(REGEX_FACTOR))
    return Priced(cost, Range(0, size.high))


def _ip(known: Known) -> Priced | None:
    if known.target is not None and not known.arguments:
        return Priced(ONE)
    return _parse_argument(known)


def _is_canonical(known: Known) -> Priced | None:
    return Priced(known.argument(0).scaled(2 * STRING_FACTOR)) if known.arguments else None


_ADDRESS = Range(4, 16)


def _contains_ip(known: Known) -> Priced | None:
    if known.target is None or not known.arguments:
        return None
    cost = _ADDRESS.plus(_ADDRESS).scaled(STRING_FACTOR)
    if known.overload == "cidr_contains_ip_string":
        cost = cost.plus(known.argument(0).scaled(STRING_FACTOR))
    return Priced(cost)


def _contains_cidr(known: Known) -> Priced | None:
    if known.target is None or not known.arguments:
        return None
    cost = _ADDRESS.plus(_ADDRESS).scaled(STRING_FACTOR).plus(_ADDRESS.scaled(STRING_FACTOR)).plus(ONE)
    if known.overload == "cidr_contains_cidr_string":
        cost = cost.plus(known.argument(0).scaled(STRING_FACTOR))
    return Priced(cost)


_LONGEST_REGEX = 128


def _validate(known: Known) -> Priced | None:
    if known.target is None:
        return None
    return Priced(known.argument(0).scaled(STRING_FACTOR).scaled(_LONGEST_REGEX * REGEX_FACTOR))


_UNIT_TYPES = frozenset(
    (
        "net.IP net.CIDR kubernetes.Quantity kubernetes.Semver kubernetes.authorization.Authorizer"
        " kubernetes.authorization.PathCheck kubernetes.authorization.GroupCheck"
        " kubernetes.authorization.ResourceCheck kubernetes.authorization.Decision"
    ).split()
)


def _equals(known: Known) -> Priced | None:
    """Kubernetes' own types."""
    one, other = known.arguments
    if one.type != other.type:
        return None
    if one.type.name in _UNIT_TYPES:
        return Priced(ONE)
    if one.type.name == "kubernetes.NamedFormat":
        return Priced(Range(1, 64).scaled(STRING_FACTOR))
    if one.type.name == "kubernetes.URL":
        return Priced(Range(1, 1 if other.size is None else other.size.high).scaled(STRING_FACTOR))
    return None


# -- cel-go's


def _bytes_of(known: Known) -> Priced:
    size = known.argument(0)
    return Priced(size.scaled(STRING_FACTOR), Range(size.low, size.high * 4 % 2**64))


def _text_of(known: Known) -> Priced:
    size = known.argument(0)
    return Priced(size.scaled(STRING_FACTOR), Range(size.low // 4, size.high))


def _quote(known: Known) -> Priced:
    size = known.argument(0)
    return Priced(size.scaled(STRING_FACTOR), Range(size.low + 2, (size.high * 2 + 2) % 2**64))


def _by_argument(known: Known) -> Priced:
    """`startsWith` and `endsWith`: as long as what is looked for."""
    return Priced(known.argument(0).scaled(STRING_FACTOR))


def _in_list(known: Known) -> Priced:
    return Priced(known.argument(1).scaled(1))


def _matches(known: Known) -> Priced:
    text = known.target_size().plus(ONE).scaled(STRING_FACTOR)
    return Priced(text.times(known.argument(0).scaled(REGEX_FACTOR)))


def _contains(known: Known) -> Priced:
    return Priced(known.target_size().scaled(STRING_FACTOR).times(known.argument(0).scaled(STRING_FACTOR)))


def _add(known: Known) -> Priced:
    size = known.argument(0).plus(known.argument(1))
    return Priced(size.scaled(STRING_FACTOR), size)


def _add_list(known: Known) -> Priced:
    return Priced(ONE, known.argument(0).plus(known.argument(1)))


def _compare(known: Known) -> Priced:
    least = min(known.argument(0).high, known.argument(1).high)
    return Priced(Range(1 if least > 0 else 0, least).scaled(STRING_FACTOR))


def _format(known: Known) -> Priced | None:
    return None if known.target is None else Priced(known.target_size().scaled(STRING_FACTOR))


# -- lists and sets


def _allocating(factor: float, size: Range) -> Priced:
    return Priced(size.scaled(factor).plus(ONE).plus(fixed(LIST)), size)


def _whole(operand: Operand, otherwise: int) -> int:
    node = operand.node
    if isinstance(node, Literal) and type(node.value) is int and node.value >= 0:
        return node.value
    return otherwise


def _slice(known: Known) -> Priced:
    start = _whole(known.arguments[0], 0)
    end = _whole(known.arguments[1], known.target_size().high)
    return _allocating(1, fixed((end - start) % 2**64))


def _range(known: Known) -> Priced:
    return _allocating(1, fixed(_whole(known.arguments[0], UNLIMITED)))


def _flatten(known: Known) -> Priced:
    depth = _whole(known.arguments[0], UNLIMITED) if known.arguments else 1
    return _allocating(float(depth), known.target_size())


def _squared(size: Range, *, text: bool = False) -> Priced:
    return _allocating(2.0 + STRING_FACTOR if text else 2.0, size.times(size))


def _pairwise(factor: int) -> Pricing:
    return lambda known: Priced(known.argument(0).times(known.argument(1)).scaled(factor).plus(ONE))


_SORTED = ("int", "uint", "double", "bool", "google.protobuf.Duration", "google.protobuf.Timestamp", "string", "bytes")


def _sort(*, text: bool) -> Pricing:
    return lambda known: _squared(known.target_size(), text=text)


def _sort_by(*, text: bool) -> Pricing:
    return lambda known: _squared(known.argument(0), text=text)


def _sorting() -> dict[str, Pricing]:
    found: dict[str, Pricing] = {}
    for name in _SORTED:
        text = name in ("string", "bytes")
        found[f"list_{name}_sort"] = _sort(text=text)
        found[f"list_{name}_sortByAssociatedKeys"] = _sort_by(text=text)
    return found


#: {overload: pricing} of libraries that bring their own
_OWN: dict[str, Pricing] = {
    "list_slice": _slice,
    "list_flatten": _flatten,
    "list_flatten_int": _flatten,
    "lists_range": _range,
    "list_reverse": lambda known: _allocating(1, known.target_size()),
    "list_distinct": lambda known: _squared(known.target_size()),
    **_sorting(),
    "list_sets_contains_list": _pairwise(1),
    "list_sets_intersects_list": _pairwise(1),
    "list_sets_equivalent_list": _pairwise(2),
}
_BY_NAME: dict[str, Pricing] = {
    **dict.fromkeys(ONE_EACH, _fixed(1)),
    "check": _fixed(CHECK),
    **dict.fromkeys(("fieldSelector", "labelSelector"), _selector),
    **dict.fromkeys("isSorted sum max min indexOf lastIndexOf".split(), _over_items),
    **dict.fromkeys("url jsonpatch.escapeKey lowerAscii upperAscii substring trim".split(), _traversal(sized=True)),
    "replace": _replace,
    "split": _split,
    "join": _join,
    **dict.fromkeys(("find", "findAll"), _search),
    **dict.fromkeys("cidr isIP isCIDR quantity isQuantity semver isSemver".split(), _parse_argument),
    "ip": _ip,
    "ip.isCanonical": _is_canonical,
    "containsIP": _contains_ip,
    "containsCIDR": _contains_cidr,
    "validate": _validate,
    "_==_": _equals,
}
_BY_OVERLOAD: dict[str, Pricing] = {
    "string_format": _format,
    "string_to_bytes": _bytes_of,
    "bytes_to_string": _text_of,
    "strings_quote": _quote,
    "starts_with_string": _by_argument,
    "ends_with_string": _by_argument,
    "in_list": _in_list,
    "matches_string": _matches,
    "contains_string": _contains,
    "add_string": _add,
    "add_bytes": _add,
    "add_list": _add_list,
    **dict.fromkeys(
        COMPARING,
        _compare,
    ),
}
