"""A strategy per resource: what its defaults are, what may change, what is selected and shown.

``STRATEGIES`` names the module of each resource; it is imported when the resource is first asked for, so that a server
pays at its start for what it serves then.
"""

from __future__ import annotations

import importlib
from typing import Any

from kaa.api.errors import NotFound
from kaa.api.resources import Resource

from .. import keys
from .core.service_allocation import ServiceRanges
from .strategy import Column, Strategy, TableShape

__all__ = [
    "STRATEGIES",
    "Column",
    "ServiceRanges",
    "Strategies",
    "Strategy",
    "TableShape",
    "build_strategies",
    "strategy_for",
]


def _index(text: str) -> dict[tuple[str, str], str]:
    """``group: plural …`` lines as {(group, plural): module}."""
    found: dict[tuple[str, str], str] = {}
    for line in text.strip().splitlines():
        group, _, plurals = line.strip().partition(":")
        full = _FULL_GROUPS.get(group, group)
        found |= {(full, plural): f"{group}.{plural}" for plural in plurals.split()}
    return found


_FULL_GROUPS = {
    "core": "",
    "rbac": "rbac.authorization.k8s.io",
    "networking": "networking.k8s.io",
    "storage": "storage.k8s.io",
    "scheduling": "scheduling.k8s.io",
    "node": "node.k8s.io",
    "coordination": "coordination.k8s.io",
    "discovery": "discovery.k8s.io",
    "certificates": "certificates.k8s.io",
    "admissionregistration": "admissionregistration.k8s.io",
    "apiextensions": "apiextensions.k8s.io",
    "apiregistration": "apiregistration.k8s.io",
    "flowcontrol": "flowcontrol.apiserver.k8s.io",
    "resource": "resource.k8s.io",
    "apiserverinternal": "internal.apiserver.k8s.io",
    "storagemigration": "storagemigration.k8s.io",
}

#: {(group, plural): module below this package}. A resource that is not here gets the plain Strategy.
STRATEGIES: dict[tuple[str, str], str] = {
    **_index(
        """
        core: pods services namespaces nodes configmaps secrets serviceaccounts endpoints events limitranges
        core: resourcequotas persistentvolumes persistentvolumeclaims podtemplates replicationcontrollers
        core: componentstatuses
        apps: deployments replicasets statefulsets daemonsets controllerrevisions
        batch: jobs cronjobs
        autoscaling: horizontalpodautoscalers
        networking: ingresses ingressclasses networkpolicies ipaddresses servicecidrs
        policy: poddisruptionbudgets
        rbac: roles clusterroles rolebindings clusterrolebindings
        storage: storageclasses csidrivers csinodes csistoragecapacities volumeattachments volumeattributesclasses
        scheduling: priorityclasses
        node: runtimeclasses
        coordination: leases leasecandidates
        discovery: endpointslices
        certificates: certificatesigningrequests clustertrustbundles podcertificaterequests
        admissionregistration: mutatingwebhookconfigurations validatingwebhookconfigurations
        admissionregistration: mutatingadmissionpolicies mutatingadmissionpolicybindings
        admissionregistration: validatingadmissionpolicies validatingadmissionpolicybindings
        apiextensions: customresourcedefinitions
        apiregistration: apiservices
        flowcontrol: flowschemas prioritylevelconfigurations
        resource: deviceclasses resourceclaims resourceclaimtemplates resourceslices devicetaintrules
        apiserverinternal: storageversions
        storagemigration: storageversionmigrations
        """
    ),
    ("events.k8s.io", "events"): "core.events",
}


class Strategies:
    """The strategies of one server: each made once, services with the server's own ranges."""

    def __init__(self, ranges: ServiceRanges | None = None) -> None:
        self.ranges = ranges or ServiceRanges()
        self._made: dict[tuple[str, str, str], Strategy[Any]] = {}

    def __getitem__(self, resource: Resource[Any]) -> Strategy[Any]:
        key = (resource.group, resource.version, resource.plural)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._make(resource)
        return found

    def __setitem__(self, resource: Resource[Any], strategy: Strategy[Any]) -> None:
        """Have the strategy of a custom resource, as long as it is served."""
        self._made[resource.group, resource.version, resource.plural] = strategy

    def pop(self, resource: Resource[Any]) -> Strategy[Any] | None:
        return self._made.pop((resource.group, resource.version, resource.plural), None)

    def _make(self, resource: Resource[Any]) -> Strategy[Any]:
        if resource.custom:  # it was served a moment ago
            raise NotFound("the server could not find the requested resource")
        path = STRATEGIES.get((resource.group, resource.plural))
        if path is None:
            return _plain(resource)
        module = importlib.import_module(f".{path}", __name__)
        if path == "core.services":
            made: Strategy[Any] = module.ServiceStrategy(self.ranges)
            return made
        several: tuple[Strategy[Any], ...] = getattr(module, "STRATEGIES", (module.STRATEGY,))
        found = next((one for one in several if one.kind is resource.type), None)
        if found is not None:
            return found
        from .other_version import OtherVersion

        return OtherVersion(resource, self[keys.storage_resource(resource)])


def _plain(resource: Resource[Any]) -> Strategy[Any]:
    made: Strategy[Any] = Strategy()
    made.kind = resource.type
    return made


def build_strategies(ranges: ServiceRanges) -> Strategies:
    return Strategies(ranges)


_DEFAULT = Strategies()


def strategy_for(resource: Resource[Any]) -> Strategy[Any]:
    """The strategy of a built-in resource, with the default service ranges."""
    return _DEFAULT[resource]
