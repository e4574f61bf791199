"""Real kubectls against discovery and OpenAPI alone: they read the documents as they read upstream's."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kaa.api.errors import ApiError
from kaa.api.resources import Resource
from kaa.apiserver.discovery import VERSION, Discovery
from kaa.apiserver.openapi import CustomSchema, Document, OpenAPI

CRON_TAB: Resource[Any] = Resource(
    "stable.example.com", "v1", "crontabs", "CronTab", True, "crontab", ("ct",), custom=True
)
CRON_TAB_SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "description": "What to run.",
            "properties": {"cronSpec": {"type": "string", "description": "When to run it."}},
        }
    },
}


def kubectls() -> dict[str, str]:
    """{version: path} of the kubectls here: those beside the one that the link on PATH points to."""
    plain = shutil.which("kubectl")
    if plain is None:
        return {}
    folder = Path(plain).resolve().parent
    return {"plain": plain, **{path.name.removeprefix("kubectl."): str(path) for path in folder.glob("kubectl.1.*")}}


FOUND = kubectls()
needs = {
    version: pytest.param(
        version, marks=pytest.mark.skipif(version not in FOUND, reason=f"kubectl {version} is not installed")
    )
    for version in ("1.27", "1.30", "1.32", "1.33")
}


class _Server(ThreadingHTTPServer):
    """Serves documents, keeps one set of objects, and notes what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.discovery, self.openapi = Discovery("127.0.0.1:0"), OpenAPI()
        self.discovery.serve([CRON_TAB], {CRON_TAB.group: ("v1",)})
        self.openapi.serve([CustomSchema(CRON_TAB, CRON_TAB_SCHEMA)])
        self.validates = True
        self.objects: dict[str, Any] = {}
        self.asked: list[tuple[str, str, str, bytes]] = []


def _before_field_validation(found: Document) -> bytes:
    """A document as servers had it before they validated fields: no ``fieldValidation`` parameter."""
    body = gzip.decompress(found.body) if found.encoding else found.body
    body = body.replace(b"fieldValidation", b"someOtherOption")
    return gzip.compress(body) if found.encoding else body


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, accept = self.path.partition("?")[0], self.headers.get("Accept", "")
        self.server.asked.append(("GET", path, accept, b""))
        if path == "/version":
            self.answer(200, msgspec.json.encode(VERSION))
        elif path.startswith("/openapi/"):
            try:
                found = self.server.openapi.document(path, accept, self.headers.get("Accept-Encoding", ""))
            except ApiError:
                self.answer(406, b"{}")
                return
            assert found is not None, path
            body = found.body if self.server.validates else _before_field_validation(found)
            self.answer(200, body, found.content_type, found.encoding)
        elif plain := self.server.discovery.document(path, accept):
            self.answer(200, plain[0], plain[1])
        elif path in self.server.objects:
            self.answer(200, json.dumps(self.server.objects[path]).encode())
        else:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            self.answer(404, json.dumps(status).encode())

    def do_PATCH(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(("PATCH", path, self.headers["Content-Type"], body))
        self.answer(200, json.dumps(self.server.objects[path]).encode())

    def answer(self, status: int, body: bytes, kind: str = "application/json", encoding: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Tests are silent."""


@pytest.fixture(scope="module")
def server() -> Iterator[_Server]:
    with _Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, name="openapi-test")
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, server: _Server) -> Path:
    folder = tmp_path_factory.mktemp("kubectl")
    cluster = {"name": "t", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "t", "context": {"cluster": "t", "user": "t", "namespace": "default"}}
    config = {"kind": "Config", "clusters": [cluster], "contexts": [context], "users": [{"name": "t", "user": {}}]}
    (folder / "config").write_text(json.dumps({**config, "apiVersion": "v1", "current-context": "t"}))
    return folder


@pytest.fixture
def run(home: Path) -> Any:
    def kubectl(version: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HOME": str(home), "KUBECONFIG": str(home / "config")}
        cache = f"--cache-dir={home / version}"
        command = [FOUND[version], cache, *arguments]
        return subprocess.run(command, env=environment, input=given, capture_output=True, text=True, timeout=30)

    return kubectl


@pytest.mark.parametrize("version", [needs["1.27"], needs["1.32"], needs["1.33"]])
def test_explain_reads_v3(run: Any, version: str) -> None:
    done = run(version, "explain", "deployments.spec.template.spec.containers", "--recursive")
    assert done.returncode == 0, done.stderr
    assert "containers <[]Container>" in done.stdout
    assert "imagePullPolicy\t<string>" in done.stdout
    assert version < "1.30" or "enum: Always, IfNotPresent, Never" in done.stdout
    assert "containerPort\t<integer> -required-" in done.stdout


@pytest.mark.parametrize("version", [needs["1.27"], needs["1.32"]])
def test_explain_reads_v2_as_protobuf(run: Any, server: _Server, version: str) -> None:
    done = run(version, "explain", "pods.spec.containers", "--output=plaintext-openapiv2")
    assert done.returncode == 0, done.stderr
    assert "RESOURCE: containers <[]Object>" in done.stdout
    assert "image\t<string>" in done.stdout
    assert any(path == "/openapi/v2" and "protobuf" in accept for _, path, accept, _ in server.asked)


@pytest.mark.parametrize("version", [needs["1.27"], needs["1.32"]])
def test_explain_reads_a_custom_resource(run: Any, version: str) -> None:
    done = run(version, "explain", "crontabs.spec")
    assert done.returncode == 0, done.stderr
    assert "cronSpec\t<string>" in done.stdout
    assert "What to run." in done.stdout


TYPO = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"nmae": "x"}]}}


@pytest.mark.parametrize("version", [needs["1.27"], needs["1.30"], needs["1.32"]])
def test_validation_is_left_to_a_server_that_does_it(run: Any, version: str) -> None:
    done = run(version, "create", "--dry-run=client", "--validate=strict", "-f", "-", given=json.dumps(TYPO))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("version", [needs["1.27"], needs["1.30"], needs["1.32"]])
def test_client_side_validation_knows_the_fields(run: Any, server: _Server, home: Path, version: str) -> None:
    server.validates = False
    try:
        cache = f"--cache-dir={home / version}-old"
        arguments = ("create", cache, "--dry-run=client", "--validate=strict", "-f", "-")
        done = run(version, *arguments, given=json.dumps(TYPO))
    finally:
        server.validates = True
    assert done.returncode != 0
    assert 'unknown field "nmae"' in done.stderr
    assert 'missing required field "name"' in done.stderr


@pytest.mark.parametrize("version", [needs["1.27"], needs["1.32"], needs["1.33"]])
def test_apply_merges_lists_by_their_keys(run: Any, server: _Server, version: str) -> None:
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}, {"name": "tls", "port": 443}]},
    }
    server.objects["/api/v1/namespaces/default/services/web"] = service
    wanted = json.loads(json.dumps(service))
    wanted["spec"]["ports"][1]["port"] = 8443
    done = run(version, "apply", "-f", "-", given=json.dumps(wanted))
    assert done.returncode == 0, done.stderr
    method, _, kind, body = server.asked[-1]
    assert (method, kind) == ("PATCH", "application/strategic-merge-patch+json")
    assert json.loads(body)["spec"] == {
        "$setElementOrder/ports": [{"port": 80}, {"port": 8443}],
        "ports": [{"name": "tls", "port": 8443}],
    }
