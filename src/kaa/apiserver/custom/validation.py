"""Values against an OpenAPI schema, refused in upstream's words.

The idea: a schema becomes one function of (value, path, faults), made once a version; each keyword of the schema adds one
check to it, so that a value costs only what its schema says.

Source: kube-openapi pkg/validation/validate; apiextensions-apiserver pkg/apiserver/validation (how their errors become
field errors); pkg/apiserver/schema/listtype.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from kaa.api import fields
from kaa.api.fields import FieldError, Path

from .formats import FORMATS, RANGES, known_format

Schema = Mapping[str, Any]
#: (value, path, where faults go); a root's path is empty
Check = Callable[[Any, str, list[FieldError]], None]

_LOST = 1e-9
_INT64 = 1 << 63
_EXACT = (1 << 53) - 1  # the greatest float64 that counts as an integer
_NUMBERS = ("integer", "number")
_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


def checker(schema: Schema) -> Check:
    """The check of a whole value against a schema."""
    checks = [made for make in _MAKERS if (made := make(schema)) is not None]
    wanted, nullable = schema.get("type") or "", bool(schema.get("nullable"))
    format = schema.get("format") or ""
    format = format if known_format(wanted, format) else ""
    mixed = bool(schema.get("x-kubernetes-int-or-string"))

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        if value is None and nullable:
            return
        if mixed:
            if type_of(value) not in ("integer", "string"):
                faults.append(_wrong_type(path, "integer,string", type_of(value)))
                return
        elif wanted and not _is(value, wanted):
            if not format or wanted in _NUMBERS or not isinstance(value, (str, list)):
                faults.append(_misfit(path, wanted, format, value))
            return
        for one in checks:
            one(value, path, faults)

    return check


def type_of(value: Any) -> str:
    """What OpenAPI calls a JSON value. An integer that 64 bits cannot hold is a number, as Go reads it."""
    if type(value) is int and not -_INT64 <= value < _INT64:
        return "number"
    return _NAMES.get(type(value), "null")


def _is(value: Any, wanted: str) -> bool:
    found = type_of(value)
    if wanted == "integer":
        return found == "integer" or (found == "number" and float(value).is_integer() and abs(value) <= _EXACT)
    return found == wanted or (wanted == "number" and found == "integer")


# ----------------------------------------------------------------------------------------------------------- words


def _at(path: str) -> Path:
    """Faults of the whole object stand at no field, which Go prints so."""
    return Path(path or "<nil>")


def _wrong_type(path: str, wanted: str, found: Any) -> FieldError:
    detail = f"{path} in body must be of type {wanted}: {json.dumps(found)}"
    return FieldError(fields.TYPE_INVALID, str(_at(path)), f"Invalid value: {fields.shown(found)}: {detail}")


def _misfit(path: str, wanted: str, format: str, value: Any) -> FieldError:
    """A value of another type. Upstream speaks of the format in place of the type, but to texts, lists and nulls."""
    if format and value is not None and not isinstance(value, (str, list)):
        return _wrong_type(path, format, {"integer": "int64", "number": "float64"}.get(type_of(value), ""))
    return _wrong_type(path, wanted, type_of(value))


def _bad(path: str, value: Any, words: str) -> FieldError:
    return fields.invalid(_at(path), value, f"{path} in body {words}")


def number(value: float) -> str:
    """As Go prints a float64: whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e21 else f"{value:g}"


# ---------------------------------------------------------------------------------------------- one maker a keyword


def _alternatives(schema: Schema) -> Check | None:
    any_of = [checker(one) for one in schema.get("anyOf") or ()]
    one_of = [checker(one) for one in schema.get("oneOf") or ()]
    all_of = [checker(one) for one in schema.get("allOf") or ()]
    without = checker(schema["not"]) if schema.get("not") else None
    if not (any_of or one_of or all_of or without):
        return None

    def tried(checks: list[Check], value: Any, path: str) -> list[list[FieldError]]:
        found: list[list[FieldError]] = []
        for one in checks:
            mine: list[FieldError] = []
            one(value, path, mine)
            found.append(mine)
        return found

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        def refuse(words: str) -> None:
            faults.append(fields.invalid(Path("<nil>"), "", f'"{path}" {words}'))

        if any_of:
            results = tried(any_of, value, path)
            if all(results):
                refuse("must validate at least one schema (anyOf)")
                faults.extend(sorted(results, key=len)[0])
        if one_of:
            results = tried(one_of, value, path)
            matches = sum(not result for result in results)
            if not matches:
                refuse("must validate one and only one schema (oneOf). Found none valid")
                faults.extend(sorted(results, key=len)[0])
            elif matches > 1:
                refuse(f"must validate one and only one schema (oneOf). Found {matches} valid alternatives")
        if all_of:
            results = tried(all_of, value, path)
            if any(results):
                faults.extend(fault for result in results for fault in result)
                refuse("must validate all the schemas (allOf)")
        if without is not None and not tried([without], value, path)[0]:
            refuse("must not validate the schema (not)")

    return check


def _string(schema: Schema) -> Check | None:
    longest, least, pattern = schema.get("maxLength"), schema.get("minLength"), schema.get("pattern")
    if longest is None and least is None and not pattern:
        return None
    matches = _matcher(pattern) if pattern else None

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        if not isinstance(value, str):
            return
        if longest is not None and len(value) > longest:
            faults.append(fields.too_long(_at(path), longest))
        if least is not None and len(value) < least:
            faults.append(_bad(path, value, f"should be at least {least} chars long"))
        if matches is not None and not matches(value):
            faults.append(_bad(path, value, f"should match '{pattern}'"))

    return check


def _matcher(pattern: str) -> Callable[[str], bool]:
    from kaa.api.cel.regex import matcher  # only definitions with patterns pay for it

    return matcher(pattern)


def _format(schema: Schema) -> Check | None:
    name = schema.get("format") or ""
    fits = FORMATS.get(name.replace("-", ""))
    if fits is None or (schema.get("type") or "string") != "string":
        return None

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        if isinstance(value, str) and not fits(value):
            faults.append(_wrong_type(path, name, value))

    return check


def _is_whole(value: float) -> bool:
    """Whether a quotient is a whole number, but for what floating point loses."""
    nearest = float(math.trunc(value)) if math.isfinite(value) else value
    return value == nearest or (nearest != 0 and abs(value - nearest) / (abs(value) + abs(nearest)) < _LOST)


def _number(schema: Schema) -> Check | None:
    least, most, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    type, format = schema.get("type") or "", schema.get("format") or ""
    held = RANGES.get((type, format))
    if least is None and most is None and step is None and held is None:
        return None
    above, below = bool(schema.get("exclusiveMinimum")), bool(schema.get("exclusiveMaximum"))

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return

        def hold(what: str, given: float) -> None:
            """The value, and each bound of it, must be of the format."""
            if held is not None and not (held[0] <= given <= held[1] and (type == "number" or given == int(given))):
                words = f"{what} value must be of type {type} with format {format} in {path}"
                faults.append(fields.invalid(Path("<nil>"), "", words))

        hold("Checked", value)
        if step is not None:
            hold("MultipleOf", step)
            if not _is_whole(value / step if step >= 1 else 1 / step * value):
                faults.append(_bad(path, value, f"should be a multiple of {number(step)}"))
        if most is not None:
            hold("Maximum boundary", most)
            if value >= most if below else value > most:
                words = "should be less than" if below else "should be less than or equal to"
                faults.append(_bad(path, value, f"{words} {number(most)}"))
        if least is not None:
            hold("Minimum boundary", least)
            if value <= least if above else value < least:
                words = "should be greater than" if above else "should be greater than or equal to"
                faults.append(_bad(path, value, f"{words} {number(least)}"))

    return check


def _list(schema: Schema) -> Check | None:
    items = schema.get("items")
    item = checker(items) if isinstance(items, Mapping) else None
    least, most = schema.get("minItems"), schema.get("maxItems")
    if item is None and least is None and most is None:
        return None

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        if not isinstance(value, list):
            return
        if item is not None:
            for n, inner in enumerate(value):
                item(inner, f"{path}[{n}]", faults)
        if least is not None and len(value) < least:
            faults.append(_bad(path, value, f"should have at least {least} items"))
        if most is not None and len(value) > most:
            faults.append(fields.too_many(_at(path), len(value), most))

    return check


def _enum(schema: Schema) -> Check | None:
    known = schema.get("enum")
    if not known:
        return None

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in known):
            faults.append(fields.not_supported(_at(path), value, [_word(one) for one in known]))

    return check


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _map(schema: Schema) -> Check | None:
    known = {name: checker(inner) for name, inner in (schema.get("properties") or {}).items()}
    more = schema.get("additionalProperties")
    other = checker(more) if isinstance(more, Mapping) else None
    required = tuple(schema.get("required") or ())
    least, most = schema.get("minProperties"), schema.get("maxProperties")
    if not (known or other or required) and least is None and most is None:
        return None

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        if not isinstance(value, Mapping):
            return
        dot = f"{path}." if path else ""
        if least is not None and len(value) < least:
            faults.append(_bad(path, value, f"should have at least {least} properties"))
        if most is not None and len(value) > most:
            faults.append(fields.too_many(_at(path), len(value), most))
        for name in required:
            if name not in value:
                faults.append(fields.required(Path(f"{dot}{name}")))
        for name, inner in value.items():
            one = known.get(name, other)
            if one is not None:
                one(inner, f"{dot}{name}", faults)

    return check


_MAKERS: tuple[Callable[[Schema], Check | None], ...] = (
    _alternatives,
    _string,
    _format,
    _number,
    _list,
    _enum,
    _map,
)


# ----------------------------------------------------------------------------------------------------------- lists


def list_checker(schema: Schema) -> Check | None:
    """The check that items of sets and keyed lists are told apart; None where a schema has no such list."""
    below = [
        (name, made)
        for name, inner in (schema.get("properties") or {}).items()
        if (made := list_checker(inner)) is not None
    ]
    more, items = schema.get("additionalProperties"), schema.get("items")
    other = list_checker(more) if isinstance(more, Mapping) else None
    item = list_checker(items) if isinstance(items, Mapping) else None
    kind, keys = schema.get("x-kubernetes-list-type"), tuple(schema.get("x-kubernetes-list-map-keys") or ())
    told_apart = kind in ("set", "map")
    if not (below or other or item or told_apart):
        return None

    def check(value: Any, path: str, faults: list[FieldError]) -> None:
        if isinstance(value, Mapping):
            dot = f"{path}." if path else ""
            for name, one in below:
                if name in value:
                    one(value[name], f"{dot}{name}", faults)
            if other is not None:
                for name, inner in value.items():
                    other(inner, f"{dot}{name}", faults)
        elif isinstance(value, list):
            if told_apart:
                faults.extend(_twins(value, path, keys if kind == "map" else ()))
            if item is not None:
                for n, inner in enumerate(value):
                    item(inner, f"{path}[{n}]", faults)

    return check


def _twins(items: list[Any], path: str, keys: tuple[str, ...]) -> list[FieldError]:
    found, seen = [], set()
    for n, item in enumerate(items):
        if keys and not isinstance(item, Mapping):
            continue
        shown = {key: item[key] for key in keys if item.get(key) is not None} if keys else item
        word = json.dumps(shown, sort_keys=True)
        if word in seen:
            found.append(fields.duplicate(Path(f"{path}[{n}]"), shown))
        seen.add(word)
    return found
