"""``/openapi/v2`` and ``/openapi/v3/…``: documents made when somebody asks, then kept as compressed bytes.

What a document would say depends on the program and on the custom resources served, so its hash is taken of those: the
index of all documents needs none of them made. Built trees and descriptions are let go at once; an idle server that
nobody asked holds nothing.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from kaa.api.errors import NotAcceptable
from kaa.api.resources import RESOURCES, Resource

Json = dict[str, Any]

JSON = "application/json"
_PROTOBUF = "application/com.github.proto-openapi.spec.v2"
#: Both spellings that clients use. Only the second is a media type that Go can read, so it is the one answered with.
PROTOBUF_V2 = (f"{_PROTOBUF}@v1.0+protobuf", f"{_PROTOBUF}.v1.0+protobuf")
GZIP_LEVEL = 5
_DEFINITIONS = "kubernetes-json-schema/v{version}.0-local/_definitions.json"
_LONE = (".well-known/openid-configuration", "openid/v1/jwks", "version")


@dataclass(frozen=True)
class CustomSchema:
    """A custom resource and its OpenAPI v3 schema, as the definition has it; None serves any object.

    ``schema`` may be its JSON, which is a tenth of the tree's size: the tree is made for documents, which are few.
    """

    resource: Resource[Any]
    schema: Json | bytes | None = None

    def tree(self) -> Json | None:
        return msgspec.json.decode(self.schema) if isinstance(self.schema, bytes) else self.schema

    @functools.cached_property
    def digest(self) -> tuple[str, bytes]:
        """What its documents are made of, in short."""
        text = self.schema if isinstance(self.schema, bytes) else msgspec.json.encode(self.schema, order="sorted")
        return repr(_row(self.resource)), hashlib.sha512(text).digest()


@dataclass(frozen=True, slots=True)
class Document:
    """What to answer. ``encoding`` is ``gzip`` or empty; ``hash`` is what ``?hash=`` must say for the answer to be kept
    for good, and empty for the index and v2."""

    body: bytes
    content_type: str
    encoding: str
    etag: str
    hash: str = ""


@dataclass(frozen=True)
class _Served:
    """What documents speak of."""

    built_in: Sequence[Resource[Any]] = RESOURCES
    custom: tuple[CustomSchema, ...] = ()

    @property
    def resources(self) -> list[Resource[Any]]:
        return [*self.built_in, *(one.resource for one in self.custom)]


@dataclass
class _Kept:
    """Documents of what is served now: {path and content type: gzip'ed bytes}."""

    served: _Served
    made: dict[tuple[str, str], bytes] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


class OpenAPI:
    """Documents by path. Safe to ask from threads: making one blocks for a tenth of a second."""

    def __init__(self, built_in: Sequence[Resource[Any]] = RESOURCES) -> None:
        self._kept = _Kept(_Served(built_in))
        self._making = threading.Lock()

    def serve(self, custom: Iterable[CustomSchema]) -> None:
        """Take note of the custom resources that are served now. Documents that they do not touch are kept."""
        before = self._kept
        after = _Kept(_Served(before.served.built_in, tuple(custom)))
        for key, body in list(before.made.items()):
            path = key[0]
            if path in before.hashes and before.hashes[path] == _hash(path, after.served):
                after.made[key], after.hashes[path] = body, before.hashes[path]
        self._kept = after

    def document(self, path: str, accept: str = "", accept_encoding: str = "") -> Document | None:
        """The answer to GET of a path; None when no document is there.

        Raises: NotAcceptable: the client takes none of the forms there are.
        """
        kept = self._kept
        parts = path.strip("/").split("/", 2)
        match parts:
            case ["openapi", "v2"]:
                chosen = _choose(accept, (JSON, *PROTOBUF_V2))
                content_type = PROTOBUF_V2[1] if chosen in PROTOBUF_V2 else JSON
            case ["openapi", "v3"]:
                content_type = _choose(accept, (JSON,))
            case ["openapi", "v3", name] if name in _names(kept.served):
                content_type = _choose(accept, (JSON,))
            case _:
                return None
        name = "/".join(parts)
        packed = self._packed(kept, name, content_type)
        zipped = any(kind in ("gzip", "*") and weight > 0 for kind, weight in _ranges(accept_encoding or "identity"))
        return _document(kept, name, packed, content_type, zipped)

    def _packed(self, kept: _Kept, name: str, content_type: str) -> bytes:
        key = (name, content_type)
        if key not in kept.made:
            with self._making:
                if key not in kept.made:
                    kept.hashes[name] = _hash(name, kept.served)
                    kept.made[key] = gzip.compress(_make(name, key[1], kept.served), GZIP_LEVEL, mtime=0)
        return kept.made[key]


def _document(kept: _Kept, name: str, packed: bytes, content_type: str, zipped: bool) -> Document:
    digest = kept.hashes[name]
    body = packed if zipped else gzip.decompress(packed)
    stable = digest if name.count("/") > 1 else ""
    return Document(body, content_type, "gzip" if zipped else "", f'"{digest}"', stable)


def _choose(accept: str, offered: tuple[str, ...]) -> str:
    """The best offered type; the first one for a client that does not care."""
    ranked = sorted(_ranges(accept), key=lambda item: -item[1])
    for wanted, weight in ranked:
        for kind in offered:
            if weight > 0 and (wanted in ("*/*", kind) or (wanted == "application/*" and kind == JSON)):
                return kind
    raise NotAcceptable(f"only the following media types are accepted: {', '.join(offered)}")


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for part in (accept or "*/*").split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
        try:
            yield kind, float(weights[0]) if weights else 1.0
        except ValueError:
            yield kind, 1.0


# -------------------------------------------------------------------------------------------------------- what there is


def _group_versions(served: _Served) -> list[tuple[str, str]]:
    return sorted({(resource.group, resource.version) for resource in served.resources})


def _names(served: _Served) -> list[str]:
    """The paths of all v3 documents, sorted."""
    found = {"api", "apis", *_LONE}
    for group, version in _group_versions(served):
        found.update((f"apis/{group}", f"apis/{group}/{version}") if group else (f"api/{version}",))
    return sorted(found)


def _hash(path: str, served: _Served) -> str:
    """512 bits in hexadecimal of all that a document is made of."""
    name = path.removeprefix("openapi/v3/")
    touched = [one for one in served.custom if name == path or one.resource.root.strip("/") == name]
    rows = sorted(one.digest for one in touched)
    built_in = [_row(one) for one in served.built_in if name == path or one.root.strip("/") == name]
    return hashlib.sha512(repr((program_hash(), path, built_in, rows)).encode()).hexdigest().upper()


def _row(resource: Resource[Any]) -> tuple[Any, ...]:
    subs = resource.subresources
    return (resource.group, resource.version, resource.plural, resource.kind, resource.namespaced, resource.verbs, subs)


@functools.cache
def program_hash() -> str:
    """Stands for the built-in types, this room, and the descriptions at hand."""
    here = Path(__file__).parent
    api = here.parent.parent / "api"
    digest = hashlib.sha256()
    for path in (api / "resources.py", *sorted((api / "types").glob("*.py")), *sorted(here.glob("*.py"))):
        digest.update(path.read_bytes())
    definitions = _definitions_file()
    digest.update(str(definitions.stat().st_size if definitions else 0).encode())
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------------- making one


def _make(name: str, form: str, served: _Served) -> bytes:
    from . import proto

    if name == "openapi/v2" and form == JSON:
        return msgspec.json.encode(_tree_v2(served, _raw, _raw))
    if name == "openapi/v2":
        return proto.encode(_tree_v2(served, proto.encode_path, proto.encode_schema))
    if name == "openapi/v3":
        return msgspec.json.encode(_index(served))
    return msgspec.json.encode(_tree_v3(name.removeprefix("openapi/v3/"), served))


def _raw(value: Json) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _index(served: _Served) -> Json:
    paths = {}
    for name in _names(served):
        url = f"/openapi/v3/{name}"
        paths[name] = {"serverRelativeURL": f"{url}?hash={_hash(url.strip('/'), served)}"}
    return {"paths": paths}


def _tree_v3(name: str, served: _Served) -> Json:
    from .operations import SINGLE, Operations, information
    from .render import document_v3

    url, operation = SINGLE[name] if name in SINGLE else information(name)
    found = [(url, [operation])]
    mine = [r for r in served.resources if r.root.strip("/") == name]
    for resource in mine:
        found += Operations(resource).paths()
    group_versions = {(resource.group, resource.version) for resource in mine}
    found.sort(key=itemgetter(0))
    return document_v3(found, _schemas(found, served, sorted(group_versions)))


def _tree_v2(served: _Served, pack_path: Callable[[Json], Any], pack_schema: Callable[[Json], Any]) -> Json:
    from .operations import SINGLE, Operations, information
    from .render import document_v2

    found = [
        (url, [operation])
        for url, operation in (SINGLE[name] if name in SINGLE else information(name) for name in _names(served))
    ]
    for resource in served.resources:
        found += Operations(resource).paths()
    found.sort(key=itemgetter(0))
    return document_v2(found, _schemas(found, served, _group_versions(served)), pack_path, pack_schema)


def _schemas(
    paths: Iterable[tuple[str, list[Any]]], served: _Served, group_versions: list[tuple[str, str]]
) -> dict[str, Json]:
    from . import custom as custom_schemas
    from .schemas import Schemas

    wanted = {of for _, operations in paths for one in operations for of in (*one.answers.values(), one.body) if of}
    given: dict[str, Json] = {}
    described = _descriptions()
    words, list_words = (_words_of(described, of) for of in ("io.k8s.api.core.v1.Pod", "io.k8s.api.core.v1.PodList"))
    for one in served.custom:
        given.update(custom_schemas.definitions(one.resource, one.tree(), words, list_words))
    return Schemas(described, group_versions).closure(wanted - {"string"}, given)


# -------------------------------------------------------------------------------------------------------- descriptions


class _Described(msgspec.Struct):
    description: str = ""


class _Definition(msgspec.Struct):
    """Of the package's definitions, only the words."""

    description: str = ""
    properties: dict[str, _Described] = {}


class _Definitions(msgspec.Struct, rename={"definitions": "$defs"}):
    definitions: dict[str, _Definition]


def _words_of(described: dict[str, _Definition], name: str) -> dict[str, str]:
    found = described.get(name)
    return {field: said.description for field, said in found.properties.items()} if found else {}


def _definitions_file() -> Path | None:
    """Where the package ``kubernetes-validate`` keeps the words; None when it is not installed."""
    found = importlib.util.find_spec("kubernetes_validate")
    if found is None or found.origin is None:
        return None
    from .render import VERSION

    path = Path(found.origin).parent / _DEFINITIONS.format(version=VERSION)
    return path if path.exists() else None


def _descriptions() -> dict[str, _Definition]:
    path = _definitions_file()
    return msgspec.json.decode(path.read_bytes(), type=_Definitions).definitions if path else {}
