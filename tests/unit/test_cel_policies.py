"""The variables and types that Kubernetes declares where it runs expressions."""

from __future__ import annotations

import pytest

from kaa.api.cel import BOOL, DYN, CompileError, Environment, EvaluationError, ListType
from kaa.api.cel.library import DEVICES, MUTATING
from kaa.api.cel.library.lists import INCLUDES
from kaa.api.cel.mutation import JSON_PATCH, check_names, named_type
from kaa.api.cel.schema import max_cardinality
from kaa.api.cel.variables import DEVICE, NAMESPACE, REQUEST, device

POLICY = Environment({"object": DYN, "request": REQUEST, "namespaceObject": NAMESPACE}, MUTATING, types=named_type)


def test_a_request_is_typed() -> None:
    program = POLICY.compile(
        "request.operation == 'CREATE' && 'system:masters' in request.userInfo.groups && request.kind.kind == 'Pod'"
        " && namespaceObject.metadata.labels.team == 'a' && !has(request.namespace)",
        BOOL,
    )
    user = {"username": "admin", "groups": ["system:masters"]}
    request = {"operation": "CREATE", "userInfo": user, "kind": {"group": "", "version": "v1", "kind": "Pod"}}
    namespace = {"metadata": {"name": "x", "labels": {"team": "a"}}}
    assert program.evaluate({"request": request, "namespaceObject": namespace}).value is True
    with pytest.raises(CompileError, match="undefined field 'object'"):
        POLICY.compile("request.object")


def test_a_mutation_writes_objects_out() -> None:
    program = POLICY.compile(
        "Object{metadata: Object.metadata{namespace: 'n', labels: {'app-id': 'a'}},"
        " spec: Object.spec{containers: [Object.spec.containers{name: 'c'}]}}",
        named_type("Object"),
    )
    value = program.evaluate({}).value
    check_names(value)
    assert value == {"metadata": {"namespace": "n", "labels": {"app-id": "a"}}, "spec": {"containers": [{"name": "c"}]}}


def test_the_names_of_types_follow_the_fields() -> None:
    value = POLICY.compile("Object{spec: Object.metadata{name: 'x'}}").evaluate({}).value
    with pytest.raises(EvaluationError) as failed:
        check_names(value)
    assert str(failed.value) == (
        'unexpected type name "Object.metadata", expected "Object.spec", which matches field name path from root Object type'
    )


def test_patches_are_lists_of_their_own_type() -> None:
    program = POLICY.compile(
        "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: object.x},"
        " JSONPatch{op: 'test', path: '/a', value: Object.spec{replicas: 1}}]",
        ListType(JSON_PATCH),
    )
    assert program.evaluate({"object": {"x": [1]}}).value == [
        {"op": "add", "path": "/metadata/labels/a~1b", "value": [1]},
        {"op": "test", "path": "/a", "value": {"replicas": 1}},
    ]
    with pytest.raises(CompileError, match="undeclared reference to 'Nothing'"):
        POLICY.compile("Nothing{a: 1}")


@pytest.mark.parametrize(
    ("selector", "holds"),
    [
        ("device.driver == 'gpu.example.com'", True),
        ("device.attributes['gpu.example.com'].model == 'a100' && device.attributes['other.com'].fast", True),
        ("device.attributes['gpu.example.com'].version.isGreaterThan(semver('1.2.0'))", True),
        ("device.capacity['gpu.example.com'].memory.compareTo(quantity('40Gi')) >= 0", True),
        ("cel.bind(mine, device.attributes['gpu.example.com'], mine.model.startsWith('h'))", False),
        ("has(device.attributes['nobody.com'].model)", False),
        ("'model' in device.attributes['nobody.com']", False),
    ],
)
def test_devices_are_selected(selector: str, holds: bool) -> None:
    value = device(
        "gpu.example.com", {"model": "a100", "other.com/fast": True}, {"version": "1.10.0"}, {"memory": "40Gi"}
    )
    program = Environment({"device": DEVICE}, DEVICES).compile(selector, BOOL)
    assert program.evaluate({"device": value}).value is holds


def test_a_device_has_no_attribute_that_it_has_not() -> None:
    program = Environment({"device": DEVICE}, DEVICES).compile("device.attributes['nobody.com'].model == 'x'")
    with pytest.raises(EvaluationError, match="no such key: model"):
        program.evaluate({"device": device("d.com", {}, {}, {})})


def test_an_attribute_may_be_a_list() -> None:
    program = Environment({"device": DEVICE}, (*DEVICES, INCLUDES)).compile(
        "device.attributes['d.com'].models.includes('a') && device.attributes['d.com'].model.includes('a')", BOOL
    )
    assert program.evaluate({"device": device("d.com", {"models": ["a", "b"], "model": "a"}, {}, {})}).value is True


def test_a_request_holds_only_so_many_values() -> None:
    assert max_cardinality({"type": "boolean"}) == 3 * 1024 * 1024 // 5
    assert max_cardinality({"type": "string"}) == 3 * 1024 * 1024 // 3
