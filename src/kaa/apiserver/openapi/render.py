"""Operations and schemas as documents: OpenAPI v3 for one group-version, OpenAPI v2 for everything.

Parameters that all methods of a path share stand at the path, as upstream writes them. The v2 form of a schema drops what
v2 has no word for: ``oneOf``, ``allOf`` of a single reference, and defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .operations import Operation, Parameter
from .schemas import INT_OR_STRING, PREFIX, QUANTITY, Json, reference

VERSION = "1.36"
_REASONS = {"200": "OK", "201": "Created", "202": "Accepted"}
_BEARER = {"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"}
_UNAUTHORIZED = {"401": {"description": "Unauthorized"}}
_INFO = {"title": "Kubernetes", "version": VERSION}
PREFIX_V2 = "#/definitions/"
#: What v2 says of definitions that v3 describes by ``oneOf``.
_V2_PLAIN: dict[str, Json] = {
    INT_OR_STRING: {"format": "int-or-string", "type": "string"},
    QUANTITY: {"type": "string"},
}
Paths = Iterable[tuple[str, list[Operation]]]
#: Makes bytes of a path item or a schema.
Pack = Callable[[Json], Any]


def document_v3(paths: Paths, schemas: Mapping[str, Json]) -> Json:
    components: Json = {"securitySchemes": {"BearerToken": _BEARER}}
    if schemas:
        components["schemas"] = schemas
    return {
        "openapi": "3.0.0",
        "info": _INFO,
        "paths": {path: _path(operations, _operation_v3, _parameter_v3) for path, operations in paths},
        "components": components,
    }


def document_v2(paths: Paths, schemas: Mapping[str, Json], pack_path: Pack, pack_schema: Pack) -> Json:
    """The whole document; its parts are packed as they are made, for as one tree they would weigh ten times as much."""
    return {
        "swagger": "2.0",
        "info": _INFO,
        "paths": {path: pack_path(_path(operations, _operation_v2, _parameter_v2)) for path, operations in paths},
        "definitions": {name: pack_schema(_definition_v2(name, schema)) for name, schema in sorted(schemas.items())},
        "securityDefinitions": {"BearerToken": _BEARER},
        "security": [{"BearerToken": []}],
    }


def _path(operations: list[Operation], operation: Any, parameter: Any) -> Json:
    shared = set(operations[0].parameters).intersection(*(other.parameters for other in operations[1:]))
    made: Json = {one.method: operation(one, _ordered(set(one.parameters) - shared)) for one in operations}
    if shared:
        made["parameters"] = [parameter(one) for one in _ordered(shared)]
    return made


def _ordered(parameters: Iterable[Parameter]) -> list[Parameter]:
    return sorted(parameters, key=lambda parameter: (parameter.name, parameter.place))


def _head(operation: Operation) -> Json:
    made: Json = {"description": operation.description, "operationId": operation.id, "tags": [operation.tag]}
    if operation.action:
        made["x-kubernetes-action"] = operation.action
    if operation.kind:
        made["x-kubernetes-group-version-kind"] = operation.kind
    return made


# ------------------------------------------------------------------------------------------------------------ v3


def _parameter_v3(parameter: Parameter) -> Json:
    made: Json = {"description": parameter.description, "in": parameter.place, "name": parameter.name}
    if parameter.place == "path":
        made["required"] = True
    made["schema"] = {"type": parameter.type, "uniqueItems": True}
    return made


def _answer(of: str) -> Json:
    return {"type": "string"} if of == "string" else reference(of)


def _content(media_types: Iterable[str], schema: Json) -> Json:
    shared = {"schema": schema}
    return {media_type: shared for media_type in media_types}  # noqa: C420 (shared on purpose: nobody changes it)


def _operation_v3(operation: Operation, own: list[Parameter]) -> Json:
    made = _head(operation)
    made["responses"] = {
        code: {"description": _REASONS[code], "content": _content(operation.produces, _answer(of))}
        for code, of in operation.answers.items()
    } | _UNAUTHORIZED
    if own:
        made["parameters"] = [_parameter_v3(parameter) for parameter in own]
    if operation.body:
        body: Json = {"content": _content(operation.consumes, reference(operation.body))}
        made["requestBody"] = {**body, "required": True} if operation.body_required else body
    return made


# ------------------------------------------------------------------------------------------------------------ v2


def _parameter_v2(parameter: Parameter) -> Json:
    made: Json = {"description": parameter.description, "in": parameter.place, "name": parameter.name}
    if parameter.place == "path":
        made["required"] = True
    return {**made, "type": parameter.type, "uniqueItems": True}


def _schema_reference_v2(of: str) -> Json:
    return {"type": "string"} if of == "string" else {"$ref": PREFIX_V2 + of}


def _operation_v2(operation: Operation, own: list[Parameter]) -> Json:
    made = _head(operation)
    made["consumes"], made["produces"] = list(operation.consumes), list(operation.produces)
    made["schemes"] = ["https"]
    made["responses"] = {
        code: {"description": _REASONS[code], "schema": _schema_reference_v2(of)}
        for code, of in operation.answers.items()
    } | _UNAUTHORIZED
    parameters = [_parameter_v2(parameter) for parameter in own]
    if operation.body:
        body = {"in": "body", "name": "body", "schema": _schema_reference_v2(operation.body)}
        parameters.insert(0, {**body, "required": True} if operation.body_required else body)
    if parameters:
        made["parameters"] = parameters
    return made


def _definition_v2(name: str, schema: Json) -> Json:
    plain = _V2_PLAIN.get(name)
    if plain is None:
        return schema_v2(schema)
    return {**plain, "description": schema["description"]} if "description" in schema else plain


def schema_v2(schema: Json) -> Json:
    """The v2 form of a v3 schema.

    v2 cannot say "or null", so what may be null has no type and is not required; and kubectl refuses unknown fields beside
    known ones, so what keeps unknown fields names none. Source: apiextensions' ToStructuralOpenAPIV2.
    """
    made: Json = {}
    for key, value in schema.items():
        if key == "$ref":
            made[key] = PREFIX_V2 + value[len(PREFIX) :] if value.startswith(PREFIX) else value
        elif key == "properties":
            made[key] = {wire: schema_v2(inner) for wire, inner in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            made[key] = schema_v2(value)
        elif key == "allOf" and len(value) == 1 and "$ref" in value[0]:
            made.update(schema_v2(value[0]))
        elif key not in _NOT_IN_V2:
            made[key] = value
    if schema.get("nullable"):
        return {key: value for key, value in made.items() if key in ("description", "title") or key.startswith("x-")}
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        made.pop("items", None)
        made.pop("properties", None)
    elif "required" in schema:
        made["required"] = [wire for wire in schema["required"] if not _nullable(schema, wire)]
    return made


_NOT_IN_V2 = frozenset({"allOf", "anyOf", "oneOf", "not", "nullable", "default"})


def _nullable(schema: Json, wire: str) -> bool:
    return bool(schema.get("properties", {}).get(wire, {}).get("nullable"))
