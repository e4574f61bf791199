"""Builders of what dynamic resource allocation is about: slices, classes, claims."""

from __future__ import annotations

from typing import Any

from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Node
from kaa.api.types.resource_v1 import DeviceClass, ResourceClaim, ResourceSlice

DRIVER = "gpu.example.com"
_FACTS = (
    "architecture bootID containerRuntimeVersion kernelVersion kubeProxyVersion kubeletVersion machineID operatingSystem"
    " osImage systemUUID"
)


def make_node(name: str, **labels: str) -> Node:
    has = {"cpu": "4", "memory": "4Gi", "pods": "10"}
    status = {"allocatable": has, "daemonEndpoints": {}, "nodeInfo": dict.fromkeys(_FACTS.split(), "")}
    return convert(Node, {"metadata": {"name": name, "labels": labels}, "status": status})


def device(name: str, *, taint: str = "", **more: Any) -> dict[str, Any]:
    """``attributes`` and ``capacity`` may be plain: their types are those of the values."""
    typed = {k: _attribute(v) for k, v in more.pop("attributes", {}).items()}
    amounts = {k: v if isinstance(v, dict) else {"value": v} for k, v in more.pop("capacity", {}).items()}
    made = {"name": name, "attributes": typed, "capacity": amounts, **more}
    if taint:
        made["taints"] = [{"key": "ill", "effect": taint}]
    return made


def _attribute(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    kinds = {bool: "bool", int: "int", str: "string"}
    return {kinds[type(value)]: value}


def make_slice(
    name: str, *devices: dict[str, Any], driver: str = DRIVER, pool: str = "pool", **spec: Any
) -> ResourceSlice:
    """On all nodes, unless ``spec`` says which; ``generation`` and ``count`` are the pool's."""
    counts = {"generation": spec.pop("generation", 1), "resourceSliceCount": spec.pop("count", 1)}
    placed = {"nodeName", "nodeSelector", "perDeviceNodeSelection"} & spec.keys()
    where = {} if placed else {"allNodes": True}
    body = {"driver": driver, "pool": {"name": pool, **counts}, "devices": list(devices), **where, **spec}
    return convert(ResourceSlice, {"metadata": {"name": name}, "spec": body})


def make_class(name: str = "gpu", *expressions: str, **spec: Any) -> DeviceClass:
    selectors = [{"cel": {"expression": each}} for each in expressions]
    return convert(DeviceClass, {"metadata": {"name": name}, "spec": {"selectors": selectors, **spec}})


def asks(count: int = 1, *expressions: str, cls: str = "gpu", **more: Any) -> dict[str, Any]:
    """What a request, or an alternative of one, asks for."""
    selectors = [{"cel": {"expression": each}} for each in expressions]
    every = {"allocationMode": "All"} if count < 0 else {"allocationMode": "ExactCount", "count": count}
    return {"deviceClassName": cls, "selectors": selectors, **every, **more}


def request(name: str, *alternatives: dict[str, Any], **exactly: Any) -> dict[str, Any]:
    """One that names alternatives, or asks for ``exactly``."""
    if alternatives:
        return {"name": name, "firstAvailable": [{"name": f"alt{n}", **each} for n, each in enumerate(alternatives)]}
    return {"name": name, "exactly": {**asks(), **exactly}}


def make_claim(name: str, *requests: dict[str, Any], **devices: Any) -> ResourceClaim:
    spec = {"devices": {"requests": list(requests), **devices}}
    return convert(ResourceClaim, {"metadata": {"name": name, "namespace": "d", "uid": f"uid-{name}"}, "spec": spec})
