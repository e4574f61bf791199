"""Bad input: each gets the documented Status, and the server is unharmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_lab import BOX, E2E, Answer, Kubectl

pytestmark = E2E

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "good"}, "data": {"a": "b"}}


@pytest.fixture(autouse=True)
def unharmed(kube: Kubectl) -> Iterator[None]:
    """After each case the same process still serves, and an ordinary object is made and read."""
    process = kube.lab.pid("server")
    yield
    kube.api.alive()
    assert kube.lab.pid("server") == process
    made = post(kube, "configmaps", {**CONFIG_MAP, "metadata": {"name": "after"}})
    assert made.status == 201, made
    assert kube.read("configmaps/after")["data"] == {"a": "b"}


def post(kube: Kubectl, plural: str, body: Any, query: str = "", **headers: str) -> Answer:
    return kube.api.ask("POST", f"/api/v1/namespaces/{kube.namespace}/{plural}{query}", body, **headers)


def refused(answer: Answer, code: int, reason: str) -> Any:
    """The Status of a refusal, whose shape is checked."""
    assert answer.status == code, answer
    status = answer.value
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
    assert (status["code"], status.get("reason", "")) == (code, reason), status
    return status


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(b"{", "application/json", id="half an object"),
        pytest.param(b"", "application/json", id="nothing"),
        pytest.param(b"[]", "application/json", id="a list"),
        pytest.param(b'"text"', "application/json", id="a string"),
        pytest.param(b"null", "application/json", id="null"),
        pytest.param(b"\xff\xfe{}", "application/json", id="not UTF-8"),
        pytest.param(b'{"kind":"ConfigMap","apiVersion":"v1"}x', "application/json", id="more behind it"),
        pytest.param(b"kind: [", "application/yaml", id="half a YAML list"),
        pytest.param(b"a: b: c", "application/yaml", id="no YAML"),
        pytest.param(b"&a [*a]", "application/yaml", id="a YAML loop"),
        pytest.param(b"k8s\x00\xff\xff\xff", "application/vnd.kubernetes.protobuf", id="half a protobuf"),
        pytest.param(b"hello", "application/vnd.kubernetes.protobuf", id="no protobuf"),
        pytest.param(b"[" * 50_000 + b"]" * 50_000, "application/json", id="deep"),
        pytest.param(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "application/json", id="deep objects"),
    ],
)
def test_malformed_bodies(kube: Kubectl, body: bytes, content_type: str) -> None:
    answer = post(kube, "configmaps", body, content_type=content_type)
    assert answer.status in (400, 422), answer
    assert answer.value["kind"] == "Status"
    assert answer.value["reason"] in ("BadRequest", "Invalid")


def test_yaml_that_swells_is_refused(kube: Kubectl) -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    body = "\n".join([*lines, "apiVersion: v1", "kind: ConfigMap", "metadata: {name: swell}"]).encode()
    answer = post(kube, "configmaps", body, content_type="application/yaml")
    assert 400 <= answer.status < 500, answer


def test_unknown_fields_strict_warn_ignore(kube: Kubectl) -> None:
    body = {**CONFIG_MAP, "spec": {"x": 1}, "metadata": {"name": "good", "colour": "red"}}
    status = refused(post(kube, "configmaps", body, "?fieldValidation=Strict"), 400, "BadRequest")
    assert 'unknown field "metadata.colour"' in status["message"]
    assert 'unknown field "spec"' in status["message"]
    warned = post(kube, "configmaps", body, "?fieldValidation=Warn&dryRun=All")
    assert warned.status == 201
    assert "metadata.colour" in warned.headers["Warning"]
    ignored = post(kube, "configmaps", body, "?fieldValidation=Ignore")
    assert ignored.status == 201
    assert "Warning" not in ignored.headers
    assert "spec" not in ignored.value
    wrong = post(kube, "configmaps", body, "?fieldValidation=Sometimes")
    assert wrong.status in (400, 422), wrong


def test_duplicate_fields(kube: Kubectl) -> None:
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice"},"data":{"a":"1"},"data":{"b":"2"}}'
    status = refused(post(kube, "configmaps", body, "?fieldValidation=Strict"), 400, "BadRequest")
    assert 'duplicate field "data"' in status["message"]
    assert "Warning" in post(kube, "configmaps", body, "?fieldValidation=Warn").headers


@pytest.mark.parametrize(
    ("plural", "body", "words"),
    [
        ("configmaps", {**CONFIG_MAP, "data": {"a": 1}}, "data"),
        ("configmaps", {**CONFIG_MAP, "data": "text"}, "data"),
        ("configmaps", {**CONFIG_MAP, "metadata": []}, "metadata"),
        ("services", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": "80"}]}}, "port"),
        ("pods", {"metadata": {"name": "p"}, "spec": {"containers": {}}}, "containers"),
        ("pods", {"metadata": {"name": "p"}, "spec": {"hostNetwork": "yes", "containers": []}}, "hostNetwork"),
    ],
)
def test_wrong_types(kube: Kubectl, plural: str, body: Any, words: str) -> None:
    status = refused(post(kube, plural, body), 400, "BadRequest")
    assert "cannot unmarshal" in status["message"]
    assert words in status["message"]


def invalid(kube: Kubectl, plural: str, body: Any) -> dict[str, str]:
    """{field: reason} of every cause that a 422 names."""
    status = refused(post(kube, plural, body), 422, "Invalid")
    return {cause["field"]: cause["reason"] for cause in status["details"]["causes"]}


@pytest.mark.parametrize("name", ["Upper", "under_score", "-dash", "dot.", "a" * 254, "sp ace", "slash/", "ä"])
def test_bad_names(kube: Kubectl, name: str) -> None:
    assert invalid(kube, "configmaps", {**CONFIG_MAP, "metadata": {"name": name}}) == {
        "metadata.name": "FieldValueInvalid"
    }


def test_no_name(kube: Kubectl) -> None:
    assert invalid(kube, "configmaps", {**CONFIG_MAP, "metadata": {}}) == {"metadata.name": "FieldValueRequired"}


def test_every_field_at_fault_is_named(kube: Kubectl) -> None:
    container = {
        "name": "Main",
        "image": "",
        "ports": [{"containerPort": 70000}],
        "resources": {"limits": {"cpu": "-1"}},
        "imagePullPolicy": "Sometimes",
    }
    meta = {"name": "p", "labels": {"bad key!": "v", "ok": "no good value"}}
    causes = invalid(kube, "pods", {"metadata": meta, "spec": {"containers": [container], "restartPolicy": "Maybe"}})
    assert causes["spec.containers[0].name"] == "FieldValueInvalid"
    assert causes["spec.containers[0].image"] == "FieldValueRequired"
    assert causes["spec.containers[0].ports[0].containerPort"] == "FieldValueInvalid"
    assert causes["spec.containers[0].imagePullPolicy"] == "FieldValueNotSupported"
    assert causes["spec.restartPolicy"] == "FieldValueNotSupported"
    assert causes["metadata.labels"] == "FieldValueInvalid"
    assert any(field.startswith("spec.containers[0].resources.limits") for field in causes)


def test_bad_quantities(kube: Kubectl) -> None:
    container = {"name": "main", "image": BOX, "resources": {"limits": {"memory": "many"}}}
    status = refused(
        post(kube, "pods", {"metadata": {"name": "p"}, "spec": {"containers": [container]}}), 400, "BadRequest"
    )
    assert "quantities must match the regular expression" in status["message"]


def test_bodies_over_three_megabytes(kube: Kubectl) -> None:
    big = {**CONFIG_MAP, "data": {"a": "x" * (3 * 1024 * 1024 + 1)}}
    status = refused(post(kube, "configmaps", big), 413, "RequestEntityTooLarge")
    assert "limit is 3145728" in status["message"]
    assert kube.read("configmaps/good") is None
    length = post(kube, "configmaps", {**CONFIG_MAP, "data": {"a": "x" * (1024 * 1024 + 1)}})
    refused(length, 422, "Invalid")  # a ConfigMap takes 1 MiB


@pytest.mark.parametrize(
    "path", ["/api/v2", "/apis/none.example", "/apis/apps/v9/deployments", "/nothing", "/api/v1/nothing"]
)
def test_unknown_paths(kube: Kubectl, path: str) -> None:
    answer = kube.api.ask("GET", path)
    assert answer.status == 404
    assert b"404 page not found" in answer.body or answer.value["reason"] == "NotFound"


def test_a_name_that_is_not_there(kube: Kubectl) -> None:
    answer = kube.api.ask("GET", f"/api/v1/namespaces/{kube.namespace}/pods/nobody")
    status = refused(answer, 404, "NotFound")
    assert status["message"] == 'pods "nobody" not found'
    assert status["details"] == {"name": "nobody", "kind": "pods"}


@pytest.mark.parametrize(("method", "suffix"), [("PUT", ""), ("PATCH", ""), ("POST", "/good")])
def test_verbs_that_are_not_there(kube: Kubectl, method: str, suffix: str) -> None:
    path = f"/api/v1/namespaces/{kube.namespace}/configmaps{suffix}"
    refused(kube.api.ask(method, path, CONFIG_MAP), 405, "MethodNotAllowed")


def test_media_types_that_are_not_known(kube: Kubectl) -> None:
    refused(post(kube, "configmaps", b"<a/>", content_type="text/xml"), 415, "UnsupportedMediaType")
    path = f"/api/v1/namespaces/{kube.namespace}/configmaps"
    refused(kube.api.ask("GET", path, accept="text/xml"), 406, "NotAcceptable")
    refused(
        kube.api.ask("PATCH", f"{path}/kube-root-ca.crt", {}, content_type="text/plain"), 415, "UnsupportedMediaType"
    )


def test_conflicts(kube: Kubectl) -> None:
    assert post(kube, "configmaps", CONFIG_MAP).status == 201
    refused(post(kube, "configmaps", CONFIG_MAP), 409, "AlreadyExists")
    path = f"/api/v1/namespaces/{kube.namespace}/configmaps/good"
    stale = {**CONFIG_MAP, "metadata": {"name": "good", "resourceVersion": "1"}}
    status = refused(kube.api.ask("PUT", path, stale), 409, "Conflict")
    assert "the object has been modified" in status["message"]
    wrong = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "nobody"}}
    refused(kube.api.ask("DELETE", path, wrong), 409, "Conflict")
    other = {**CONFIG_MAP, "metadata": {"name": "other"}}
    refused(kube.api.ask("PUT", path, other), 400, "BadRequest")


@pytest.mark.parametrize(
    "query",
    ["labelSelector=a%3D%3D%3Db", "fieldSelector=spec.nothing%3D1", "limit=many", "resourceVersion=x", "continue=x"],
)
def test_bad_queries(kube: Kubectl, query: str) -> None:
    answer = kube.api.ask("GET", f"/api/v1/namespaces/{kube.namespace}/pods?{query}")
    assert answer.status in (400, 422), answer
    assert answer.value["kind"] == "Status"


@pytest.mark.parametrize(
    "patch", [b"{", b'[{"op":"jump","path":"/data"}]', b'[{"op":"remove","path":"/nothing"}]', b'[{"op":"add"}]']
)
def test_bad_json_patches(kube: Kubectl, patch: bytes) -> None:
    path = f"/api/v1/namespaces/{kube.namespace}/configmaps/kube-root-ca.crt"
    answer = kube.api.ask("PATCH", path, patch, content_type="application/json-patch+json")
    assert answer.status in (400, 422), answer
    assert answer.value["kind"] == "Status"


def test_nobody_and_somebody_without_rights(kube: Kubectl) -> None:
    from cluster_lab import Api

    anonymous = Api(kube.lab, kube.lab.name, "")
    status = refused(anonymous.ask("GET", f"/api/v1/namespaces/{kube.namespace}/secrets"), 403, "Forbidden")
    assert 'User "system:anonymous" cannot list resource "secrets"' in status["message"]
    assert anonymous.ask("GET", "/version").status == 200
    refused(anonymous.ask("GET", "/api", authorization="Bearer nonsense"), 401, "Unauthorized")


def test_raw_bytes_that_are_no_http(kube: Kubectl) -> None:
    port = kube.lab.config()["api_port"]
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 200):
        with kube.lab.connect("127.0.0.1", port) as connection:
            connection.settimeout(5)
            connection.sendall(junk)
            try:
                while connection.recv(4096):
                    pass
            except (ConnectionResetError, TimeoutError):
                pass


def test_a_method_that_is_none(kube: Kubectl) -> None:
    assert kube.api.ask("BREW", "/api/v1/pods").status in (400, 405)


def test_headers_without_end(kube: Kubectl) -> None:
    assert kube.api.ask("GET", "/version", x_long="a" * 10_000).status == 200
    answer = kube.api.ask("GET", "/version", x_long="a" * 2_000_000)
    assert 400 <= answer.status < 500, answer.status
    answer = kube.api.ask("GET", "/api/v1/namespaces/" + "a" * 100_000)
    assert 400 <= answer.status < 500, answer.status


def test_kubectl_shows_the_servers_words(kube: Kubectl) -> None:
    bad = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 99999}]}}
    said = kube.fails("apply -f -", stdin=json.dumps(bad))
    assert 'The Service "s" is invalid' in said
    assert "spec.ports[0].port: Invalid value: 99999: must be between 1 and 65535, inclusive" in said
    unknown = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "dat": {}}
    assert 'unknown field "dat"' in kube.fails("apply -f -", stdin=json.dumps(unknown))
    assert "error parsing" in kube.fails("apply -f -", stdin="kind: [")
    nothing = {"apiVersion": "none.example/v1", "kind": "Thing", "metadata": {"name": "x"}}
    assert "no matches for kind" in kube.fails("apply -f -", stdin=json.dumps(nothing))
