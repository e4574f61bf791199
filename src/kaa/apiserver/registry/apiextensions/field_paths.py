"""Paths to fields of a schema, as ``fieldPath`` of rules and selectable fields name them: ``.spec.a['b.c']``.

Source: apiextensions-apiserver pkg/apiserver/schema/cel/validation.go, ValidFieldPath.
"""

from __future__ import annotations

import re

from kaa.api.types.apiextensions_v1 import JSONSchemaProps

_TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|[.\[\]]|[^.\[\]]+", re.DOTALL)
_ENDS = "unexpected end of JSON path"
_NO_FIELD = "does not refer to a valid field"


def field_at(schema: JSONSchemaProps, path: str, *, brackets: bool = True) -> JSONSchemaProps | str:
    """The schema of the field that a path names, or in upstream's words why it names none."""
    tokens = iter(_TOKEN.findall(path))
    for token in tokens:
        if token == ".":
            name = next(tokens, None)
        elif token != "[":
            return f"expected [ or . but got: {token}"
        elif not brackets:
            return "array notation is not allowed"
        else:
            quoted = next(tokens, None)
            if quoted is not None and not (len(quoted) > 1 and quoted[0] == quoted[-1] == "'"):
                return f"expected single quoted string but got {quoted}"
            closing = next(tokens, None)
            if quoted is not None and closing not in ("]", None):
                return f"expected ] but got {closing}"
            name = re.sub(r"\\(.)", r"\1", quoted[1:-1]) if quoted is not None and closing is not None else None
        if name is None:
            return _ENDS
        inner = schema.properties.get(name) if schema.properties else schema.additional_properties
        if not isinstance(inner, JSONSchemaProps):
            return _NO_FIELD
        schema = inner
    return schema
