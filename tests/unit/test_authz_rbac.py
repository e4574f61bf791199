"""Authorization: roles, nodes, masters, reviews and escalation, with upstream's words."""

from __future__ import annotations

import pytest
from auth_view import DictView

from kaa.api.errors import Forbidden
from kaa.api.scheme import convert, resource_of
from kaa.api.types.authorization_v1 import (
    ResourceAttributes,
    SelfSubjectRulesReview,
    SelfSubjectRulesReviewSpec,
    SubjectAccessReview,
    SubjectAccessReviewSpec,
)
from kaa.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, Pod
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.rbac_v1 import ClusterRole, PolicyRule, Role, RoleBinding, RoleRef, Subject
from kaa.apiserver.admission.base import Attributes
from kaa.apiserver.authz.base import Decision, Question
from kaa.apiserver.authz.escalation import check_escalation
from kaa.apiserver.authz.forbidden import forbidden
from kaa.apiserver.authz.reviews import self_subject_rules_review, subject_access_review
from kaa.apiserver.authz.union import DefaultAuthorizer
from kaa.apiserver.bootstrap.objects import due, objects
from kaa.client.pipeline import Request, User

BOB = User("bob", groups=("system:authenticated",))
KUBELET = User("system:node:n1", groups=("system:nodes", "system:authenticated"))
READ_PODS = Role(
    metadata=ObjectMeta(name="reader", namespace="a"),
    rules=(PolicyRule(verbs=("get",), api_groups=("",), resources=("pods", "*/scale")),),
)
BOB_READS = RoleBinding(
    metadata=ObjectMeta(name="bob-reads", namespace="a"),
    role_ref=RoleRef(api_group="rbac.authorization.k8s.io", kind="Role", name="reader"),
    subjects=(Subject(kind="User", name="bob"),),
)


def ask(view: DictView, user: User, verb: str, resource: str, **more: str) -> tuple[Decision, str]:
    return DefaultAuthorizer().authorize(Question(user=user, verb=verb, resource=resource, **more), view)


@pytest.fixture(scope="module")
def bootstrap() -> list[object]:
    return objects(0)


def test_a_role_allows_in_its_namespace_alone() -> None:
    view = DictView(READ_PODS, BOB_READS)
    reason = 'RBAC: allowed by RoleBinding "bob-reads/a" of Role "reader" to User "bob"'
    assert ask(view, BOB, "get", "pods", namespace="a") == (Decision.ALLOW, reason)
    assert ask(view, BOB, "get", "pods", namespace="b") == (Decision.NO_OPINION, "")
    assert ask(view, BOB, "get", "deployments", subresource="scale", namespace="a")[0] is Decision.ALLOW
    assert ask(view, BOB, "list", "pods", namespace="a")[0] is Decision.NO_OPINION


def test_answers_follow_changes() -> None:
    view, authorizer = DictView(READ_PODS, BOB_READS), DefaultAuthorizer()
    question = Question(user=BOB, verb="get", resource="pods", namespace="a")
    assert authorizer.authorize(question, view)[0] is Decision.ALLOW
    view.drop(READ_PODS)
    why = 'RBAC: role.rbac.authorization.k8s.io "reader" not found'
    assert authorizer.authorize(question, view) == (Decision.NO_OPINION, why)


def test_names_and_paths(bootstrap: list[object]) -> None:
    view = DictView(*bootstrap)
    scheduler = User("system:kube-scheduler")
    lease = {"group": "coordination.k8s.io", "namespace": "x"}
    assert ask(view, scheduler, "update", "leases", name="kube-scheduler", **lease)[0] is Decision.ALLOW
    assert ask(view, scheduler, "update", "leases", name="other", **lease)[0] is Decision.NO_OPINION
    assert ask(view, BOB, "get", "", path="/openapi/v3/apis")[0] is Decision.ALLOW
    assert ask(view, User("system:anonymous"), "get", "", path="/metrics")[0] is Decision.NO_OPINION
    assert ask(view, User("root", groups=("system:masters",)), "x", "y") == (Decision.ALLOW, "")
    assert ask(view, User("root", groups=("kubeadm:cluster-admins",)), "x", "y")[0] is Decision.ALLOW


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (
            Question(user=BOB, verb="list", resource="secrets", namespace="a"),
            'secrets is forbidden: User "bob" cannot list resource "secrets" in API group "" in the namespace "a"',
        ),
        (
            Question(user=BOB, verb="delete", group="apps", resource="deployments", namespace="a", name="d"),
            'deployments.apps "d" is forbidden: User "bob" cannot delete resource "deployments" in API group "apps" in the namespace "a"',
        ),
        (Question(user=BOB, verb="get", path="/metrics"), 'forbidden: User "bob" cannot get path "/metrics"'),
    ],
    ids=["list", "one by name", "path"],
)
def test_refusals_read_as_upstreams(question: Question, text: str) -> None:
    assert forbidden(question).message == text


POD = convert(
    Pod,
    {
        "metadata": {"name": "p", "namespace": "a", "uid": "1"},
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "s",
            "containers": [
                {"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "k", "key": "x"}}}]}
            ],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "claim"}}],
        },
    },
)
CLAIM = convert(PersistentVolumeClaim, {"metadata": {"name": "claim", "namespace": "a"}, "spec": {"volumeName": "v"}})
VOLUME = convert(
    PersistentVolume,
    {
        "metadata": {"name": "v"},
        "spec": {
            "claimRef": {"name": "claim", "namespace": "a"},
            "csi": {"driver": "d", "volumeHandle": "h", "nodeStageSecretRef": {"name": "stage", "namespace": "infra"}},
        },
    },
)


@pytest.mark.parametrize(
    ("verb", "resource", "more", "allowed"),
    [
        ("get", "secrets", {"namespace": "a", "name": "k"}, True),
        ("get", "secrets", {"namespace": "infra", "name": "stage"}, True),
        ("get", "secrets", {"namespace": "b", "name": "k"}, False),
        ("get", "secrets", {"namespace": "a", "name": "other"}, False),
        ("list", "secrets", {"namespace": "a"}, False),
        ("get", "persistentvolumeclaims", {"namespace": "a", "name": "claim"}, True),
        ("get", "persistentvolumes", {"name": "v"}, True),
        ("get", "persistentvolumes", {"name": "w"}, False),
        ("get", "pods", {"namespace": "a", "name": "p"}, True),
        ("list", "pods", {"field_selector": "spec.nodeName=n1"}, True),
        ("list", "pods", {"field_selector": "spec.nodeName=n2"}, False),
        ("create", "serviceaccounts", {"namespace": "a", "name": "s", "subresource": "token"}, True),
        ("get", "nodes", {"name": "n1"}, True),
        ("get", "nodes", {"name": "n2"}, False),
        ("list", "services", {}, True),
        ("delete", "services", {"namespace": "a", "name": "x"}, False),
    ],
)
def test_a_kubelet_reads_what_its_pods_need(verb: str, resource: str, more: dict[str, str], allowed: bool) -> None:
    view = DictView(POD, CLAIM, VOLUME)
    assert (ask(view, KUBELET, verb, resource, **more)[0] is Decision.ALLOW) is allowed


def test_a_kubelet_loses_what_its_pod_left() -> None:
    view, authorizer = DictView(POD), DefaultAuthorizer()
    question = Question(user=KUBELET, verb="get", resource="secrets", namespace="a", name="k")
    assert authorizer.authorize(question, view)[0] is Decision.ALLOW
    view.drop(POD)
    why = "no relationship found between node 'n1' and this object"
    assert authorizer.authorize(question, view) == (Decision.NO_OPINION, why)


def test_reviews() -> None:
    view, authorizer = DictView(READ_PODS, BOB_READS), DefaultAuthorizer()
    spec = SubjectAccessReviewSpec(
        user="bob", resource_attributes=ResourceAttributes(namespace="a", resource="pods", verb="get")
    )
    status = subject_access_review(SubjectAccessReview(spec=spec), authorizer, view).status
    assert status is not None
    assert status.allowed
    review = SelfSubjectRulesReview(spec=SelfSubjectRulesReviewSpec(namespace="a"))
    rules = self_subject_rules_review(review, BOB, authorizer.rbac, view).status
    assert rules is not None
    assert rules.resource_rules[0].resources == ("pods", "*/scale")


def test_nobody_grants_what_they_lack() -> None:
    view, authorizer = DictView(READ_PODS, BOB_READS), DefaultAuthorizer()

    def write(*verbs: str) -> None:
        rule = PolicyRule(verbs=verbs, api_groups=("",), resources=("pods",))
        role = Role(metadata=ObjectMeta(name="new", namespace="a"), rules=(rule,))
        request = Request(BOB, "create", resource_of(Role), namespace="a")
        check_escalation(Attributes(request, "CREATE", role), view, authorizer, authorizer.rbac)

    write("get")
    with pytest.raises(Forbidden) as caught:
        write("get", "list")
    assert caught.value.message == (
        'roles.rbac.authorization.k8s.io "new" is forbidden: user "bob" (groups=["system:authenticated"]) is attempting '
        'to grant RBAC permissions not currently held:\n{APIGroups:[""], Resources:["pods"], Verbs:["list"]}'
    )


def test_bootstrap_settles_and_mends(bootstrap: list[object]) -> None:
    view = DictView(*bootstrap)
    assert due(bootstrap, view) == ([], [])
    role = view.get(ClusterRole, "system:kube-dns")
    assert role is not None
    view.put(ClusterRole(metadata=role.metadata))
    created, updated = due(bootstrap, view)
    assert (created, [u.rules for u in updated]) == ([], [role.rules])
