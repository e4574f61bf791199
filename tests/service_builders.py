"""Services for tests of endpoints."""

from __future__ import annotations

from typing import Any

from kaa.api.types.core_v1 import Service, ServicePort, ServiceSpec
from kaa.api.types.meta_v1 import ObjectMeta


def make_service(*ports: ServicePort, name: str = "web", cluster_ip: str = "10.1.0.1", **spec: Any) -> Service:
    ports = ports or (ServicePort(port=80, protocol="TCP"),)
    return Service(
        metadata=ObjectMeta(name=name, namespace="default", uid="uid-service"),
        spec=ServiceSpec(selector={"app": "web"}, ports=ports, cluster_ip=cluster_ip, **spec),
    )
