"""Strategic merge patch: a merge that knows lists.

A list with a merge key merges item by item, a set merges by value, any other list is replaced. Directives change that:
``$patch: delete|replace|merge``, ``$deleteFromPrimitiveList/<field>``, ``$setElementOrder/<field>``, ``$retainKeys``.
Which list has which key is a fact of the API (``api.types.facts``).

Source: community "Strategic Merge Patch"; apimachinery pkg/util/strategicpatch.
"""

from __future__ import annotations

from typing import Any

from kaa.api import scheme
from kaa.api.errors import BadRequest
from kaa.api.types.facts import MERGE, Merge

DIRECTIVE = "$patch"
DELETE_FROM = "$deleteFromPrimitiveList/"
ORDER = "$setElementOrder/"
RETAIN = "$retainKeys"
Json = dict[str, Any]


def strategic_merge(document: Json, patch: Json, struct: type) -> Json:
    """The patched document; the one given stays as it was. ``struct`` is the type that both are of.

    Raises: BadRequest: a directive that there is none of, or an item of a keyed list without its key.
    """
    return _merge_map(document, patch, struct)


def facts_of(struct: type | None) -> dict[str, Merge]:
    """{wire name: how it merges} of a Struct."""
    if struct is None:
        return {}
    return MERGE.get(f"{struct.__module__.rsplit('.', 1)[1]}.{struct.__name__}", {})


def _inner(struct: type | None, field: str) -> type | None:
    known = scheme.field_types(struct).get(field) if struct is not None else None
    return scheme.struct_in(known[1]) if known else None


def _directive(patch: Json) -> str:
    directive = patch.get(DIRECTIVE, "merge")
    if directive not in ("merge", "replace", "delete"):
        raise BadRequest(f"unknown patch type: {directive} in map: map[{DIRECTIVE}:{directive}]")
    return str(directive)


def _merge_map(document: Json, patch: Json, struct: type | None) -> Json:
    directive = _directive(patch)
    if directive == "delete":
        return {}
    if directive == "replace":
        return _without_directives({key: value for key, value in patch.items() if key != DIRECTIVE})
    merged: Json = dict(document)
    retained = patch.get(RETAIN)
    if retained is not None:
        if not isinstance(retained, list):
            raise BadRequest(f"{RETAIN} must be a list of field names")
        merged = {key: value for key, value in merged.items() if key in retained}
    facts = facts_of(struct)
    for key, value in patch.items():
        if key in (DIRECTIVE, RETAIN) or key.startswith((DELETE_FROM, ORDER)):
            continue
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merge_value(merged.get(key), value, facts.get(key), _inner(struct, key))
        elif isinstance(value, list):
            order = patch.get(ORDER + key)
            merged[key] = _merge_list(merged.get(key), value, facts.get(key), _inner(struct, key), order)
        else:
            merged[key] = value
    _delete_from_sets(merged, patch)
    _reorder_untouched(merged, patch, facts)
    return merged


def _merge_value(old: Any, patch: Json, fact: Merge | None, struct: type | None) -> Json:
    if fact is not None and "replace" in fact.patch_strategy:
        return _without_directives(patch)
    return _merge_map(old if isinstance(old, dict) else {}, patch, struct)


def _merge_list(old: Any, patch: list[Any], fact: Merge | None, struct: type | None, order: Any) -> list[Any]:
    old_items: list[Any] = old if isinstance(old, list) else []
    if fact is None or "merge" not in fact.patch_strategy:
        return _without_list_directives(patch)
    if not fact.patch_key:
        merged = old_items + [item for item in patch if item not in old_items]
        merged = list(dict.fromkeys(merged)) if all(isinstance(item, (str, int)) for item in merged) else merged
        return _ordered(merged, order, lambda item: item)
    key = fact.patch_key
    if any(isinstance(item, dict) and item.get(DIRECTIVE) == "replace" and key not in item for item in patch):
        return _without_list_directives(patch)
    merged = list(old_items)
    for item in patch:
        _merge_item(merged, item, key, struct)
    return _ordered(merged, order, lambda item: item.get(key))


def _merge_item(merged: list[Any], item: Any, key: str, struct: type | None) -> None:
    """Merge one item of a keyed list into it."""
    if not isinstance(item, dict):
        raise BadRequest(f"map: {item!r} does not contain declared merge key: {key}")
    directive = _directive(item)
    if key not in item:
        raise BadRequest(f"map: {_go_map(item)} does not contain declared merge key: {key}")
    found = [n for n, old in enumerate(merged) if isinstance(old, dict) and old.get(key) == item[key]]
    if directive == "delete":
        for n in reversed(found):
            del merged[n]
    elif directive == "replace":
        kept = {name: value for name, value in item.items() if name != DIRECTIVE}
        merged[:] = [old for n, old in enumerate(merged) if n not in found]
        merged.append(_without_directives(kept))
    elif found:
        merged[found[0]] = _merge_map(merged[found[0]], item, struct)
    else:
        merged.append(_merge_map({}, item, struct))


def _go_map(item: Json) -> str:
    return "map[" + " ".join(f"{name}:{value}" for name, value in sorted(item.items())) + "]"


def _ordered(items: list[Any], order: Any, word: Any) -> list[Any]:
    """Items in the order that ``$setElementOrder`` gives; those it does not name keep their place behind the one that they
    followed."""
    if not isinstance(order, list):
        return items
    wanted = [word(entry) if isinstance(entry, dict) else entry for entry in order]
    rank = {str(name): n for n, name in enumerate(wanted)}
    last = -1
    placed: list[tuple[int, int, Any]] = []
    for n, item in enumerate(items):
        name = str(word(item))
        last = rank[name] if name in rank else last
        placed.append((last, n, item))
    named = [(r, 0, n, item) for r, n, item in placed if str(word(item)) in rank]
    rest = [(r, 1, n, item) for r, n, item in placed if str(word(item)) not in rank]
    return [item for _, _, _, item in sorted(named + rest, key=lambda entry: entry[:3])]


def _delete_from_sets(merged: Json, patch: Json) -> None:
    for key, values in patch.items():
        if not key.startswith(DELETE_FROM):
            continue
        field = key[len(DELETE_FROM) :]
        if not isinstance(values, list):
            raise BadRequest(f"{key} must be a list")
        if isinstance(merged.get(field), list):
            merged[field] = [item for item in merged[field] if item not in values]


def _reorder_untouched(merged: Json, patch: Json, facts: dict[str, Merge]) -> None:
    """An order may be set for a list that the patch does not otherwise touch."""
    for key, order in patch.items():
        if not key.startswith(ORDER):
            continue
        field = key[len(ORDER) :]
        fact = facts.get(field)
        if field in patch or fact is None or not isinstance(merged.get(field), list):
            continue
        name = fact.patch_key
        merged[field] = _ordered(merged[field], order, (lambda item, k=name: item.get(k)) if name else (lambda i: i))


def _without_directives(value: Json) -> Json:
    return {
        key: _without_directives(inner) if isinstance(inner, dict) else inner
        for key, inner in value.items()
        if key not in (DIRECTIVE, RETAIN) and not key.startswith((DELETE_FROM, ORDER)) and inner is not None
    }


def _without_list_directives(items: list[Any]) -> list[Any]:
    kept = [item for item in items if not (isinstance(item, dict) and DIRECTIVE in item)]
    return [_without_directives(item) if isinstance(item, dict) else item for item in kept]
