"""Kubernetes' protobuf form, against bytes that Go wrote."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaa.api import protobuf, scheme
from kaa.api.errors import BadRequest, NotFound
from kaa.api.protobuf_messages import read_message, write_message
from kaa.api.protobuf_values import Malformed, parts, read_varint, skip, varint
from kaa.api.types import core_v1, meta_v1
from kaa.apiserver import wire
from kaa.apiserver.bodies import plain_document
from kaa.apiserver.entries import Entry
from kaa.apiserver.reads import ListResult
from kaa.client.client import WatchType
from kaa.store.base import Revision

ROOT = Path(__file__).resolve().parents[2]
#: What kubectl 1.33 posts for ``kubectl create configmap a --from-literal=x=y``.
CONFIG_MAP = (
    b"k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\x1b\n\x11\n\x01a\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00\x12\x06\n\x01x\x12\x01y"
    b'\x1a\x00"\x00'
)  # fmt: skip


def test_a_config_map_that_kubectl_sent() -> None:
    document = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"x": "y"}}
    assert protobuf.document_from_protobuf(CONFIG_MAP) == document
    assert plain_document(CONFIG_MAP, "application/vnd.kubernetes.protobuf", "ConfigMap") == document
    assert protobuf.encode_document(core_v1.ConfigMap, document) == CONFIG_MAP
    assert protobuf.encode_object(scheme.convert(core_v1.ConfigMap, document)) == CONFIG_MAP


def test_the_envelope_may_carry_json() -> None:
    raw = b'{"metadata":{"name":"a"}}'
    data = b"k8s\0" + b"\x12" + protobuf.sized(raw) + b"\x22" + protobuf.sized(b"application/json")
    assert protobuf.document_from_protobuf(data) == {"metadata": {"name": "a"}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"k8s\0\x0a",
        b"k8s\0\x0a\x05",
        b"k8s\0\x08\x01",
        b"k8s\0\x07",
        CONFIG_MAP[:-20],
        CONFIG_MAP.replace(b"ConfigMap", b"ConfigMop"),
        CONFIG_MAP[:-4] + b"\x1a\x04gzip",
    ],
)
def test_malformed_bodies_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        protobuf.document_from_protobuf(data)
    with pytest.raises(BadRequest):
        plain_document(data, protobuf.MEDIA_TYPE, "ConfigMap")


def test_nesting_has_an_end() -> None:
    message, key = b"", b"\xe2\x01"  # JSONSchemaProps.not = 28
    for _ in range(1000):
        message = key + protobuf.sized(message)
    with pytest.raises(Malformed, match="too deeply"):
        read_message("apiextensions_v1.JSONSchemaProps", message)


def test_unknown_fields_and_groups_are_skipped() -> None:
    known = write_message("core_v1.ConfigMap", {"metadata": {"name": "a"}})
    group = varint(99 << 3 | 3) + varint(5 << 3) + b"\x07" + varint(99 << 3 | 4)
    for other in (
        varint(99 << 3) + b"\x96\x01",
        varint(99 << 3 | 1) + b"12345678",
        varint(99 << 3 | 5) + b"1234",
        group,
    ):
        assert read_message("core_v1.ConfigMap", other + known + other) == {"metadata": {"name": "a"}}


def test_parts_of_one_message_are_merged_and_of_scalars_the_last_counts() -> None:
    first = write_message("core_v1.Pod", {"spec": {"containers": [{"name": "a"}], "nodeName": "n"}})
    second = write_message("core_v1.Pod", {"spec": {"containers": [{"name": "b"}], "hostNetwork": True}})
    spec = read_message("core_v1.Pod", first + second)["spec"]
    assert [c["name"] for c in spec["containers"]] == ["a", "b"]
    assert spec["hostNetwork"] is True
    assert "nodeName" not in spec  # the second part says that it is empty


def test_pointers_keep_their_zeros_and_values_do_not() -> None:
    spec = {"replicas": 0, "paused": False, "selector": {"matchLabels": {}}, "strategy": {}, "template": {}}
    found = read_message("apps_v1.Deployment", write_message("apps_v1.Deployment", {"spec": spec}))["spec"]
    assert found["replicas"] == 0
    assert "paused" not in found
    assert "minReadySeconds" not in found


@pytest.mark.parametrize(
    ("message", "document"),
    [
        ("core_v1.Secret", {"metadata": {}, "data": {"a": "AAEC/w==", "b": ""}, "type": "Opaque"}),
        ("core_v1.Volume", {"name": "v", "configMap": {"name": "x", "items": [{"key": "k", "path": "p"}]}}),
        ("core_v1.EnvVarSource", {"configMapKeyRef": {"name": "x", "key": "k", "optional": False}}),
        ("core_v1.Probe", {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 3}),
        ("core_v1.ServicePort", {"port": 80, "targetPort": -1}),
        ("core_v1.ResourceRequirements", {"limits": {"cpu": "100m"}, "requests": {"memory": "1Gi"}}),
        ("coordination_v1.LeaseSpec", {"renewTime": "2026-11-21T02:31:37.000001Z"}),
        ("meta_v1.ManagedFieldsEntry", {"time": "1969-12-31T23:59:59Z", "fieldsV1": {"f:a": {}}}),
        ("authentication_v1.UserInfo", {"extra": {"k": ["a", "b"], "e": []}}),
        ("apiextensions_v1.JSONSchemaProps", {
            "items": [{"type": "string"}, {"type": "integer"}], "additionalProperties": False, "enum": [1, "a", None],
            "dependencies": {"a": ["b"], "c": {"type": "string"}}, "default": {"a": [1]}, "maximum": 1.5,
            "x-kubernetes-preserve-unknown-fields": False, "$ref": "#/x",
        }),
        ("admissionregistration_v1.NamedRuleWithOperations", {"apiGroups": [""], "operations": ["CREATE"], "scope": "*"}),
        ("authentication_v1.BoundObjectReference", {"uid": "u"}),
    ],
)  # fmt: skip
def test_fields_whose_json_differs_from_their_message(message: str, document: dict[str, Any]) -> None:
    assert read_message(message, write_message(message, document)) == document


def test_numbers_may_be_packed() -> None:
    assert read_message("core_v1.PodSecurityContext", b"\x22\x03\x01\xac\x02")["supplementalGroups"] == [1, 300]


def test_options_of_every_group_are_known() -> None:
    raw = write_message("meta_v1.DeleteOptions", {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    data = protobuf.envelope("apps/v1", "DeleteOptions", raw)
    assert protobuf.document_from_protobuf(data) == {
        "kind": "DeleteOptions",
        "apiVersion": "apps/v1",
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Background",
    }


def test_lists_and_watch_events_carry_objects() -> None:
    pod = scheme.convert(core_v1.Pod, {"metadata": {"name": "a"}, "spec": {"containers": []}})
    data = protobuf.encode_list("v1", "PodList", meta_v1.ListMeta(resource_version="7"), [protobuf.encode_raw(pod)])
    meta, raw = protobuf.decode(data)
    assert (meta.kind, meta.api_version) == ("PodList", "v1")
    assert raw.startswith(b"\x0a\x07\x0a\x00\x12\x017\x1a\x00\x12")

    frame = protobuf.encode_watch_event("ADDED", protobuf.encode_object(pod))
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert frame[4:11] == b"\x0a\x05ADDED"
    assert frame.endswith(protobuf.encode_object(pod))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63 - 1])
def test_varints(value: int) -> None:
    assert read_varint(varint(value), 0, 10) == (value, len(varint(value)))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 11])
def test_broken_varints(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_varint(data, 0, len(data))
    with pytest.raises(Malformed):
        skip(data, 0, len(data), 0)


def test_the_field_table_is_what_the_generator_writes() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/generate_protobuf.py", "--check"], timeout=30)
    assert done.returncode == 0


def test_nothing_of_it_is_imported_before_it_is_needed() -> None:
    code = "import sys, kaa.apiserver.bodies; print([m for m in sys.modules if 'protobuf' in m])"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=env, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ the server's answers

POD = {
    "metadata": {"resourceVersion": "7", "name": "a"},
    "spec": {"containers": [{"name": "c", "resources": {}}]},
    "status": {},
}


def pod_entry() -> Entry:
    inner = json.dumps(POD, separators=(",", ":")).encode()[1:]
    return Entry(scheme.resource_of(core_v1.Pod), "/pods/a", Revision(7), inner, {}, {}, None)


@pytest.mark.parametrize(
    ("accept", "protobuf_served", "format"),
    [
        ("application/vnd.kubernetes.protobuf,application/json", True, "protobuf"),
        ("application/vnd.kubernetes.protobuf,application/json", False, "json"),
        ("application/vnd.kubernetes.protobuf;stream=watch,application/json", True, "protobuf"),
        ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json", True, "json"),
        ("application/json,application/vnd.kubernetes.protobuf", True, "json"),
        ("*/*", True, "json"),
    ],
)
def test_protobuf_is_answered_to_who_asks_first_for_it(accept: str, protobuf_served: bool, format: str) -> None:
    assert wire.negotiate(accept, protobuf=protobuf_served).format == format


def test_entries_lists_and_refusals_are_answered_in_protobuf() -> None:
    media = wire.Media("protobuf")
    assert (media.content_type, media.stream_type) == (protobuf.MEDIA_TYPE, protobuf.WATCH_MEDIA_TYPE)

    answer = wire.object_response(200, pod_entry(), media, None, 0)  # type: ignore[arg-type]  # only Tables have one
    assert isinstance(answer.body, bytes)
    assert answer.content_type == protobuf.MEDIA_TYPE
    assert protobuf.document_from_protobuf(answer.body) == {"kind": "Pod", "apiVersion": "v1", **POD}

    listing = ListResult([pod_entry()], Revision(9))
    body = wire.list_response(listing, scheme.resource_of(core_v1.Pod), media, None, 0).body  # type: ignore[arg-type]
    assert isinstance(body, bytes)
    meta, raw = protobuf.decode(body)
    assert meta.kind == "PodList"
    items = parts(raw, 0, len(raw))
    assert read_message("meta_v1.ListMeta", items[1]) == {"resourceVersion": "9"}
    assert read_message("core_v1.Pod", items[2]) == POD

    refusal = wire.status_response(NotFound("no such pod"), media)
    assert isinstance(refusal.body, bytes)
    status = protobuf.document_from_protobuf(refusal.body)
    assert (refusal.status, status["kind"], status["reason"], status["code"]) == (404, "Status", "NotFound", 404)


def test_watches_are_framed() -> None:
    media = wire.Media("protobuf")
    event = wire.watch_document(WatchType.ADDED, pod_entry(), media, None, 0, "", True)  # type: ignore[arg-type]
    bookmark = wire.bookmark_line(scheme.resource_of(core_v1.Pod), 9, initial_end=True, media=media)
    found = []
    for frame in (event, bookmark):
        assert int.from_bytes(frame[:4], "big") == len(frame) - 4
        outer = parts(frame, 4, len(frame))
        found.append((outer[1], protobuf.document_from_protobuf(parts(outer[2], 0, len(outer[2]))[1])))
    assert found[0] == (b"ADDED", {"kind": "Pod", "apiVersion": "v1", **POD})
    assert found[1][0] == b"BOOKMARK"
    assert found[1][1]["metadata"] == {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}


# ---------------------------------------------------------------------------------------------------- kubectl itself


class Recorder(http.server.BaseHTTPRequestHandler):
    """Enough of an API server that kubectl posts its objects; each is kept and refused."""

    posts: list[bytes] = []
    found = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": []},
    }

    def do_GET(self) -> None:
        self._answer(200, self.found.get(self.path.partition("?")[0], {"kind": "APIResourceList", "resources": []}))

    def do_POST(self) -> None:
        self.posts.append(self.rfile.read(int(self.headers["content-length"])))
        self._answer(
            403, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403}
        )

    def _answer(self, code: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[str]:
    Recorder.posts = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize(
    "words",
    [
        "configmap a --from-literal=x=y",
        "secret generic a --from-literal=x=y",
        "deployment d --image=nginx --replicas=0 --port=80",
        "job j --image=busybox -- true",
        "service clusterip s --tcp=80:web",
        "quota q --hard=cpu=1,memory=1Gi",
        "ingress i --rule=a/b=c:80",
    ],
    ids=lambda words: words.split()[0],
)
def test_what_kubectl_posts_is_read_and_written_to_the_byte(words: str, recorder: str, tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": os.devnull}
    subprocess.run(
        ["kubectl", "--server", recorder, "create", *words.split()], env=env, capture_output=True, timeout=60
    )
    (data,) = Recorder.posts
    assert data.startswith(protobuf.MAGIC)
    document = protobuf.document_from_protobuf(data)
    struct = protobuf.find_struct(document["apiVersion"], document["kind"])
    assert struct is not None
    assert protobuf.encode_document(struct, document) == data
    assert protobuf.encode_object(protobuf.decode_object(struct, protobuf.decode(data)[1])) == data
