"""Admission: what the default chain makes of pods, and what it refuses, in upstream's words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from auth_view import DictView
from msgspec.structs import replace

from kaa.api.errors import ApiError
from kaa.api.scheme import convert, resource_of
from kaa.api.types.core_v1 import LimitRange, Namespace, Node, Pod, ResourceQuota, ServiceAccount
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.apiserver.admission.base import Attributes
from kaa.apiserver.admission.plugins import default_chain
from kaa.apiserver.authz.union import DefaultAuthorizer
from kaa.client.pipeline import Request, User

ADMIN = User("admin", groups=("system:masters",))
KUBELET = User("system:node:n1", groups=("system:nodes",))


def namespace(name: str = "a", **more: Any) -> Namespace:
    return convert(Namespace, {"metadata": {"name": name, **more}})


def account() -> ServiceAccount:
    return ServiceAccount(metadata=ObjectMeta(name="default", namespace="a"))


def make_pod(name: str = "p", *, cpu: str = "", **spec: Any) -> Pod:
    container: dict[str, Any] = {"name": "c", "image": "i"}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    return convert(Pod, {"metadata": {"name": name, "namespace": "a"}, "spec": {"containers": [container], **spec}})


def admit(
    view: DictView, obj: Any, *, operation: str = "CREATE", chain: Any = None, user: User = ADMIN, old: Any = None
) -> Attributes:
    chain = chain or default_chain(DefaultAuthorizer())
    resource = resource_of(obj)
    where = (obj.metadata.namespace or "") if resource.namespaced else ""
    request = Request(user, operation.lower(), resource, namespace=where, name=obj.metadata.name)
    attributes = Attributes(request, operation, obj if operation != "DELETE" else None, old)

    async def run() -> None:
        await chain.admit(attributes, view)
        await chain.validate(attributes, view)

    asyncio.run(run())
    return attributes


def refusal(view: DictView, obj: Any, **more: Any) -> str:
    with pytest.raises(ApiError) as caught:
        admit(view, obj, **more)
    return caught.value.message


def test_a_plain_pod_is_completed() -> None:
    pod = admit(DictView(namespace(), account()), make_pod()).object
    assert (pod.spec.service_account_name, pod.spec.priority) == ("default", 0)
    volume = pod.spec.volumes[0]
    assert volume.name.startswith("kube-api-access-")
    assert pod.spec.containers[0].volume_mounts[0].mount_path == "/var/run/secrets/kubernetes.io/serviceaccount"
    assert [t.key for t in pod.spec.tolerations] == ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    assert [s.toleration_seconds for s in pod.spec.tolerations] == [300, 300]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"priorityClassName": "none"}, 'pods "p" is forbidden: no PriorityClass with name none was found'),
        (
            {"serviceAccountName": "none"},
            'pods "p" is forbidden: error looking up service account a/none: serviceaccount "none" not found',
        ),
        ({"runtimeClassName": "none"}, 'pods "p" is forbidden: pod rejected: RuntimeClass "none" not found'),
    ],
)
def test_unknown_classes_are_refused(spec: dict[str, Any], text: str) -> None:
    assert refusal(DictView(namespace(), account()), make_pod(**spec)) == text


def test_namespaces() -> None:
    assert refusal(DictView(), make_pod()) == 'namespaces "a" not found'
    going = DictView(namespace(deletionTimestamp="2026-01-01T00:00:00Z"), account())
    why = "unable to create new content in namespace a because it is being terminated"
    assert refusal(going, make_pod()) == f'pods "p" is forbidden: {why}'
    text = 'namespaces "kube-system" is forbidden: this namespace may not be deleted'
    assert refusal(DictView(), namespace("kube-system"), operation="DELETE") == text


def test_limit_ranges_fill_and_refuse() -> None:
    item = {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}, "max": {"cpu": "1"}}
    limits = convert(LimitRange, {"metadata": {"name": "l", "namespace": "a"}, "spec": {"limits": [item]}})
    view = DictView(namespace(), account(), limits)
    pod = admit(view, make_pod()).object
    assert pod.metadata.annotations["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    )
    assert pod.spec.containers[0].resources.requests == {"cpu": "500m"}
    big = make_pod(cpu="2")
    assert refusal(view, big) == 'pods "p" is forbidden: maximum cpu usage per Container is 1, but request is 2'


def test_quota_counts_what_is_on_its_way() -> None:
    hard = {"requests.cpu": "20", "pods": "50"}
    quota = convert(ResourceQuota, {"metadata": {"name": "least", "namespace": "a"}, "spec": {"hard": hard}})
    view, chain = DictView(namespace(), account(), quota), default_chain(DefaultAuthorizer())
    admit(view, make_pod("one", cpu="16600m"), chain=chain)
    text = refusal(view, make_pod("two", cpu="24"), chain=chain)
    assert text == (
        'pods "two" is forbidden: exceeded quota: least, requested: requests.cpu=24, used: requests.cpu=16600m, '
        "limited: requests.cpu=20"
    )
    unnamed = refusal(view, make_pod("three"), chain=chain)
    assert unnamed == 'pods "three" is forbidden: failed quota: least: must specify requests.cpu for: c'
    view.clock._now += 11
    admit(view, make_pod("two", cpu="20"), chain=chain)


def test_pod_security() -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "baseline"}
    view = DictView(namespace(labels=labels), account())
    assert refusal(view, make_pod(hostNetwork=True)) == (
        'pods "p" is forbidden: violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true), '
        'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), '
        'unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), '
        'runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), '
        'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
    )


def test_a_kubelet_changes_its_own_node_alone() -> None:
    node = Node(metadata=ObjectMeta(name="n1"))
    made = admit(DictView(), node, user=KUBELET).object
    assert made.spec.taints[0].key == "node.kubernetes.io/not-ready"
    other = Node(metadata=ObjectMeta(name="n2"))
    text = 'nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"'
    assert refusal(DictView(), other, user=KUBELET) == text
    labelled = replace(node, metadata=replace(node.metadata, labels={"node-restriction.kubernetes.io/x": "y"}))
    assert "is not allowed to modify the following labels" in refusal(
        DictView(node), labelled, user=KUBELET, operation="UPDATE", old=node
    )
    view = DictView(namespace(), account())
    assert "annotation" in refusal(view, make_pod(), user=KUBELET)
