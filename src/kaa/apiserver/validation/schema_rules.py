"""``x-kubernetes-validations``: the rules of a schema, compiled once a version and run on each write.

A rule speaks of the value at its place as ``self``, and of what stood there before as ``oldSelf``. One that names
``oldSelf`` runs only on updates of what can be found again: fields, keys of maps, items of keyed lists.

Source: apiextensions-apiserver pkg/apiserver/schema/cel; KEP-2876.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kaa.api import fields
from kaa.api.cel import BOOL, STRING, CompileError, CostExceeded, Environment, EvaluationError, Program, limits
from kaa.api.cel.schema import Converter, converter, max_cardinality, type_of_schema
from kaa.api.cel.types import OptionalType
from kaa.api.cel.values import NOTHING, OptionalValue
from kaa.api.fields import FieldError, Path

from .common import same

Schema = Mapping[str, Any]
NOT_CHECKED = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"
OUT_OF_BUDGET = "validation failed due to running out of cost budget, no further validation rules will be run"
ABSENT: Any = object()
_REASONS = {
    "FieldValueInvalid": fields.INVALID,
    "FieldValueForbidden": fields.FORBIDDEN,
    "FieldValueRequired": fields.REQUIRED,
    "FieldValueDuplicate": fields.DUPLICATE,
}


@dataclass(slots=True)
class Rule:
    """One rule. ``program`` is None when it does not compile: definitions are refused then, so only old ones have such."""

    given: Schema
    program: Program | None
    message: Program | None
    transition: bool
    optional_old: bool
    error: str = ""
    message_error: str = ""

    @property
    def text(self) -> str:
        return str(self.given.get("rule") or "").strip()


class Place:
    """The rules at one place of a schema, and the places below it."""

    __slots__ = ("_convert", "_embedded", "_keys", "_kind", "additional", "items", "properties", "rules")

    def __init__(self, schema: Schema, *, root: bool = False) -> None:
        embedded = root or bool(schema.get("x-kubernetes-embedded-resource"))
        given = schema.get("x-kubernetes-validations") or ()
        self.rules = [_compiled(one, schema, embedded) for one in given]
        self._convert: Converter | None = converter(schema, root=embedded) if self.rules else None
        self._embedded = embedded
        self.properties = {
            name: place for name, inner in (schema.get("properties") or {}).items() if (place := place_of(inner))
        }
        more, items = schema.get("additionalProperties"), schema.get("items")
        self.additional = place_of(more) if isinstance(more, Mapping) else None
        self.items = place_of(items) if isinstance(items, Mapping) else None
        self._kind = schema.get("x-kubernetes-list-type")
        self._keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())

    def __bool__(self) -> bool:
        return bool(self.rules or self.properties or self.additional or self.items)

    def faults(self, value: Any, old: Any, path: str, budget: Budget) -> Iterator[FieldError]:
        """What the rules here and below say of a value. ``old`` is ``ABSENT`` where nothing can be compared."""
        if value is None or budget.spent:
            return
        yield from self._own(value, old, path, budget)
        if isinstance(value, Mapping):
            before = old if isinstance(old, Mapping) else {}
            dot = f"{path}." if path else ""
            for name, inner in value.items():
                place = self.properties.get(name, self.additional)
                if place is not None:
                    yield from place.faults(inner, before.get(name, ABSENT), f"{dot}{name}", budget)
        elif isinstance(value, list) and self.items is not None:
            known = self._by_key(old)
            for n, item in enumerate(value):
                yield from self.items.faults(item, known.get(self._key(item), ABSENT), f"{path}[{n}]", budget)

    def _key(self, item: Any) -> tuple[Any, ...]:
        return tuple(str(item.get(key)) for key in self._keys) if isinstance(item, Mapping) else ()

    def _by_key(self, old: Any) -> dict[tuple[Any, ...], Any]:
        """The items that stood, where they can be told apart."""
        return {self._key(item): item for item in old} if self._kind == "map" and isinstance(old, list) else {}

    def _own(self, value: Any, old: Any, path: str, budget: Budget) -> Iterator[FieldError]:
        if not self.rules:
            return
        try:
            seen = value if self._convert is None else self._convert(value)
            before = old if self._convert is None or old is ABSENT or old is None else self._convert(old)
        except EvaluationError as err:
            yield fields.invalid(_at(path), value, str(err))
            return
        known = before is not ABSENT and before is not None
        unchanged = known and same(value, old)
        for rule in self.rules:
            if rule.transition and not known and not rule.optional_old:
                continue
            if unchanged and not rule.transition:
                continue  # it stands as it stood
            values = {"self": seen}
            if rule.optional_old:
                values["oldSelf"] = OptionalValue(before) if known else NOTHING
            elif known:
                values["oldSelf"] = before
            yield from _broken(rule, values, path, value, budget)
            if budget.spent:
                return


def place_of(schema: Schema, *, root: bool = False) -> Place | None:
    """The rules of a schema; None where it has none."""
    made = Place(schema, root=root)
    return made if made else None


@dataclass(slots=True)
class Budget:
    """The cost that all rules over one object may come to."""

    left: int = limits.PER_OBJECT
    spent: bool = False

    def charge(self, cost: int) -> None:
        self.left -= cost
        self.spent = self.spent or self.left < 0


def _at(path: str) -> Path:
    return Path(path or "<nil>")


def _broken(rule: Rule, values: Mapping[str, Any], path: str, value: Any, budget: Budget) -> Iterator[FieldError]:
    """At most one fault of one rule. ``value`` is what the rule looks at, as faults show it."""
    if rule.program is None:
        yield _omitted(fields.INVALID, path, f"rule compile error: {rule.error}")
        return
    allowed = min(limits.PER_CALL, budget.left)
    try:
        result = rule.program.evaluate(values, allowed)
    except EvaluationError as err:
        budget.charge(err.cost)
        if isinstance(err, CostExceeded):
            over = err.cost > budget.left + err.cost
            budget.spent = True
            text = (
                OUT_OF_BUDGET
                if over
                else f"'{err}': no further validation rules will be run due to call cost exceeds limit for rule: {_named(rule)}"
            )
            yield _omitted(fields.INVALID, path, text)
        elif str(err).startswith("no such overload"):
            text = f"'{err}': call arguments did not match a supported operator, function or macro signature for rule: {_named(rule)}"
            yield _omitted(fields.INVALID, path, text)
        else:
            yield _omitted(fields.INVALID, path, f"{err} evaluating rule: {_named(rule)}")
        return
    budget.charge(result.cost)
    if budget.spent:
        yield _omitted(fields.INVALID, path, OUT_OF_BUDGET)
    elif result.value is not True:
        kind = _REASONS.get(str(rule.given.get("reason") or ""), fields.INVALID)
        where = path + str(rule.given.get("fieldPath") or "")
        yield _failed(kind, where if path else where.removeprefix("."), value, _message(rule, values, budget))


def _failed(kind: str, path: str, value: Any, message: str) -> FieldError:
    """A rule's no. Objects and lists are not shown, for they may be large."""
    if kind == fields.DUPLICATE:
        whole = isinstance(value, (Mapping, list))
        return FieldError(kind, str(_at(path)), "Duplicate value") if whole else fields.duplicate(_at(path), value)
    if kind == fields.INVALID and not isinstance(value, (Mapping, list)):
        return fields.invalid(_at(path), value, message)
    return _omitted(kind, path, message)


def _named(rule: Rule) -> str:
    """The rule as errors speak of it: its message, else its text."""
    return str(rule.given.get("message") or "").strip() or rule.text


def _message(rule: Rule, values: Mapping[str, Any], budget: Budget) -> str:
    fallback = str(rule.given.get("message") or "").strip() or f"failed rule: {rule.text}"
    if rule.message is None:
        return fallback
    try:
        made = rule.message.evaluate(values, min(limits.PER_CALL, max(budget.left, 0)))
    except EvaluationError as err:
        budget.charge(err.cost)
        return fallback
    budget.charge(made.cost)
    text = made.value.strip() if isinstance(made.value, str) else ""
    return text if text and "\n" not in text and len(text.encode()) <= limits.MESSAGE_SIZE else fallback


def _omitted(kind: str, path: str, message: str) -> FieldError:
    """A fault that does not show its value."""
    heads = {
        fields.INVALID: "Invalid value",
        fields.FORBIDDEN: "Forbidden",
        fields.REQUIRED: "Required value",
    }
    return FieldError(kind, str(_at(path)), f"{heads[kind]}: {message}")


# -------------------------------------------------------------------------------------------------------- compiling


def _compiled(given: Schema, schema: Schema, embedded: bool) -> Rule:
    optional = bool(given.get("optionalOldSelf"))
    kind = type_of_schema(schema, root=embedded)
    if kind is None:
        return Rule(given, None, None, False, optional, "this schema cannot be validated by rules")
    environment = Environment({"self": kind, "oldSelf": OptionalType(kind) if optional else kind})
    rule = Rule(given, None, None, False, optional)
    try:
        rule.program = environment.compile(str(given.get("rule") or ""), BOOL)
        rule.transition = "oldSelf" in rule.program.references
    except CompileError as err:
        rule.error = f"compilation failed: {err}"
    if given.get("messageExpression"):
        try:
            rule.message = environment.compile(str(given["messageExpression"]), STRING)
        except CompileError as err:
            rule.message_error = f"messageExpression compilation failed: {err}"
    return rule


# ----------------------------------------------------------------------------------------------- rules of definitions


def rule_faults(schema: Schema, path: Path, *, root: bool = True) -> list[FieldError]:
    """What is wrong with the rules of a definition's schema: they do not compile, or may cost too much."""
    found: list[FieldError] = []
    total = _Total()
    _check(schema, path, 1, root, found, total)
    if total.cost > limits.CRD_ESTIMATE:
        factor = _factor(total.cost, limits.CRD_ESTIMATE)
        for at, _ in sorted(total.each, key=lambda one: -one[1])[:4]:
            detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            found.append(fields.forbidden(at, detail))
        detail = f"x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
        found.append(fields.forbidden(path, detail))
    return found


class _Total:
    def __init__(self) -> None:
        self.cost = 0
        self.each: list[tuple[Path, int]] = []


def _factor(cost: int, limit: int) -> str:
    times = cost / limit
    if times > 100:
        return "more than 100x"
    return f"{times:.6f}x" if times < 1.5 else f"{times:.1f}x"  # never "by factor of 1.0x"


def _check(
    schema: Schema,
    path: Path,
    count: int,
    root: bool,
    found: list[FieldError],
    total: _Total,
    lost: Path | None = None,
) -> None:
    """``count`` is how often a value may stand at this place; ``lost`` from where on what stood before cannot be found."""
    embedded = root or bool(schema.get("x-kubernetes-embedded-resource"))
    for n, given in enumerate(schema.get("x-kubernetes-validations") or ()):
        at = path.child("x-kubernetes-validations").index(n)
        _check_rule(given, schema, embedded, at, count, found, total, lost)
    inside = lost or (path if schema.get("x-kubernetes-map-type") == "atomic" else None)
    for name, inner in (schema.get("properties") or {}).items():
        _check(inner, path.child("properties").key(name), count, False, found, total, inside)
    more, items = schema.get("additionalProperties"), schema.get("items")
    if isinstance(more, Mapping):
        most = schema.get("maxProperties") or max_cardinality(more)
        _check(more, path.child("additionalProperties"), count * most, False, found, total, lost)
    if isinstance(items, Mapping):
        most = schema.get("maxItems") or max_cardinality(items)
        inside = lost or (None if schema.get("x-kubernetes-list-type") == "map" else path)
        _check(items, path.child("items"), count * most, False, found, total, inside)


def _check_rule(
    given: Schema,
    schema: Schema,
    embedded: bool,
    at: Path,
    count: int,
    found: list[FieldError],
    total: _Total,
    lost: Path | None,
) -> None:
    if not str(given.get("rule") or "").strip():
        found.append(fields.required(at.child("rule"), "rule is not specified"))
        return
    rule = _compiled(given, schema, embedded)
    if rule.program is not None:
        _count(rule.program, "rule", at.child("rule"), count, found, total)
    else:
        found.append(FieldError(fields.INVALID, str(at.child("rule")), f"Invalid value: {_go(given)}: {rule.error}"))
    if rule.message is not None:
        _count(rule.message, "messageExpression", at.child("messageExpression"), 1, found, total)
    elif rule.message_error:
        where = at.child("messageExpression")
        found.append(FieldError(fields.INVALID, str(where), f"Invalid value: {_go(given)}: {rule.message_error}"))
    if rule.transition and lost is not None:
        detail = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}"
        found.append(fields.invalid(at.child("rule"), given["rule"], detail))
    elif rule.program is not None and not rule.transition and given.get("optionalOldSelf") is not None:
        detail = "may not be set if oldSelf is not used in rule"
        found.append(fields.invalid(at.child("optionalOldSelf"), given["optionalOldSelf"], detail))


def _count(program: Program, what: str, at: Path, count: int, found: list[FieldError], total: _Total) -> None:
    """Add what a program may cost to the whole, and refuse it when that alone is too much."""
    cost = program.estimate().maximum * count
    total.cost += cost
    total.each.append((at, cost))
    if cost > limits.CRD_RULE_ESTIMATE:
        factor = _factor(cost, limits.CRD_RULE_ESTIMATE)
        detail = f"estimated {what} cost exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
        found.append(fields.forbidden(at, detail))


def _go(given: Schema) -> str:
    """A rule as Go's %#v shows it."""

    def text(name: str) -> str:
        return fields.shown(str(given.get(name) or ""))

    reason = (
        "(*apiextensions.FieldValueErrorReason)(nil)"
        if not given.get("reason")
        else "(*apiextensions.FieldValueErrorReason)(0x0)"
    )
    old = "(*bool)(nil)" if given.get("optionalOldSelf") is None else "(*bool)(0x0)"
    return (
        f"apiextensions.ValidationRule{{Rule:{text('rule')}, Message:{text('message')},"
        f" MessageExpression:{text('messageExpression')}, Reason:{reason}, FieldPath:{text('fieldPath')},"
        f" OptionalOldSelf:{old}}}"
    )
