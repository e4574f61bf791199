"""Acting as another over HTTP: who one becomes, and what is said to those who may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from api_lab import Lab, read_answer, run

from kaa.apiserver.options import ApiServerOptions

REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}
MAPS = "/api/v1/namespaces/default/configmaps"
BOB, MASTERS = {"Impersonate-User": "bob"}, {"Impersonate-Group": "system:masters"}
POLICY = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]\n"


@pytest.mark.parametrize(
    ("headers", "who"),
    [
        (BOB, {"username": "bob", "groups": ["system:authenticated"]}),
        ({**BOB, "Impersonate-Group": "a,b"}, {"username": "bob", "groups": ["a,b", "system:authenticated"]}),
        ({**BOB, "Impersonate-Uid": "7"}, {"username": "bob", "uid": "7", "groups": ["system:authenticated"]}),
        (
            {**BOB, "Impersonate-Extra-Acme.com%2FTeam": "x"},
            {"username": "bob", "groups": ["system:authenticated"], "extra": {"acme.com/team": ["x"]}},
        ),
        (
            {"Impersonate-User": "system:serviceaccount:default:x"},
            {
                "username": "system:serviceaccount:default:x",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
            },
        ),
        ({"Impersonate-User": "system:anonymous"}, {"username": "system:anonymous", "groups": ["system:unauthenticated"]}),
    ],
)  # fmt: skip
def test_whom_one_becomes(headers: dict[str, str], who: dict[str, object]) -> None:
    async def use(lab: Lab) -> None:
        await lab.client.create(_everybody_may_ask())
        answer = await lab.ask("POST", REVIEWS, REVIEW, **headers)
        assert answer.status == 201, answer.body
        assert answer.json()["status"]["userInfo"] == who

    run(use, http=True, bootstrapped=True)


def test_each_header_is_one_name() -> None:
    async def use(lab: Lab) -> None:
        body = b'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'
        names = [
            "User: a,b",
            "Group: group2",
            "Group: group1",
            "Group: ,,,chameleon",
            "Extra-Foo: bar",
            "Extra-Foo: b,z",
        ]
        headers = "".join(f"Impersonate-{name}\r\n" for name in names)
        head = f"POST {REVIEWS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}"
        reader, writer = await lab.connect()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        found = json.loads((await read_answer(reader)).body)["status"]["userInfo"]
        writer.close()
        assert found["username"] == "a,b"
        assert found["groups"] == ["group2", "group1", ",,,chameleon", "system:authenticated"]
        assert found["extra"] == {"foo": ["bar", "b,z"]}

    run(use, http=True, bootstrapped=True)


def _everybody_may_ask() -> object:
    from kaa.api.types.meta_v1 import ObjectMeta
    from kaa.api.types.rbac_v1 import ClusterRoleBinding, RoleRef, Subject

    groups = ("system:authenticated", "system:unauthenticated")
    return ClusterRoleBinding(
        metadata=ObjectMeta(name="ask"),
        role_ref=RoleRef(api_group="rbac.authorization.k8s.io", kind="ClusterRole", name="system:basic-user"),
        subjects=tuple(Subject(kind="Group", api_group="rbac.authorization.k8s.io", name=name) for name in groups),
    )


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (BOB, 'users "bob" is forbidden: User "system:anonymous" cannot impersonate resource "users" in API group "" at the cluster scope'),
        ({"Impersonate-User": "system:serviceaccount:a:x"}, 'serviceaccounts "x" is forbidden: User "system:anonymous" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "a"'),
    ],
)  # fmt: skip
def test_who_may_not(headers: dict[str, str], words: str) -> None:
    async def use(lab: Lab) -> None:
        answer = await lab.ask("GET", MAPS, admin=False, **headers)
        assert (answer.status, answer.json()["message"], answer.json()["reason"]) == (403, words, "Forbidden")

    run(use, http=True, bootstrapped=True)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (MASTERS, 'groups "system:masters" is forbidden: User "alice" cannot impersonate resource "groups" in API group "" at the cluster scope'),
        ({"Impersonate-Uid": "7"}, 'uids.authentication.k8s.io "7" is forbidden: User "alice" cannot impersonate resource "uids" in API group "authentication.k8s.io" at the cluster scope'),
        ({"Impersonate-Extra-Team": "x"}, 'userextras.authentication.k8s.io "x" is forbidden: User "alice" cannot impersonate resource "userextras/team" in API group "authentication.k8s.io" at the cluster scope'),
    ],
)  # fmt: skip
def test_each_part_of_a_wish_is_asked_for(headers: dict[str, str], words: str) -> None:
    """Alice may become bob and nothing more."""
    from kaa.api.errors import Forbidden
    from kaa.apiserver.authn.impersonation import impersonate, read_headers
    from kaa.apiserver.authz.base import Decision, Question
    from kaa.client.pipeline import User

    class OnlyBob:
        def authorize(self, question: Question, view: object) -> tuple[Decision, str]:
            return (Decision.ALLOW if question.resource == "users" else Decision.NO_OPINION), ""

    wish = read_headers({**BOB, **headers}.items())
    assert wish is not None
    with pytest.raises(Forbidden) as caught:
        impersonate(User("alice"), wish, OnlyBob(), None)  # type: ignore[arg-type]
    assert caught.value.message == words


def test_a_wish_without_a_user() -> None:
    async def use(lab: Lab) -> None:
        answer = await lab.ask("GET", MAPS, **MASTERS)
        assert answer.json()["message"] == "requested [{Group  system:masters    }] without impersonating a user"

    run(use, http=True)


@pytest.mark.parametrize("audited", [False, True])
def test_a_collection_is_not_patched_whoever_asks(audited: bool, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    options = ApiServerOptions(audit_policy_file=str(policy), audit_log_path=str(tmp_path / "log")) if audited else None

    async def use(lab: Lab) -> None:
        for path in (MAPS, "/api/v1/nodes", "/api/v1/pods", "/api/v1/namespaces"):
            for headers, code in (({}, 405), (BOB, 403), ({**BOB, **MASTERS}, 405)):
                body = {"data": {"a": "b"}}
                answer = await lab.ask("PATCH", path, body, content_type="application/merge-patch+json", **headers)
                assert answer.status == code, (path, headers, answer.body)

    run(use, http=True, bootstrapped=True, options=options)
