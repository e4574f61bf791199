"""Types of the variables that Kubernetes declares for policies: ``request``, ``namespaceObject``, ``device``.

Source: apiserver pkg/admission/plugin/cel/compile.go (BuildRequestType, BuildNamespaceType);
dynamic-resource-allocation cel/compile.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .library.quantities import QUANTITY, parse
from .library.semvers import parse as parse_version
from .types import BOOL, DYN, INT, STRING, TIMESTAMP, ListType, MapType, ObjectType, Type

_STRINGS = ListType(STRING)
_LABELS = MapType(STRING, STRING)


def _texts(*names: str) -> dict[str, Type]:
    return dict.fromkeys(names, STRING)


_KIND = ObjectType("kubernetes.GroupVersionKind", _texts("group", "version", "kind"))
_RESOURCE = ObjectType("kubernetes.GroupVersionResource", _texts("group", "version", "resource"))
_USER = ObjectType(
    "kubernetes.UserInfo", {**_texts("username", "uid"), "groups": _STRINGS, "extra": MapType(STRING, _STRINGS)}
)
#: an AdmissionRequest without its objects
REQUEST = ObjectType(
    "kubernetes.AdmissionRequest",
    {
        "kind": _KIND,
        "resource": _RESOURCE,
        "requestKind": _KIND,
        "requestResource": _RESOURCE,
        **_texts("subResource", "requestSubResource", "name", "namespace", "operation"),
        "userInfo": _USER,
        "dryRun": BOOL,
        "options": DYN,
    },
)

_NAMESPACE_METADATA = ObjectType(
    "kubernetes.NamespaceMetadata",
    {
        **_texts("name", "generateName", "namespace", "UID", "resourceVersion"),
        "labels": _LABELS,
        "annotations": _LABELS,
        "creationTimestamp": TIMESTAMP,
        "deletionTimestamp": TIMESTAMP,
        "deletionGracePeriodSeconds": INT,
        "generation": INT,
        "finalizers": _STRINGS,
    },
)
_NAMESPACE_CONDITION = ObjectType(
    "kubernetes.NamespaceCondition",
    {**_texts("status", "type", "message", "reason"), "lastTransitionTime": TIMESTAMP},
)
#: the request's Namespace, as far as policies see it
NAMESPACE = ObjectType(
    "kubernetes.Namespace",
    {
        "metadata": _NAMESPACE_METADATA,
        "spec": ObjectType("kubernetes.NamespaceSpec", {"finalizers": _STRINGS}),
        "status": ObjectType(
            "kubernetes.NamespaceStatus", {"conditions": ListType(_NAMESPACE_CONDITION), "phase": STRING}
        ),
    },
)

#: what a device selector speaks of
DEVICE = ObjectType(
    "kubernetes.DRADevice",
    {
        "driver": STRING,
        "allowMultipleAllocations": BOOL,
        "attributes": MapType(STRING, MapType(STRING, DYN)),
        "capacity": MapType(STRING, MapType(STRING, QUANTITY)),
    },
)


class _Domains(dict[str, dict[str, Any]]):
    """Maps by domain: one that has no entries is empty, not missing."""

    def __missing__(self, domain: str) -> dict[str, Any]:
        return {}


def device(
    driver: str,
    attributes: Mapping[str, bool | int | str | list[Any]],
    versions: Mapping[str, str],
    capacity: Mapping[str, str],
    *,
    allow_multiple: bool = False,
) -> dict[str, Any]:
    """The value of ``device``.

    Args:   attributes: by name; names without a domain are the driver's own.
            versions: attributes that are semantic versions.
            capacity: quantities by name.
    Raises: EvaluationError: a version or quantity is none.
    """
    parsed: dict[str, Any] = {**attributes, **{name: parse_version(text) for name, text in versions.items()}}
    return {
        "driver": driver,
        "allowMultipleAllocations": allow_multiple,
        "attributes": _by_domain(driver, parsed),
        "capacity": _by_domain(driver, {name: parse(text) for name, text in capacity.items()}),
    }


def _by_domain(driver: str, values: Mapping[str, Any]) -> _Domains:
    found = _Domains()
    for name, value in values.items():
        domain, slash, identifier = name.rpartition("/")
        found.setdefault(domain if slash else driver, {})[identifier] = value
    return found
