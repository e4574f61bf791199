"""Strategic merge patch: a merge that knows lists.

A list with a merge key merges item by item, a set merges by value, any other list is replaced. Directives change that:
``$patch: delete|replace``, ``$deleteFromPrimitiveList/<field>``, ``$setElementOrder/<field>``, ``$retainKeys``.
Which list has which key is a fact of the API (``api.types.facts``).

Order of a merged list: the patch's items in the patch's order (or in that of ``$setElementOrder``); each item that only
the server has stands before the first of them that it preceded. A new item is thus put first, as upstream does it.

Source: community "Strategic Merge Patch"; apimachinery pkg/util/strategicpatch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from kaa.api import scheme
from kaa.api.errors import ApiError, BadRequest, Unclassified
from kaa.api.types.facts import MERGE, Merge

DIRECTIVE = "$patch"
DELETE_FROM = "$deleteFromPrimitiveList/"
ORDER = "$setElementOrder/"
RETAIN = "$retainKeys"
_BESIDE = (DELETE_FROM, ORDER)

Json: TypeAlias = dict[str, Any]
_NO_FACT = Merge("", "", "", (), "")


def strategic_merge(document: Json, patch: Json, struct: type) -> Json:
    """The patched document; the one given stays as it was. ``struct`` is the type that both are of.

    Raises: BadRequest: a directive of the wrong shape. Unclassified: one that there is none of, an item without its key.
    """
    return _merge_map(document, patch, struct)


def facts_of(struct: type | None) -> dict[str, Merge]:
    """{wire name: how it merges} of a Struct."""
    if struct is None:
        return {}
    return MERGE.get(f"{struct.__module__.rsplit('.', 1)[1]}.{struct.__name__}", {})


@lru_cache(maxsize=None)
def _inner(struct: type | None, field: str) -> type | None:
    known = scheme.field_types(struct).get(field) if struct is not None else None
    return scheme.struct_in(known[1]) if known else None


# ------------------------------------------------------------------------------------------------------------- maps


def _merge_map(document: Json, patch: Json, struct: type | None) -> Json:
    if DIRECTIVE in patch:
        return _directed_map(patch)
    merged = _retained(document, patch)
    facts = facts_of(struct)
    ordered = _merge_ordered(merged, patch, struct, facts)
    for key, value in patch.items():
        if key == RETAIN or key in ordered or key.startswith(_BESIDE):
            continue
        if value is None:
            merged.pop(key, None)
        elif key not in merged or not _alike(merged[key], value):
            merged[key] = plain(value)
        elif isinstance(value, dict):
            replaces = "replace" in facts.get(key, _NO_FACT).patch_strategy
            merged[key] = plain(value) if replaces else _merge_map(merged[key], value, _inner(struct, key))
        elif isinstance(value, list):
            merged[key] = _merge_list(merged[key], value, facts.get(key, _NO_FACT), _inner(struct, key))
        else:
            merged[key] = value
    _delete_from_sets(merged, patch)
    return merged


def _directed_map(patch: Json) -> Json:
    """A map that says itself what becomes of the one that it meets."""
    match patch[DIRECTIVE]:
        case "replace":
            return {key: value for key, value in patch.items() if key != DIRECTIVE}
        case "delete":
            return {}
    raise _unknown_directive(patch)


def _unknown_directive(patch: Json) -> ApiError:
    return Unclassified(f"unknown patch type: {patch[DIRECTIVE]} in map: {go_text(patch)}")


def _alike(left: Any, right: Any) -> bool:
    """Whether both are maps, both lists, or both neither."""
    return isinstance(left, dict) == isinstance(right, dict) and isinstance(left, list) == isinstance(right, list)


def _retained(document: Json, patch: Json) -> Json:
    """The document with the fields only that ``$retainKeys`` names, where there is such a list."""
    kept = patch.get(RETAIN)
    if RETAIN not in patch:
        return dict(document)
    sent = [key for key, value in patch.items() if value is not None and key != RETAIN and not key.startswith(_BESIDE)]
    if not isinstance(kept, list) or any(key not in kept for key in sent):
        raise BadRequest("invalid patch format of retainKeys")
    return {key: value for key, value in document.items() if key in kept}


def _delete_from_sets(merged: Json, patch: Json) -> None:
    for key, values in patch.items():
        if not key.startswith(DELETE_FROM):
            continue
        if not isinstance(values, list):
            raise BadRequest("invalid patch format of primitive list")
        field = key[len(DELETE_FROM) :]
        if isinstance(merged.get(field), list):
            merged[field] = [item for item in merged[field] if item not in values]


# ------------------------------------------------------------------------------------------------------------ lists


def _merge_ordered(merged: Json, patch: Json, struct: type | None, facts: dict[str, Merge]) -> set[str]:
    """Merge the lists whose order the patch gives. Returns their fields."""
    done: set[str] = set()
    for key, order in patch.items():
        if not key.startswith(ORDER):
            continue
        field = key[len(ORDER) :]
        fact = facts.get(field, _NO_FACT)
        live, sent = merged.get(field), patch.get(field)
        if not isinstance(order, list) or not (_is_list_or_absent(live) and _is_list_or_absent(sent)):
            raise BadRequest("invalid patch format of setElementOrder list")
        done.add(field)
        if sent is not None:
            _check_order(sent, order, fact.patch_key)
        if live is None and sent is None:
            continue
        if sent is None:
            items = list(live or ())
        elif live is None:
            items = plain(sent)
        else:
            items = _merge_list(live, sent, fact, _inner(struct, field))
        merged[field] = _in_order(items, order, live or [], fact.patch_key)
    return done


def _is_list_or_absent(value: Any) -> bool:
    return value is None or isinstance(value, list)


def _check_order(sent: list[Any], order: list[Any], key: str) -> None:
    """Refuse a patch whose items stand in another order than the one it asks for."""
    word = _word(key)
    names = [word(item) for item in sent if not _is_deletion(item)]
    wanted = iter([word(item) for item in order])
    if not all(name in wanted for name in names):
        listed, asked = go_text(sent), go_text(order)
        raise Unclassified(f"The order in patch list:\n{listed}\n doesn't match {ORDER[:-1]} list:\n{asked}\n")


def _is_deletion(item: Any) -> bool:
    return isinstance(item, dict) and item.get(DIRECTIVE) == "delete"


def _word(key: str) -> Callable[[Any], Any]:
    """What tells items of a list apart."""
    return (lambda item: item.get(key) if isinstance(item, dict) else item) if key else (lambda item: item)


def _merge_list(live: list[Any], sent: list[Any], fact: Merge, struct: type | None) -> list[Any]:
    if "merge" not in fact.patch_strategy:
        return list(plain(sent))
    if not live and not sent:
        return live
    kinds = {dict if isinstance(item, dict) else list if isinstance(item, list) else str for item in (*live, *sent)}
    if list in kinds:
        raise ApiError("lists of lists are not supported", code=422, reason="Invalid")
    if len(kinds) > 1:
        raise Unclassified("list element types are not identical")
    if dict not in kinds:
        both = live + sent
        merged = [item for n, item in enumerate(both) if item not in both[:n]]
        return _in_order(merged, sent, live, "")
    if not fact.patch_key:
        raise Unclassified(f"cannot merge lists without merge key for {struct.__name__ if struct else 'map'}")
    return _merge_keyed(live, sent, fact.patch_key, struct)


def _merge_keyed(live: list[Any], sent: list[Any], key: str, struct: type | None) -> list[Any]:
    """Merge a list whose items are told apart by a field."""
    plainly = [item for item in sent if DIRECTIVE not in item]
    deleted, replaces = [], False
    for item in sent:
        match item.get(DIRECTIVE):
            case None:
                continue
            case "delete":
                deleted.append(_key_of(item, key))
            case "replace":
                replaces = True
            case "merge":
                raise Unclassified("merging lists cannot yet be specified in the patch")
            case _:
                raise _unknown_directive(item)
    if replaces:
        return list(plain(plainly))
    left = [item for item in live if item.get(key) not in deleted]
    merged = list(left)
    for item in plainly:
        name = _key_of(item, key)
        place = next((n for n, old in enumerate(merged) if old.get(key) == name), None)
        if place is None:
            merged.append(plain(item))
        else:
            merged[place] = _merge_map(merged[place], item, struct)
    return _in_order(merged, plainly, left, key)


def _key_of(item: Json, key: str) -> Any:
    if key not in item:
        raise Unclassified(f"map: {go_text(item)} does not contain declared merge key: {key}")
    return item[key]


def _in_order(items: list[Any], order: Sequence[Any], live: Sequence[Any], key: str) -> list[Any]:
    """Items named in ``order`` as it has them; the others, as they stood in ``live``, each before the first of the named
    that it preceded there."""
    word = _word(key)
    wanted, stood = [word(item) for item in order], [word(item) for item in live]
    named = sorted((item for item in items if word(item) in wanted), key=lambda item: wanted.index(word(item)))
    others = [item for item in items if word(item) not in wanted]
    if all(word(item) in stood for item in others):
        others.sort(key=lambda item: stood.index(word(item)))
    made: list[Any] = []
    waiting = iter(others)
    other = next(waiting, None)
    for item in named:
        while other is not None and _precedes(stood, word(other), word(item)):
            made.append(other)
            other = next(waiting, None)
        made.append(item)
    return made if other is None else [*made, other, *waiting]


def _precedes(stood: list[Any], left: Any, right: Any) -> bool:
    return left in stood and right in stood and stood.index(left) < stood.index(right)


# ------------------------------------------------------------------------------------------------------------ words


def plain(value: Any) -> Any:
    """A value of a patch as it stands where there was none: without directives, nulls and items to delete."""
    if isinstance(value, dict):
        if value.get(DIRECTIVE, "replace") not in ("replace", "merge", "delete"):
            raise _unknown_directive(value)
        if value.get(DIRECTIVE) == "delete":
            return {}
        return {
            key: plain(inner)
            for key, inner in value.items()
            if key not in (DIRECTIVE, RETAIN) and not key.startswith(_BESIDE) and inner is not None
        }
    if isinstance(value, list):
        kept = (item for item in value if not _is_deletion(item) and item != {DIRECTIVE: "replace"})
        return [plain(item) for item in kept]
    return value


def go_text(value: Any) -> str:
    """A value as Go's ``%v`` prints it."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{name}:{go_text(inner)}" for name, inner in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(go_text(inner) for inner in value) + "]"
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)
