"""The objects that make a bare cluster a usable one: DNS, the proxy's identity, the API server's own service, and what
kubeadm writes for people to find (``cluster-info``).
"""

from __future__ import annotations

from typing import Any

import yaml

from kaa.api.types.core_v1 import (
    ConfigMap,
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
    Service,
    ServiceAccount,
    ServicePort,
    ServiceSpec,
)
from kaa.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointSlice
from kaa.api.types.discovery_v1 import EndpointPort as SlicePort
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.rbac_v1 import ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject

from .config import ClusterConfig

RBAC = "rbac.authorization.k8s.io"
ADMINS = "kubeadm:cluster-admins"
SYSTEM = "kube-system"


def objects(config: ClusterConfig, ca: str) -> list[Any]:
    """All of them, in an order in which they may be created."""
    return [
        _admin_binding(),
        *_api_service(config),
        *_dns(config),
        *_cluster_info(config, ca),
    ]


def _admin_binding() -> ClusterRoleBinding:
    return ClusterRoleBinding(
        metadata=ObjectMeta(name=ADMINS),
        role_ref=RoleRef(api_group=RBAC, kind="ClusterRole", name="cluster-admin"),
        subjects=(Subject(api_group=RBAC, kind="Group", name=ADMINS),),
    )


def _api_service(config: ClusterConfig) -> list[Any]:
    """``kubernetes`` in ``default``: how pods reach the API server."""
    labels = {"component": "apiserver", "provider": "kubernetes"}
    service = Service(
        metadata=ObjectMeta(name="kubernetes", namespace="default", labels=labels),
        spec=ServiceSpec(
            cluster_ip=config.api_service_ip,
            cluster_ips=(config.api_service_ip,),
            ports=(ServicePort(name="https", port=443, protocol="TCP", target_port=config.api_port),),
            type="ClusterIP",
        ),
    )
    port = config.api_port
    endpoints = Endpoints(
        metadata=ObjectMeta(
            name="kubernetes", namespace="default", labels={"endpointslice.kubernetes.io/skip-mirror": "true"}
        ),
        subsets=(
            EndpointSubset(
                addresses=(EndpointAddress(ip=config.node_ip),),
                ports=(EndpointPort(name="https", port=port, protocol="TCP"),),
            ),
        ),
    )
    piece = EndpointSlice(
        metadata=ObjectMeta(
            name="kubernetes", namespace="default", labels={"kubernetes.io/service-name": "kubernetes"}
        ),
        address_type="IPv4",
        endpoints=(Endpoint(addresses=(config.node_ip,), conditions=EndpointConditions(ready=True)),),
        ports=(SlicePort(name="https", port=port, protocol="TCP"),),
    )
    return [service] if _is_loopback(config.node_ip) else [service, endpoints, piece]


def _is_loopback(address: str) -> bool:
    return address.startswith("127.")


def _dns(config: ClusterConfig) -> list[Any]:
    """``kube-dns``: the name server runs as a host process of the node, at the pods' gateway."""
    labels = {
        "k8s-app": "kube-dns",
        "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "CoreDNS",
    }
    ports = (
        ServicePort(name="dns", port=53, protocol="UDP", target_port=53),
        ServicePort(name="dns-tcp", port=53, protocol="TCP", target_port=53),
    )
    service = Service(
        metadata=ObjectMeta(name="kube-dns", namespace=SYSTEM, labels=labels),
        spec=ServiceSpec(
            cluster_ip=config.dns_service_ip, cluster_ips=(config.dns_service_ip,), ports=ports, type="ClusterIP"
        ),
    )
    piece = EndpointSlice(
        metadata=ObjectMeta(
            name="kube-dns",
            namespace=SYSTEM,
            labels={"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "kaa.dev"},
        ),
        address_type="IPv4",
        endpoints=(
            Endpoint(
                addresses=(config.gateway_ip,),
                conditions=EndpointConditions(ready=True, serving=True, terminating=False),
                node_name=config.node_name,
            ),
        ),
        ports=(SlicePort(name="dns", port=53, protocol="UDP"), SlicePort(name="dns-tcp", port=53, protocol="TCP")),
    )
    role = ClusterRole(
        metadata=ObjectMeta(name="system:coredns"),
        rules=(
            PolicyRule(
                api_groups=("",), resources=("endpoints", "services", "pods", "namespaces"), verbs=("list", "watch")
            ),
            PolicyRule(api_groups=("discovery.k8s.io",), resources=("endpointslices",), verbs=("list", "watch")),
        ),
    )
    binding = ClusterRoleBinding(
        metadata=ObjectMeta(name="system:coredns"),
        role_ref=RoleRef(api_group=RBAC, kind="ClusterRole", name="system:coredns"),
        subjects=(Subject(kind="ServiceAccount", name="coredns", namespace=SYSTEM),),
    )
    account = ServiceAccount(metadata=ObjectMeta(name="coredns", namespace=SYSTEM))
    return [account, role, binding, service, piece]


def _cluster_info(config: ClusterConfig, ca: str) -> list[Any]:
    """What anybody may read to find the API server: its address and authority, in ``kube-public``."""
    import base64

    cluster = {
        "certificate-authority-data": base64.b64encode(ca.encode()).decode(),
        "server": f"https://{config.node_ip}:{config.api_port}",
    }
    kubeconfig: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}], "contexts": None, "current-context": "", "preferences": {}, "users": None}  # fmt: skip
    name = "kubeadm:bootstrap-signer-clusterinfo"
    return [
        ConfigMap(
            metadata=ObjectMeta(name="cluster-info", namespace="kube-public"),
            data={"kubeconfig": yaml.safe_dump(kubeconfig, sort_keys=True)},
        ),
        Role(
            metadata=ObjectMeta(name=name, namespace="kube-public"),
            rules=(
                PolicyRule(
                    api_groups=("",), resources=("configmaps",), resource_names=("cluster-info",), verbs=("get",)
                ),
            ),
        ),
        RoleBinding(
            metadata=ObjectMeta(name=name, namespace="kube-public"),
            role_ref=RoleRef(api_group=RBAC, kind="Role", name=name),
            subjects=(Subject(api_group=RBAC, kind="User", name="system:anonymous"),),
        ),
    ]
