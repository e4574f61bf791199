"""NamespaceLifecycle: nothing new in a namespace that is missing or going, and the system's own never go.

Source: apiserver pkg/admission/plugin/namespace/lifecycle.
"""

from __future__ import annotations

from kaa.api.errors import Forbidden, NotFound
from kaa.api.scheme import resource_of
from kaa.api.types.core_v1 import Namespace
from kaa.api.types.meta_v1 import StatusCause

from ..view import View
from .base import Attributes
from .plugin import Passive, object_name, refuse

IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
_ACCESS_REVIEW = "localsubjectaccessreviews"


class NamespaceLifecycle(Passive):
    name = "NamespaceLifecycle"

    async def admit(self, attributes: Attributes, view: View) -> None:
        request = attributes.request
        if attributes.operation == "DELETE" and attributes.on("namespaces") and request.name in IMMORTAL:
            raise Forbidden.of(request.resource, request.name, "this namespace may not be deleted")
        if attributes.operation != "CREATE" or not request.namespace or not request.resource.namespaced:
            return
        if request.resource.plural == _ACCESS_REVIEW:
            return
        namespace = view.get(Namespace, request.namespace)
        if namespace is None:
            raise NotFound.of(resource_of(Namespace), request.namespace)
        if namespace.metadata.deletion_timestamp or namespace.status.phase == "Terminating":
            raise _terminating(attributes, request.namespace)


def _terminating(attributes: Attributes, namespace: str) -> Forbidden:
    why = f"unable to create new content in namespace {namespace} because it is being terminated"
    message = f"namespace {namespace} is being terminated"
    cause = StatusCause(reason="NamespaceTerminating", message=message, field="metadata.namespace")
    resource, name = attributes.request.resource, object_name(attributes)
    return Forbidden(
        refuse(attributes, why).message, name=name, group=resource.group, kind=resource.plural, causes=(cause,)
    )
