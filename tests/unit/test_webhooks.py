"""Webhooks in a whole API server: what they are asked, what their answers do, and what happens when they fail."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from api_lab import Lab
from webhook_configs import ADMISSION, CONFIGMAPS, configmap, configure, create, put, rule, serve, webhook
from webhook_lab import Json, Webhook, allow, deny


def yes(path: str, review: Json) -> Json:
    return allow(review)


# ------------------------------------------------------------------------------------------------- what is asked


def test_a_creation_is_shown_as_upstream_shows_it() -> None:
    """Before it is decided on, an object has no uid, no time of creation and no generated name."""

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "mutating", webhook(hook))
        await configure(lab, "validating", webhook(hook, "two"))
        made = await create(lab, {"metadata": {"generateName": "m-"}}, "?fieldManager=me&fieldValidation=Strict")
        first, last = hook.requests
        assert not {"name"} & (set(first) | set(last))
        assert first["operation"] == "CREATE"
        assert first["namespace"] == "default"
        assert first["kind"] == first["requestKind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
        assert first["resource"] == first["requestResource"] == {"group": "", "version": "v1", "resource": "configmaps"}
        assert first["oldObject"] is None
        assert first["dryRun"] is False
        assert first["userInfo"]["username"] == "kubernetes-super-admin"
        options = {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}
        assert first["options"] == {**options, "fieldManager": "me", "fieldValidation": "Strict"}
        metadata = first["object"]["metadata"]
        assert metadata["generateName"] == "m-"
        assert metadata["namespace"] == "default"
        assert not {"uid", "creationTimestamp", "name", "generation"} & set(metadata)
        stored = made.json()["metadata"]
        shown = last["object"]["metadata"]
        assert {k: shown[k] for k in ("name", "uid")} == {k: stored[k] for k in ("name", "uid")}

    serve(yes, test)


def test_updates_deletions_and_subresources_are_shown() -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        await create(lab)
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        await lab.ask("POST", "/api/v1/namespaces/default/pods", pod)
        await configure(lab, "validating", webhook(hook, rules=[rule("*/*")]))
        await lab.ask("PATCH", f"{CONFIGMAPS}/a", {"data": {"k": "w"}}, content_type="application/merge-patch+json")
        await lab.ask("DELETE", f"{CONFIGMAPS}/a", {"propagationPolicy": "Background"})
        await lab.ask("PATCH", "/api/v1/namespaces/default/pods/p/status", {"status": {"message": "m"}}, content_type="application/merge-patch+json")  # fmt: skip
        binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}
        await lab.ask("POST", "/api/v1/namespaces/default/pods/p/binding", binding)
        update, gone, status, bind = hook.requests
        assert update["operation"] == "UPDATE"
        assert update["options"]["kind"] == "UpdateOptions"
        assert (update["oldObject"]["data"], update["object"]["data"]) == ({"k": "v"}, {"k": "w"})
        assert gone["operation"] == "DELETE"
        assert gone["object"] is None
        assert gone["oldObject"]["data"] == {"k": "w"}
        wanted = {"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "propagationPolicy": "Background"}
        assert gone["options"] == wanted
        assert status["subResource"] == status["requestSubResource"] == "status"
        assert bind["subResource"] == "binding"
        assert bind["kind"]["kind"] == "Binding"
        assert bind["name"] == "p"

    serve(yes, test)


def test_a_scale_is_shown_and_changed_as_a_scale() -> None:
    def three(path: str, review: Json) -> Json:
        return allow(review, patch=[{"op": "replace", "path": "/spec/replicas", "value": 3}])

    async def test(lab: Lab, hook: Webhook) -> None:
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
        where = "/apis/apps/v1/namespaces/default/deployments"
        await lab.ask("POST", where, {"metadata": {"name": "d"}, "spec": spec})
        await configure(lab, "mutating", webhook(hook, rules=[rule("deployments/scale")]))
        made = await lab.ask("PATCH", f"{where}/d/scale", {"spec": {"replicas": 2}}, content_type="application/merge-patch+json")  # fmt: skip
        assert made.json()["spec"]["replicas"] == 3
        [seen] = hook.requests
        assert seen["kind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        assert (seen["oldObject"]["spec"], seen["object"]["spec"]) == ({"replicas": 1}, {"replicas": 2})
        deployment = (await lab.ask("GET", f"{where}/d")).json()
        assert deployment["spec"]["replicas"] == 3
        assert deployment["metadata"]["generation"] == 2

    serve(three, test)


def test_exec_is_a_connect() -> None:
    def no(path: str, review: Json) -> Json:
        return deny(review, "attaching to pod is not allowed", 403)

    async def test(lab: Lab, hook: Webhook) -> None:
        pod = {"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}
        where = "/api/v1/namespaces/default/pods"
        await lab.ask("POST", "/api/v1/nodes", {"metadata": {"name": "n"}})
        await lab.ask("POST", where, pod)
        await configure(lab, "validating", webhook(hook, rules=[rule("pods/exec", "CONNECT")]))
        query = "?command=sh&command=-c&stdin=true&container=c"
        answer = await lab.ask("POST", f"{where}/p/exec{query}")
        assert answer.status == 403
        assert answer.json()["message"] == (
            'admission webhook "one.kaa.dev" denied the request: attaching to pod is not allowed'
        )
        [seen] = hook.requests
        asked = {"kind": "PodExecOptions", "apiVersion": "v1", "stdin": True, "container": "c", "command": ["sh", "-c"]}
        assert seen["object"] == asked
        assert seen["operation"] == "CONNECT"
        assert seen["options"] is None
        assert seen["kind"]["kind"] == "PodExecOptions"
        assert seen["name"] == "p"
        assert seen["subResource"] == "exec"

    serve(no, test)


def test_v1beta1_is_spoken_where_it_is_asked_for() -> None:
    def old(path: str, review: Json) -> Json:
        made = allow(review, patch=put("/data/old", "yes"))
        del made["response"]["patchType"], made["response"]["uid"]  # v1beta1 demands neither
        return made

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "mutating", webhook(hook, admissionReviewVersions=["v2", "v1beta1", "v1"]))
        assert (await create(lab)).json()["data"] == {"k": "v", "old": "yes"}
        assert hook.seen[0][1]["apiVersion"] == "admission.k8s.io/v1beta1"

    serve(old, test)


def test_another_version_is_converted_to_where_the_rule_wants_it() -> None:
    """``matchPolicy: Equivalent`` converts; ``Exact`` looks at the version of the request only."""

    def cpu(path: str, review: Json) -> Json:
        if path == "/look":
            return allow(review)
        return allow(review, patch=[{"op": "replace", "path": "/spec/targetCPUUtilizationPercentage", "value": 33}])

    async def test(lab: Lab, hook: Webhook) -> None:
        only_v1 = rule("horizontalpodautoscalers", apiVersions=["v1"], apiGroups=["autoscaling"])
        await configure(lab, "mutating", webhook(hook, rules=[only_v1]))
        await configure(lab, "validating", webhook(hook, "exact", "/look", rules=[only_v1], matchPolicy="Exact"))
        target = {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}
        metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}  # fmt: skip
        body = {"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target, "metrics": [metric]}}
        made = await lab.ask("POST", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", body)
        assert made.json()["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 33
        [seen] = hook.requests
        assert seen["kind"]["version"] == "v1"
        assert seen["requestKind"]["version"] == "v2"
        assert seen["resource"]["version"] == "v1"
        assert seen["requestResource"]["version"] == "v2"
        assert seen["object"]["spec"]["targetCPUUtilizationPercentage"] == 50
        spec = {"maxReplicas": 3, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 60}
        old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
        await lab.ask("POST", old, {"metadata": {"name": "i"}, "spec": spec})
        mutating, exact = hook.requests[1:]
        assert mutating["requestKind"]["version"] == exact["kind"]["version"] == "v1"
        assert mutating["object"]["spec"]["targetCPUUtilizationPercentage"] == 60
        assert exact["object"]["spec"]["targetCPUUtilizationPercentage"] == 33

    serve(cpu, test)


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"rules": [rule("configmaps", "CREATE")]}, True),
        ({"rules": [rule("configmaps", "UPDATE DELETE")]}, False),
        ({"rules": [rule("*")]}, True),
        ({"rules": [rule("configmaps/*")]}, True),
        ({"rules": [rule("configmaps/status")]}, False),
        ({"rules": [rule(apiGroups=["apps"])]}, False),
        ({"rules": [rule(apiGroups=[""], apiVersions=["v1"])]}, True),
        ({"rules": [rule(apiVersions=["v2"])]}, False),
        ({"rules": [rule(scope="Namespaced")]}, True),
        ({"rules": [rule(scope="Cluster")]}, False),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}, True),
        ({"namespaceSelector": {"matchLabels": {"team": "x"}}}, False),
        ({"objectSelector": {"matchLabels": {"app": "web"}}}, True),
        ({"objectSelector": {"matchLabels": {"app": "db"}}}, False),
        ({"matchConditions": [{"name": "c", "expression": "object.data.k == 'v'"}]}, True),
        ({"matchConditions": [{"name": "c", "expression": "object.data.k == 'w'"}]}, False),
        ({"matchConditions": [{"name": "c", "expression": "request.userInfo.username == 'x'"}]}, False),
    ],
    ids=str,
)
def test_who_is_asked(given: Json, seen: bool) -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "validating", webhook(hook, **given))
        assert (await create(lab, configmap(labels={"app": "web"}))).status == 201
        assert bool(hook.seen) == seen

    serve(yes, test)


def test_namespaces_are_cluster_scoped_and_stand_in_themselves() -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        selector = {"matchLabels": {"watched": "yes"}}
        cluster = webhook(hook, rules=[rule("namespaces", scope="Cluster")], namespaceSelector=selector)
        await configure(
            lab, "validating", cluster, webhook(hook, "two", rules=[rule("namespaces", scope="Namespaced")])
        )
        for name, labels in (("one", {"watched": "yes"}), ("two", {})):
            made = await lab.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
            assert made.status == 201
        [seen] = hook.requests
        assert (seen["name"], seen["namespace"]) == ("one", "one")

    serve(yes, test)


def test_configurations_are_never_intercepted() -> None:
    """Nobody locks himself out: a webhook that refuses everything can be taken away."""

    def no(path: str, review: Json) -> Json:
        return deny(review)

    async def test(lab: Lab, hook: Webhook) -> None:
        everything = webhook(hook, rules=[rule("*/*")])
        await configure(lab, "validating", everything)
        await configure(lab, "mutating", everything)
        for phase in ("validating", "mutating"):
            assert (await lab.ask("DELETE", f"{ADMISSION}/{phase}webhookconfigurations/config")).status == 200
        assert (await create(lab)).status == 201
        assert not hook.seen

    serve(no, test)


# --------------------------------------------------------------------------------------------- what answers do


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        ({}, 400, "without explanation"),
        ({"status": {"message": "no way", "code": 403, "reason": "Forbidden"}}, 403, ": no way"),
        ({"status": {"reason": "Nope"}}, 400, ": Nope"),
        ({"status": {"message": "odd", "code": 200, "status": "Success"}}, 400, ": odd"),
    ],
)
def test_a_denial(status: Json, code: int, message: str) -> None:
    def no(path: str, review: Json) -> Json:
        return deny(review, **status)

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "validating", webhook(hook))
        answer = await create(lab)
        found = answer.json()
        space = "" if message.startswith(":") else " "
        assert (answer.status, found["status"], found["metadata"]) == (code, "Failure", {})
        assert found["message"] == f'admission webhook "one.kaa.dev" denied the request{space}{message}'
        assert (await lab.ask("GET", f"{CONFIGMAPS}/a")).status == 404

    serve(no, test)


def test_patches_pile_up_in_order_of_configuration() -> None:
    def add(path: str, review: Json) -> Json:
        before = review["request"]["object"]["data"].get("trail", "")
        return allow(review, patch=put("/data/trail", before + path[1:]))

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "mutating", webhook(hook, "c", "/c"), name="z-last")
        await configure(lab, "mutating", webhook(hook, "b", "/b"), webhook(hook, "a", "/a"), name="a-first")
        assert (await create(lab)).json()["data"]["trail"] == "bac"

    serve(add, test)


def test_what_a_webhook_made_is_defaulted_validated_and_owned_by_nobody() -> None:
    def patch(path: str, review: Json) -> Json:
        container = {"name": "side", "image": "side:1"} if path == "/good" else {"name": "Bad Name", "image": "x"}
        return allow(review, patch=put("/spec/containers/-", container))

    async def test(lab: Lab, hook: Webhook) -> None:
        pods = rule("pods", "CREATE")
        await configure(lab, "mutating", webhook(hook, path="/good", rules=[pods]))
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
        made = (await lab.ask("POST", "/api/v1/namespaces/default/pods?fieldManager=me", pod)).json()
        side = made["spec"]["containers"][1]
        assert side["imagePullPolicy"] == "IfNotPresent"
        assert side["terminationMessagePath"] == "/dev/termination-log"
        assert [m["mountPath"] for m in side["volumeMounts"]] == ["/var/run/secrets/kubernetes.io/serviceaccount"]
        [entry] = made["metadata"]["managedFields"]
        assert entry["manager"] == "me"
        assert 'k:{"name":"side"}' not in entry["fieldsV1"]["f:spec"]["f:containers"]
        await lab.ask("DELETE", f"{ADMISSION}/mutatingwebhookconfigurations/config")
        await configure(lab, "mutating", webhook(hook, path="/bad", rules=[pods]))
        pod["metadata"] = {"name": "q"}
        refused = await lab.ask("POST", "/api/v1/namespaces/default/pods", pod)
        assert refused.status == 422
        assert "spec.containers[1].name" in refused.json()["message"]

    serve(patch, test)


def test_an_update_keeps_what_only_the_server_decides() -> None:
    def patch(path: str, review: Json) -> Json:
        if review["request"]["operation"] == "CREATE":
            return allow(review)
        changes = put("/metadata/uid", "mine") + put("/spec/replicas", 9) + put("/status/replicas", 7)
        return allow(review, patch=changes)

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "mutating", webhook(hook, rules=[rule("replicasets")]))
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
        where = "/apis/apps/v1/namespaces/default/replicasets"
        made = (await lab.ask("POST", where, {"metadata": {"name": "r"}, "spec": spec})).json()
        patched = await lab.ask("PATCH", f"{where}/r", {"metadata": {"labels": {"x": "y"}}}, content_type="application/merge-patch+json")  # fmt: skip
        found = patched.json()
        assert found["metadata"]["uid"] == made["metadata"]["uid"]
        assert found["spec"]["replicas"] == 9
        assert found["status"]["replicas"] == 0
        assert found["metadata"]["generation"] == 2

    serve(patch, test)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"uid": "other"}, "received invalid webhook response: expected response.uid="),
        ({"patch": "W10=", "patchType": None}, "received invalid webhook response: webhook returned response.patch but not response.patchType"),
        ({"patchType": "JSONPatch"}, "received invalid webhook response: webhook returned response.patchType but not response.patch"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_followed(change: Json, words: str) -> None:
    def odd(path: str, review: Json) -> Json:
        made = allow(review)
        made["response"].update(change)
        return made

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "mutating", webhook(hook))
        answer = await create(lab)
        start = 'Internal error occurred: failed calling webhook "one.kaa.dev": '
        assert answer.status == 500
        assert answer.json()["message"].startswith(start + words), answer.body

    serve(odd, test)


def test_a_validating_webhook_may_not_patch() -> None:
    def patch(path: str, review: Json) -> Json:
        return allow(review, patch=put("/data/x", "y"))

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "validating", webhook(hook))
        answer = await create(lab)
        assert "validating webhook may not return response.patch" in answer.json()["message"]

    serve(patch, test)


def test_a_deletion_cannot_be_patched() -> None:
    def patch(path: str, review: Json) -> Json:
        return allow(review, patch=put("/data/x", "y"))

    async def test(lab: Lab, hook: Webhook) -> None:
        await create(lab)
        await configure(lab, "mutating", webhook(hook))
        answer = await lab.ask("DELETE", f"{CONFIGMAPS}/a")
        assert answer.json()["message"] == (
            'Internal error occurred: admission webhook "one.kaa.dev" attempted to modify the object, which is not'
            " supported for this operation"
        )

    serve(patch, test)


def test_warnings_reach_the_client_with_a_yes_and_with_a_no() -> None:
    def warn(path: str, review: Json) -> Json:
        if path == "/no":
            return deny(review, "no", warnings=["last words"])
        return allow(review, warnings=['say "it"', "evil\r\nSet-Cookie: x"])

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "mutating", webhook(hook, path="/yes"))
        made = await create(lab)
        assert made.headers["warning"] == '299 - "say \\"it\\""'
        assert "set-cookie" not in made.headers
        gone = await lab.ask("DELETE", f"{CONFIGMAPS}/a")
        assert "say" in gone.headers["warning"]
        await configure(lab, "validating", webhook(hook, path="/no"))
        refused = await create(lab)
        assert refused.status == 400
        assert refused.headers["warning"] == '299 - "say \\"it\\"", 299 - "last words"'

    serve(warn, test)


def test_dry_runs_are_for_webhooks_without_side_effects() -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "validating", webhook(hook, sideEffects="NoneOnDryRun"))
        assert (await create(lab, query="?dryRun=All")).status == 201
        assert hook.requests[0]["dryRun"] is True
        assert hook.requests[0]["options"]["dryRun"] == ["All"]
        assert (await lab.ask("GET", f"{CONFIGMAPS}/a")).status == 404

    serve(yes, test)


def test_a_webhook_that_spoils_the_owners_is_not_followed() -> None:
    def spoil(path: str, review: Json) -> Json:
        return allow(review, patch=put("/metadata/managedFields", [{"manager": "x", "operation": "Eat"}]))

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "mutating", webhook(hook))
        made = await create(lab, query="?fieldManager=me")
        assert [entry["manager"] for entry in made.json()["metadata"]["managedFields"]] == ["me"]
        assert "managedFields was in an invalid state" in made.headers["warning"]

    serve(spoil, test)


# ------------------------------------------------------------------------------------------------- reinvocation


@pytest.mark.parametrize(("policy", "calls"), [("IfNeeded", "aba"), ("Never", "ab")])
def test_who_asked_for_it_sees_what_came_after(policy: str, calls: str) -> None:
    def patch(path: str, review: Json) -> Json:
        return allow(review, patch=put(f"/data/{path[1:]}", "here"))

    async def test(lab: Lab, hook: Webhook) -> None:
        first = webhook(hook, "a", "/a", reinvocationPolicy=policy)
        await configure(lab, "mutating", first, webhook(hook, "b", "/b", reinvocationPolicy=policy))
        await create(lab)
        assert "".join(path[1] for path, _ in hook.seen) == calls

    serve(patch, test)


def test_nobody_is_asked_again_for_nothing() -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "mutating", *(webhook(hook, n, f"/{n}", reinvocationPolicy="IfNeeded") for n in "ab"))
        await create(lab)
        assert len(hook.seen) == 2

    serve(yes, test)


# ------------------------------------------------------------------------------------------------------ failures

_FAILURES: dict[str, Any] = {
    "answers 500": (500, "text/plain", b"boom"),
    "answers nonsense": (200, "application/json", b"[]"),
    "answers nothing": (200, "application/json", b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}'),
}


@pytest.mark.parametrize(
    ("phase", "policy", "failure"),
    list(itertools.product(("mutating", "validating"), ("Fail", "Ignore"), _FAILURES)),
)
def test_the_failure_policy_decides(phase: str, policy: str, failure: str) -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, phase, webhook(hook, failurePolicy=policy))
        answer = await create(lab)
        if policy == "Ignore":
            assert answer.status == 201
        else:
            assert answer.status == 500
            assert answer.json()["reason"] == "InternalError"
            start = 'Internal error occurred: failed calling webhook "one.kaa.dev": '
            assert answer.json()["message"].startswith(start)

    serve(lambda path, review: _FAILURES[failure], test)


@pytest.mark.parametrize("policy", ["Fail", "Ignore"])
def test_a_slow_webhook_fails_in_its_time(policy: str) -> None:
    async def slow(path: str, review: Json) -> Json:
        await asyncio.sleep(10)
        return allow(review)

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "validating", webhook(hook, failurePolicy=policy, timeoutSeconds=1))
        answer = await create(lab)
        if policy == "Ignore":
            assert answer.status == 201
        else:
            where = f"https://127.0.0.1:{hook.port}/x?timeout=1s"
            assert answer.json()["message"] == (
                'Internal error occurred: failed calling webhook "one.kaa.dev": failed to call webhook:'
                f' Post "{where}": context deadline exceeded'
            )

    serve(slow, test)


def test_validating_webhooks_are_asked_at_once_and_the_first_no_is_told() -> None:
    meeting = asyncio.Barrier(3)

    async def no(path: str, review: Json) -> Json:
        await meeting.wait()  # nobody gets past unless all three are asked together
        return deny(review, path)

    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "validating", *(webhook(hook, n, f"/{n}") for n in "abc"))
        assert (await create(lab)).json()["message"].endswith("denied the request: /a")
        assert len(hook.seen) == 3

    serve(no, test)


def test_changes_of_configurations_count_at_once() -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        for n in range(3):
            await configure(lab, "validating", webhook(hook))
            await create(lab, configmap(f"a{n}"))
            assert len(hook.seen) == n + 1
            await lab.ask("DELETE", f"{ADMISSION}/validatingwebhookconfigurations/config")
            await create(lab, configmap(f"b{n}"))
            assert len(hook.seen) == n + 1

    serve(yes, test)


def test_a_deletion_of_a_collection_asks_for_each() -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        for n in range(3):
            await create(lab, configmap(f"a{n}", labels={"x": "y"}))
        await configure(lab, "validating", webhook(hook, rules=[rule("configmaps", "DELETE")]))
        await lab.ask("DELETE", f"{CONFIGMAPS}?labelSelector=x%3Dy")
        assert sorted(r["oldObject"]["metadata"]["name"] for r in hook.requests) == ["a0", "a1", "a2"]

    serve(yes, test)


def test_an_eviction_is_seen_and_what_it_does_to_the_pod_is_not() -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        where = "/api/v1/namespaces/default/pods"
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        await lab.ask("POST", where, pod)
        await configure(lab, "validating", webhook(hook, rules=[rule("*/*")]))
        eviction = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p", "namespace": "default"}}
        assert (await lab.ask("POST", f"{where}/p/eviction", eviction)).status == 201
        [seen] = hook.requests
        assert seen["kind"] == {"group": "policy", "version": "v1", "kind": "Eviction"}
        assert seen["subResource"] == "eviction"
        assert seen["operation"] == "CREATE"

    serve(yes, test)


def test_a_webhook_may_itself_write_what_it_is_asked_about() -> None:
    """No lock is held while it is asked: neither that of cluster IPs nor that of a namespace's quota."""
    services = "/api/v1/namespaces/default/services"

    async def test(lab: Lab, hook: Webhook) -> None:
        quota = {"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "10", "services": "10"}}}
        await lab.ask("POST", "/api/v1/namespaces/default/resourcequotas", quota)
        seen: dict[str, Any] = {}

        async def nested(path: str, review: Json) -> Json:
            request = review["request"]
            name = request["name"]
            if name.startswith("inner"):
                return allow(review)
            seen[name] = request["object"]
            if request["kind"]["kind"] == "ConfigMap":
                made = await create(lab, configmap(f"inner-{name}"))
            else:
                body = {"metadata": {"name": f"inner-{name}"}, "spec": {"ports": [{"port": 80}]}}
                made = await lab.ask("POST", services, body)
            assert made.status == 201
            return allow(review)

        hook.handler = nested
        await configure(lab, "validating", webhook(hook, rules=[rule("configmaps services", "CREATE UPDATE")]))
        assert (await create(lab, configmap("outer"))).status == 201
        made = await lab.ask("POST", services, {"metadata": {"name": "outer"}, "spec": {"ports": [{"port": 80}]}})
        assert made.status == 201
        assert seen["outer"]["spec"]["clusterIP"] == made.json()["spec"]["clusterIP"]

    serve(yes, test)


def test_an_invalid_object_is_shown_to_no_validating_webhook() -> None:
    async def test(lab: Lab, hook: Webhook) -> None:
        await configure(lab, "validating", webhook(hook, rules=[rule("configmaps services")]))
        bad = {"metadata": {"name": "s"}, "spec": {"ports": []}}
        assert (await lab.ask("POST", "/api/v1/namespaces/default/services", bad)).status == 422
        assert (await create(lab, {"metadata": {"name": "Bad Name"}})).status == 422
        assert not hook.seen

    serve(yes, test)
