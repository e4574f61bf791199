"""Schemas of Structs: ``io.k8s.api.core.v1.Pod`` as OpenAPI v3 writes it.

A field's annotation is read as text (``tuple[Container, ...]``): it still says ``Time`` and ``Quantity`` where the type
itself is a plain string. What it does not say stands in ``facts`` and ``values``; descriptions are the caller's.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from kaa.api.resources import Resource
from kaa.api.types.facts import ATOMIC, MERGE, Merge

from .facts import BYTES, HELD, INT32, OPTIONAL, TIMES, UNIONS
from .values import DEFAULTS, ENUMS, WITHOUT_DEFAULT

Json = dict[str, Any]

META = "io.k8s.apimachinery.pkg.apis.meta.v1"
PREFIX = "#/components/schemas/"
_HOMES = {
    "apiextensions_v1": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    "apiregistration_v1": "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
    "meta_v1": META,
    "version": "io.k8s.apimachinery.pkg.version",
}
_MODULES = {home: module for module, home in _HOMES.items()}
_EXTENSIONS = _HOMES["apiextensions_v1"]
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_RAW = "io.k8s.apimachinery.pkg.runtime.RawExtension"

#: Definitions that are no Structs.
PLAIN: dict[str, Json] = {
    QUANTITY: {"oneOf": [{"type": "string"}, {"type": "number"}]},
    INT_OR_STRING: {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    _RAW: {"type": "object"},
    f"{META}.FieldsV1": {"type": "object"},
    f"{META}.MicroTime": {"format": "date-time", "type": "string"},
    f"{META}.Patch": {"type": "object"},
    f"{META}.Time": {"format": "date-time", "type": "string"},
    f"{_EXTENSIONS}.JSON": {},
    f"{_EXTENSIONS}.JSONSchemaPropsOrArray": {},
    f"{_EXTENSIONS}.JSONSchemaPropsOrBool": {},
    f"{_EXTENSIONS}.JSONSchemaPropsOrStringArray": {},
}
#: {annotation: the definition it stands for}
_NAMED = {
    "Any": _RAW,
    "MicroTime": f"{META}.MicroTime",
    "Quantity": QUANTITY,
    "Time": f"{META}.Time",
    "dict[str, Any]": f"{META}.FieldsV1",
    "int | str": INT_OR_STRING,
    "JSONSchemaProps | tuple[JSONSchemaProps, ...]": f"{_EXTENSIONS}.JSONSchemaPropsOrArray",
    "JSONSchemaProps | bool": f"{_EXTENSIONS}.JSONSchemaPropsOrBool",
    "JSONSchemaProps | tuple[str, ...]": f"{_EXTENSIONS}.JSONSchemaPropsOrStringArray",
}
_SCALARS: dict[str, Json] = {
    "Base64": {"type": "string", "format": "byte"},
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer", "format": "int64"},
    "int | float": {"type": "number", "format": "double"},
}
_ZEROS = {"str": "", "bool": False, "int": 0, "int | float": 0}
#: Kinds that every group-version knows as its own.
_OF_EVERY_GROUP = ("DeleteOptions", "WatchEvent")
#: What a Struct's name begins with that is a whole object inside another: its schema is the kind's.
_EMBEDDED = re.compile(r"\bEmbedded(?=[A-Z])")
_REFERENCE = re.compile(r'"\$ref":"' + re.escape(PREFIX) + r'([^"]+)"')


def definition_of(module: str, kind: str) -> str:
    """``core_v1``, ``Pod`` -> ``io.k8s.api.core.v1.Pod``."""
    group, _, version = module.rpartition("_")
    return f"{_HOMES.get(module) or f'io.k8s.api.{group}.{version}'}.{kind}"


def definition_of_type(kind: type) -> str:
    return definition_of(kind.__module__.rpartition(".")[2], kind.__name__)


def definition_of_resource(resource: Resource[Any]) -> str:
    """Of a custom resource: its group reversed, ``com.example.stable.v1.CronTab``."""
    if resource.custom:
        return ".".join([*reversed(resource.group.split(".")), resource.version, resource.kind])
    return definition_of_type(resource.type)


def module_of(definition: str) -> tuple[str, str]:
    """The inverse of ``definition_of``."""
    home, _, kind = definition.rpartition(".")
    return _MODULES.get(home) or "_".join(home.split(".")[-2:]), kind


def reference(definition: str) -> Json:
    return {"$ref": PREFIX + definition}


def references(value: object) -> set[str]:
    """The definitions that a tree refers to."""
    return set(_REFERENCE.findall(msgspec.json.encode(value).decode()))


class Schemas:
    """Makes definitions by name.

    Args: descriptions: {definition: its words and, by wire name, its fields'}, maybe empty.
          group_versions: (group, version) that DeleteOptions and WatchEvent belong to, beside the core's.
    """

    def __init__(self, descriptions: Mapping[str, Any], group_versions: Iterable[tuple[str, str]]) -> None:
        self.descriptions = descriptions
        self.group_versions = tuple(dict.fromkeys([("", "v1"), *group_versions]))

    def closure(self, wanted: Iterable[str], given: Mapping[str, Json]) -> dict[str, Json]:
        """The wanted definitions and all that they refer to.

        ``given`` are those that are no built-in types. They refer to each other and to metadata; whatever else looks like
        a reference in them is somebody's example.
        """
        made: dict[str, Json] = {}
        queue = list(wanted)
        while queue:
            name = queue.pop()
            if name not in made:
                made[name] = schema = given.get(name) or self.definition(name)
                found = references(schema)
                queue += [one for one in found if one in given or one.startswith(META)] if name in given else found
        return dict(sorted(made.items()))

    def definition(self, name: str) -> Json:
        described = self.descriptions.get(name)
        words = {"description": described.description} if described and described.description else {}
        fields = {wire: field.description for wire, field in described.properties.items()} if described else {}
        if name in PLAIN:
            return {**words, **PLAIN[name]}
        module, kind = module_of(name)
        found = getattr(importlib.import_module(f"kaa.api.types.{module}"), kind, None)
        if found is None and kind.endswith("List"):
            item = getattr(importlib.import_module(f"kaa.api.types.{module}"), kind[: -len("List")])
            return {**words, **self._list(item, name, fields)}
        if found is None:
            raise LookupError(f"no type is named {name}")
        return {**words, **self._struct(found, f"{module}.{kind}", fields)}

    def _struct(self, kind: Any, key: str, described: Mapping[str, str]) -> Json:
        module = key.partition(".")[0]
        properties: Json = {}
        required = []
        name = key.partition(".")[2]
        if hasattr(kind, "KIND") or name == "DeleteOptions":
            properties = _type_meta(described)
        for attribute, wire, needed in _fields(kind):
            text = _EMBEDDED.sub("", kind.__annotations__[attribute])
            words = described.get(wire)
            properties[wire] = _field(module, key, wire, text, needed, words)
            if (needed and f"{key}.{wire}" not in OPTIONAL) or f"{key}.{wire}" in TIMES:
                required.append(wire)
        made: Json = {"type": "object", "properties": dict(sorted(properties.items()))}
        if required:
            made["required"] = required
        made.update(self._group_version_kind(kind, name))
        if key in ATOMIC:
            made["x-kubernetes-map-type"] = "atomic"
        if key in UNIONS:
            made["x-kubernetes-unions"] = UNIONS[key]
        if not properties:
            del made["properties"]
        return made

    def _group_version_kind(self, kind: Any, name: str) -> Json:
        if name in _OF_EVERY_GROUP:
            return {
                "x-kubernetes-group-version-kind": [gvk(group, version, name) for group, version in self.group_versions]
            }
        if not hasattr(kind, "KIND"):
            return {}
        group, _, version = kind.API_VERSION.rpartition("/")
        return {"x-kubernetes-group-version-kind": [gvk(group, version, kind.KIND)]}

    def _list(self, item: Any, name: str, described: Mapping[str, str]) -> Json:
        group, _, version = item.API_VERSION.rpartition("/")
        items = {"type": "array", "items": reference(definition_of_type(item))}
        metadata = {"allOf": [reference(f"{META}.ListMeta")], "default": {}}
        properties = {
            **_type_meta(described),
            "items": _described(items, described.get("items")),
            "metadata": _described(metadata, described.get("metadata")),
        }
        return {
            "type": "object",
            "properties": dict(sorted(properties.items())),
            "required": ["items"],
            "x-kubernetes-group-version-kind": [gvk(group, version, name.rpartition(".")[2])],
        }


def gvk(group: str, version: str, kind: str) -> Json:
    return {"group": group, "kind": kind, "version": version}


def _fields(kind: Any) -> list[tuple[str, str, bool]]:
    """(attribute, wire name, required) of a Struct. ``msgspec.structs.fields`` would evaluate every annotation."""
    names, wires, defaults = kind.__struct_fields__, kind.__struct_encode_fields__, kind.__struct_defaults__
    defaults = (*(msgspec.NODEFAULT for _ in range(len(names) - len(defaults))), *defaults)
    return [
        (name, wire, default is msgspec.NODEFAULT) for name, wire, default in zip(names, wires, defaults, strict=True)
    ]


def _type_meta(described: Mapping[str, str]) -> Json:
    return {wire: _described({"type": "string"}, described.get(wire)) for wire in ("apiVersion", "kind")}


def _described(schema: Json, words: str | None) -> Json:
    return {**schema, "description": words} if words else schema


def _field(module: str, key: str, wire: str, text: str, required: bool, words: str | None) -> Json:
    text = text.removesuffix(" | None")
    schema = _value(module, text, wire in INT32.get(key, ()))
    enum = ENUMS.get(key, {}).get(wire)
    if enum:
        schema = _with_enum(schema, list(enum))
    schema = _described(schema, words)
    default = _default(key, wire, text, required)
    if default is not None:
        schema = {**schema, "default": default}
    merge = MERGE.get(key, {}).get(wire)
    if merge:
        schema = {**schema, **_extensions(merge)}
    if "$ref" in schema and len(schema) > 1:
        return {"allOf": [{"$ref": schema.pop("$ref")}], **schema}
    return schema


def _default(key: str, wire: str, text: str, required: bool) -> Any:
    """What the field is when nobody sets it; None when it has no default, then it is absent."""
    explicit = DEFAULTS.get(key, {}).get(wire)
    if explicit is not None:
        return explicit
    if wire in HELD.get(key, ()):
        return {}
    if not required or wire in BYTES.get(key, ()) or wire in WITHOUT_DEFAULT.get(key, ()):
        return None
    return _ZEROS.get(text)


def _extensions(merge: Merge) -> Json:
    made: Json = {}
    if merge.list_keys:
        made["x-kubernetes-list-map-keys"] = list(merge.list_keys)
    if merge.list_type:
        made["x-kubernetes-list-type"] = merge.list_type
    if merge.map_type:
        made["x-kubernetes-map-type"] = merge.map_type
    if merge.patch_key:
        made["x-kubernetes-patch-merge-key"] = merge.patch_key
    if merge.patch_strategy:
        made["x-kubernetes-patch-strategy"] = merge.patch_strategy
    return made


def _with_enum(schema: Json, values: list[str]) -> Json:
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            return {**schema, inner: _with_enum(schema[inner], values)}
    return {**schema, "enum": values}


@lru_cache(maxsize=2048)
def _value(module: str, text: str, int32: bool) -> Json:
    if text == "Any" and module == "apiextensions_v1":
        return reference(f"{_EXTENSIONS}.JSON")
    if text in _NAMED:
        return reference(_NAMED[text])
    if text in _SCALARS:
        return {"type": "integer", "format": "int32"} if int32 and text == "int" else _SCALARS[text]
    if text.startswith("tuple["):
        return {"type": "array", "items": _value(module, text[6:-6], int32)}
    if text.startswith("dict[str, "):
        return {"type": "object", "additionalProperties": _value(module, text[10:-1], int32)}
    home, _, kind = text.rpartition(".")
    return reference(definition_of(home or module, kind))
