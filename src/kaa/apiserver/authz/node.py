"""The Node authorizer: a kubelet reads what the pods of its own node refer to, and no more.

The idea: no graph is kept. A question names an object; the proof that it may be read is one pod, so the pods of the
object's namespace are looked through once (about 0.1 us a pod that is elsewhere), and the pod found is remembered as the
witness: the next time, only that pod is looked at again. Questions of strangers to the node group cost one check.

Source: plugin/pkg/auth/authorizer/node node_authorizer.go.
"""

from __future__ import annotations

from kaa.api.pod_references import references, volume_secrets
from kaa.api.selectors import SelectorError, parse_fields
from kaa.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, Pod
from kaa.api.types.resource_v1 import ResourceSlice
from kaa.api.types.storage_v1 import VolumeAttachment

from ..bootstrap.policy import NODE
from ..bootstrap.rules import parse_rules
from ..view import View
from .base import Decision, Question
from .covers import matches_resource

PREFIX, GROUP = "system:node:", "system:nodes"
LEASE_NAMESPACE = "kube-node-lease"
KEPT_WITNESSES = 65_536
_OWN_VERBS = ("get", "create", "update", "patch", "delete")
_ALLOW = (Decision.ALLOW, "")
#: (plural, namespace, name) of an object
Target = tuple[str, str, str]
_Result = tuple[Decision, str]


def node_of(name: str, groups: tuple[str, ...]) -> str:
    """The node that a user is the kubelet of; empty for all others."""
    return name[len(PREFIX) :] if name.startswith(PREFIX) and GROUP in groups else ""


def _no(reason: str = "") -> _Result:
    return Decision.NO_OPINION, reason


class NodeAuthorizer:
    def __init__(self) -> None:
        #: {(node, target): namespace and name of a pod that refers to it}
        self._witnesses: dict[tuple[str, Target], tuple[str, str]] = {}
        self._rules = parse_rules(NODE)

    def authorize(self, question: Question, view: View) -> _Result:
        user = question.user
        if not user.name.startswith(PREFIX) or GROUP not in user.groups:
            return _no()
        node = user.name[len(PREFIX) :]
        if not node:
            return _no(f'unknown node for user "{user.name}"')
        if question.path:
            return _no()
        special = self._special(question, node, view)
        return special if special is not None else self._by_rule(question)

    def _special(self, q: Question, node: str, view: View) -> _Result | None:
        """The answer for resources that are a node's own affair; None: the common rules decide."""
        match q.group, q.resource:
            case "", "configmaps" | "secrets":
                return self._read_namespaced(q, node, view)
            case "", "persistentvolumeclaims" if q.subresource == "status":
                return self._claim_status(q, node, view)
            case ("", "persistentvolumeclaims" | "persistentvolumes") | ("storage.k8s.io", "volumeattachments"):
                return self._get(q, node, view)
            case "resource.k8s.io", "resourceclaims":
                return self._get(q, node, view)
            case "", "serviceaccounts":
                return self._create_token(q, node, view) if q.subresource else self._service_account(q, node, view)
            case "coordination.k8s.io", "leases":
                return _lease(q, node)
            case "storage.k8s.io", "csinodes":
                return _csi_node(q, node)
            case "resource.k8s.io", "resourceslices":
                return _slice(q, node, view)
            case "", "nodes":
                return _node(q, node)
            case "", "pods":
                return self._pod(q, node, view)
        return None

    def _by_rule(self, q: Question) -> _Result:
        fits = any(matches_resource(rule, q.verb, q.group, q.resource, q.subresource) for rule in self._rules)
        return _ALLOW if fits else _no()

    def _get(self, q: Question, node: str, view: View) -> _Result:
        if q.verb != "get":
            return _no("can only get individual resources of this type")
        if q.subresource:
            return _no("cannot get subresource")
        return self._related(q, node, view)

    def _read_namespaced(self, q: Question, node: str, view: View) -> _Result:
        if q.verb not in ("get", "list", "watch"):
            return _no("can only read resources of this type")
        if q.subresource:
            return _no("cannot read subresource")
        if not q.namespace:
            return _no("can only read namespaced object of this type")
        return self._related(q, node, view)

    def _claim_status(self, q: Question, node: str, view: View) -> _Result:
        if q.verb not in ("get", "update", "patch"):
            return _no("can only get/update/patch this type")
        return self._related(q, node, view)

    def _create_token(self, q: Question, node: str, view: View) -> _Result:
        if q.verb != "create" or not q.name:
            return _no("can only create tokens for individual service accounts")
        if q.subresource != "token":
            return _no("can only create token subresource of service account")
        return self._related(q, node, view)

    def _service_account(self, q: Question, node: str, view: View) -> _Result:
        if q.verb != "get":
            return _no("can only get service accounts")
        return self._related(q, node, view)

    def _pod(self, q: Question, node: str, view: View) -> _Result:
        match q.subresource, q.verb:
            case "", "get":
                return self._related(q, node, view)
            case "", "list" | "watch":
                if _selects(q.field_selector, "spec.nodeName", node):
                    return _ALLOW
                return _no("can only list/watch pods with spec.nodeName field selector")
            case ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create"):
                return _ALLOW
        return _no()

    def _related(self, q: Question, node: str, view: View) -> _Result:
        if not q.name:
            return _no("No Object name found")
        if self._is_related(node, (q.resource, q.namespace, q.name), view):
            return _ALLOW
        return _no(f"no relationship found between node '{node}' and this object")

    def _is_related(self, node: str, target: Target, view: View) -> bool:
        plural, namespace, name = target
        if plural == "pods":
            pod = view.get(Pod, name, namespace)
            return pod is not None and pod.spec.node_name == node
        if plural == "volumeattachments":
            attachment = view.get(VolumeAttachment, name)
            return attachment is not None and attachment.spec.node_name == node
        if plural == "persistentvolumes":
            return self._volume_related(node, name, view)
        return self._pod_refers(node, target, view)

    def _volume_related(self, node: str, name: str, view: View) -> bool:
        volume = view.get(PersistentVolume, name)
        ref = volume.spec.claim_ref if volume is not None else None
        if ref is None or not ref.name:
            return False
        return self._pod_refers(node, ("persistentvolumeclaims", ref.namespace or "", ref.name), view)

    def _pod_refers(self, node: str, target: Target, view: View) -> bool:
        key = (node, target)
        witness = self._witnesses.get(key)
        if witness is not None:
            pod = view.get(Pod, witness[1], witness[0])
            if pod is not None and pod.spec.node_name == node and refers(pod, target, view):
                return True
            del self._witnesses[key]
        found = _find_witness(node, target, view)
        if found is None:
            return False
        if len(self._witnesses) >= KEPT_WITNESSES:
            self._witnesses.clear()
        self._witnesses[key] = found
        return True


def _find_witness(node: str, target: Target, view: View) -> tuple[str, str] | None:
    """A pod of the node that refers to the target. A secret may belong to a volume of another namespace's claim."""
    namespace = "" if target[0] == "secrets" else target[1]
    for pod in view.list(Pod, target[1]):
        if pod.spec.node_name == node and refers(pod, target, view):
            return pod.metadata.namespace or "", pod.metadata.name or ""
    if target[0] != "secrets":
        return None
    for pod in view.list(Pod, namespace):
        if pod.spec.node_name == node and _volume_refers(pod, target, view):
            return pod.metadata.namespace or "", pod.metadata.name or ""
    return None


def refers(pod: Pod, target: Target, view: View) -> bool:
    """Whether the pod needs the object: named in its spec, or by the volume behind a claim of its."""
    plural, namespace, name = target
    if pod.metadata.namespace == namespace and (plural, name) in references(pod):
        return True
    return plural == "secrets" and _volume_refers(pod, target, view)


def _volume_refers(pod: Pod, target: Target, view: View) -> bool:
    namespace = pod.metadata.namespace or ""
    for plural, name in references(pod):
        if plural != "persistentvolumeclaims":
            continue
        claim = view.get(PersistentVolumeClaim, name, namespace)
        bound = claim.spec.volume_name if claim is not None else None
        volume = view.get(PersistentVolume, bound) if bound else None
        if volume is not None and target[1:] in volume_secrets(volume, namespace):
            return True
    return False


def _lease(q: Question, node: str) -> _Result:
    if q.verb not in _OWN_VERBS:
        return _no("can only get, create, update, patch, or delete a node lease")
    if q.namespace != LEASE_NAMESPACE:
        return _no(f'can only access leases in the "{LEASE_NAMESPACE}" system namespace')
    if q.verb != "create" and q.name != node:
        return _no("can only access node lease with the same name as the requesting node")
    return _ALLOW


def _csi_node(q: Question, node: str) -> _Result:
    if q.verb not in _OWN_VERBS:
        return _no("can only get, create, update, patch, or delete a CSINode")
    if q.subresource:
        return _no("cannot authorize CSINode subresources")
    if q.verb != "create" and q.name != node:
        return _no("can only access CSINode with the same name as the requesting node")
    return _ALLOW


def _slice(q: Question, node: str, view: View) -> _Result:
    if q.subresource:
        return _no("cannot authorize ResourceSlice subresources")
    match q.verb:
        case "create":
            return _ALLOW
        case "get" | "update" | "patch" | "delete":
            found = view.get(ResourceSlice, q.name)
            if found is not None and found.spec.node_name == node:
                return _ALLOW
            return _no(f"no relationship found between node '{node}' and this object")
        case "watch" | "list" | "deletecollection":
            if _selects(q.field_selector, "spec.nodeName", node):
                return _ALLOW
            return _no("can only list/watch/deletecollection resourceslices with nodeName field selector")
    return _no(
        "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, "
        "deletecollection"
    )


def _node(q: Question, node: str) -> _Result:
    match q.subresource, q.verb:
        case ("", "create" | "update" | "patch") | ("status", "update" | "patch"):
            return _ALLOW
        case "", "get" | "list" | "watch":
            if q.name == node or _selects(q.field_selector, "metadata.name", node):
                return _ALLOW
            if not q.name:
                return _no(f"node '{node}' cannot read all nodes, only its own Node object")
            return _no(f"node '{node}' cannot read '{q.name}', only its own Node object")
    return _no()


def _selects(selector: str, path: str, value: str) -> bool:
    """Whether a field selector admits only objects with ``path`` equal to ``value``."""
    if not selector:
        return False
    try:
        requirements = parse_fields(selector)
    except SelectorError:
        return False
    return any(r.field == path and r.value == value and r.equal for r in requirements)
