"""Dynamic admission in a whole cluster: kubectl in front, policies and a webhook behind a Service."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cluster_lab import ADDRESS, E2E, Kubectl, Lab, inside, pod, until
from webhook_lab import Json, allow, deny, trust

pytestmark = E2E
REGISTRATION = "admissionregistration.k8s.io/v1"
_API = f"/apis/{REGISTRATION}"


@contextmanager
def webhook(lab: Lab, name: str, answer: Callable[[Json], Json]) -> Iterator[tuple[int, str]]:
    """An HTTPS server in the lab's namespace; gives its port and the base64 of its authority."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answer(review)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    made = trust(name)
    plain = inside(lab.netns, lambda: socket.create_server(("0.0.0.0", 0)))
    port = plain.getsockname()[1]
    server = ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.daemon_threads = True
    server.socket = made.context.wrap_socket(plain, server_side=True)
    thread = threading.Thread(target=server.serve_forever, name="webhook")
    thread.start()
    try:
        yield port, base64.b64encode(made.ca).decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def registered(kube: Kubectl) -> Iterator[list[str]]:
    """Paths of cluster-wide objects, which a test leaves behind it."""
    paths: list[str] = []
    yield paths
    for path in reversed(paths):
        kube.api.ask("DELETE", path)


def mine(kube: Kubectl) -> Json:
    return {"matchLabels": {"kubernetes.io/metadata.name": kube.namespace}}


def bind(kube: Kubectl, kind: str, spec: Json, binding: Json, registered: list[str]) -> str:
    """A policy on the test's own namespace, applied by kubectl."""
    name = f"{kube.namespace}-{kind.lower()}"
    policy = {"apiVersion": REGISTRATION, "kind": f"{kind}AdmissionPolicy", "metadata": {"name": name}, "spec": spec}
    bound = {"policyName": name, "matchResources": {"namespaceSelector": mine(kube)}, **binding}
    kube.apply(
        [
            policy,
            {
                "apiVersion": REGISTRATION,
                "kind": f"{kind}AdmissionPolicyBinding",
                "metadata": {"name": name},
                "spec": bound,
            },
        ]
    )
    lower = kind.lower()
    registered += [f"{_API}/{lower}admissionpolicies/{name}", f"{_API}/{lower}admissionpolicybindings/{name}"]
    return name


DEPLOYMENTS = {
    "apiGroups": ["apps"],
    "apiVersions": ["v1"],
    "operations": ["CREATE", "UPDATE"],
    "resources": ["deployments"],
}


def test_the_replica_limit_of_the_documentation(kube: Kubectl, registered: list[str]) -> None:
    spec = {
        "matchConstraints": {"resourceRules": [DEPLOYMENTS]},
        "validations": [{"expression": "object.spec.replicas <= 5"}],
    }
    name = bind(kube, "Validating", spec, {"validationActions": ["Deny"]}, registered)
    said = kube.fails("create deployment big --image=i --replicas=6")
    assert said.strip() == (
        'error: failed to create deployment: deployments.apps "big" is forbidden:'
        f" ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: failed expression:"
        " object.spec.replicas <= 5"
    )
    assert "created" in kube("create deployment small --image=i --replicas=0")
    path = f"{_API}/validatingadmissionpolicies/{name}"
    status = until(lambda: kube.api.get(path)["status"], "type checking")
    assert status == {"observedGeneration": 1, "typeChecking": {}}
    columns = kube(f"get validatingadmissionpolicy {name} --no-headers").split()
    assert columns[:3] == [name, "1", "<unset>"]


def test_the_types_of_expressions_are_checked(kube: Kubectl, registered: list[str]) -> None:
    spec = {
        "matchConstraints": {"resourceRules": [DEPLOYMENTS]},
        "validations": [{"expression": "object.replicas > 1"}],
    }
    name = bind(kube, "Validating", spec, {"validationActions": ["Warn"]}, registered)
    path = f"{_API}/validatingadmissionpolicies/{name}"
    status = until(
        lambda: kube.api.get(path)["status"].get("typeChecking") and kube.api.get(path)["status"], "type checking"
    )
    assert status["observedGeneration"] == 1
    [warning] = status["typeChecking"]["expressionWarnings"]
    assert warning["fieldRef"] == "spec.validations[0].expression"
    assert warning["warning"].startswith("apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'replicas'")


def test_a_policy_adds_a_label(kube: Kubectl, registered: list[str]) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    applied = {"expression": "Object{metadata: Object.metadata{labels: {'owner': request.userInfo.username}}}"}
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": applied}],
        "reinvocationPolicy": "Never",
    }
    bind(kube, "Mutating", spec, {}, registered)
    kube("create configmap c --from-literal=a=b")
    assert kube("get configmap c -o jsonpath={.metadata.labels.owner}") == "kubernetes-admin"


def test_a_webhook_behind_a_service(kube: Kubectl, registered: list[str]) -> None:
    def answer(review: Json) -> Json:
        request = review["request"]
        if request["operation"] == "CONNECT":
            return deny(review, "attaching to pod is not allowed", 403)
        return allow(
            review, patch=[{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}], warnings=["seen"]
        )

    name = kube.namespace
    with webhook(kube.lab, f"hook.{name}.svc", answer) as (port, authority):
        kube.apply(
            [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": "hook"},
                    "spec": {"ports": [{"port": 443}]},
                },
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": "hook", "labels": {"kubernetes.io/service-name": "hook"}},
                    "addressType": "IPv4",
                    "endpoints": [{"addresses": [ADDRESS]}],
                    "ports": [{"port": port}],
                },
            ]
        )
        hook = {
            "name": "hook.kaa.dev",
            "clientConfig": {"service": {"name": "hook", "namespace": name, "path": "/x"}, "caBundle": authority},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "namespaceSelector": mine(kube),
        }
        rules = {"apiGroups": [""], "apiVersions": ["v1"]}
        mutating = {**hook, "rules": [{**rules, "operations": ["CREATE"], "resources": ["pods"]}]}
        validating = {**hook, "rules": [{**rules, "operations": ["CONNECT"], "resources": ["pods/attach"]}]}
        for phase, one in (("Mutating", mutating), ("Validating", validating)):
            kube.apply(
                {
                    "apiVersion": REGISTRATION,
                    "kind": f"{phase}WebhookConfiguration",
                    "metadata": {"name": name},
                    "webhooks": [one],
                }
            )
            registered.append(f"{_API}/{phase.lower()}webhookconfigurations/{name}")
        done = kube.run("apply -f -", stdin=json.dumps(pod("p")))
        assert (done.code, done.err) == (0, "Warning: seen\n")
        assert kube("get pod p -o jsonpath={.metadata.labels.seen}") == "yes"
        kube.ready("p")
        assert 'admission webhook "hook.kaa.dev" denied the request: attaching to pod is not allowed' in kube.fails(
            "attach p"
        )
    said = kube.fails("run q --image=i")
    where = f"https://hook.{name}.svc:443/x?timeout=10s"
    assert f'failed calling webhook "hook.kaa.dev": failed to call webhook: Post "{where}": dial tcp' in said
    assert "connect: connection refused" in said
