"""What older versions of resource.k8s.io say otherwise: v1beta1 has no ``exactly`` in a request, and ``basic`` in a device.

Source: pkg/apis/resource/v1beta1/conversion.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaa.api.resources import Resource

Json = dict[str, Any]
FLAT = "resource.k8s.io/v1beta1"
_EXACT = ("deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity")


def across(document: Json, obj: Any, resource: Resource[Any]) -> Json:
    """The document of ``obj`` in the words of the version that ``resource`` serves."""
    if FLAT not in (obj.API_VERSION, resource.api_version):
        return document
    into = resource.api_version == FLAT
    spec = document.get("spec") or {}
    if obj.KIND == "ResourceClaimTemplate":
        spec = spec.get("spec") or {}
    if obj.KIND == "ResourceSlice":
        _each(spec, "devices", _with_basic if into else _without_basic)
    elif obj.KIND in ("ResourceClaim", "ResourceClaimTemplate"):
        _each(spec.get("devices") or {}, "requests", _flat if into else _exact)
    return document


def _each(owner: Json, name: str, change: Callable[[Json], Json]) -> None:
    if name in owner:
        owner[name] = [change(one) for one in owner[name]]


def _flat(request: Json) -> Json:
    return {key: value for key, value in request.items() if key != "exactly"} | (request.get("exactly") or {})


def _exact(request: Json) -> Json:
    exactly = {key: request[key] for key in _EXACT if key in request}
    kept = {key: value for key, value in request.items() if key not in _EXACT}
    return kept | {"exactly": exactly} if exactly else kept


def _with_basic(device: Json) -> Json:
    return {"name": device.get("name", ""), "basic": {key: value for key, value in device.items() if key != "name"}}


def _without_basic(device: Json) -> Json:
    return {"name": device.get("name", "")} | (device.get("basic") or {})
