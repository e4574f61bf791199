"""OpenAPI of the servers behind APIServices, merged into this server's own documents.

The v3 index names their group-versions with their own hashes; the documents themselves are proxied. The v2 document takes
in their paths and definitions; a definition that means something else under the same name is renamed, as upstream does.
Servers are asked when a client asks, and not again for a minute. The protobuf form of v2 stays this server's own.

Source: kube-aggregator pkg/controllers/openapi, openapiv3; kube-openapi pkg/aggregator.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import structlog

from kaa.api.types.apiregistration_v1 import APIService

from ..openapi.documents import JSON, Document
from .aggregator import Aggregator
from .availability import ANSWER_S
from .backend import BadTrust, user_headers

log = structlog.get_logger(__name__)

FRESH_S = 60.0
REF = "#/definitions/"
Json = dict[str, Any]


@dataclass(slots=True)
class _Held:
    """What a server said last, and when (monotonic seconds)."""

    at: float
    document: Json = field(default_factory=dict)


class RemoteOpenAPI:
    """``merged`` is called with this server's own answer."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator
        self._held: dict[tuple[str, str], _Held] = {}  #: {(APIService, path): what it said}
        self._made: tuple[str, Document] | None = None  # the merged v2 document, and of what it was made

    async def merged(self, path: str, own: Document) -> Document:
        """The answer to a GET of ``/openapi/v2`` or ``/openapi/v3`` with what the other servers say."""
        services = [one for one in self._aggregator.remote() if self._aggregator.address(one) is not None]
        if not services or own.content_type != JSON:
            return own
        path = path.rstrip("/")
        said = await asyncio.gather(*(self._ask(one, path) for one in services))
        pairs = [(one, document) for one, document in zip(services, said, strict=True) if document]
        if not pairs:
            return own
        if path == "/openapi/v3":
            return _repacked(own, _index(own, pairs), pairs)
        key = own.etag + own.encoding + _digest(pairs)
        if self._made is None or self._made[0] != key:
            body = await asyncio.to_thread(_merged_v2, own, pairs)
            self._made = key, _repacked(own, body, pairs)
        return self._made[1]

    async def _ask(self, service: APIService, path: str) -> Json:
        """What the server says; nothing when it has nothing to say. The last word of one that fails is kept."""
        name = service.metadata.name or ""
        now = self._aggregator.clock.monotonic()
        held = self._held.setdefault((name, path), _Held(now - FRESH_S))
        if now - held.at < FRESH_S:
            return held.document
        held.at = now
        address = self._aggregator.address(service)
        if address is None:
            return held.document
        headers = [*user_headers(self._aggregator.user), ("Accept", JSON)]
        try:
            async with (
                asyncio.timeout(ANSWER_S),
                self._aggregator.backend(service).pool(*address).ask("GET", path, headers) as answer,
            ):
                body = await answer.body()
                found = msgspec.json.decode(body) if answer.status == 200 else {}
        except (OSError, BadTrust, msgspec.DecodeError, UnicodeDecodeError) as err:
            log.warning("no OpenAPI from behind an APIService", name=name, path=path, error=str(err))
            return held.document
        held.document = found if isinstance(found, dict) else {}
        return held.document


Pairs = list[tuple[APIService, Json]]


def _digest(pairs: Pairs) -> str:
    said = [(one.metadata.name, document) for one, document in pairs]
    return hashlib.sha512(msgspec.json.encode(said)).hexdigest().upper()


def _tree(own: Document) -> Json:
    found: Json = msgspec.json.decode(gzip.decompress(own.body) if own.encoding == "gzip" else own.body)
    return found


def _repacked(own: Document, tree: Json, pairs: Pairs) -> Document:
    body = msgspec.json.encode(tree)
    etag = hashlib.sha512((own.etag + _digest(pairs)).encode()).hexdigest().upper()
    return replace(own, body=gzip.compress(body, 5, mtime=0) if own.encoding == "gzip" else body, etag=f'"{etag}"')


def _index(own: Document, pairs: Pairs) -> Json:
    """The v3 index with the other servers' group-versions."""
    tree = _tree(own)
    for service, document in pairs:
        name = f"apis/{service.spec.group}/{service.spec.version}"
        entry = (document.get("paths") or {}).get(name)
        if isinstance(entry, dict) and name not in tree["paths"]:
            tree["paths"][name] = entry
    tree["paths"] = dict(sorted(tree["paths"].items()))
    return tree


def _merged_v2(own: Document, pairs: Pairs) -> Json:
    """The v2 document with the other servers' paths and what those refer to."""
    tree = _tree(own)
    definitions: Json = tree.setdefault("definitions", {})
    for service, document in pairs:
        prefix = f"/apis/{service.spec.group}/{service.spec.version}/"
        paths = {path: item for path, item in (document.get("paths") or {}).items() if path.startswith(prefix)}
        theirs: Json = document.get("definitions") or {}
        wanted = _closure(paths, theirs)
        names = {name: _free_name(name, theirs[name], definitions) for name in wanted}
        for name, free in names.items():
            definitions.setdefault(free, _renamed(theirs[name], names))
        for path, item in paths.items():
            tree["paths"].setdefault(path, _renamed(item, names))
    return tree


def _free_name(name: str, definition: Any, taken: Json) -> str:
    """The name itself unless it already means something else."""
    found, count = name, 1
    while found in taken and taken[found] != definition:
        count += 1
        found = f"{name}_v{count}"
    return found


def _closure(paths: Json, definitions: Json) -> list[str]:
    """The names of all definitions that the paths need, sorted."""
    found: set[str] = set()
    waiting: list[Any] = [paths]
    while waiting:
        for name in _references(waiting.pop()):
            if name in definitions and name not in found:
                found.add(name)
                waiting.append(definitions[name])
    return sorted(found)


def _references(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith(REF):
            yield reference[len(REF) :]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """The value with its references under their names here."""
    if isinstance(value, dict):
        made = {key: _renamed(inner, names) for key, inner in value.items()}
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith(REF):
            made["$ref"] = REF + names.get(reference[len(REF) :], reference[len(REF) :])
        return made
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return value
