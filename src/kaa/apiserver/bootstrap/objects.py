"""Every object that a fresh cluster holds, and which of them a start must make or mend.

``objects`` is what must exist; ``due`` compares that with what does. The API server's process writes the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from kaa.api.clock import format_time
from kaa.api.legacy_tokens import SINCE, TRACKING, day_of
from kaa.api.types.apiregistration_v1 import APIService, APIServiceCondition, APIServiceSpec, APIServiceStatus
from kaa.api.types.core_v1 import ConfigMap, Namespace, NamespaceSpec, NamespaceStatus
from kaa.api.types.flowcontrol_v1 import FlowSchema, PriorityLevelConfiguration
from kaa.api.types.meta_v1 import Condition, ObjectMeta
from kaa.api.types.networking_v1 import ServiceCIDR, ServiceCIDRSpec, ServiceCIDRStatus
from kaa.api.types.rbac_v1 import ClusterRole, ClusterRoleBinding, Role, RoleBinding
from kaa.api.types.scheduling_v1 import PriorityClass

from ..view import View
from . import flow, policy
from .controller_roles import controller_bindings, controller_roles
from .reconcile import reconcile_binding, reconcile_role

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
#: (group, version): group priority, version priority. Higher comes first in discovery.
API_PRIORITIES: dict[tuple[str, str], tuple[int, int]] = {
    ("", "v1"): (18000, 1),
    ("apps", "v1"): (17800, 15),
    ("events.k8s.io", "v1"): (17750, 15),
    ("authentication.k8s.io", "v1"): (17700, 15),
    ("authorization.k8s.io", "v1"): (17600, 15),
    ("autoscaling", "v1"): (17500, 15),
    ("autoscaling", "v2"): (17500, 30),
    ("batch", "v1"): (17400, 15),
    ("certificates.k8s.io", "v1"): (17300, 15),
    ("networking.k8s.io", "v1"): (17200, 15),
    ("policy", "v1"): (17100, 15),
    ("rbac.authorization.k8s.io", "v1"): (17000, 15),
    ("storage.k8s.io", "v1"): (16800, 15),
    ("apiextensions.k8s.io", "v1"): (16700, 15),
    ("admissionregistration.k8s.io", "v1"): (16700, 15),
    ("scheduling.k8s.io", "v1"): (16600, 15),
    ("coordination.k8s.io", "v1"): (16500, 15),
    ("node.k8s.io", "v1"): (16300, 15),
    ("discovery.k8s.io", "v1"): (16200, 15),
    ("resource.k8s.io", "v1"): (16200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1"): (16100, 21),
}
#: The same of those that are off by default.
OPTIONAL_PRIORITIES: dict[tuple[str, str], tuple[int, int]] = {
    ("certificates.k8s.io", "v1beta1"): (17300, 12),
    ("certificates.k8s.io", "v1alpha1"): (17300, 9),
    ("networking.k8s.io", "v1beta1"): (17200, 12),
    ("storage.k8s.io", "v1beta1"): (16800, 9),
    ("admissionregistration.k8s.io", "v1beta1"): (16700, 12),
    ("admissionregistration.k8s.io", "v1alpha1"): (16700, 9),
    ("coordination.k8s.io", "v1beta1"): (16500, 13),
    ("coordination.k8s.io", "v1alpha2"): (16500, 12),
    ("resource.k8s.io", "v1beta2"): (16200, 15),
    ("resource.k8s.io", "v1beta1"): (16200, 9),
    ("resource.k8s.io", "v1alpha3"): (16200, 1),
    ("internal.apiserver.k8s.io", "v1alpha1"): (16000, 9),
    ("storagemigration.k8s.io", "v1beta1"): (15800, 9),
}
AUTOMANAGED = "kube-aggregator.kubernetes.io/automanaged"
_CRITICAL = {
    "system-cluster-critical": (
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    "system-node-critical": (
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
}


def objects(
    now: float,
    *,
    service_cidr: str = "10.96.0.0/16",
    client_ca: str = "",
    front_proxy_ca: str = "",
    versions: Iterable[tuple[str, str]] = API_PRIORITIES,
) -> list[Any]:
    """All of them, in an order in which they may be created. ``now`` in seconds since 1970 dates conditions; the
    certificates (PEM) go into ``extension-apiserver-authentication``; ``versions`` are the group-versions served."""
    served = frozenset(versions)
    return [
        *(_namespace(name) for name in NAMESPACES),
        *priority_classes(),
        *policy.cluster_roles(),
        *controller_roles(served),
        *policy.cluster_role_bindings(),
        *controller_bindings(served),
        *policy.roles(),
        *policy.role_bindings(),
        *flow.priority_levels(),
        *flow.flow_schemas(now),
        *(_api_service(group, version, now) for group, version in priorities() if (group, version) in served),
        _service_cidr(service_cidr, now),
        _extension_authentication(client_ca, front_proxy_ca),
        ConfigMap(metadata=ObjectMeta(name=TRACKING, namespace="kube-system"), data={SINCE: day_of(now)}),
    ]


def priorities() -> dict[tuple[str, str], tuple[int, int]]:
    """Of every built-in group-version: group priority, version priority."""
    return {**API_PRIORITIES, **OPTIONAL_PRIORITIES}


def withdrawn(services: Iterable[APIService], versions: Iterable[tuple[str, str]]) -> list[APIService]:
    """The APIServices of built-in group-versions that an earlier start served and this one does not."""
    known, served = priorities(), set(versions)
    return [
        one
        for one in services
        if one.spec is not None
        and one.metadata.labels.get(AUTOMANAGED) == "onstart"
        and (one.spec.group or "", one.spec.version or "") in known
        and (one.spec.group or "", one.spec.version or "") not in served
    ]


def priority_classes() -> list[PriorityClass]:
    return [
        PriorityClass(
            metadata=ObjectMeta(name=name, generation=1),
            value=value,
            description=text,
            preemption_policy="PreemptLowerPriority",
        )
        for name, (value, text) in _CRITICAL.items()
    ]


def due(wanted: Iterable[Any], view: View) -> tuple[list[Any], list[Any]]:
    """What to create and what to update. Roles and bindings regain what they lost; the autoupdated flow control specs are
    set back; all else is left as its owner made it."""
    create, update = [], []
    for obj in wanted:
        existing = view.get(type(obj), obj.metadata.name, obj.metadata.namespace or "")
        if existing is None:
            create.append(obj)
            continue
        mended = _mended(obj, existing)
        if mended is not None:
            update.append(mended)
    return create, update


def _mended(obj: Any, existing: Any) -> Any | None:
    if isinstance(obj, (Role, ClusterRole)):
        return reconcile_role(obj, existing)
    if isinstance(obj, (RoleBinding, ClusterRoleBinding)):
        return reconcile_binding(obj, existing)
    if isinstance(obj, (FlowSchema, PriorityLevelConfiguration)):
        follows = existing.metadata.annotations.get(flow.AUTOUPDATE) == "true"
        return replace(existing, spec=obj.spec) if follows and existing.spec != obj.spec else None
    if isinstance(obj, ConfigMap) and obj.metadata.name != TRACKING:
        return replace(existing, data={**existing.data, **obj.data}) if _stale(existing, obj.data) else None
    return None


def _stale(existing: ConfigMap, data: dict[str, str]) -> bool:
    return any(existing.data.get(key) != value for key, value in data.items())


def _namespace(name: str) -> Namespace:
    return Namespace(
        metadata=ObjectMeta(name=name, labels={"kubernetes.io/metadata.name": name}),
        spec=NamespaceSpec(finalizers=("kubernetes",)),
        status=NamespaceStatus(phase="Active"),
    )


def _api_service(group: str, version: str, now: float) -> APIService:
    group_priority, version_priority = priorities()[group, version]
    local = APIServiceCondition(
        type="Available",
        status="True",
        reason="Local",
        message="Local APIServices are always available",
        last_transition_time=format_time(now),
    )
    return APIService(
        metadata=ObjectMeta(name=f"{version}.{group}", labels={AUTOMANAGED: "onstart"}),
        spec=APIServiceSpec(
            group=group or None,
            version=version,
            group_priority_minimum=group_priority,
            version_priority=version_priority,
        ),
        status=APIServiceStatus(conditions=(local,)),
    )


def _service_cidr(cidr: str, now: float) -> ServiceCIDR:
    ready = Condition(
        type="Ready",
        status="True",
        reason="",
        message="Kubernetes Service CIDR is ready",
        last_transition_time=format_time(now),
    )
    return ServiceCIDR(
        metadata=ObjectMeta(name="kubernetes", finalizers=("networking.k8s.io/service-cidr-finalizer",)),
        spec=ServiceCIDRSpec(cidrs=tuple(cidr.split(","))),
        status=ServiceCIDRStatus(conditions=(ready,)),
    )


def _extension_authentication(client_ca: str, front_proxy_ca: str) -> ConfigMap:
    """What an extension API server trusts: our client CA, and the front proxy's CA with its headers."""
    data = {"client-ca-file": client_ca} if client_ca else {}
    if front_proxy_ca:
        data |= {
            "requestheader-allowed-names": '["front-proxy-client"]',
            "requestheader-client-ca-file": front_proxy_ca,
            "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
            "requestheader-group-headers": '["X-Remote-Group"]',
            "requestheader-uid-headers": '["X-Remote-Uid"]',
            "requestheader-username-headers": '["X-Remote-User"]',
        }
    return ConfigMap(metadata=ObjectMeta(name="extension-apiserver-authentication", namespace="kube-system"), data=data)
