"""Where objects stand in the store: Kubernetes' own keys, ``/registry/pods/default/web-0``.

Two resources may be two views of one stored object (core and events.k8s.io events, HPA v1 and v2): they share a key, and
the storage resource names the version that is written.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from kaa.api.resources import RESOURCES, Resource
from kaa.api.scheme import resource_by_path

ROOT = "/registry/"

#: {(group, plural): what stands in the key} where upstream's key is not the plural.
_NAMES = {
    ("", "services"): "services/specs",
    ("", "endpoints"): "services/endpoints",
    ("", "nodes"): "minions",
    ("", "replicationcontrollers"): "controllers",
    ("networking.k8s.io", "ingresses"): "ingress",
    ("apiregistration.k8s.io", "apiservices"): "apiregistration.k8s.io/apiservices",
    ("apiextensions.k8s.io", "customresourcedefinitions"): "apiextensions.k8s.io/customresourcedefinitions",
}
#: {(group, version, plural): the same objects as they are stored}
_STORED_AS = {
    ("events.k8s.io", "v1", "events"): ("", "v1", "events"),
    ("autoscaling", "v1", "horizontalpodautoscalers"): ("autoscaling", "v2", "horizontalpodautoscalers"),
}
#: {(group, plural): the version that is stored}, of resources in several versions of one group
_STORED_IN = {
    ("certificates.k8s.io", "clustertrustbundles"): "v1beta1",
    ("coordination.k8s.io", "leasecandidates"): "v1beta1",
    ("resource.k8s.io", "devicetaintrules"): "v1alpha3",
    **{
        (row.group, row.plural): row.version
        for row in RESOURCES
        if row.group in ("networking.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io", "resource.k8s.io")
    },
}
_VIRTUAL = frozenset({"bindings", "componentstatuses"})


def storage_resource(resource: Resource[Any]) -> Resource[Any]:
    """The row of the version that objects are stored in."""
    return (resource.stored_as or resource) if resource.custom else _built_in_storage(resource)


@lru_cache(maxsize=None)
def _built_in_storage(resource: Resource[Any]) -> Resource[Any]:
    version = _STORED_IN.get((resource.group, resource.plural), resource.version)
    own = (resource.group, version, resource.plural)
    stored = _STORED_AS.get(own, own)
    if stored == (resource.group, resource.version, resource.plural):
        return resource
    found = resource_by_path(*stored)
    assert found is not None
    return found


def is_stored(resource: Resource[Any]) -> bool:
    """Whether this resource's own version is the one that is written."""
    return storage_resource(resource) is resource and resource.plural not in _VIRTUAL


@lru_cache(maxsize=None)
def prefix(resource: Resource[Any]) -> str:
    """``/registry/pods/``: what all keys of a resource start with."""
    stored = storage_resource(resource)
    if stored.custom:
        return f"{ROOT}{stored.group}/{stored.plural}/"
    return f"{ROOT}{_NAMES.get((stored.group, stored.plural), stored.plural)}/"


def object_key(resource: Resource[Any], namespace: str, name: str) -> str:
    """The key below the prefix: ``default/web-0``, or the name alone for cluster-scoped objects."""
    return f"{namespace}/{name}" if resource.namespaced else name
