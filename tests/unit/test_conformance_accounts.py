"""Who asks, and what proves it: upstream's conformance tests of service accounts and of the review APIs."""

from __future__ import annotations

from typing import Any

from api_lab import Lab, run

ACCOUNT = "system:serviceaccount:default:default"
GROUPS = ["system:authenticated", "system:serviceaccounts", "system:serviceaccounts:default"]
NAMESPACE = "/api/v1/namespaces/default"


def test_whoever_verifies_tokens_in_a_pod_reaches_the_keys() -> None:
    async def use(lab: Lab) -> None:
        found = (await lab.ask("GET", "/.well-known/openid-configuration")).json()
        assert found["issuer"] == "https://kubernetes.default.svc.cluster.local"
        assert found["jwks_uri"] == "https://192.0.2.10:6443/openid/v1/jwks"  # the node's address: a pod has no other
        assert found["id_token_signing_alg_values_supported"] == ["ES256"]
        keys = (await lab.ask("GET", "/openid/v1/jwks")).json()["keys"]
        assert {key["use"] for key in keys} == {"sig"}

    run(use, http=True)


def test_a_token_is_reviewed_as_the_account_it_was_made_for() -> None:
    async def use(lab: Lab) -> None:
        asked = {"spec": {"expirationSeconds": 3600, "audiences": None, "boundObjectRef": None}}
        made = (await lab.ask("POST", f"{NAMESPACE}/serviceaccounts/default/token", asked)).json()
        review = {"spec": {"token": made["status"]["token"], "audiences": made["spec"]["audiences"]}}
        answer = await lab.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
        status = answer.json()["status"]
        assert (status["authenticated"], status["user"]["username"]) == (True, ACCOUNT)
        assert status["audiences"] == made["spec"]["audiences"]

    run(use, http=True)


def test_reviews_say_what_a_request_would_meet() -> None:
    async def use(lab: Lab) -> None:
        attributes = {"verb": "list", "resource": "configmaps", "namespace": "default", "version": "v1"}
        spec: dict[str, Any] = {"user": ACCOUNT, "groups": GROUPS, "resourceAttributes": attributes}
        as_account = {"Impersonate_User": ACCOUNT, "Impersonate_Group": "system:authenticated"}
        for allowed in (False, True):
            reviews = "/apis/authorization.k8s.io/v1"
            whole = (await lab.ask("POST", f"{reviews}/subjectaccessreviews", {"spec": spec})).json()
            local = {"metadata": {"namespace": "default"}, "spec": spec}
            path = f"{reviews}/namespaces/default/localsubjectaccessreviews"
            near = (await lab.ask("POST", path, local)).json()
            met = (await lab.ask("GET", f"{NAMESPACE}/configmaps", **as_account)).status == 200
            assert (whole["status"]["allowed"], near["status"]["allowed"], met) == (allowed, allowed, allowed)
            subject = {"kind": "ServiceAccount", "apiGroup": "", "name": "default", "namespace": "default"}
            role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:aggregate-to-view"}
            binding = {"metadata": {"name": "a"}, "subjects": [subject], "roleRef": role}
            await lab.ask("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)

    run(use, http=True, bootstrapped=True)


def test_a_review_of_oneself_shows_who_one_is_said_to_be() -> None:
    async def use(lab: Lab) -> None:
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        headers = {"Impersonate-User": "jane-doe", "Impersonate-Group": "system:masters", "Impersonate-Uid": "123"}
        answer = await lab.ask("POST", path, {}, **headers, **{"Impersonate-Extra-scopes": "view"})
        assert answer.json()["status"]["userInfo"] == {
            "username": "jane-doe",
            "uid": "123",
            "groups": ["system:masters", "system:authenticated"],
            "extra": {"scopes": ["view"]},
        }

    run(use, http=True)


def test_a_review_has_no_table() -> None:
    async def use(lab: Lab) -> None:
        review = {"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await lab.ask("POST", path, review, Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
        assert (answer.status, answer.json()["reason"]) == (406, "NotAcceptable")

    run(use, http=True)
