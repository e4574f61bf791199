"""What is served where: one row a resource, as Kubernetes 1.36 serves it.

A row is data; ``scheme`` indexes the rows and finds types by them. Custom resources become rows of the same shape while
the server runs.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

T = TypeVar("T")

STANDARD_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_GET_PATCH_UPDATE = ("get", "patch", "update")
_PROXY = ("create", "delete", "get", "patch", "update")
_CONNECT = ("create", "get")


_DELETED_OBJECT_SHOWN = frozenset(
    {"PersistentVolume", "PersistentVolumeClaim", "Pod", "PodTemplate", "ResourceQuota", "Service", "ServiceAccount"}
)


@dataclass(frozen=True, slots=True)
class Subresource:
    """``pods/eviction``: answers with ``kind`` of ``group``/``version`` (empty: the parent's own)."""

    name: str
    kind: str
    verbs: tuple[str, ...] = _GET_PATCH_UPDATE
    group: str = ""
    version: str = ""


@dataclass(frozen=True)
class Resource(Generic[T]):
    """One served resource. ``type`` is its Struct; custom resources have none and travel as ``api.custom`` values."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    singular: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = STANDARD_VERBS
    subresources: tuple[Subresource, ...] = ()
    custom: bool = field(default=False)
    #: Of a custom resource: the row of the version that its objects are stored in; None where it is this one.
    stored_as: Resource[Any] | None = field(default=None, compare=False)

    def __hash__(self) -> int:
        return hash((self.group, self.version, self.plural))  # every request looks resources up: not over all fields

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """``/api/v1`` or ``/apis/apps/v1``."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def group_resource(self) -> str:
        """``deployments.apps``; plain ``pods`` for the core group. The way error messages name a resource."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def group_kind(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @cached_property
    def type(self) -> type[T]:
        found: type[T] = struct_of(self.group, self.version, self.kind)
        return found

    @property
    def answers_deletion_with_object(self) -> bool:
        """Whether DELETE answers with the object that it removed; most kinds answer with a Status."""
        if self.group in ("resource.k8s.io", "storage.k8s.io"):
            return self.kind != "CSIStorageCapacity"
        return not self.group and self.kind in _DELETED_OBJECT_SHOWN

    @property
    def storage_version_hash(self) -> str:
        digest = hashlib.sha256(f"{self.group}/{self.version}/{self.kind}".encode()).digest()
        return base64.b64encode(digest[:8]).decode()

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection, an object or a subresource. ``namespace`` None lists all of them."""
        parts = [self.root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [self.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return "/".join(parts)

    def subresource(self, name: str) -> Subresource | None:
        return next((sub for sub in self.subresources if sub.name == name), None)


def struct_of(group: str, version: str, kind: str) -> Any:
    """The generated Struct class of a kind. Raises LookupError when OpenAPI has no such kind."""
    short_group = group.split(".")[0] or "core"
    names = {"rbac": "rbac", "flowcontrol": "flowcontrol", "internal": "apiserverinternal"}
    module = f"kaa.api.types.{names.get(short_group, short_group)}_{version}"
    try:
        return getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError):
        raise LookupError(f"{group}/{version} {kind} is not a type of the API") from None


_STATUS = "status"
_SCALE = Subresource("scale", "Scale", group="autoscaling", version="v1")
_CREATE = ("create",)
_NO_COLLECTION_DELETE = ("create", "delete", "get", "list", "patch", "update", "watch")


def _row(
    api_version: str,
    plural: str,
    kind: str,
    namespaced: bool = True,
    *,
    short: str = "",
    categories: str = "",
    verbs: tuple[str, ...] = STANDARD_VERBS,
    subs: tuple[Subresource | str, ...] = (),
) -> Resource[Any]:
    group, _, version = api_version.rpartition("/")
    subresources = tuple(Subresource(sub, kind) if isinstance(sub, str) else sub for sub in subs)
    ordered = tuple(sorted(subresources, key=lambda sub: sub.name))
    words = tuple(short.split()), tuple(categories.split())
    return Resource(group, version, plural, kind, namespaced, kind.lower(), *words, verbs, ordered)


_RBAC, _STORAGE, _NET = "rbac.authorization.k8s.io/v1", "storage.k8s.io/v1", "networking.k8s.io/v1"
_ADMISSION, _DRA, _FLOW = "admissionregistration.k8s.io/v1", "resource.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1"
_EXT = "api-extensions"

#: Every built-in resource that is served by default, groups in the order in which discovery lists them.
RESOURCES: tuple[Resource[Any], ...] = (
    _row("v1", "bindings", "Binding", verbs=_CREATE),
    _row("v1", "componentstatuses", "ComponentStatus", False, short="cs", verbs=("get", "list")),
    _row("v1", "configmaps", "ConfigMap", short="cm"),
    _row("v1", "endpoints", "Endpoints", short="ep"),
    _row("v1", "events", "Event", short="ev"),
    _row("v1", "limitranges", "LimitRange", short="limits"),
    _row(
        "v1",
        "namespaces",
        "Namespace",
        False,
        short="ns",
        verbs=_NO_COLLECTION_DELETE,
        subs=(_STATUS, Subresource("finalize", "Namespace", ("update",))),
    ),
    _row("v1", "nodes", "Node", False, short="no", subs=(_STATUS, Subresource("proxy", "NodeProxyOptions", _PROXY))),
    _row("v1", "persistentvolumeclaims", "PersistentVolumeClaim", short="pvc", subs=(_STATUS,)),
    _row("v1", "persistentvolumes", "PersistentVolume", False, short="pv", subs=(_STATUS,)),
    _row(
        "v1",
        "pods",
        "Pod",
        short="po",
        categories="all",
        subs=(
            _STATUS,
            "ephemeralcontainers",
            "resize",
            Subresource("attach", "PodAttachOptions", _CONNECT),
            Subresource("binding", "Binding", _CREATE),
            Subresource("eviction", "Eviction", _CREATE, "policy", "v1"),
            Subresource("exec", "PodExecOptions", _CONNECT),
            Subresource("log", "Pod", ("get",)),
            Subresource("portforward", "PodPortForwardOptions", _CONNECT),
            Subresource("proxy", "PodProxyOptions", _PROXY),
        ),
    ),
    _row("v1", "podtemplates", "PodTemplate"),
    _row("v1", "replicationcontrollers", "ReplicationController", short="rc", categories="all", subs=(_STATUS, _SCALE)),
    _row("v1", "resourcequotas", "ResourceQuota", short="quota", subs=(_STATUS,)),
    _row("v1", "secrets", "Secret"),
    _row(
        "v1",
        "serviceaccounts",
        "ServiceAccount",
        short="sa",
        subs=(Subresource("token", "TokenRequest", _CREATE, "authentication.k8s.io", "v1"),),
    ),
    _row(
        "v1",
        "services",
        "Service",
        short="svc",
        categories="all",
        subs=(_STATUS, Subresource("proxy", "ServiceProxyOptions", _PROXY)),
    ),
    _row("apiregistration.k8s.io/v1", "apiservices", "APIService", False, categories=_EXT, subs=(_STATUS,)),
    _row("apps/v1", "controllerrevisions", "ControllerRevision"),
    _row("apps/v1", "daemonsets", "DaemonSet", short="ds", categories="all", subs=(_STATUS,)),
    _row("apps/v1", "deployments", "Deployment", short="deploy", categories="all", subs=(_STATUS, _SCALE)),
    _row("apps/v1", "replicasets", "ReplicaSet", short="rs", categories="all", subs=(_STATUS, _SCALE)),
    _row("apps/v1", "statefulsets", "StatefulSet", short="sts", categories="all", subs=(_STATUS, _SCALE)),
    _row("events.k8s.io/v1", "events", "Event", short="ev"),
    _row("authentication.k8s.io/v1", "selfsubjectreviews", "SelfSubjectReview", False, verbs=_CREATE),
    _row("authentication.k8s.io/v1", "tokenreviews", "TokenReview", False, verbs=_CREATE),
    _row("authorization.k8s.io/v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", verbs=_CREATE),
    _row("authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False, verbs=_CREATE),
    _row("authorization.k8s.io/v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False, verbs=_CREATE),
    _row("authorization.k8s.io/v1", "subjectaccessreviews", "SubjectAccessReview", False, verbs=_CREATE),
    _row(
        "autoscaling/v2",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        short="hpa",
        categories="all",
        subs=(_STATUS,),
    ),
    _row(
        "autoscaling/v1",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        short="hpa",
        categories="all",
        subs=(_STATUS,),
    ),
    _row("batch/v1", "cronjobs", "CronJob", short="cj", categories="all", subs=(_STATUS,)),
    _row("batch/v1", "jobs", "Job", categories="all", subs=(_STATUS,)),
    _row(
        "certificates.k8s.io/v1",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        False,
        short="csr",
        subs=(_STATUS, "approval"),
    ),
    _row(_NET, "ingressclasses", "IngressClass", False),
    _row(_NET, "ingresses", "Ingress", short="ing", subs=(_STATUS,)),
    _row(_NET, "ipaddresses", "IPAddress", False, short="ip"),
    _row(_NET, "networkpolicies", "NetworkPolicy", short="netpol"),
    _row(_NET, "servicecidrs", "ServiceCIDR", False, subs=(_STATUS,)),
    _row("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", short="pdb", subs=(_STATUS,)),
    _row(_RBAC, "clusterrolebindings", "ClusterRoleBinding", False),
    _row(_RBAC, "clusterroles", "ClusterRole", False),
    _row(_RBAC, "rolebindings", "RoleBinding"),
    _row(_RBAC, "roles", "Role"),
    _row(_STORAGE, "csidrivers", "CSIDriver", False),
    _row(_STORAGE, "csinodes", "CSINode", False),
    _row(_STORAGE, "csistoragecapacities", "CSIStorageCapacity"),
    _row(_STORAGE, "storageclasses", "StorageClass", False, short="sc"),
    _row(_STORAGE, "volumeattachments", "VolumeAttachment", False, subs=(_STATUS,)),
    _row(_STORAGE, "volumeattributesclasses", "VolumeAttributesClass", False, short="vac"),
    _row(_ADMISSION, "mutatingadmissionpolicies", "MutatingAdmissionPolicy", False, categories=_EXT),
    _row(_ADMISSION, "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", False, categories=_EXT),
    _row(_ADMISSION, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", False, categories=_EXT),
    _row(
        _ADMISSION, "validatingadmissionpolicies", "ValidatingAdmissionPolicy", False, categories=_EXT, subs=(_STATUS,)
    ),
    _row(_ADMISSION, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", False, categories=_EXT),
    _row(_ADMISSION, "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", False, categories=_EXT),
    _row(
        "apiextensions.k8s.io/v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        False,
        short="crd crds",
        categories=_EXT,
        subs=(_STATUS,),
    ),
    _row("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", False, short="pc"),
    _row("coordination.k8s.io/v1", "leases", "Lease"),
    _row("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", False),
    _row("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
    _row(_DRA, "deviceclasses", "DeviceClass", False),
    _row(_DRA, "resourceclaims", "ResourceClaim", subs=(_STATUS,)),
    _row(_DRA, "resourceclaimtemplates", "ResourceClaimTemplate"),
    _row(_DRA, "resourceslices", "ResourceSlice", False),
    _row(_FLOW, "flowschemas", "FlowSchema", False, subs=(_STATUS,)),
    _row(_FLOW, "prioritylevelconfigurations", "PriorityLevelConfiguration", False, subs=(_STATUS,)),
)

#: Those that only ``--runtime-config`` has served; of each group the preferred version first.
OPTIONAL: tuple[Resource[Any], ...] = (
    *(
        _row(f"certificates.k8s.io/{version}", "clustertrustbundles", "ClusterTrustBundle", False)
        for version in ("v1beta1", "v1alpha1")
    ),
    _row("certificates.k8s.io/v1beta1", "podcertificaterequests", "PodCertificateRequest", subs=(_STATUS,)),
    _row("networking.k8s.io/v1beta1", "ipaddresses", "IPAddress", False, short="ip"),
    _row("networking.k8s.io/v1beta1", "servicecidrs", "ServiceCIDR", False, subs=(_STATUS,)),
    _row("storage.k8s.io/v1beta1", "volumeattributesclasses", "VolumeAttributesClass", False, short="vac"),
    *(
        _row(f"admissionregistration.k8s.io/{version}", plural, kind, False, categories=_EXT)
        for version in ("v1beta1", "v1alpha1")
        for plural, kind in (
            ("mutatingadmissionpolicies", "MutatingAdmissionPolicy"),
            ("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding"),
        )
    ),
    *(
        _row(f"coordination.k8s.io/{version}", "leasecandidates", "LeaseCandidate")
        for version in ("v1beta1", "v1alpha2")
    ),
    *(
        row
        for version in ("v1beta2", "v1beta1")
        for row in (
            _row(f"resource.k8s.io/{version}", "deviceclasses", "DeviceClass", False),
            _row(f"resource.k8s.io/{version}", "resourceclaims", "ResourceClaim", subs=(_STATUS,)),
            _row(f"resource.k8s.io/{version}", "resourceclaimtemplates", "ResourceClaimTemplate"),
            _row(f"resource.k8s.io/{version}", "resourceslices", "ResourceSlice", False),
        )
    ),
    *(
        _row(f"resource.k8s.io/{version}", "devicetaintrules", "DeviceTaintRule", False, subs=(_STATUS,))
        for version in ("v1beta2", "v1alpha3")
    ),
    _row("internal.apiserver.k8s.io/v1alpha1", "storageversions", "StorageVersion", False, subs=(_STATUS,)),
    _row(
        "storagemigration.k8s.io/v1beta1", "storageversionmigrations", "StorageVersionMigration", False, subs=(_STATUS,)
    ),
)
