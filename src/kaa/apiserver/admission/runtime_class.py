"""RuntimeClass: the overhead and the nodes that a pod's runtime asks for. Source: plugin/pkg/admission/runtimeclass."""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api import quantity
from kaa.api.types.core_v1 import Pod
from kaa.api.types.node_v1 import RuntimeClass as RuntimeClassObject
from kaa.api.values import Quantity

from ..view import View
from .base import Attributes
from .plugin import Passive, refuse


class RuntimeClass(Passive):
    name = "RuntimeClass"
    kinds = frozenset({"pods"})

    async def admit(self, attributes: Attributes, view: View) -> None:
        found = _found(attributes, view)
        if found is None:
            return
        pod: Pod = attributes.object
        spec = pod.spec
        overhead = found.overhead.pod_fixed if found.overhead else {}
        if overhead:
            if spec.overhead and not _same(spec.overhead, overhead):
                raise refuse(attributes, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
            spec = replace(spec, overhead=overhead)
        if found.scheduling is not None:
            wanted = found.scheduling.node_selector
            clash = next((k for k, v in wanted.items() if spec.node_selector.get(k, v) != v), None)
            if clash is not None:
                why = f"conflict: runtimeClass.scheduling.nodeSelector[{clash}] = {wanted[clash]}; pod.spec.nodeSelector[{clash}] = {spec.node_selector[clash]}"
                raise refuse(attributes, why)
            extra = tuple(t for t in found.scheduling.tolerations if t not in spec.tolerations)
            spec = replace(spec, node_selector={**spec.node_selector, **wanted}, tolerations=spec.tolerations + extra)
        attributes.object = replace(pod, spec=spec)

    async def validate(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "CREATE" or not attributes.on("pods"):
            return
        pod: Pod = attributes.object
        if not pod.spec.overhead:
            return
        found = _found(attributes, view)
        if found is None or found.overhead is None or not _same(pod.spec.overhead, found.overhead.pod_fixed):
            raise refuse(
                attributes, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
            )


def _same(left: dict[str, Quantity], right: dict[str, Quantity]) -> bool:
    return left.keys() == right.keys() and all(quantity.parse(left[k]) == quantity.parse(right[k]) for k in left)


def _found(attributes: Attributes, view: View) -> RuntimeClassObject | None:
    """The class that a new pod names. Raises Forbidden when there is none of the name."""
    if attributes.operation != "CREATE" or not attributes.on("pods"):
        return None
    name = attributes.object.spec.runtime_class_name
    if not name:
        return None
    found = view.get(RuntimeClassObject, name)
    if found is None:
        raise refuse(attributes, f'pod rejected: RuntimeClass "{name}" not found')
    return found
