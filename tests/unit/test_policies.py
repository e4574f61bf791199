"""Admission policies in a whole API server: what they refuse, warn of, note, change, and what happens when they fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from api_lab import Answer, Lab, cluster_config, run
from webhook_configs import ADMISSION, CONFIGMAPS, configmap, create, rule
from webhook_lab import Json

from kaa.cluster.control_plane import bootstrap

Test = Callable[[Lab], Awaitable[None]]


def serve(test: Test) -> None:
    run(test, http=True)


async def post(lab: Lab, path: str, body: Json) -> Answer:
    return await lab.ask("POST", path, body)


async def policy(
    lab: Lab,
    spec: Json,
    binding: Json | None = None,
    *,
    name: str = "p",
    kind: str = "validating",
    constraints: Json | None = None,
) -> None:
    """A policy on configmaps, and its binding."""
    spec = {"matchConstraints": constraints or {"resourceRules": [rule()]}, **spec}
    if kind == "mutating":
        spec.setdefault("reinvocationPolicy", "Never")
    made = await post(lab, f"{ADMISSION}/{kind}admissionpolicies", {"metadata": {"name": name}, "spec": spec})
    assert made.status == 201, made.body
    actions = {"validationActions": ["Deny"]} if kind == "validating" else {}
    bound = {"policyName": name, **actions, **(binding or {})}
    body = {"metadata": {"name": f"{name}-binding"}, "spec": bound}
    made = await post(lab, f"{ADMISSION}/{kind}admissionpolicybindings", body)
    assert made.status == 201, made.body


def check(expression: str, **more: Any) -> Json:
    return {"validations": [{"expression": expression, **more}]}


# --------------------------------------------------------------------------------------------------- validating


def test_a_denial_in_upstreams_words() -> None:
    async def test(lab: Lab) -> None:
        await policy(lab, check("object.data.k != 'v'"))
        answer = await create(lab)
        message = "ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: failed expression: object.data.k != 'v'"
        assert answer.status == 422
        found = answer.json()
        assert found["message"] == f'configmaps "a" is forbidden: {message}'
        assert found["reason"] == "Invalid"
        assert found["details"] == {"name": "a", "kind": "configmaps", "causes": [{"message": message}]}
        assert (await create(lab, {**configmap(), "data": {"k": "w"}})).status == 201

    serve(test)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"message": "no v here"}, 422, "no v here"),
        ({"messageExpression": "'k is ' + object.data.k", "message": "else"}, 422, "k is v"),
        ({"messageExpression": "string(object.data.absent)", "message": "else"}, 422, "else"),
        ({"messageExpression": "'  '"}, 422, "failed expression: false"),
        ({"messageExpression": "'two\\nlines'", "message": "else"}, 422, "else"),
        ({"reason": "Forbidden"}, 403, "failed expression: false"),
        ({"reason": "RequestEntityTooLarge", "message": "big"}, 413, "big"),
        ({"reason": "Unauthorized", "message": "who"}, 401, "who"),
    ],
    ids=str,
)
def test_messages_and_reasons(given: Json, code: int, words: str) -> None:
    async def test(lab: Lab) -> None:
        await policy(lab, check("false", **given))
        answer = await create(lab)
        assert answer.status == code
        assert answer.json()["message"].endswith(f"denied request: {words}")
        assert answer.json()["reason"] == given.get("reason", "Invalid")

    serve(test)


@pytest.mark.parametrize(
    "expression",
    [
        "object.metadata.name == 'a' && object.kind == 'ConfigMap' && object.apiVersion == 'v1'",
        "oldObject == null",
        "request.operation == 'CREATE' && request.namespace == 'default' && request.name == 'a'",
        "request.kind.kind == 'ConfigMap' && request.resource.resource == 'configmaps' && !request.dryRun",
        "request.userInfo.username == 'kubernetes-super-admin' && 'system:masters' in request.userInfo.groups",
        "namespaceObject.metadata.name == 'default' && namespaceObject.status.phase == 'Active'",
        "namespaceObject.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z')",
        "authorizer.group('').resource('pods').namespace('default').check('create').allowed()",
        "authorizer.requestResource.check('delete').allowed()",
        "!authorizer.serviceAccount('default', 'default').group('').resource('pods').check('list').allowed()",
        "authorizer.path('/healthz').check('get').allowed()",
        "request.options.fieldManager == 'me'",
        "quantity('1Gi').isGreaterThan(quantity('1Mi'))",
    ],
)
def test_what_expressions_see(expression: str) -> None:
    async def test(lab: Lab) -> None:
        await policy(lab, check(expression))
        answer = await create(lab, query="?fieldManager=me")
        assert answer.status == 201, answer.body

    serve(test)


def test_old_objects_and_deletions() -> None:
    async def test(lab: Lab) -> None:
        await create(lab)
        await policy(
            lab, check("request.operation == 'DELETE' ? oldObject.data.k == 'w' : object.data.k > oldObject.data.k")
        )
        assert (await lab.ask("DELETE", f"{CONFIGMAPS}/a")).status == 422
        for value, code in (("u", 422), ("w", 200)):
            patch = {"data": {"k": value}}
            answer = await lab.ask("PATCH", f"{CONFIGMAPS}/a", patch, content_type="application/merge-patch+json")
            assert answer.status == code
        assert (await lab.ask("DELETE", f"{CONFIGMAPS}/a")).status == 200

    serve(test)


def test_variables_are_evaluated_when_asked_for_and_once() -> None:
    async def test(lab: Lab) -> None:
        variables = [
            {"name": "broken", "expression": "object.data.absent"},
            {"name": "data", "expression": "object.data"},
            {"name": "k", "expression": "variables.data.k"},
            {"name": "nothing", "expression": "null"},
        ]
        spec = check("variables.k == 'v' || variables.broken == 'x'")
        spec["validations"].append({"expression": "variables.nothing == null"})
        await policy(lab, {**spec, "variables": variables})
        assert (await create(lab)).status == 201
        answer = await create(lab, {"metadata": {"name": "b"}, "data": {"k": "w"}})
        assert answer.json()["message"].endswith(
            "expression 'variables.k == 'v' || variables.broken == 'x'' resulted in error: composited variable"
            ' "broken" fails to evaluate: no such key: absent'
        )

    serve(test)


@pytest.mark.parametrize(("failure_policy", "code"), [("Fail", 422), ("Ignore", 201)])
def test_the_failure_policy_decides_on_errors(failure_policy: str, code: int) -> None:
    async def test(lab: Lab) -> None:
        await policy(lab, {**check("object.data.absent == 'x'"), "failurePolicy": failure_policy})
        answer = await create(lab)
        assert answer.status == code
        if code != 201:
            assert answer.json()["message"].endswith(
                "denied request: expression 'object.data.absent == 'x'' resulted in error: no such key: absent"
            )

    serve(test)


def test_warnings_and_notes() -> None:
    async def test(lab: Lab) -> None:
        spec = {
            **check("false", message="no"),
            "auditAnnotations": [{"key": "k", "valueExpression": "string(object.data.k)"}],
        }
        await policy(lab, spec, {"validationActions": ["Warn", "Audit"]})
        made = await create(lab)
        assert made.status == 201
        assert made.headers["warning"] == (
            "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-binding': no\""
        )

    serve(test)


@pytest.mark.parametrize(
    ("constraints", "concerned"),
    [
        ({"resourceRules": [rule("pods")]}, False),
        ({"resourceRules": [rule(operations="UPDATE")]}, False),
        ({"resourceRules": [rule(resourceNames=["a"])]}, True),
        ({"resourceRules": [rule(resourceNames=["b"])]}, False),
        ({"resourceRules": [rule()], "excludeResourceRules": [rule(resourceNames=["a"])]}, False),
        ({"resourceRules": [rule()], "namespaceSelector": {"matchLabels": {"x": "y"}}}, False),
        ({"resourceRules": [rule()], "objectSelector": {"matchLabels": {"app": "web"}}}, True),
    ],
    ids=str,
)
def test_whom_a_policy_concerns(constraints: Json, concerned: bool) -> None:
    async def test(lab: Lab) -> None:
        await policy(lab, check("false"), constraints=constraints)
        answer = await create(lab, configmap(labels={"app": "web"}))
        assert answer.status == (422 if concerned else 201), answer.body

    serve(test)


@pytest.mark.parametrize(
    ("expressions", "failure_policy", "denied"),
    [
        (["object.data.k == 'v'"], "Fail", True),
        (["object.data.k == 'w'"], "Fail", False),
        (["object.data.absent == 'w'"], "Ignore", False),
        (["object.data.absent == 'w'", "false"], "Fail", False),
        (["object.data.absent == 'w'"], "Fail", True),
    ],
    ids=str,
)
def test_match_conditions(expressions: list[str], failure_policy: str, denied: bool) -> None:
    async def test(lab: Lab) -> None:
        conditions = [{"name": f"c{n}", "expression": text} for n, text in enumerate(expressions)]
        await policy(lab, {**check("false"), "matchConditions": conditions, "failurePolicy": failure_policy})
        assert (await create(lab)).status == (422 if denied else 201)

    serve(test)


def test_a_server_starts_whatever_policies_say() -> None:
    """A policy, or a webhook that is down, may stand against objects of the server's own: it does without them."""

    async def test(lab: Lab) -> None:
        await policy(lab, check("false"), constraints={"resourceRules": [rule("clusterroles", operations="CREATE")]})
        await bootstrap(lab.client, lab.plane.api, cluster_config(), lab.clock)
        assert (await lab.ask("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/view")).status == 404
        assert (await lab.ask("GET", "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical")).status == 200

    serve(test)


def test_a_policy_without_a_binding_does_nothing() -> None:
    async def test(lab: Lab) -> None:
        spec = {**check("false"), "matchConstraints": {"resourceRules": [rule()]}}
        await post(lab, f"{ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": "p"}, "spec": spec})
        assert (await create(lab)).status == 201

    serve(test)


def test_bindings_narrow_a_policy_and_count_at_once() -> None:
    async def test(lab: Lab) -> None:
        narrowed = {"matchResources": {"objectSelector": {"matchLabels": {"app": "web"}}}}
        await policy(lab, check("false"), narrowed)
        assert (await create(lab)).status == 201
        assert (await create(lab, configmap("b", labels={"app": "web"}))).status == 422
        await lab.ask("DELETE", f"{ADMISSION}/validatingadmissionpolicybindings/p-binding")
        assert (await create(lab, configmap("b", labels={"app": "web"}))).status == 201

    serve(test)


_PARAM_KIND = {"paramKind": {"apiVersion": "v1", "kind": "Secret"}}


async def secret(lab: Lab, name: str, value: str, **labels: str) -> None:
    body = {"metadata": {"name": name, "labels": labels}, "stringData": {"k": value}}
    assert (await post(lab, "/api/v1/namespaces/default/secrets", body)).status == 201


@pytest.mark.parametrize(
    ("ref", "code", "words"),
    [
        ({"name": "good"}, 201, ""),
        ({"name": "good", "namespace": "default"}, 201, ""),
        ({"name": "bad"}, 422, "failed expression: params.data.k == 'dg=='"),
        ({"selector": {"matchLabels": {"is": "good"}}}, 201, ""),
        ({"selector": {}}, 422, "failed expression: params.data.k == 'dg=='"),
        ({"name": "none"}, 422, "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"),
        ({"name": "none", "parameterNotFoundAction": "Allow"}, 201, ""),
        ({"selector": {"matchLabels": {"is": "x"}}, "parameterNotFoundAction": "Allow"}, 201, ""),
    ],
    ids=str,
)  # fmt: skip
def test_parameters(ref: Json, code: int, words: str) -> None:
    async def test(lab: Lab) -> None:
        await secret(lab, "good", "v", **{"is": "good"})
        await secret(lab, "bad", "w")
        ref.setdefault("parameterNotFoundAction", "Deny")
        await policy(lab, {**_PARAM_KIND, **check("params.data.k == 'dg=='")}, {"paramRef": ref})
        answer = await create(lab)
        assert answer.status == code, answer.body
        assert answer.json().get("message", "").endswith(words)

    serve(test)


def test_a_kind_of_parameters_that_is_not_served() -> None:
    async def test(lab: Lab) -> None:
        kind = {"paramKind": {"apiVersion": "rules.example.com/v1", "kind": "ReplicaLimit"}}
        ref = {"paramRef": {"name": "x", "parameterNotFoundAction": "Allow"}}
        await policy(lab, {**kind, **check("params.max > 1")}, ref)
        assert (
            (await create(lab))
            .json()["message"]
            .endswith(
                "ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by"
                " paramKind: 'rules.example.com/v1, Kind=ReplicaLimit'"
            )
        )

    serve(test)


def test_a_policy_that_costs_too_much() -> None:
    async def test(lab: Lab) -> None:
        some = "[1,2,3,4,5,6,7,8,9,10]"
        costly = (
            f"{some}.all(a, {some}.all(b, {some}.all(c, {some}.all(d, {some}.all(e, {some}.all(f, a+b+c+d+e+f > 0))))))"
        )
        await policy(lab, check(costly, message="m"))
        assert "operation cancelled: actual cost limit exceeded" in (await create(lab)).json()["message"]

    serve(test)


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        (check("object.x =="), "spec.validations[0].expression", "compilation failed: ERROR: <input>:1:12: Syntax error"),
        (check("'text'"), "spec.validations[0].expression", "must evaluate to bool"),
        (check("object.x"), "spec.validations[0].expression", "must evaluate to bool but got dyn"),
        (check("params.x == 1"), "spec.validations[0].expression", "undeclared reference to 'params'"),
        (check("true", messageExpression="1"), "spec.validations[0].messageExpression", "must evaluate to string"),
        (check("true", messageExpression="authorizer.path('/x').check('get').reason()"), "spec.validations[0].messageExpression", "undeclared reference to 'authorizer'"),
        (check("variables.nope"), "spec.validations[0].expression", "undeclared reference to 'variables'"),
        ({**check("true"), "variables": [{"name": "a", "expression": "variables.b"}]}, "spec.variables[0].expression", "undeclared reference"),
        ({**check("true"), "variables": [{"name": "a b", "expression": "1"}]}, "spec.variables[0].name", "name is not a valid CEL identifier"),
        ({**check("true"), "matchConditions": [{"name": "c", "expression": "1"}]}, "spec.matchConditions[0].expression", "must evaluate to bool"),
        ({"auditAnnotations": [{"key": "k", "valueExpression": "1"}]}, "spec.auditAnnotations[0].valueExpression", "must evaluate to one of [string null_type] but got int"),
    ],
    ids=str,
)  # fmt: skip
def test_expressions_are_compiled_when_they_are_written(spec: Json, field: str, words: str) -> None:
    async def test(lab: Lab) -> None:
        body = {"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [rule()]}, **spec}}
        answer = await post(lab, f"{ADMISSION}/validatingadmissionpolicies", body)
        assert answer.status == 422
        causes = {cause["field"]: cause["message"] for cause in answer.json()["details"]["causes"]}
        assert words in causes[field]

    serve(test)


def test_a_webhooks_conditions_are_compiled_when_they_are_written() -> None:
    async def test(lab: Lab) -> None:
        hook = {
            "name": "a.kaa.dev",
            "clientConfig": {"url": "https://127.0.0.1"},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "matchConditions": [{"name": "c", "expression": "1 +"}],
        }
        body = {"metadata": {"name": "w"}, "webhooks": [hook]}
        answer = await post(lab, f"{ADMISSION}/validatingwebhookconfigurations", body)
        assert answer.status == 422
        assert "webhooks[0].matchConditions[0].expression: Invalid value" in answer.json()["message"]

    serve(test)


# ----------------------------------------------------------------------------------------------------- mutating


def apply(expression: str) -> Json:
    return {"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]}


def patch(expression: str) -> Json:
    return {"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]}


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        (apply("Object{data: {'new': object.data.k + '!'}}"), {"k": "v", "new": "v!"}),
        (patch("[JSONPatch{op: 'add', path: '/data/new', value: 'x'}]"), {"k": "v", "new": "x"}),
        (patch("[JSONPatch{op: 'test', path: '/data/k', value: 'w'}, JSONPatch{op: 'remove', path: '/data/k'}]"), {"k": "v"}),
        (patch("[JSONPatch{op: 'replace', path: '/data', value: {'a.b': '1'}}, JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('c.d'), value: '2'}]"), {"a.b": "1", "c.d": "2"}),
        ({"variables": [{"name": "v", "expression": "'from variable'"}], **apply("Object{data: {'new': variables.v}}")}, {"k": "v", "new": "from variable"}),
        ({**apply("Object{data: {'new': 'x'}}"), "matchConditions": [{"name": "c", "expression": "false"}]}, {"k": "v"}),
    ],
    ids=str,
)  # fmt: skip
def test_mutations(spec: Json, data: Json) -> None:
    async def test(lab: Lab) -> None:
        await policy(lab, spec, kind="mutating")
        made = await create(lab)
        assert made.status == 201, made.body
        assert made.json()["data"] == data

    serve(test)


def test_an_applied_object_is_merged_by_the_keys_of_its_lists() -> None:
    async def test(lab: Lab) -> None:
        side = "Object{spec: Object.spec{initContainers: [Object.spec.initContainers{name: 'side', image: 'side:1'}]}}"
        image = "Object{spec: Object.spec{containers: object.spec.containers.map(c, Object.spec.containers{name: c.name, image: 'mirror/' + c.image})}}"
        mutations = apply(side)["mutations"] + apply(image)["mutations"]
        await policy(lab, {"mutations": mutations}, kind="mutating", constraints={"resourceRules": [rule("pods")]})
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1", "args": ["x"]}]}}
        made = (await post(lab, "/api/v1/namespaces/default/pods", pod)).json()
        [container] = made["spec"]["containers"]
        assert (container["image"], container["args"]) == ("mirror/i:1", ["x"])
        [init] = made["spec"]["initContainers"]
        assert (init["image"], init["imagePullPolicy"]) == ("side:1", "IfNotPresent")

    serve(test)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (apply("Object{spec: Object.spec{args: ['x']}}"), "error applying patch: failed to convert patch object to typed object: .spec: field not declared in schema"),
        (apply("Object{metadata: Object.meta{name: 'x'}}"), 'type mismatch: unexpected type name "Object.meta", expected "Object.metadata", which matches field name path from root Object type'),
        (patch("[JSONPatch{op: 'remove', path: '/nope'}]"), 'JSONPath: remove operation does not apply: doc is missing path: "/nope": missing value'),
        (apply("Object{data: {'x': object.nope}}"), "expression 'Object{data: {'x': object.nope}}' resulted in error: no such key: nope"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("failure_policy", ["Fail", "Ignore"])
def test_mutations_that_cannot_be_made(spec: Json, words: str, failure_policy: str) -> None:
    async def test(lab: Lab) -> None:
        await policy(lab, {**spec, "failurePolicy": failure_policy}, kind="mutating")
        answer = await create(lab)
        if failure_policy == "Ignore":
            assert answer.status == 201
            return
        assert (answer.status, answer.json()["reason"]) == (403, "Invalid")
        assert answer.json()["message"] == f"policy 'p' with binding 'p-binding' denied request: {words}"

    serve(test)


def test_a_whole_list_cannot_be_applied() -> None:
    async def test(lab: Lab) -> None:
        spec = apply("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', args: ['x']}]}}")
        await policy(lab, spec, kind="mutating", constraints={"resourceRules": [rule("pods")]})
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
        answer = await post(lab, "/api/v1/namespaces/default/pods", pod)
        assert (
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].args"
            in (answer.json()["message"])
        )

    serve(test)


@pytest.mark.parametrize(("reinvocation", "trail"), [("IfNeeded", "abab"), ("Never", "ab")])
def test_policies_see_again_what_later_ones_changed(reinvocation: str, trail: str) -> None:
    async def test(lab: Lab) -> None:
        for name in "ab":
            more = f"(has(object.data.trail) ? object.data.trail : '') + '{name}'"
            spec = {**apply(f"Object{{data: {{'trail': {more}}}}}"), "reinvocationPolicy": reinvocation}
            await policy(lab, spec, kind="mutating", name=name)
        assert (await create(lab)).json()["data"]["trail"] == trail

    serve(test)


def test_validating_policies_see_what_mutating_ones_made() -> None:
    async def test(lab: Lab) -> None:
        await policy(lab, apply("Object{metadata: Object.metadata{labels: {'owner': 'me'}}}"), kind="mutating")
        await policy(lab, check("object.metadata.labels.owner == 'me'"), name="q")
        assert (await create(lab)).status == 201

    serve(test)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (apply("1"), "must evaluate to Object"),
        (patch("Object{}"), "must evaluate to list(JSONPatch)"),
        (apply("Object{"), "compilation failed: ERROR: <input>"),
    ],
    ids=str,
)
def test_mutations_are_compiled_when_they_are_written(spec: Json, words: str) -> None:
    async def test(lab: Lab) -> None:
        spec.update(matchConstraints={"resourceRules": [rule()]}, reinvocationPolicy="Never")
        body = {"metadata": {"name": "p"}, "spec": spec}
        answer = await post(lab, f"{ADMISSION}/mutatingadmissionpolicies", body)
        assert answer.status == 422
        assert words in answer.json()["message"]

    serve(test)


# -------------------------------------------------------------------------------------------------- escalation


@pytest.mark.parametrize(
    ("rules", "policy_code", "binding_code"),
    [
        ([], 422, 422),
        ([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}], 201, 201),
        ([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["x"], "verbs": ["get"]}], 422, 201),
    ],
    ids=["may read nothing", "may read all", "may read the one"],
)
def test_who_writes_a_policy_may_read_its_parameters(rules: list[Json], policy_code: int, binding_code: int) -> None:
    async def test(lab: Lab) -> None:
        group = {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        await post(lab, f"{rbac}/clusterroles", {"metadata": {"name": "writer"}, "rules": [group, *rules]})
        subject = {"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}
        role = {"kind": "ClusterRole", "name": "writer", "apiGroup": "rbac.authorization.k8s.io"}
        body = {"metadata": {"name": "writer"}, "roleRef": role, "subjects": [subject]}
        await post(lab, f"{rbac}/clusterrolebindings", body)
        spec = {"matchConstraints": {"resourceRules": [rule()]}, **_PARAM_KIND, **check("params.data.k == 'x'")}
        where = f"{ADMISSION}/validatingadmissionpolicies"
        made = await lab.ask("POST", where, {"metadata": {"name": "hers"}, "spec": spec}, Impersonate_User="jane")
        assert made.status == policy_code, made.body
        if policy_code == 422:
            assert (
                'must have "get" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)'
                in (made.json()["message"])
            )
        await post(lab, where, {"metadata": {"name": "p"}, "spec": spec})
        ref = {"name": "x", "namespace": "default", "parameterNotFoundAction": "Deny"}
        bound = {"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"], "paramRef": ref}}
        made = await lab.ask("POST", f"{ADMISSION}/validatingadmissionpolicybindings", bound, Impersonate_User="jane")
        assert made.status == binding_code, made.body

    serve(test)
