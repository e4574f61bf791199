"""NodeRestriction: a kubelet changes its own node, and the pods that run there, and nothing of any other.

Source: plugin/pkg/admission/noderestriction.
"""

from __future__ import annotations

from kaa.api.pod_references import references
from kaa.api.types.core_v1 import Node, PersistentVolumeClaim, Pod

from ..authz.node import LEASE_NAMESPACE, node_of
from ..view import View
from .base import Attributes
from .plugin import Passive, refuse
from .service_account import MIRROR

#: Labels under kubernetes.io that a kubelet may set on itself; and the prefixes of others.
OWN_LABELS = frozenset(
    {
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.kubernetes.io/region",
        "failure-domain.kubernetes.io/zone",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
_OWN_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")
_CLAIM_STATUS = ("capacity", "conditions", "allocated_resources", "allocated_resource_statuses")


class NodeRestriction(Passive):
    name = "NodeRestriction"

    async def validate(self, attributes: Attributes, view: View) -> None:
        user = attributes.request.user
        if not user.name.startswith("system:node:"):
            return
        node = node_of(user.name, user.groups)
        if not node:
            if "system:nodes" in user.groups:
                raise refuse(attributes, f'could not determine node from user "{user.name}"')
            return
        resource = attributes.request.resource
        match resource.group, resource.plural:
            case "", "pods":
                _pods(attributes, node, view)
            case "", "nodes":
                _nodes(attributes, node)
            case "", "persistentvolumeclaims":
                _claims(attributes)
            case "", "serviceaccounts":
                _tokens(attributes, node, view)
            case "coordination.k8s.io", "leases":
                _lease(attributes, node)
            case "storage.k8s.io", "csinodes":
                _own_name(attributes, node, "CSINode")
            case "resource.k8s.io", "resourceslices":
                _slice(attributes, node)


def _pods(attributes: Attributes, node: str, view: View) -> None:
    match attributes.request.subresource, attributes.operation:
        case "", "CREATE":
            _pod_create(attributes, attributes.object, node)
        case "", "DELETE":
            _own_pod(attributes, view.get(Pod, attributes.request.name, attributes.request.namespace), node, "delete")
        case "status", "UPDATE":
            _pod_status(attributes, node)
        case "eviction", "CREATE":
            name = attributes.object.metadata.name or attributes.request.name
            _own_pod(attributes, view.get(Pod, name, attributes.request.namespace), node, "evict")
        case "", operation:
            raise refuse(
                attributes, f'unexpected operation "{operation}", node "{node}" can only create and delete mirror pods'
            )
        case subresource, _:
            raise refuse(
                attributes, f"unexpected pod subresource \"{subresource}\", only 'status' and 'eviction' are allowed"
            )


def _pod_create(attributes: Attributes, pod: Pod, node: str) -> None:
    if MIRROR not in pod.metadata.annotations:
        raise refuse(attributes, f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror pods')
    if pod.spec.node_name != node:
        raise refuse(attributes, f'node "{node}" can only create pods with spec.nodeName set to itself')
    owners = pod.metadata.owner_references
    if len(owners) > 1:
        raise refuse(attributes, f'node "{node}" can only create pods with a single owner reference set to itself')
    for owner in owners:
        if (owner.api_version, owner.kind, owner.name) != ("v1", "Node", node):
            raise refuse(attributes, f'node "{node}" can only create pods with an owner reference set to itself')
        if not owner.controller:
            raise refuse(
                attributes, f'node "{node}" can only create pods with a controller owner reference set to itself'
            )
    if pod.spec.service_account_name:
        raise refuse(attributes, f'node "{node}" can not create pods that reference a service account')
    kinds = {
        "secrets": "secrets",
        "configmaps": "configmaps",
        "persistentvolumeclaims": "persistentvolumeclaims",
        "resourceclaims": "resourceclaims",
    }
    for plural, _ in references(pod):
        if plural in kinds:
            raise refuse(attributes, f'node "{node}" can not create pods that reference {kinds[plural]}')


def _own_pod(attributes: Attributes, pod: Pod | None, node: str, verb: str) -> None:
    if pod is not None and pod.spec.node_name != node:
        raise refuse(attributes, f'node "{node}" can only {verb} pods with spec.nodeName set to itself')


def _pod_status(attributes: Attributes, node: str) -> None:
    new, old = attributes.object, attributes.old
    if old.spec.node_name != node:
        raise refuse(attributes, f'node "{node}" can only update pod status for pods with spec.nodeName set to itself')
    if new.metadata.labels != old.metadata.labels:
        raise refuse(attributes, f'node "{node}" cannot update labels through pod status')
    if new.status.resource_claim_statuses != old.status.resource_claim_statuses:
        raise refuse(attributes, f'node "{node}" cannot update resource claim statuses')
    if new.status.extended_resource_claim_status != old.status.extended_resource_claim_status:
        raise refuse(attributes, f'node "{node}" cannot update extended resource claim status')


def _nodes(attributes: Attributes, node: str) -> None:
    name = attributes.request.name or (attributes.object.metadata.name if attributes.object is not None else "")
    if name != node:
        raise refuse(attributes, f'node "{node}" is not allowed to modify node "{name}"')
    new, old = attributes.object, attributes.old
    if attributes.operation == "CREATE":
        if new.spec.config_source is not None:
            raise refuse(attributes, f'node "{node}" is not allowed to create pods with a non-nil configSource')
        _check_labels(attributes, node, forbidden_labels(new, None), "set")
    elif attributes.operation == "UPDATE":
        if new.spec.config_source is not None and new.spec.config_source != old.spec.config_source:
            raise refuse(
                attributes, f'node "{node}" is not allowed to update configSource to a new non-nil configSource'
            )
        if new.spec.taints != old.spec.taints:
            raise refuse(attributes, f'node "{node}" is not allowed to modify taints')
        if new.metadata.owner_references != old.metadata.owner_references:
            raise refuse(attributes, f'node "{node}" is not allowed to modify ownerReferences')
        _check_labels(attributes, node, forbidden_labels(new, old), "modify")


def _check_labels(attributes: Attributes, node: str, labels: list[str], verb: str) -> None:
    if labels:
        raise refuse(attributes, f"is not allowed to {verb} the following labels: {', '.join(labels)}")


def forbidden_labels(new: Node, old: Node | None) -> list[str]:
    """The labels that differ and are not a kubelet's to set: ``node-restriction.kubernetes.io/`` always, others of
    kubernetes.io unless they are known."""
    before = old.metadata.labels if old is not None else {}
    after = new.metadata.labels
    changed = (key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return sorted(key for key in changed if not _own_label(key))


def _own_label(key: str) -> bool:
    prefix, slash, _ = key.partition("/")
    if not slash:
        return True
    if _within(prefix, "node-restriction.kubernetes.io"):
        return False
    if not _within(prefix, "kubernetes.io") and not _within(prefix, "k8s.io"):
        return True
    return key in OWN_LABELS or any(_within(prefix, own) for own in _OWN_PREFIXES)


def _within(domain: str, parent: str) -> bool:
    return domain == parent or domain.endswith("." + parent)


def _claims(attributes: Attributes) -> None:
    """Of a claim, a kubelet reports how its growth went."""
    user = attributes.request.user.name.removeprefix("system:node:")
    subresource = attributes.request.subresource
    if subresource != "status" or attributes.operation != "UPDATE":
        what = f"unexpected PVC subresource \"{subresource}\", only 'status' is allowed"
        raise refuse(attributes, what)
    new: PersistentVolumeClaim = attributes.object
    old: PersistentVolumeClaim = attributes.old
    others = [f for f in new.status.__struct_fields__ if f not in _CLAIM_STATUS]
    same = all(getattr(new.status, f) == getattr(old.status, f) for f in others)
    if new.spec != old.spec or new.metadata.labels != old.metadata.labels or not same:
        why = f'node "{user}" is not allowed to update fields other than status.capacity and status.conditions'
        raise refuse(attributes, why)


def _tokens(attributes: Attributes, node: str, view: View) -> None:
    """Tokens are made for pods of the node, and bound to them."""
    if attributes.operation != "CREATE" or attributes.request.subresource != "token":
        return
    ref = attributes.object.spec.bound_object_ref
    if ref is None or ref.api_version != "v1" or ref.kind != "Pod" or not ref.name:
        raise refuse(attributes, "node requested token not bound to a pod")
    if not ref.uid:
        raise refuse(attributes, "node requested token with a pod binding without a uid")
    pod = view.get(Pod, ref.name, attributes.request.namespace)
    if pod is None:
        raise refuse(attributes, f'pod "{ref.name}" not found')
    if pod.metadata.uid != ref.uid:
        why = f"the UID in the bound object reference ({ref.uid}) does not match the UID in record ({pod.metadata.uid}). The object might have been deleted and then recreated"
        raise refuse(attributes, why)
    if pod.spec.node_name != node:
        raise refuse(attributes, "node requested token bound to a pod scheduled on a different node")


def _lease(attributes: Attributes, node: str) -> None:
    if attributes.request.namespace != LEASE_NAMESPACE:
        raise refuse(attributes, f'can only access leases in the "{LEASE_NAMESPACE}" system namespace')
    _own_name(attributes, node, "node lease")


def _own_name(attributes: Attributes, node: str, what: str) -> None:
    name = attributes.request.name or (attributes.object.metadata.name if attributes.object is not None else "")
    if name != node:
        raise refuse(attributes, f"can only access {what} with the same name as the requesting node")


def _slice(attributes: Attributes, node: str) -> None:
    obj = attributes.object if attributes.object is not None else attributes.old
    if obj is not None and obj.spec.node_name != node:
        raise refuse(attributes, "can only create ResourceSlice with the same NodeName as the requesting node")
