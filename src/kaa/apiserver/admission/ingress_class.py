"""DefaultIngressClass: an ingress that names no class is given the default. Source: plugin/pkg/admission/network."""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api.types.networking_v1 import Ingress, IngressClass

from ..view import View
from .base import Attributes
from .plugin import Passive

DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
OLD_CLASS = "kubernetes.io/ingress.class"


class DefaultIngressClass(Passive):
    name = "DefaultIngressClass"
    kinds = frozenset({"ingresses"})

    async def admit(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "CREATE" or not attributes.on("ingresses", "networking.k8s.io"):
            return
        ingress: Ingress = attributes.object
        if ingress.spec.ingress_class_name is not None or OLD_CLASS in ingress.metadata.annotations:
            return
        marked = [c for c in view.list(IngressClass) if c.metadata.annotations.get(DEFAULT_CLASS) == "true"]
        newest = max((c.metadata.creation_timestamp or "" for c in marked), default="")
        latest = [c for c in marked if (c.metadata.creation_timestamp or "") == newest]
        if latest:
            name = min(c.metadata.name or "" for c in latest)
            attributes.object = replace(ingress, spec=replace(ingress.spec, ingress_class_name=name))
