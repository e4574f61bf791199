"""What a type is to those who track its fields: which parts are separate fields, and which are one.

The idea: a tree of small nodes, made once a type, that walk values without turning them into documents. There are two
makers: ``view_of`` reads a Struct and the facts of the API, ``view_of_schema`` an OpenAPI schema (custom resources).
A node answers two questions, ``full`` (the set of all fields of a value) and ``diff`` (what was set or changed, and what
went away). What is below an equal part is never visited.

Source: structured-merge-diff typed, schema; kube-openapi schemaconv.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import astuple, replace

from kaa.api import scheme
from kaa.api.types import core_v1, meta_v1, networking_v1
from kaa.api.types.facts import ATOMIC, MERGE, Merge

from ..memo import Memo
from .field_sets import LEAF, SELF, FieldSet

#: What was added or changed, and what was removed; None is the empty set.
Diff: TypeAlias = tuple[FieldSet | None, FieldSet | None]

NOTHING: Diff = (None, None)
KNOWN_SETS = 256  # a Struct, of the sets that its fields make
_ALWAYS = object()  # the default of a field that is always on the wire
_NO_MERGE = Merge("", "", "", (), "")
#: {(type, key field): value} of list keys that may be left out.
KEY_DEFAULTS = {("core_v1.ContainerPort", "protocol"): "TCP", ("core_v1.ServicePort", "protocol"): "TCP"}
#: {(type, field): what stands for its absence} of required fields that Go leaves out while they are empty.
_OMITTED: dict[tuple[str, str], Any] = {
    ("networking_v1.IPAddressSpec", "parentRef"): None,
    ("admissionregistration_v1.ValidatingAdmissionPolicyBindingSpec", "validationActions"): (),
}


def _differ(value: Any, default: Any) -> bool:
    return value is not default and value != default


class Node:
    """A scalar, or anything that is one field whole: the plainest node, and the ground of the others."""

    __slots__ = ()

    def full(self, value: Any) -> FieldSet:
        """The set of a value that was not there before."""
        return LEAF

    def diff(self, old: Any, new: Any) -> Diff:
        """What differs between two values that differ."""
        return LEAF, None

    def child(self, name: str) -> Node:
        """The node of a field."""
        return UNKNOWN

    def is_named(self, name: str) -> bool:
        """Whether the type declares the field, as a struct does; the keys of a map are not declared."""
        return False


class StructNode(Node):
    """A Struct whose fields are tracked one by one. Built in two steps, for types may hold themselves."""

    __slots__ = ("_defaults", "_in_order", "_known", "_nodes", "_steps", "children")

    def __init__(self) -> None:
        self.children: dict[str, Node] = {}

    def fill(self, rows: list[tuple[str, Node, Any]]) -> None:
        """``rows``: (wire name, node, default) of each field, as the Struct has them."""
        self.children = {wire: node for wire, node, _ in rows}
        self._steps = [f"f:{wire}" for wire, _, _ in rows]
        self._nodes = [node for _, node, _ in rows]
        self._defaults = [default for _, _, default in rows]
        self._in_order = self._steps == sorted(self._steps)
        #: {which fields are set: their set}, of values that have nothing below their fields
        self._known: dict[tuple[bool, ...], FieldSet] = {}

    def child(self, name: str) -> Node:
        return self.children.get(name, UNKNOWN)

    def is_named(self, name: str) -> bool:
        return name in self.children

    def full(self, value: Any) -> FieldSet:
        values = astuple(value)
        present = tuple(map(_differ, values, self._defaults))
        found = self._known.get(present)
        if found is not None:
            return found
        made: FieldSet = {SELF: LEAF}
        flat = True
        for is_set, inner, step, node in zip(present, values, self._steps, self._nodes, strict=False):
            if is_set:
                made[step] = LEAF if node is LEAF_NODE else node.full(inner)
                flat = flat and node is LEAF_NODE
        if len(made) == 1:
            made = LEAF
        elif not self._in_order:
            made = dict(sorted(made.items()))
        if flat and len(self._known) < KNOWN_SETS:
            self._known[present] = made
        return made

    def diff(self, old: Any, new: Any) -> Diff:
        changed: FieldSet = {}
        removed: FieldSet = {}
        for before, after, step, node, default in zip(
            astuple(old), astuple(new), self._steps, self._nodes, self._defaults, strict=False
        ):
            if before is after or before == after:
                continue
            if before is default or before == default:
                changed[step] = LEAF if node is LEAF_NODE else node.full(after)
            elif after is default or after == default:
                removed[step] = node.full(before)
            else:
                put, gone = node.diff(before, after)
                if put is not None:
                    changed[step] = put
                if gone is not None:
                    removed[step] = gone
        if not self._in_order:
            changed, removed = dict(sorted(changed.items())), dict(sorted(removed.items()))
        return changed or None, removed or None


class SharedNode(StructNode):
    """A Struct of which many objects have the very same one: what was found of it once is remembered."""

    __slots__ = ("diff", "full")

    def __init__(self) -> None:
        super().__init__()
        self.full = Memo(super().full)  # type: ignore[method-assign,assignment]
        self.diff = Memo(super().diff)  # type: ignore[method-assign,assignment]


class MapNode(Node):
    """A map whose keys are tracked one by one. ``fields`` are those that a schema declares; a ``closed`` one has no others."""

    __slots__ = ("closed", "fields", "items")

    def __init__(self, items: Node, fields: Mapping[str, Node] | None = None, *, closed: bool = False) -> None:
        self.items, self.fields, self.closed = items, dict(fields or {}), closed

    def child(self, name: str) -> Node:
        return self.fields.get(name, self.items)

    def is_named(self, name: str) -> bool:
        return name in self.fields

    def full(self, value: Any) -> FieldSet:
        if not isinstance(value, Mapping) or not value:
            return LEAF
        made: FieldSet = {SELF: LEAF}
        for name in sorted(value):
            made[f"f:{name}"] = self.child(name).full(value[name])
        return made

    def diff(self, old: Any, new: Any) -> Diff:
        old, new = _as_map(old), _as_map(new)
        if old is None or new is None or not (old or new):
            return LEAF, None
        changed: FieldSet = {}
        removed: FieldSet = {}
        for name in sorted({**old, **new}):
            step = f"f:{name}"
            if name not in old:
                changed[step] = self.child(name).full(new[name])
            elif name not in new:
                removed[step] = self.child(name).full(old[name])
            elif old[name] != new[name]:
                put, gone = self.child(name).diff(old[name], new[name])
                if put is not None:
                    changed[step] = put
                if gone is not None:
                    removed[step] = gone
        return changed or None, removed or None


def _as_map(value: Any) -> Mapping[str, Any] | None:
    """A map, the empty one for null; None for anything else."""
    return {} if value is None else value if isinstance(value, Mapping) else None


class ListNode(Node):
    """A list whose items are told apart: by key fields, or by value for a set."""

    __slots__ = ()

    #: Node of one item.
    item: Node

    def step(self, item: Any) -> str:
        """The item's key in the set: ``k:{"name":"c"}`` or ``v:"x"``."""
        raise NotImplementedError

    def index(self, items: Iterable[Any]) -> dict[str, Any]:
        """{step: item}. Items of one step (allowed by old objects) stand together in a ``_Twins``."""
        found: dict[str, Any] = {}
        for item in items:
            step = self.step(item)
            if step in found:
                before = found[step]
                found[step] = _Twins([*(before if isinstance(before, _Twins) else [before]), item])
            else:
                found[step] = item
        return found

    def item_full(self, item: Any) -> FieldSet:
        return LEAF if isinstance(item, _Twins) else self.item.full(item)

    def full(self, value: Any) -> FieldSet:
        if not isinstance(value, (tuple, list)) or not value:
            return LEAF
        made: FieldSet = {SELF: LEAF}
        index = self.index(value)
        for step in sorted(index):
            made[step] = self.item_full(index[step])
        return made

    def diff(self, old: Any, new: Any) -> Diff:
        if not (old or new):
            return LEAF, None
        before, after = self.index(old or ()), self.index(new or ())
        changed: FieldSet = {}
        removed: FieldSet = {}
        for step in sorted({**before, **after}):
            if step not in before:
                changed[step] = self.item_full(after[step])
            elif step not in after:
                removed[step] = self.item_full(before[step])
            elif before[step] is not after[step] and before[step] != after[step]:
                twins = isinstance(before[step], _Twins) or isinstance(after[step], _Twins)
                put, gone = (LEAF, None) if twins else self.item.diff(before[step], after[step])
                if put is not None:
                    changed[step] = put
                if gone is not None:
                    removed[step] = gone
        return changed or None, removed or None


class _Twins(list[Any]):
    """Items of one list that have the same key."""


class KeyedListNode(ListNode):
    """A list whose items are told apart by key fields, of Structs or of plain maps."""

    __slots__ = ("_attributes", "_defaults", "_single", "item", "keys")

    def __init__(self, keys: tuple[str, ...], item: Node, attributes: Mapping[str, str], defaults: Mapping[str, Any]):
        self.keys, self.item = tuple(sorted(keys)), item
        self._attributes = [attributes.get(key, key) for key in self.keys]
        self._defaults = [defaults.get(key) for key in self.keys]
        self._single = self._attributes[0] if len(self.keys) == 1 and self._defaults == [None] else ""

    def key(self, item: Any) -> tuple[Any, ...]:
        """The values of the key fields, with defaults; None for one that is absent."""
        if isinstance(item, msgspec.Struct):  # first: it is the usual case, and cheaper to ask than Mapping
            found = [getattr(item, attribute, None) for attribute in self._attributes]
        else:
            found = [item.get(key) for key in self.keys]
        return tuple(d if value is None else value for value, d in zip(found, self._defaults, strict=True))

    def step(self, item: Any) -> str:
        if self._single and isinstance(item, msgspec.Struct):
            return _key_step(self.keys, (getattr(item, self._single),))
        return _key_step(self.keys, self.key(item))


@lru_cache(maxsize=8192, typed=True)
def _key_step(keys: tuple[str, ...], values: tuple[Any, ...]) -> str:
    return "k:" + msgspec.json.encode(dict(zip(keys, values, strict=True))).decode()


class SetNode(ListNode):
    """A list whose items are told apart by their value."""

    __slots__ = ("item",)

    def __init__(self) -> None:
        self.item = LEAF_NODE

    def step(self, item: Any) -> str:
        return "v:" + msgspec.json.encode(item).decode()


class FreeNode(MapNode):
    """A value of which no schema speaks: maps are tracked key by key, anything else is one field."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(self)

    def diff(self, old: Any, new: Any) -> Diff:
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            return super().diff(old, new)
        if isinstance(new, Mapping) and new:
            return self.full(new), None
        return LEAF, self.full(old) if isinstance(old, Mapping) and old else None


LEAF_NODE = Node()
UNKNOWN = FreeNode()


# -------------------------------------------------------------------------------------------------- of Structs

_MADE: dict[type, StructNode] = {}


def view_of(struct: type) -> StructNode:
    """The node of a Struct, made once."""
    found = _MADE.get(struct)
    if found is not None:
        return found
    node = _MADE[struct] = SharedNode() if struct is core_v1.PodSpec else StructNode()
    name = type_name(struct)
    facts = MERGE.get(name, {})
    hints = scheme.field_types(struct)
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(struct)}
    factories = {field.encode_name: field.default_factory for field in msgspec.structs.fields(struct)}
    rows = []
    for wire, (_, hint, required) in hints.items():
        default = _absent(defaults[wire], factories[wire]) if not required else _OMITTED.get((name, wire), _ALWAYS)
        rows.append((wire, _node(hint, facts.get(wire, _NO_MERGE)), default))
    node.fill(rows)
    return node


def type_name(struct: type) -> str:
    """``core_v1.Pod``: how the facts name a Struct."""
    return f"{struct.__module__.rsplit('.', 1)[1]}.{struct.__name__}"


def _absent(default: Any, factory: Any) -> Any:
    """The value that stands for absence; ``_ALWAYS`` for a struct held by value, which is always on the wire."""
    if factory is msgspec.NODEFAULT:
        return default
    return factory() if factory in (dict, list, tuple) else _ALWAYS


def _node(hint: Any, fact: Merge) -> Node:
    hint = scheme.strip_optional(hint)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _list_node(typing.get_args(hint)[0], fact)
    if origin is dict:
        return LEAF_NODE if fact.map_type == "atomic" else MapNode(_map_items(typing.get_args(hint)[1]))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        atomic = fact.map_type == "atomic" or (fact.map_type != "granular" and type_name(hint) in ATOMIC)
        return LEAF_NODE if atomic else view_of(hint)
    return LEAF_NODE  # raw JSON too: it has no schema, and upstream takes it whole


def _map_items(hint: Any) -> Node:
    return _node(hint, _NO_MERGE)


def _list_node(hint: Any, fact: Merge) -> Node:
    keys = fact.list_keys
    kind = fact.list_type
    if not kind and "merge" in fact.patch_strategy:
        kind, keys = ("map", (fact.patch_key,)) if fact.patch_key else ("set", ())
    if kind == "set":
        return SetNode()
    struct = scheme.struct_in(hint)
    if kind != "map" or struct is None:
        return LEAF_NODE
    attributes = {wire: row[0] for wire, row in scheme.field_types(struct).items()}
    name = type_name(struct)
    defaults = {key: KEY_DEFAULTS[name, key] for key in keys if (name, key) in KEY_DEFAULTS}
    return KeyedListNode(keys, _node(struct, Merge("", "", "", (), "granular")), attributes, defaults)


_ZEROS: dict[type, Any] = {}


def zero_of(struct: type) -> Any:
    """The object that Go makes of a type before anything is set: what stands in it, a creator did not set."""
    found = _ZEROS.get(struct)
    if found is None:
        found = scheme.convert(struct, {})
        if struct is core_v1.Event:
            found = replace(found, reporting_component="", reporting_instance="")
        elif struct is networking_v1.IPAddress:
            found = replace(found, spec=replace(found.spec, parent_ref=None))
        _ZEROS[struct] = found
    return found


# -------------------------------------------------------------------------------------------------- of schemas


def view_of_schema(schema: Mapping[str, Any] | None, *, free: bool = False) -> Node:
    """The node of an OpenAPI v3 schema, as custom resources have one; without a schema everything is free.

    ``free``: a schema around this one preserves unknown fields, and so do all that stand in it.
    """
    if not schema:
        return UNKNOWN
    kind = schema.get("type")
    free = free or bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if kind == "array":
        return _schema_list(schema, free)
    if kind == "object" or "properties" in schema:
        return _schema_map(schema, free)
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return UNKNOWN
    return LEAF_NODE if kind or schema.get("x-kubernetes-int-or-string") else UNKNOWN


def _schema_list(schema: Mapping[str, Any], free: bool) -> Node:
    items = schema.get("items") or {}
    match schema.get("x-kubernetes-list-type"):
        case "set":
            return SetNode()
        case "map":
            keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
            properties = items.get("properties") or {}
            defaults = {key: properties[key]["default"] for key in keys if "default" in properties.get(key, {})}
            return KeyedListNode(keys, view_of_schema(items, free=free), {}, defaults)
    return LEAF_NODE


def _schema_map(schema: Mapping[str, Any], free: bool) -> Node:
    if schema.get("x-kubernetes-map-type") == "atomic":
        return LEAF_NODE
    fields = {name: view_of_schema(inner, free=free) for name, inner in (schema.get("properties") or {}).items()}
    if schema.get("x-kubernetes-embedded-resource"):
        fields |= {"apiVersion": LEAF_NODE, "kind": LEAF_NODE, "metadata": _plain(view_of(meta_v1.ObjectMeta))}
    more = schema.get("additionalProperties")
    if isinstance(more, Mapping):
        return MapNode(view_of_schema(more, free=free), fields)
    return MapNode(UNKNOWN, fields, closed=bool(fields) and not free and not more)


def _plain(node: Node) -> Node:
    """The node of a Struct for values that are plain documents."""
    if isinstance(node, StructNode):
        return MapNode(UNKNOWN, {name: _plain(inner) for name, inner in node.children.items()}, closed=True)
    if isinstance(node, KeyedListNode):
        return KeyedListNode(node.keys, _plain(node.item), {}, {})
    return node
