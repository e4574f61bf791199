"""Reads, deletions and hostile bodies over real HTTP."""

from __future__ import annotations

import json

import pytest
from api_lab import Answer, Lab, run

from kaa.api.types.core_v1 import ConfigMap
from kaa.api.types.meta_v1 import ObjectMeta

MAPS = "/api/v1/namespaces/default/configmaps"
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


async def make(lab: Lab, *names: str) -> None:
    for name in names:
        await lab.client.create(ConfigMap(metadata=ObjectMeta(name=name, namespace="default")))


def test_a_watch_from_a_revision_to_come_tells_nothing_before_it() -> None:
    async def use(lab: Lab) -> None:
        start = lab.plane.api.cacher.revision
        request = f"{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={start + 2}"
        reader, writer = await lab.connect()
        writer.write(f"GET {request} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await make(lab, "a", "b", "c")
        assert b'"name":"c"' in (told := await reader.readuntil(b'"name":"c"'))
        assert b'"name":"a"' not in told
        assert b'"name":"b"' not in told
        writer.close()

    run(use, http=True)


@pytest.mark.parametrize("depth", [700, 100_000])
def test_nesting_is_refused(depth: int) -> None:
    bomb = b'{"metadata":{"name":"a"},"data":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"

    async def use(lab: Lab) -> None:
        await make(lab, "a")
        for level in ("Strict", "Warn", "Ignore"):
            assert (await lab.ask("POST", f"{MAPS}?fieldValidation={level}", bomb)).status == 400
            for kind in (MERGE, STRATEGIC):
                answer = await lab.ask("PATCH", f"{MAPS}/a?fieldValidation={level}", bomb, content_type=kind)
                assert answer.status in (400, 422)

    run(use, http=True)


def test_a_collection_is_deleted_up_to_its_limit_and_dry_runs_keep_it() -> None:
    async def use(lab: Lab) -> None:
        await make(lab, "a", "b", "c")
        assert len((await lab.ask("DELETE", f"{MAPS}?dryRun=All")).json()["items"]) == 3
        assert len((await lab.ask("DELETE", f"{MAPS}?limit=2")).json()["items"]) == 2
        assert [o["metadata"]["name"] for o in (await lab.ask("GET", MAPS)).json()["items"]] == ["c"]

    run(use, http=True)


def test_deprecated_kinds_warn() -> None:
    async def use(lab: Lab) -> None:
        told = (await lab.ask("GET", "/api/v1/endpoints")).headers["warning"]
        assert told == '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'
        assert "warning" in (await lab.ask("GET", "/api/v1/componentstatuses/scheduler")).headers

    run(use, http=True)


def test_component_statuses_say_what_was_looked_at() -> None:
    async def use(lab: Lab) -> None:
        def conditions(answer: Answer) -> dict[str, tuple[str, str]]:
            items = json.loads(answer.body)["items"]
            return {
                one["metadata"]["name"]: (one["conditions"][0]["status"], one["conditions"][0]["message"])
                for one in items
            }

        silent = ("False", "does not know anything: it has not started")
        path = "/api/v1/componentstatuses"
        assert conditions(await lab.ask("GET", path)) == {
            "controller-manager": silent,
            "etcd-0": ("True", "ok"),
            "scheduler": silent,
        }
        lab.plane.behind |= {"scheduler": list, "controller-manager": lambda: ["pods"]}
        assert conditions(await lab.ask("GET", path)) == {
            "controller-manager": ("False", "does not know pods"),
            "etcd-0": ("True", "ok"),
            "scheduler": ("True", "ok"),
        }
        assert (await lab.ask("GET", f"{path}/nothing")).status == 404

    run(use, http=True)


def test_unknown_and_duplicate_fields_are_named_where_they_stand() -> None:
    text = b"""{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","labels":{"a":"1","a":"2"}},"spec":{
        "unknown1":"v","unknownTwice":"v","unknownTwice":"w","paused":true,"paused":false,"selector":{"matchLabels":{"a":"2"}},
        "template":{"metadata":{"labels":{"a":"2"}},"spec":{"containers":[{"name":"c","image":"i","unknownNested":1,
        "imagePullPolicy":"Always","imagePullPolicy":"Never"}]}}}}"""
    faults = [
        'duplicate field "metadata.labels.a"',
        'unknown field "spec.unknown1"',
        'unknown field "spec.unknownTwice"',
        'duplicate field "spec.paused"',
        'unknown field "spec.template.spec.containers[0].unknownNested"',
        'duplicate field "spec.template.spec.containers[0].imagePullPolicy"',
    ]

    async def use(lab: Lab) -> None:
        path = "/apis/apps/v1/namespaces/default/deployments"
        strict = await lab.ask("POST", f"{path}?fieldValidation=Strict", text)
        assert strict.status == 400
        assert json.loads(strict.body)["message"].endswith("strict decoding error: " + ", ".join(faults))
        warned = await lab.ask("POST", path, text)
        assert warned.status == 201
        assert all(fault.replace('"', '\\"') in warned.headers["warning"] for fault in faults[-1:])

    run(use, http=True)


async def make_deployment(lab: Lab, name: str) -> str:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    path = "/apis/apps/v1/namespaces/default/deployments"
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
    assert (await lab.ask("POST", path, json.dumps(body).encode())).status == 201
    return f"{path}/{name}/scale"


def test_a_scale_below_zero_is_refused_as_a_scale() -> None:
    async def use(lab: Lab) -> None:
        path = await make_deployment(lab, "web")
        scale = (await lab.ask("GET", path)).json()
        scale["spec"]["replicas"] = -1
        sent = await lab.ask("PUT", path, json.dumps(scale).encode())
        patched = await lab.ask("PATCH", path, b'{"spec":{"replicas":-1}}', content_type=MERGE)
        for answer in (sent, patched):
            status = answer.json()
            assert (answer.status, status["details"]["kind"], status["details"]["group"]) == (
                422,
                "Scale",
                "autoscaling",
            )
            words = "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
            assert status["message"] == f'Scale.autoscaling "web" is invalid: {words}'

    run(use, http=True)


def test_the_scale_of_nothing_is_not_found() -> None:
    async def use(lab: Lab) -> None:
        path = (await make_deployment(lab, "web")).replace("/web/", "/absent/")
        body = b'{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"absent"},"spec":{"replicas":1}}'
        assert (await lab.ask("GET", path)).status == 404
        assert (await lab.ask("PUT", path, body)).status == 404
        assert (await lab.ask("PATCH", path, b'{"spec":{"replicas":1}}', content_type=MERGE)).status == 404

    run(use, http=True)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"kind": "Pod", "name": "n"}, 'target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"'),
        ({"kind": "Node"}, "target.name: Required value"),
        ({"name": "a/b"}, "target.name: Invalid value: \"a/b\": may not contain '/'"),
    ],
)
def test_a_binding_to_no_node_is_refused(target: dict[str, str], words: str) -> None:
    async def use(lab: Lab) -> None:
        pods = "/api/v1/namespaces/default/pods"
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}
        pod["spec"] = {"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": False}
        assert (await lab.ask("POST", pods, json.dumps(pod).encode())).status == 201
        body = {"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"}, "target": target}
        answer = await lab.ask("POST", f"{pods}/p/binding", json.dumps(body).encode())
        assert (answer.status, answer.json()["message"]) == (500, words)
        assert "nodeName" not in (await lab.ask("GET", f"{pods}/p")).json()["spec"]

    run(use, http=True)
