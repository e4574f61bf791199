"""How events name one container of a pod: the pod, and the path to the container in it."""

from __future__ import annotations

from kaa.api.types.core_v1 import ObjectReference, Pod


def container_reference(pod: Pod, name: str) -> ObjectReference:
    """The pod with ``spec.containers{web}`` for its field. Source: kubecontainer.GenerateContainerRef."""
    meta = pod.metadata
    return ObjectReference(
        kind="Pod",
        api_version="v1",
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        field_path=f"spec.{_list_of(pod, name)}{{{name}}}",
    )


def _list_of(pod: Pod, name: str) -> str:
    if any(c.name == name for c in pod.spec.init_containers):
        return "initContainers"
    if any(c.name == name for c in pod.spec.ephemeral_containers):
        return "ephemeralContainers"
    return "containers"
