"""Priority: a pod's class becomes its number; and only one class is everyone's default.

Source: plugin/pkg/admission/priority.
"""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api.types.core_v1 import Pod, PodSpec
from kaa.api.types.scheduling_v1 import PriorityClass

from ..bootstrap.objects import priority_classes
from ..memo import Memo
from ..view import View
from .base import Attributes
from .plugin import Passive, refuse

_BUILT_IN = {p.metadata.name: p for p in priority_classes()}


class Priority(Passive):
    name = "Priority"
    kinds = frozenset({"pods", "priorityclasses"})

    def __init__(self) -> None:
        self._default: tuple[int, PriorityClass | None] = (-1, None)

    async def admit(self, attributes: Attributes, view: View) -> None:
        if not attributes.on("pods"):
            return
        if attributes.operation == "CREATE":
            attributes.object = self._with_priority(attributes, view)
        elif attributes.operation == "UPDATE":
            attributes.object = _kept(attributes.object, attributes.old)

    async def validate(self, attributes: Attributes, view: View) -> None:
        if attributes.operation not in ("CREATE", "UPDATE") or not attributes.on(
            "priorityclasses", "scheduling.k8s.io"
        ):
            return
        wanted: PriorityClass = attributes.object
        present = self.default_class(view) if wanted.global_default else None
        if present is not None and present.metadata.name != wanted.metadata.name:
            why = f"PriorityClass {present.metadata.name} is already marked as default. Only one default can exist"
            raise refuse(attributes, why)

    def _with_priority(self, attributes: Attributes, view: View) -> Pod:
        pod: Pod = attributes.object
        name = pod.spec.priority_class_name
        if name:
            found = view.get(PriorityClass, name) or _BUILT_IN.get(name)
            if found is None:
                raise refuse(attributes, f"no PriorityClass with name {name} was found")
        else:
            found = self.default_class(view)
            name = found.metadata.name if found is not None else None
        value = (found.value or 0) if found is not None else 0
        policy = (found.preemption_policy if found is not None else None) or "PreemptLowerPriority"
        spec = pod.spec
        if spec.priority is not None and spec.priority != value:
            why = f"the integer value of priority ({spec.priority}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            raise refuse(attributes, why)
        if spec.preemption_policy is not None and spec.preemption_policy != policy:
            why = f"the string value of PreemptionPolicy ({spec.preemption_policy}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            raise refuse(attributes, why)
        return replace(pod, spec=_with(spec, name, value, policy))

    def default_class(self, view: View) -> PriorityClass | None:
        """The class marked as everyone's; of several, the lowest."""
        version = view.version(PriorityClass)
        if version != self._default[0]:
            marked = [p for p in view.list(PriorityClass) if p.global_default]
            self._default = (version, min(marked, key=lambda p: p.value or 0, default=None))
        return self._default[1]


@Memo
def _with(spec: PodSpec, name: str | None, value: int, policy: str) -> PodSpec:
    return replace(spec, priority_class_name=name, priority=value, preemption_policy=policy)


def _kept(new: Pod, old: Pod) -> Pod:
    """An update without them keeps priority and policy."""
    spec = new.spec
    if spec.priority is None and old.spec.priority is not None:
        spec = replace(spec, priority=old.spec.priority)
    if spec.preemption_policy is None and old.spec.preemption_policy is not None:
        spec = replace(spec, preemption_policy=old.spec.preemption_policy)
    return new if spec is new.spec else replace(new, spec=spec)
