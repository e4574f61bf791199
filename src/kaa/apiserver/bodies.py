"""Request bodies: bytes to objects, refused in upstream's words.

The order of refusals is upstream's: media type, then kind and version, then the fields' types, then (strict) fields that
the kind does not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.custom import CustomObject, from_document
from kaa.api.errors import BadRequest, Invalid, UnsupportedMediaType
from kaa.api.fields import Path, invalid
from kaa.api.quantity import INVALID as INVALID_QUANTITY
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import Pod, PodSpec
from kaa.api.values import whole
from kaa.client.pipeline import Request

from .memo import KEPT

JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
CBOR = "application/cbor"
ACCEPTED = f"{JSON}, {YAML}, {PROTOBUF}"
_SHOWN = 30  # bytes of a body that an answer quotes


#: Whole numbers lose their point, as they do on their way through Go.
_DOCUMENT = msgspec.json.Decoder(float_hook=lambda text: whole(float(text)))


@dataclass(frozen=True, slots=True)
class Body:
    """An object as it was sent, with the warnings that reading it gave."""

    object: Any
    warnings: tuple[str, ...] = ()


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def plain_document(data: bytes, content_type: str, what: str) -> Any:
    """The plain value of a JSON, YAML or protobuf body. ``what`` is the kind that it must be."""
    kind = media_type(content_type)
    if kind == YAML:
        return _from_yaml(data)
    if kind == PROTOBUF:
        return _from_protobuf(data, what)
    if kind == CBOR:
        return _from_cbor(data, what)
    if kind not in (JSON, ""):
        raise UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {ACCEPTED}"
        )
    try:
        return _DOCUMENT.decode(data)
    except msgspec.DecodeError:
        raise _not_json(data, what) from None
    except RecursionError:
        raise BadRequest("the object provided is nested too deeply") from None


def _from_yaml(data: bytes) -> Any:
    from kaa.api import yaml  # only clients that send YAML pay for it

    try:
        return yaml.load(data)
    except yaml.YAMLError as err:
        raise BadRequest(f"error converting YAML to JSON: yaml: {err}") from None


def twice_in_yaml(data: bytes) -> list[str]:
    """A line for each key that stands twice in a mapping, as go-yaml says it; none when the text is no YAML."""
    from kaa.api import yaml

    lines: list[str] = []
    try:
        yaml.load(data, lines)
    except yaml.YAMLError:
        return []
    return lines


def yaml_problem(lines: Iterable[str]) -> str:
    """What go-yaml says of a text with such lines in one go. As warnings they are told one by one."""
    return "yaml: unmarshal errors:\n" + "\n".join(f"  {line}" for line in lines)


def _from_protobuf(data: bytes, what: str) -> Any:
    from kaa.api.protobuf import Malformed, document_from_protobuf  # only clients that send protobuf pay for it

    try:
        return document_from_protobuf(data)
    except Malformed as err:
        shown = data[:30].hex() or "<empty>"
        raise BadRequest(f"the object provided is unrecognized (must be of type {what}): {err} ({shown})") from None


def _from_cbor(data: bytes, what: str) -> Any:
    from kaa.api.cbor import Malformed, decode  # only clients that send CBOR pay for it

    try:
        return decode(data)
    except Malformed as err:
        shown = data[:30].hex() or "<empty>"
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {what}): unable to determine group/version/kind: {err}"
            f" ({shown})"
        ) from None


def _not_json(data: bytes, what: str) -> BadRequest:
    shown = data[:100].decode("utf-8", "replace") or "<empty>"
    problem = _go_json_error(data.decode("utf-8", "replace"))
    return BadRequest(
        f"the object provided is unrecognized (must be of type {what}): couldn't get version/kind;"
        f" json parse error: {problem} ({shown})"
    )


def _go_json_error(text: str) -> str:
    """Where Go's JSON scanner would stop, for the mistakes that people make."""
    stripped = text.lstrip()
    if not stripped:
        return "unexpected end of JSON input"
    if stripped[0] == "{":
        after = stripped[1:].lstrip()
        if after and after[0] not in '"}':
            return f"invalid character '{after[0]}' looking for beginning of object key string"
    elif stripped[0] not in '[{"-0123456789tfn':
        return f"invalid character '{stripped[0]}' looking for beginning of value"
    import json

    try:
        json.loads(text)
    except json.JSONDecodeError as err:
        if err.pos >= len(text.rstrip()):
            return "unexpected end of JSON input"
        return f"invalid character '{text[err.pos]}' after object key:value pair"
    return "unexpected end of JSON input"


#: The paths of fields that a custom resource's schema does not know.
Unknown = Callable[[Mapping[str, Any]], list[str]]


def read(
    request: Request, resource: Resource[Any], kind: type | None = None, *, unknown: Unknown | None = None
) -> Body:
    """The object of a create or update. ``kind`` is the Struct when it is not the resource's own (``Scale``)."""
    if not isinstance(request.body, (bytes, bytearray)):
        return Body(request.body)
    try:
        return _read(request, resource, kind, bytes(request.body), unknown)
    except UnicodeDecodeError:
        return _read(request, resource, kind, scheme.repaired(bytes(request.body)), unknown)


def json_value(data: bytes) -> Any:
    """The plain value of JSON as Go reads it. Raises msgspec.DecodeError, RecursionError."""
    try:
        return _DOCUMENT.decode(data)
    except UnicodeDecodeError:
        return _DOCUMENT.decode(scheme.repaired(data))


def _read(request: Request, resource: Resource[Any], kind: type | None, data: bytes, unknown: Unknown | None) -> Body:
    expected_kind, expected_version = resource.kind, resource.api_version
    if kind is not None:
        expected_kind, expected_version = kind.KIND, kind.API_VERSION  # type: ignore[attr-defined]  # all kinds have them
    level = request.options.get("fieldValidation") or "Warn"
    form = media_type(request.content_type)
    fast, text = form in (JSON, ""), form not in (PROTOBUF, CBOR)
    if resource.custom and kind is None and form == PROTOBUF:
        raise UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {JSON}, {YAML}"
        )
    if not fast or resource.custom or level != "Ignore":
        spec = _spec_in(data) if fast and not resource.custom and resource.type is Pod and kind is None else b""
        known = _SPECS.get(spec) if spec else None
        if known is not None:
            data = _without(data, spec)
        document = plain_document(data, request.content_type, expected_kind)
        if resource.custom and kind is None:
            _check_custom(document, resource, data)
        else:
            check_kind(document, expected_kind, expected_version)
        warnings = strictness(
            request,
            resource,
            kind or (None if resource.custom else resource.type),
            document,
            data if text else b"",
            unknown,
            yaml=form == YAML,
        )
        obj = make(resource, kind, document, data if fast else None)
        if known is not None:
            obj = replace(obj, spec=known)
        elif spec and not warnings and level != "Ignore":
            _remember(spec, obj.spec)
        return Body(obj, warnings)
    try:
        meta = scheme.decode(scheme.TypeMeta, data)
    except scheme.DecodeError:
        raise _not_json(data, expected_kind) from None
    check_kind({"kind": meta.kind, "apiVersion": meta.api_version}, expected_kind, expected_version)
    return Body(make(resource, kind, None, data))


#: {JSON: what it was read as} of pod specs in which nothing was wrong: pods of one template share theirs (see ``memo``).
_SPECS: dict[bytes, PodSpec] = {}
_SPEC_MIN, _SPEC_MAX = 64, 16 << 10  # bytes: shorter ones are read as fast as found, longer ones are rare
_NO_SPEC = b'{"containers":[]}'


class _Parts(msgspec.Struct):
    spec: msgspec.Raw = msgspec.Raw(b"")


_PARTS = msgspec.json.Decoder(_Parts)


def _spec_in(data: bytes) -> bytes:
    """The bytes of a document's spec; none when they are not worth remembering."""
    try:
        spec = _PARTS.decode(data).spec
    except (ValueError, RecursionError):
        return b""  # told of by who reads the whole
    return bytes(spec) if _SPEC_MIN < len(memoryview(spec)) <= _SPEC_MAX else b""


def _without(data: bytes, spec: bytes) -> bytes:
    """The document with an empty spec. Told by its first bytes, since a search for all of them costs more than it saves."""
    start = data.find(spec[:_SPEC_MIN])
    while not data.startswith(spec, start):
        start = data.find(spec[:_SPEC_MIN], start + 1)
    return data[:start] + _NO_SPEC + data[start + len(spec) :]


def _remember(spec: bytes, made: PodSpec) -> None:
    if len(_SPECS) >= KEPT:
        del _SPECS[next(iter(_SPECS))]
    _SPECS[spec] = made


def make(resource: Resource[Any], kind: type | None, document: Any, data: bytes | None) -> Any:
    """An object from its document, or straight from its bytes. Raises BadRequest in Go's words."""
    expected_kind, version = resource.kind, resource.version
    try:
        if resource.custom and kind is None:
            return from_document(document)
        struct = kind or resource.type
        if kind is not None:
            expected_kind, version = kind.KIND, kind.API_VERSION.rpartition("/")[2]  # type: ignore[attr-defined]
        return scheme.decode(struct, data) if data is not None else scheme.convert(struct, document)
    except scheme.DecodeError as err:
        problem = go_decode_error(str(err), kind or resource.type)
        raise BadRequest(
            f'{expected_kind} in version "{version}" cannot be handled as a {expected_kind}: {problem}'
        ) from None


def _check_custom(document: Any, resource: Resource[Any], data: bytes) -> None:
    """A custom object names its kind and its version itself. Whether the kind is right is told with the other faults."""
    _check_shape(document, resource.kind)
    if not document.get("kind"):
        text = data.decode("utf-8", "replace")
        shown = text if len(data) <= _SHOWN else f"{data[:_SHOWN].decode('utf-8', 'replace')} ..."
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {resource.kind}):"
            f" Object 'Kind' is missing in '{text}' ({shown})"
        )
    version = document.get("apiVersion") or ""
    if version != resource.api_version:
        raise BadRequest(
            f"the API version in the data ({version}) does not match the expected API version ({resource.api_version})"
        )


def refuse_other_type(obj: CustomObject, resource: Resource[Any]) -> None:
    """Raise Invalid, under the kind that it says it is, for an object of another kind or version than the resource's."""
    wanted = (("kind", obj.kind, resource.kind), ("apiVersion", obj.api_version, resource.api_version))
    faults = [invalid(Path(field), found, f"must be {right}") for field, found, right in wanted if found != right]
    if faults:
        raise Invalid.of(obj.api_version.rpartition("/")[0], obj.kind, obj.metadata.name or "", faults)


def _check_shape(document: Any, kind: str) -> None:
    if not isinstance(document, dict):
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind;"
            f" json parse error: json: cannot unmarshal {_go_word(document)} into Go value of type struct"
        )


def check_kind(document: Any, kind: str, api_version: str) -> None:
    """The document says what it is, and it is that. An absent kind or version is the expected one, as upstream has it."""
    _check_shape(document, kind)
    found_kind, found_version = document.get("kind") or kind, document.get("apiVersion") or api_version
    version = str(found_version).rpartition("/")[2]
    if found_version == api_version and found_kind == kind:
        return
    if scheme.resource_by_kind(str(found_version), str(found_kind)) is None and found_version != api_version:
        raise BadRequest(
            f'{found_kind} in version "{version}" cannot be handled as a {kind}: no kind "{found_kind}" is registered'
            f' for version "{found_version}" in scheme "pkg/api/legacyscheme/scheme.go:30"'
        )
    raise BadRequest(
        f'{found_kind} in version "{version}" cannot be handled as a {kind}:'
        f" converting (v1.{found_kind}) to (core.{kind}): unknown conversion"
    )


# -------------------------------------------------------------------------------------------------------- strictness


def strictness(
    request: Request,
    resource: Resource[Any],
    struct: type | None,
    document: Any,
    data: bytes,
    unknown: Unknown | None = None,
    *,
    yaml: bool = False,
) -> tuple[str, ...]:
    """Fields that the kind does not have, and fields sent twice: refused, warned about or ignored as asked. ``yaml``: the
    form of ``data``, else JSON."""
    level = request.options.get("fieldValidation") or "Warn"
    if level == "Ignore" or not isinstance(document, dict):
        return ()
    paths = _unknown(struct, document) if struct else unknown(document) if unknown is not None else []
    places = _twins(b"" if yaml else data, document)
    found = [(places.first.get(path, 0), f'unknown field "{path}"') for path in paths]
    twice = [(n, f'duplicate field "{path}"') for n, path in places.twice if path not in paths]
    faults = [text for _, text in sorted(found + twice, key=itemgetter(0))] if twice else [text for _, text in found]
    lines = twice_in_yaml(data) if yaml else []
    if level == "Warn":
        return (*lines, *faults)
    if lines:
        faults.insert(0, yaml_problem(lines))
    if faults:
        raise BadRequest(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}:'
            f" strict decoding error: {', '.join(faults)}"
        )
    return ()


def _unknown(struct: type, document: dict[str, Any]) -> list[str]:
    return list(scheme.unknown_fields(struct, document))


def duplicate_fields(data: bytes, document: Any) -> list[str]:
    """The paths of members that stand twice in one JSON object, in the order of the text: ``spec.containers[0].image``."""
    return [path for _, path in _twins(data, document).twice]


class _Places:
    """Where members stand in a text: ``first`` {path: its number}, and those that stand there again."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.twice: list[tuple[int, str]] = []
        self._count = 0

    def take(self, value: Any, path: str) -> None:
        if isinstance(value, _Pairs):
            here: set[str] = set()
            for name, inner in value:
                place = f"{path}.{name}" if path else name
                self._count += 1
                self.first.setdefault(place, self._count)
                if name in here and (self.twice[-1:] or [(0, "")])[0][1] != place:
                    self.twice.append((self._count, place))
                here.add(name)
                self.take(inner, place)
        elif isinstance(value, list):
            for n, inner in enumerate(value):
                self.take(inner, f"{path}[{n}]")


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, as they stand."""


def _twins(data: bytes, document: Any) -> _Places:
    """Finding them costs a slow parse, so first colons are counted: a document that lost a member has fewer."""
    places = _Places()
    if data.count(b'":') + data.count(b'" :') <= msgspec.json.encode(document).count(b'":'):
        return places
    import json

    try:
        places.take(json.loads(data, object_pairs_hook=_Pairs), "")
    except (ValueError, RecursionError):
        return _Places()
    return places


# -------------------------------------------------------------------------------------------------------- words

_EXPECTED = re.compile(r"Expected `(.+?)`, got `(.+?)`(?: - at `\$(.*)`)?")
_GO_TYPES = {"int": "int32", "bool": "bool", "str": "string", "float": "float64", "object": "map[string]string"}
_GO_WORDS = {"str": "string", "int": "number", "float": "number", "bool": "bool", "array": "array", "object": "object"}


def _go_word(value: Any) -> str:
    names = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def go_decode_error(message: str, struct: type) -> str:
    """msgspec's complaint as Go's decoder would word it."""
    if INVALID_QUANTITY in message or "quantit" in message:
        return INVALID_QUANTITY
    if message.startswith("illegal base64"):
        return message.partition(" - at ")[0]
    found = _EXPECTED.match(message)
    if found is None:
        return message
    choices, got, place = found[1].split(" | "), found[2], found[3] or ""
    expected = "float" if "float" in choices else choices[0]
    names = [part for part in re.split(r"\.|\[[^\]]*\]", place) if part]
    owner, leaf = _owner(struct, names)
    go_type = _go_type(owner, leaf, expected)
    path = ".".join(names)
    return f"json: cannot unmarshal {_GO_WORDS.get(got, got)} into Go struct field {owner.__name__}.{path} of type {go_type}"


def _owner(struct: type, names: list[str]) -> tuple[type, str]:
    """The Struct that holds the last field of a path."""
    owner = struct
    for name in names[:-1]:
        known = scheme.field_types(owner)
        inner = scheme.struct_in(known[name][1]) if name in known else None
        if inner is not None:
            owner = inner
    return owner, names[-1] if names else ""


def _go_type(owner: type, leaf: str, expected: str) -> str:
    hint = scheme.field_types(owner).get(leaf, ("", None, False))[1]
    inner = scheme.struct_in(hint)
    if expected == "array":
        return f"[]v1.{inner.__name__}" if inner else "[]string"
    if expected == "object" and inner is not None:
        return f"v1.{inner.__name__}"
    return _GO_TYPES.get(expected, expected)
