"""The controller that checks the types of a policy's expressions."""

from __future__ import annotations

import asyncio

import pytest
from api_lab import Lab, run
from webhook_lab import Json

from kaa.api.cel import BOOL, BYTES, DYN, INT, STRING, TIMESTAMP, ListType, MapType
from kaa.api.cel.struct_types import type_of_struct
from kaa.api.scheme import convert, resource_by_path
from kaa.api.types.admissionregistration_v1 import ValidatingAdmissionPolicy
from kaa.api.types.apps_v1 import Deployment
from kaa.api.types.core_v1 import Pod, Secret
from kaa.client.informer import Informers
from kaa.client.workqueue import Key
from kaa.controllers.controller import Context
from kaa.controllers.validatingadmissionpolicystatus import (
    Kind,
    ValidatingAdmissionPolicyStatus,
    kinds_of,
    warnings_of,
)

DEPLOYMENTS = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["deployments"]}


def policy(*expressions: str, rule: Json | None = None, **spec: object) -> ValidatingAdmissionPolicy:
    validations = [{"expression": text} for text in expressions]
    return convert(
        ValidatingAdmissionPolicy,
        {
            "metadata": {"name": "p"},
            "spec": {"matchConstraints": {"resourceRules": [rule or DEPLOYMENTS]}, "validations": validations, **spec},
        },
    )


def kind_of(group: str, version: str, plural: str) -> Kind | None:
    found = resource_by_path(group, version, plural)
    return None if found is None else Kind(group, version, found.kind)


def type_of(kind: Kind) -> object:
    return {"Deployment": type_of_struct(Deployment), "Pod": type_of_struct(Pod)}.get(kind.kind)


def test_structs_as_types() -> None:
    spec = type_of_struct(Pod).fields["spec"].fields
    assert spec["nodeName"] == STRING
    assert spec["activeDeadlineSeconds"] == INT
    assert spec["hostNetwork"] == BOOL
    assert spec["nodeSelector"] == MapType(STRING, STRING)
    container = spec["containers"].parameters[0].fields
    assert container["args"] == ListType(STRING)
    assert container["resources"].fields["limits"] == MapType(STRING, STRING)
    assert container["ports"].parameters[0].fields["containerPort"] == INT
    assert container["livenessProbe"].fields["httpGet"].fields["port"] == DYN
    metadata = type_of_struct(Pod).fields["metadata"].fields
    assert metadata["creationTimestamp"] == TIMESTAMP
    assert metadata["__namespace__"] == STRING
    assert type_of_struct(Pod).fields["apiVersion"] == STRING
    assert type_of_struct(Secret).fields["data"] == MapType(STRING, BYTES)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("object.spec.replicas > 1", ""),
        ("object.spec.replicas > '1'", "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'"),
        ("object.spec.maxReplicas > 1", "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'maxReplicas'"),
        ("oldObject.metadata.name == object.metadata.__namespace__", ""),
        ("variables.n > 1", ""),
        ("variables.n > 'x'", "found no matching overload"),
        ("object.spec.template.spec.containers.all(c, c.image.startsWith('x'))", ""),
        ("object.spec.template.spec.containers.all(c, c.imag == 'x')", "undefined field 'imag'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_with_the_types(expression: str, words: str) -> None:
    variables = [{"name": "n", "expression": "object.spec.replicas"}]
    found = warnings_of(policy(expression, variables=variables), kind_of, type_of)  # type: ignore[arg-type]
    assert bool(found) == bool(words)
    if words:
        assert found[0].field_ref == "spec.validations[0].expression"
        assert words in found[0].warning


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        (
            {**DEPLOYMENTS, "resources": ["deployments", "replicasets", "deployments/status"]},
            ["Deployment", "ReplicaSet"],
        ),
        ({**DEPLOYMENTS, "apiGroups": ["*"]}, []),
        ({**DEPLOYMENTS, "apiVersions": ["*"]}, []),
        ({**DEPLOYMENTS, "resources": ["*"]}, []),
        ({**DEPLOYMENTS, "resources": ["unicorns"]}, []),
    ],
    ids=str,
)
def test_the_kinds_that_rules_name(rule: Json, kinds: list[str]) -> None:
    constraints = policy(rule=rule).spec.match_constraints
    assert constraints is not None
    assert [kind.kind for kind in kinds_of(constraints.resource_rules, kind_of)] == kinds


def test_the_status_is_written_once_a_generation() -> None:
    async def use(lab: Lab) -> None:
        context = Context(lambda name: lab.client, Informers(lab.client, lab.clock), lab.clock)
        controller = ValidatingAdmissionPolicyStatus(context)
        tasks = [asyncio.create_task(context.informers.run()), asyncio.create_task(controller.run())]
        try:
            await lab.client.create(policy("object.spec.replicas > '1'", "object.spec.replicas > 1"))
            while True:
                found = await lab.client.get(ValidatingAdmissionPolicy, "p")
                if found.status.observed_generation == 1:
                    break
                await asyncio.sleep(0.01)
            assert found.status.type_checking is not None
            [warning] = found.status.type_checking.expression_warnings
            assert warning.field_ref == "spec.validations[0].expression"
            assert "status" in {entry.subresource for entry in found.metadata.managed_fields}
            version = found.metadata.resource_version
            await controller.reconcile(Key("", "p"))
            assert (await lab.client.get(ValidatingAdmissionPolicy, "p")).metadata.resource_version == version
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(use)
