"""A cloud with load balancers, in memory: what it holds, and what it refuses for now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kaa.api.types.core_v1 import LoadBalancerIngress, LoadBalancerStatus, Node, Service
from kaa.controllers.service_loadbalancer import ProviderError


class FakeCloud:
    """``balancers`` {uid of a Service: the nodes its balancer sends to}. ``fails`` may raise before a call does anything."""

    def __init__(self) -> None:
        self.balancers: dict[str, list[str]] = {}
        self.calls: list[str] = []
        self.fails: Callable[[str], None] = lambda call: None

    def _called(self, call: str) -> None:
        self.calls.append(call)
        self.fails(call)

    async def get_load_balancer(self, cluster: str, service: Service) -> LoadBalancerStatus | None:
        self._called("get")
        return self._status(service) if service.metadata.uid in self.balancers else None

    async def ensure_load_balancer(self, cluster: str, service: Service, nodes: Sequence[Node]) -> LoadBalancerStatus:
        self._called("ensure")
        self.balancers[service.metadata.uid or ""] = [node.metadata.name or "" for node in nodes]
        return self._status(service)

    async def update_load_balancer(self, cluster: str, service: Service, nodes: Sequence[Node]) -> None:
        self._called("update")
        if service.metadata.uid not in self.balancers:
            raise ProviderError("no such load balancer")
        self.balancers[service.metadata.uid or ""] = [node.metadata.name or "" for node in nodes]

    async def ensure_load_balancer_deleted(self, cluster: str, service: Service) -> None:
        self._called("delete")
        self.balancers.pop(service.metadata.uid or "", None)

    @staticmethod
    def _status(service: Service) -> LoadBalancerStatus:
        return LoadBalancerStatus(ingress=(LoadBalancerIngress(hostname=f"{service.metadata.uid}.cloud.example"),))
