"""Plain documents seen through a type view: which fields one holds, two merged, some removed.

What server-side apply does with the document that a client sent and the one that stands. A document is plain JSON;
nothing given is changed, and what stays the same is shared.

Source: structured-merge-diff typed (tofieldset, merge, remove).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .field_sets import LEAF, SELF, FieldSet, is_member
from .type_view import KeyedListNode, ListNode, MapNode, Node, StructNode

#: What stands beside the fields of every document.
TYPE_META = ("kind", "apiVersion")


class WrongDocument(ValueError):
    """The document cannot be one of its type; the text names each place that is at fault."""


# ------------------------------------------------------------------------------------------------------ field sets


def fields_of(node: Node, document: Mapping[str, Any]) -> FieldSet:
    """The set of what a document says, as its applier owns it. Raises WrongDocument."""
    survey = _Survey()
    made = survey.of({key: value for key, value in document.items() if key not in TYPE_META}, node, "")
    if survey.faults:
        one = len(survey.faults) == 1
        raise WrongDocument(survey.faults[0] if one else "errors:\n" + "\n".join(f"  {f}" for f in survey.faults))
    return made or {}


@dataclass(slots=True)
class _Survey:
    """One walk over a document, and the faults that it met."""

    faults: list[str] = field(default_factory=list)

    def of(self, value: Any, node: Node, place: str) -> FieldSet | None:
        """The set of one value; None when it has no members of its own."""
        if isinstance(node, (StructNode, MapNode)) and isinstance(value, dict):
            return self._of_map(value, node, place)
        if isinstance(node, ListNode) and isinstance(value, list):
            return self._of_list(value, node, place)
        if isinstance(node, (StructNode, ListNode)) and value is None:
            return None
        return LEAF

    def _of_map(self, value: dict[str, Any], node: StructNode | MapNode, place: str) -> FieldSet:
        made: FieldSet = {}
        for name in sorted(value):
            inner, here = value[name], f"{place}.{name}"
            named = node.is_named(name)
            if not named and (isinstance(node, StructNode) or node.closed):
                self.faults.append(f"{here}: field not declared in schema")
                continue
            found = LEAF if inner is None or inner == {} else self.of(inner, node.child(name), here)
            if not named:
                made[f"f:{name}"] = _with_self(found)
            elif found is not None:
                made[f"f:{name}"] = found
        return made

    def _of_list(self, items: list[Any], node: ListNode, place: str) -> FieldSet | None:
        made: FieldSet = {}
        for n, item in enumerate(items):
            fault = key_fault(node, item)
            if fault:
                self.faults.append(f"{place}: element {n}: {fault}")
                continue
            step = node.step(item)
            if step in made:
                self.faults.append(f"{place}: duplicate entries for key {step_text(step)}")
                continue
            made[step] = _with_self(self.of(item, node.item, place + step_text(step)))
        return dict(sorted(made.items())) if made else None


def _with_self(found: FieldSet | None) -> FieldSet:
    """A set whose root is a member."""
    return LEAF if not found else found if SELF in found else {SELF: LEAF, **found}


def key_fault(node: ListNode, item: Any) -> str:
    """Why an item cannot stand in a keyed list; empty when it can."""
    if not isinstance(node, KeyedListNode):
        return ""
    if not isinstance(item, dict):
        return "associative list with keys may not have non-map elements"
    for name, value in zip(node.keys, node.key(item), strict=True):
        if value is None:
            return f'associative list with keys has an element that omits key field "{name}" (and doesn\'t have default value)'
    return ""


def with_named(node: Node, fields: FieldSet) -> FieldSet:
    """The set together with the declared fields that lead to its members: whoever owns ``spec.replicas`` holds ``spec``."""
    made: FieldSet = {}
    for step, inner in fields.items():
        if step == SELF or not inner:
            made[step] = inner
            continue
        child = inner_node(node, step)
        grown = with_named(child, inner)
        named = step.startswith("f:") and node.is_named(step[2:])
        made[step] = _with_self(grown) if named else grown
    return made


def inner_node(node: Node, step: str) -> Node:
    """The node to which a step of a set leads."""
    return node.child(step[2:]) if step.startswith("f:") else node.item if isinstance(node, ListNode) else node


# ------------------------------------------------------------------------------------------------------ words


def step_text(step: str) -> str:
    """A step as messages write it: ``.name``, ``[name="c"]``, ``[="x"]``."""
    kind, rest = step[:2], step[2:]
    if kind == "f:":
        return f".{rest}"
    value = msgspec.json.decode(rest)
    if kind == "k:":
        return "[" + ",".join(f"{name}={_word(inner)}" for name, inner in sorted(value.items())) + "]"
    return f"[={_word(value)}]"


def _word(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def path_text(path: tuple[str, ...]) -> str:
    """``.spec.containers[name="c"].image``"""
    return "".join(step_text(step) for step in path)


# ------------------------------------------------------------------------------------------------------ merge


def merged(node: Node, live: Any, sent: Any) -> Any:
    """What stands, with what was sent put in."""
    if isinstance(node, (StructNode, MapNode)) and isinstance(live, dict) and (sent is None or isinstance(sent, dict)):
        made = dict(live)
        for name, value in (sent or {}).items():
            made[name] = merged(node.child(name), live[name], value) if name in live else value
        return made
    if isinstance(node, ListNode) and isinstance(live, list) and live and (sent is None or isinstance(sent, list)):
        return _merged_list(node, live, sent or [])
    return sent


def _merged_list(node: ListNode, live: list[Any], sent: list[Any]) -> list[Any]:
    """Items of both: those sent keep their order among themselves; those that only stand keep their place before the next
    item that both have."""
    ours, theirs = [node.step(item) for item in live], [node.step(item) for item in sent]
    standing: dict[str, Any] = {}
    for step, item in zip(ours, live, strict=True):
        standing.setdefault(step, item)
    wanted = dict(zip(theirs, sent, strict=True))
    shared = [step for step in theirs if step in standing]
    made: list[Any] = []
    done: set[str] = set()
    n = m = next_shared = 0

    def take(step: str) -> None:
        done.add(step)
        made.append(merged(node.item, standing[step], wanted[step]) if step in standing else wanted[step])

    while n < len(ours) or m < len(theirs):
        if n < len(ours) and m < len(theirs):
            if ours[n] == theirs[m]:
                take(ours[n])
                n, m, next_shared = n + 1, m + 1, next_shared + 1
                continue
            if ours[n] in wanted and next_shared < len(shared) and shared[next_shared] != ours[n]:
                n += 1  # both have it, and it is not its turn
                continue
        if n < len(ours):
            if ours[n] not in wanted:
                made.append(live[n])
                n += 1
                continue
            if ours[n] in done:
                n += 1
        if m < len(theirs):
            if next_shared < len(shared) and shared[next_shared] == theirs[m]:
                next_shared += 1
            take(theirs[m])
            m += 1
    return made


# ------------------------------------------------------------------------------------------------------ remove


def without(node: Node, value: Any, gone: FieldSet) -> Any:
    """A value without the members of a set, and all that is below them. A list that ends empty goes too."""
    if not gone:
        return value
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for name, inner in value.items():
            left = _kept(node.child(name), inner, gone.get(f"f:{name}"))
            if left is not _GONE:
                made[name] = left
        return made
    if isinstance(value, list) and isinstance(node, ListNode):
        kept = [_kept(node.item, item, gone.get(node.step(item))) for item in value]
        return [item for item in kept if item is not _GONE]
    return value


_GONE = object()


def _kept(node: Node, value: Any, gone: FieldSet | None) -> Any:
    if gone is None:
        return value
    if is_member(gone):
        return _GONE
    left = without(node, value, gone)
    return _GONE if left == [] else left
