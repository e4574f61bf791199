"""Definitions that upstream's own tests have refused, and updates of those that it took once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from custom_lab import definition
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.apiserver.custom.definitions import status_of
from kaa.apiserver.registry.apiextensions.customresourcedefinitions import STRATEGY

Json = dict[str, Any]
TEXT = {"type": "string"}
ROOT = "spec.validation.openAPIV3Schema"
SPEC = f"{ROOT}.properties[spec]"
HOOK = {"clientConfig": {"url": "https://example.com/convert"}, "conversionReviewVersions": ["v1"]}
AT_ROOT = (
    "Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems"
    " MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations"
)
STATUS = {"subresources": {"status": {}}}
APPROVAL = "metadata.annotations[api-approved.kubernetes.io]"
SEE = "see https://github.com/kubernetes/enhancements/pull/1111"
NEEDS = 'protected groups must have approval annotation "api-approved.kubernetes.io"'


def of(**properties: Any) -> Json:
    return {"type": "object", "properties": properties}


def of_versions(*versions: Json, **spec: Any) -> Json:
    """A definition with versions v1, v2, ..., the first stored."""
    made = [{"name": f"v{n}", "served": True, "storage": n == 1, **one} for n, one in enumerate(versions, 1)]
    return definition(versions=made, **spec)


def schema(root: Json, **version: Any) -> Json:
    return {"schema": {"openAPIV3Schema": root}, **version}


def converted(conversion: Json) -> Json:
    return of_versions(schema(of()), conversion=conversion)


def hooked(**client: Any) -> Json:
    return converted({"strategy": "Webhook", "webhook": {**HOOK, "clientConfig": client}})


def named(**names: Any) -> Json:
    return of_versions(schema(of()), names={"plural": "widgets", "kind": "Widget", **names})


def protected(annotation: str | None) -> Json:
    body = of_versions(schema(of()), group="widgets.k8s.io")
    annotations = {} if annotation is None else {"api-approved.kubernetes.io": annotation}
    return {**body, "metadata": {"name": "widgets.widgets.k8s.io", "annotations": annotations}}


def made(body: Json) -> CustomResourceDefinition:
    return STRATEGY.prepare_create(STRATEGY.default(scheme.convert(CustomResourceDefinition, body)))


def said(body: Json) -> list[str]:
    return [str(fault) for fault in STRATEGY.validate(made(body))]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (of_versions(schema(of(a={}))), [f"{ROOT}.properties[a].type: Required value: must not be empty for specified object fields"]),
        (of_versions(schema(of(a={})), schema(of())),
         ["spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields"]),
        (of_versions({}), ["spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"]),
        (of_versions(schema(of()), {}), ["spec.versions[1].schema.openAPIV3Schema: Required value: schemas are required"]),
        (of_versions(schema({**of(), "nullable": True})), [f"{ROOT}.nullable: Forbidden: nullable cannot be true at the root"]),
        (of_versions(schema(of(), subresources={"scale": {"specReplicasPath": ".a", "statusReplicasPath": ".status.a"}})),
         ['spec.subresources.scale.specReplicasPath: Invalid value: ".a": should be a json path under .spec']),
        (of_versions(schema(of(), subresources={"scale": {"specReplicasPath": ".a", "statusReplicasPath": ".status.a"}}), schema(of())),
         ['spec.versions[0].subresources.scale.specReplicasPath: Invalid value: ".a": should be a json path under .spec']),
        (of_versions(schema(of()), scope=""), ["spec.scope: Required value"]),
        (of_versions(schema(of()), scope="Half"), ['spec.scope: Unsupported value: "Half": supported values: "Cluster", "Namespaced"']),
        (of_versions(schema(of()), preserveUnknownFields=True),
         ["spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"]),
    ],
    ids=["one schema", "its own schema", "no schema", "one without", "nullable root", "one scale", "its own scale", "no scope", "scope", "preserve"],
)  # fmt: skip
def test_definitions_that_are_refused(body: Json, words: list[str]) -> None:
    assert said(body) == words


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ({**of(), "description": "d", "required": ["spec"], "x-kubernetes-preserve-unknown-fields": True}, ""),
        ({**of(spec=of(a={"type": "string"})), "oneOf": [{"required": ["spec"]}]}, f"only [{AT_ROOT}] fields are allowed"),
        ({**of(), "maxProperties": 3}, f"only [{AT_ROOT}] fields are allowed"),
    ],
    ids=["allowed", "oneOf", "maxProperties"],
)  # fmt: skip
def test_a_root_beside_a_status(root: Json, words: str) -> None:
    found = said(of_versions(schema(root, **STATUS)))
    assert len(found) == bool(words)
    assert all(words in one and one.startswith(f"{ROOT}: Invalid value: ") for one in found)
    assert said(of_versions(schema(root))) == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "array", "items": TEXT, "x-kubernetes-list-type": "set", "default": ["a", "a"]},
         [f'{SPEC}.default[1]: Duplicate value: "a"']),
        ({**of(a={"type": "integer"}), "default": {"a": 1}, "x-kubernetes-validations": [{"rule": "self.a > 1", "message": "too few"}]},
         [f"{SPEC}.default: Invalid value: too few"]),
        ({**of(a={"type": "integer"}), "default": {"a": 2}, "x-kubernetes-validations": [{"rule": "self.a > 1"}]}, []),
    ],
    ids=["twins", "broken rule", "kept rule"],
)  # fmt: skip
def test_defaults_keep_to_lists_and_rules(spec: Json, words: list[str]) -> None:
    assert said(of_versions(schema(of(spec=spec)))) == words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (converted({"strategy": "Webhook", "webhook": HOOK}), []),
        (converted({"strategy": "Odd"}), ['spec.conversion.strategy: Unsupported value: "Odd": supported values: "None", "Webhook"']),
        (converted({"strategy": "None", "webhook": HOOK}),
         ["spec.conversion.webhookClientConfig: Forbidden: should not be set when strategy is not set to Webhook",
          "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook"]),
        (converted({"strategy": "Webhook"}),
         ["spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
          "spec.conversion.conversionReviewVersions: Required value"]),
        (converted({"strategy": "Webhook", "webhook": {**HOOK, "conversionReviewVersions": ["v1", "v1", "0v"]}}),
         ['spec.conversion.conversionReviewVersions[1]: Invalid value: "v1": duplicate version',
          'spec.conversion.conversionReviewVersions[2]: Invalid value: "0v": a DNS-1035 label must consist of lower case alphanumeric characters or \'-\', start with an alphabetic character, and end with an alphanumeric character (e.g. \'my-name\',  or \'abc-123\', regex used for validation is \'[a-z]([-a-z0-9]*[a-z0-9])?\')']),
        (converted({"strategy": "Webhook", "webhook": {**HOOK, "conversionReviewVersions": ["v9"]}}),
         ['spec.conversion.conversionReviewVersions: Invalid value: ["v9"]: must include at least one of v1, v1beta1']),
        (hooked(), ["spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required"]),
        (hooked(url="http://example.com"),
         ["spec.conversion.webhookClientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"]),
        (hooked(service={"name": "", "namespace": "", "port": 65536, "path": "a//b"}),
         ["spec.conversion.webhookClientConfig.service.name: Required value: service name is required",
          "spec.conversion.webhookClientConfig.service.namespace: Required value: service namespace is required",
          "spec.conversion.webhookClientConfig.service.port: Invalid value: 65536: port is not valid: must be between 1 and 65535, inclusive",
          "spec.conversion.webhookClientConfig.service.path: Invalid value: \"a//b\": must start with a '/'",
          'spec.conversion.webhookClientConfig.service.path: Invalid value: "a//b": segment[1] may not be empty']),
        (hooked(url="https://example.com", caBundle="b2Rk"), []),
    ],
    ids=["good", "strategy", "not asked for", "missing", "reviews", "no known review", "nobody", "url", "service", "bundle"],
)  # fmt: skip
def test_webhooks_that_convert(body: Json, words: list[str]) -> None:
    assert said(body) == words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (named(singular="Bad"), ["spec.names.singular: Invalid value"]),
        (named(kind="my kind"), ["spec.names.singular: Invalid value", "spec.names.kind: Invalid value", "spec.names.listKind: Invalid value"]),
        (named(listKind="Widget"), ["spec.names.listKind: Invalid value"]),
        (named(kind=""), ["spec.names.singular: Required value", "spec.names.kind: Required value", "spec.names.listKind: Required value"]),
        (named(shortNames=["ok", "No"]), ["spec.names.shortNames[1]: Invalid value"]),
        (named(categories=["all", "-"]), ["spec.names.categories[1]: Invalid value"]),
    ],
    ids=["singular", "kind", "list is kind", "no kind", "short name", "category"],
)  # fmt: skip
def test_names(body: Json, words: list[str]) -> None:
    if not body["spec"]["names"]["kind"]:
        body["spec"]["names"]["singular"] = ""
    assert [": ".join(one.split(": ")[:2]) for one in said(body)] == words


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (None, [f"{APPROVAL}: Required value: {NEEDS}, {SEE}"]),
        ("yes", [f'{APPROVAL}: Invalid value: "yes": {NEEDS} with either a URL or a reason starting with "unapproved", {SEE}']),
        ("unapproved, experimental", []),
        ("https://github.com/kubernetes/kubernetes/pull/1", []),
    ],
    ids=["none", "no URL", "unapproved", "URL"],
)  # fmt: skip
def test_groups_of_kubernetes_own_need_an_approval(annotation: str | None, words: list[str]) -> None:
    assert said(protected(annotation)) == words
    stored = made(protected(annotation))
    assert STRATEGY.validate_update(stored, stored) == []


def condition(obj: CustomResourceDefinition, type: str) -> tuple[str, str | None, str | None]:
    assert obj.status is not None
    return next((one.status, one.reason, one.message) for one in obj.status.conditions if one.type == type)


def test_an_approval_is_a_condition() -> None:
    for annotation, status, reason in (
        ("unapproved", "False", "UnapprovedAnnotation"),
        ("yes", "False", "InvalidAnnotation"),
        ("https://example.com/1", "True", "ApprovedAnnotation"),
    ):
        obj = made(protected(annotation))
        obj = replace(obj, status=status_of(obj, [], "2026-01-01T00:00:00Z"))
        assert condition(obj, "KubernetesAPIApprovalPolicyConformant")[:2] == (status, reason)


@pytest.mark.parametrize(
    ("names", "reason", "message"),
    [
        (
            {"shortNames": ["wd", "ws", "free"]},
            "ShortNamesConflict",
            '["wd" is already in use, "ws" is already in use]',
        ),
        ({"singular": "widget"}, "SingularConflict", '"widget" is already in use'),
        ({"kind": "Widget", "singular": "widget"}, "ListKindConflict", '"WidgetList" is already in use'),
    ],
    ids=["short names", "singular", "the last one is told"],
)
def test_names_of_others_are_not_taken(names: Json, reason: str, message: str) -> None:
    first = made(named(shortNames=["wd", "ws"]))
    first = replace(first, status=status_of(first, [], "2026-01-01T00:00:00Z"))
    body = of_versions(schema(of()), names={"plural": "gadgets", "kind": "Gadget", **names})
    second = made({**body, "metadata": {"name": "gadgets.example.com"}})
    second = replace(second, status=status_of(second, [first], "2026-01-01T00:00:00Z"))
    assert condition(second, "NamesAccepted") == ("False", reason, message)
    assert condition(second, "Established") == ("False", "NotAccepted", "not all names are accepted")
    assert second.status is not None
    assert second.status.accepted_names.plural == "gadgets"


def established(obj: CustomResourceDefinition) -> CustomResourceDefinition:
    return replace(obj, status=status_of(obj, [], "2026-01-01T00:00:00Z"))


def with_description(body: Json) -> Json:
    versions = body["spec"]["versions"]
    root = {**versions[0]["schema"]["openAPIV3Schema"], "description": "changed"}
    return {**body, "spec": {**body["spec"], "versions": [{**versions[0], **schema(root)}]}}


@pytest.mark.parametrize(
    "spec",
    [
        {**of(a=TEXT), "default": {"b": 1}},
        {"type": "array", "items": of(a=TEXT), "x-kubernetes-list-type": "set"},
        {"type": "array", "items": of(a=TEXT), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]},
    ],
    ids=["default", "set", "keys"],
)
def test_faults_that_were_taken_once_may_stay(spec: Json) -> None:
    body = of_versions(schema(of(spec=spec)))
    assert said(body)
    assert STRATEGY.validate_update(made(with_description(body)), made(body)) == []
    assert STRATEGY.validate_update(made(body), made(of_versions(schema(of())))) != []


def test_an_unreadable_bundle_may_stay_but_not_come() -> None:
    good, bad = hooked(url="https://example.com"), hooked(url="https://example.com", caBundle="b2Rk")
    found = STRATEGY.validate_update(made(bad), established(made(good)))
    assert [str(fault) for fault in found] == [
        'spec.conversion.webhookClientConfig.caBundle: Invalid value: "b2Rk": unable to load root certificates:'
        " unable to parse bytes as PEM block"
    ]
    assert STRATEGY.validate_update(made(bad), established(made(bad))) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda spec: {**spec, "scope": "Cluster"}, "spec.scope"),
        (lambda spec: {**spec, "names": {**spec["names"], "kind": "Other"}}, "spec.names.kind"),
    ],
)
def test_what_is_established_stays(change: Callable[[Json], Json], field: str) -> None:
    body = of_versions(schema(of()))
    new = made({**body, "spec": change(body["spec"])})
    found = STRATEGY.validate_update(new, established(made(body)))
    assert [fault.field for fault in found] == [field]
    assert STRATEGY.validate_update(new, made(body)) == []
