"""What clients are told of fields that a schema does not know, or that stand twice: upstream's conformance "FieldValidation"."""

from __future__ import annotations

import re
from typing import Any

import pytest
from api_lab import Lab, run
from custom_lab import DEFINITIONS, status, until

NOXUS = "/apis/mygroup.example.com/v1beta1/noxus"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
STRICT = "?fieldManager=field_validation_mgr&fieldValidation=Strict"
TEMPLATE = '"template":{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"a","image":"a:latest"}]}}'
SELECTOR = f'"selector":{{"matchLabels":{{"app":"a"}}}},{TEMPLATE}'


def deployment(metadata: str = "", spec: str = "") -> bytes:
    head = f'{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"a"{metadata}}}'
    return f'{head},"spec":{{{spec}{SELECTOR}}}}}'.encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            deployment(spec='"unknownField":"foo","replicas":2,"replicas":3,'),
            'strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"',
        ),
        (deployment(metadata=',"unknownMeta":"foo"'), 'strict decoding error: unknown field "metadata.unknownMeta"'),
    ],
    ids=["spec", "metadata"],
)
def test_a_typed_object(body: bytes, words: str) -> None:
    async def use(lab: Lab) -> None:
        answer = await lab.ask("POST", DEPLOYMENTS + STRICT, body)
        assert (answer.status, answer.json()["reason"]) == (400, "BadRequest")
        assert words in answer.json()["message"]

    run(use, http=True)


CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
TWICE = b"metadata:\n  name: a\nextra: x\ndata: {k: v,\n  k: w}\n"


@pytest.mark.parametrize(
    ("method", "path", "body", "form", "words"),
    [
        (
            "POST",
            CONFIGMAPS + STRICT,
            TWICE,
            "application/yaml",
            'strict decoding error: yaml: unmarshal errors:\n  line 5: key "k" already set in map, unknown field "extra"',
        ),
        (
            "PATCH",
            f"{CONFIGMAPS}/a{STRICT}",
            b'{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"v",\n"k":"w"}}',
            "application/apply-patch+yaml",
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n"
            '  line 2: key "k" already set in map',
        ),
    ],
    ids=["created", "applied"],
)
def test_keys_that_stand_twice_in_yaml(method: str, path: str, body: bytes, form: str, words: str) -> None:
    """Refused in one text, or warned about a line at a time: a header holds no more."""

    async def use(lab: Lab) -> None:
        answer = await lab.ask(method, path, body, content_type=form)
        assert answer.status == 400
        assert words in answer.json()["message"]
        answer = await lab.ask(method, path.replace("Strict", "Warn"), body, content_type=form)
        assert answer.status == 201
        line = re.search(r"line \d: key \"k\" already set in map", words)
        assert line is not None
        assert line[0].replace('"', '\\"') in answer.headers["warning"]

    run(use, http=True)


STRING = {"type": "string"}
PORT = {
    "type": "object",
    "required": ["containerPort", "protocol"],
    "properties": {"containerPort": {"type": "integer", "format": "int32"}, "name": STRING, "protocol": STRING},
}
PORTS = {
    "type": "array",
    "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
    "x-kubernetes-list-type": "map",
    "items": PORT,
}
CRON = {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"}
FIELDS = {"foo": STRING, "cronSpec": CRON, "ports": PORTS}
EMBEDDED = {
    "type": "object",
    "x-kubernetes-embedded-resource": True,
    "properties": {"metadata": {"type": "object", "properties": {"name": STRING}}, "spec": {"type": "object"}},
}


def schema(**spec: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"spec": {"type": "object", **spec}}}


PRESERVE = {"x-kubernetes-preserve-unknown-fields": True}
NO_SCHEMA = {"type": "object", **PRESERVE}
CLOSED = schema(properties=FIELDS)
OPEN = schema(properties=FIELDS, **PRESERVE)
NESTED = schema(properties={**FIELDS, "template": EMBEDDED}, **PRESERVE)


def definition(root: dict[str, Any]) -> dict[str, Any]:
    versions = [
        {"name": name, "served": True, "storage": name == "v1beta1", "schema": {"openAPIV3Schema": root}}
        for name in ("v1beta1", "v1")
    ]
    names = {"plural": "noxus", "singular": "nonenglishnoxu", "kind": "WishIHadChosenNoxu", "listKind": "NoxuItemList"}
    return {
        "metadata": {"name": "noxus.mygroup.example.com"},
        "spec": {"group": "mygroup.example.com", "scope": "Cluster", "names": names, "versions": versions},
    }


def manifest(metadata: str = "", root: str = "", spec: str = "") -> bytes:
    """A YAML document as the suite writes it: its first line is empty."""
    return f"""
apiVersion: mygroup.example.com/v1beta1
kind: WishIHadChosenNoxu
metadata:
  name: mytest{metadata}
  finalizers:
  - test-finalizer{root}
spec:{spec}
  cronSpec: "* * * * */5"
  ports:
  - name: x
    containerPort: 80
    protocol: TCP""".encode()


SUB = """
  template:
    apiversion: foo/v1
    kind: Sub
    metadata:
        unknownSubMeta: unknown
        name: subobject
        namespace: default"""


@pytest.mark.parametrize(
    ("root", "body", "code", "words"),
    [
        (CLOSED, manifest(spec="\n  foo: foo1"), 201, []),
        (NO_SCHEMA, manifest(spec="\n  unknown: uk1"), 201, []),
        (
            CLOSED,
            manifest(root="\nunknownField: unknown", spec="\n  foo: foo1"),
            500,
            [".unknownField: field not declared in schema"],
        ),
        (
            NESTED,
            manifest(metadata="\n  unknownMeta: unknown", spec=SUB),
            500,
            [".spec.template.metadata.unknownSubMeta: field not declared in schema"],
        ),
        (
            OPEN,
            manifest(spec="\n  unknown: uk1\n  foo: foo1\n  foo: foo2"),
            400,
            ['line 11: key "foo" already set in map'],
        ),
    ],
    ids=["valid", "no schema", "unknown", "unknown metadata", "twice"],
)
def test_an_applied_custom_object(root: dict[str, Any], body: bytes, code: int, words: list[str]) -> None:
    async def use(lab: Lab) -> None:
        made = await lab.ask("POST", DEFINITIONS, definition(root))
        assert made.status == 201, made.body
        await until(lab, NOXUS, status(200))
        answer = await lab.ask("PATCH", f"{NOXUS}/mytest{STRICT}", body, content_type="application/apply-patch+yaml")
        for word in words:
            assert word in answer.json()["message"]
        assert answer.status == code, answer.body

    run(use, http=True)
