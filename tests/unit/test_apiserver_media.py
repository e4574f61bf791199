"""Which form an answer comes in, by its Accept header; and protobuf's forms of what is no whole object."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from api_lab import Answer, Lab, run
from custom_lab import DEFINITIONS, WIDGETS, definition, until, widget

from kaa.api import protobuf
from kaa.api.errors import Expired, NotAcceptable
from kaa.api.protobuf_messages import read_message, write_message
from kaa.api.protobuf_values import parts
from kaa.apiserver import wire

PROTOBUF, CBOR = protobuf.MEDIA_TYPE, "application/cbor"
MAPS = "/api/v1/namespaces/default/configmaps"
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}
META = ";as={};v=v1;g=meta.k8s.io"
TABLE, PARTIAL, PARTIALS = (
    META.format(kind) for kind in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")
)


@pytest.mark.parametrize(
    ("accept", "format", "shape"),
    [
        ("", "json", ""),
        ("*/*", "json", ""),
        ("application/*", "json", ""),
        ("application/json;q=0.1, application/yaml", "yaml", ""),
        ("application/json;q=0.5,application/cbor;q=0.8,application/yaml;q=0.7", "cbor", ""),
        ("*/*, application/yaml", "yaml", ""),  # the exact before the general
        ("*/*;q=1, application/yaml;q=0.9", "json", ""),
        ("text/html, application/cbor;q=nonsense", "cbor", ""),
        (f"{PROTOBUF}, application/json", "protobuf", ""),
        (f"{PROTOBUF}{TABLE}, application/json{TABLE}, application/json", "json", "Table"),
        (f"{PROTOBUF}{PARTIAL}, application/json{PARTIAL}", "protobuf", "PartialObjectMetadata"),
        (f"application/cbor{TABLE}", "cbor", "Table"),
        ("application/json;as=Table;g=other.io;v=v1, application/yaml", "yaml", ""),
        ("application/json;g=meta.k8s.io, application/yaml", "yaml", ""),
        ("application/json;stream=other, application/cbor", "cbor", ""),
        ("application/yaml;stream=watch, application/cbor", "cbor", ""),
        ("APPLICATION/JSON", "json", ""),
    ],
)
def test_what_an_accept_header_asks_for(accept: str, format: str, shape: str) -> None:
    media = wire.negotiate(accept, protobuf=True)
    assert (media.format, media.shape) == (format, shape)
    assert (media is wire.PLAIN) == ((format, shape) == ("json", ""))


@pytest.mark.parametrize("accept", ["image/png", PROTOBUF, "application/cbor-seq", f"{PROTOBUF}{TABLE}"])
def test_what_is_not_acceptable_of_a_custom_resource(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        wire.negotiate(accept)


def test_watches_have_forms_of_their_own() -> None:
    assert wire.negotiate("application/cbor-seq", stream=True).stream_type == "application/cbor-seq"
    assert (
        wire.negotiate(PROTOBUF + ";stream=watch", protobuf=True, stream=True).stream_type == PROTOBUF + ";stream=watch"
    )
    assert wire.negotiate("application/yaml, application/json;q=0.1", stream=True) is wire.PLAIN
    with pytest.raises(NotAcceptable):
        wire.negotiate("application/yaml", stream=True)


def frames(body: bytes) -> list[tuple[str, bytes]]:
    """(type, body of the object) of a protobuf watch."""
    found = []
    while body:
        size = int.from_bytes(body[:4], "big")
        event = parts(body, 4, 4 + size)
        found.append((event[1].decode(), parts(event[2], 0, len(event[2]))[1]))
        body = body[4 + size :]
    return found


def metadata(raw: bytes) -> Any:
    return read_message("meta_v1.ObjectMeta", parts(raw, 0, len(raw))[1])


def test_metadata_alone_comes_in_protobuf() -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", DEFINITIONS, definition())
        await until(lab, WIDGETS, lambda answer: answer.status == 201, "POST", widget("x", size=3))
        await lab.ask("POST", MAPS, CONFIG_MAP)
        for where in (MAPS, WIDGETS):  # of custom resources too: metadata informers ask so
            plain = (await lab.ask("GET", where + "/x")).json()["metadata"]
            one = await lab.ask("GET", where + "/x", Accept=PROTOBUF + PARTIAL)
            assert one.headers["content-type"] == PROTOBUF
            meta, raw = protobuf.decode(one.body)
            assert (meta.kind, meta.api_version, metadata(raw)) == ("PartialObjectMetadata", "meta.k8s.io/v1", plain)
            meta, raw = protobuf.decode((await lab.ask("GET", where, Accept=PROTOBUF + PARTIALS)).body)
            listed = parts(raw, 0, len(raw))
            assert (meta.kind, metadata(listed[2])) == ("PartialObjectMetadataList", plain)
            query = "?watch=1&timeoutSeconds=1&resourceVersion=0"
            seen = frames((await lab.ask("GET", where + query, Accept=PROTOBUF + PARTIAL)).body)
            assert [(type, metadata(protobuf.decode(body)[1])) for type, body in seen] == [("ADDED", plain)]

    run(use, http=True)


def test_custom_resources_are_no_protobuf() -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", DEFINITIONS, definition())
        await until(lab, WIDGETS, lambda answer: answer.status == 201, "POST", widget("x", size=3))
        refused = await lab.ask("GET", WIDGETS, Accept=PROTOBUF)
        assert (refused.status, protobuf.document_from_protobuf(refused.body)["reason"]) == (406, "NotAcceptable")
        assert (await lab.ask("GET", WIDGETS, Accept=f"{PROTOBUF},application/json")).json()["kind"] == "WidgetList"
        assert (await lab.ask("POST", WIDGETS, b"k8s\0", content_type=PROTOBUF)).status == 415

    run(use, http=True)


def test_options_scales_and_discovery_in_protobuf() -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, CONFIG_MAP)
        options = write_message("meta_v1.DeleteOptions", {"preconditions": {"uid": "other"}})
        body = protobuf.envelope("v1", "DeleteOptions", options)
        assert (await lab.ask("DELETE", MAPS + "/x", body, content_type=PROTOBUF)).status == 409
        for path in ("/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"):
            answer = await lab.ask("GET", path, Accept=PROTOBUF)
            meta, raw = protobuf.decode(answer.body)
            plain = (await lab.ask("GET", path)).json()
            found = read_message(f"meta_v1.{meta.kind}", raw)
            assert {key: found[key] for key in plain if key in found} == {
                key: value for key, value in plain.items() if key in found
            }
            assert meta.kind == plain["kind"]

    run(use, http=True)


def test_a_watch_ends_in_the_form_that_it_began_in() -> None:
    error = Expired("too old resource version: 1 (5)")
    ((type, body),) = frames(wire.error_line(error, wire.Media("protobuf")))
    assert (type, protobuf.document_from_protobuf(body)["reason"]) == ("ERROR", "Expired")
    event = cbor2.loads(wire.error_line(error, wire.Media("cbor")))
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    assert wire.error_line(error).startswith(b'{"type":"ERROR"')


def test_watches_of_yaml_are_refused() -> None:
    async def use(lab: Lab) -> None:
        answer: Answer = await lab.ask("GET", MAPS + "?watch=1&timeoutSeconds=1", Accept="application/yaml")
        assert answer.status == 406

    run(use, http=True)
