"""Sets of fields as ``fieldsV1`` writes them: plain dict tries, shared and never changed in place.

A member is a node that is empty or holds ``"."``; any other node only leads to members. Keys: ``f:name`` a field,
``k:{"name":"c"}`` an item of a keyed list, ``v:"x"`` an item of a set. For example ``metadata.labels`` with its key
``app``::

    {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}}

Every operation shares what it does not change with its operands, and costs what the smaller operand holds.

Source: sigs.k8s.io/structured-merge-diff fieldpath.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

FieldSet: TypeAlias = dict[str, Any]

SELF = "."
#: The set of one field without inner ones. Shared: never write into it.
LEAF: FieldSet = {}
Step: TypeAlias = str


def is_member(node: FieldSet) -> bool:
    """Whether the field at which this node stands is itself in the set."""
    return not node or SELF in node


def union(left: FieldSet, right: FieldSet) -> FieldSet:
    """What is in either of two top-level sets."""
    if not right or left is right:
        return left
    if not left:
        return right
    made = dict(left)
    for step, inner in right.items():
        if step == SELF:
            continue
        mine = made.get(step)
        made[step] = inner if mine is None else _union_node(mine, inner)
    return made if len(made) == len(left) else _in_order(made)


def _union_node(left: FieldSet, right: FieldSet) -> FieldSet:
    if left is right or left == right:
        return left
    made = union({k: v for k, v in left.items() if k != SELF}, {k: v for k, v in right.items() if k != SELF})
    return {SELF: LEAF, **made} if made and (is_member(left) or is_member(right)) else made


def _in_order(node: FieldSet) -> FieldSet:
    return dict(sorted(node.items()))


def difference(left: FieldSet, right: FieldSet) -> FieldSet:
    """What is in ``left`` and not itself in ``right``; the members below a member of ``right`` stay. ``left`` itself when
    nothing goes."""
    made: FieldSet | None = None
    for step, theirs in right.items():
        if step == SELF or step not in left:
            continue
        mine = left[step]
        kept = _difference_node(mine, theirs)
        if kept is mine:
            continue
        if made is None:
            made = dict(left)
        if kept is None:
            del made[step]
        else:
            made[step] = kept
    return left if made is None else made


def _difference_node(mine: FieldSet, theirs: FieldSet) -> FieldSet | None:
    """What stays of one node; None when nothing does."""
    gone = is_member(theirs)
    if not mine:
        return None if gone else mine
    kept = difference(mine, theirs)
    if gone and SELF in kept:
        kept = {step: inner for step, inner in kept.items() if step != SELF}
        return kept or None
    return kept or None if kept is not mine else mine


def intersection(left: FieldSet, right: FieldSet) -> FieldSet:
    """What is in both of two top-level sets."""
    made: FieldSet = {}
    for step, mine in left.items():
        if step == SELF or step not in right:
            continue
        theirs = right[step]
        both = intersection(mine, theirs)
        if is_member(mine) and is_member(theirs):
            both = {SELF: LEAF, **both} if both else LEAF
        elif not both:
            continue
        made[step] = both
    return made


def without_trees(left: FieldSet, right: FieldSet) -> FieldSet:
    """What is in ``left`` and neither in ``right`` nor below a member of it."""
    made: FieldSet | None = None
    for step, theirs in right.items():
        if step == SELF or step not in left:
            continue
        mine = left[step]
        kept = None if is_member(theirs) else without_trees(mine, theirs)
        if kept is mine:
            continue
        if made is None:
            made = dict(left)
        if kept:
            made[step] = kept
        else:
            del made[step]
    return left if made is None else made


def members(node: FieldSet, path: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """The path of every member, in order."""
    for step, inner in node.items():
        if step == SELF:
            continue
        here = (*path, step)
        if is_member(inner):
            yield here
        yield from members(inner, here)


def of_paths(*paths: str) -> FieldSet:
    """The set of dotted fields: ``of_paths("spec", "metadata.labels")``."""
    made: FieldSet = {}
    for path in paths:
        node = made
        for name in path.split("."):
            node = node.setdefault(f"f:{name}", {})
    return made
