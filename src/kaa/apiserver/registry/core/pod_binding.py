"""Binding a pod to a node: what the scheduler's answer does to the pod.

Source: pkg/registry/core/pod/storage (BindingREST, setPodNodeAndMetadata).
"""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api import errors, fields, names
from kaa.api.clock import format_time
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import Binding, Pod, PodCondition


def validate_binding(binding: Binding) -> list[FieldError]:
    """Source: pkg/apis/core/validation ValidatePodBinding."""
    target, at = binding.target, Path("target")
    if target.kind and target.kind != "Node":
        return [fields.not_supported(at.child("kind"), target.kind, ("Node", "<empty>"))]
    if not target.name:
        return [fields.required(at.child("name"))]
    return [fields.invalid(at.child("name"), target.name, fault) for fault in names.path_segment(target.name)]


def bind(pod: Pod, binding: Binding, now: float) -> Pod:
    """The pod on its node, marked as scheduled at ``now`` (seconds since 1970).

    Raises: Conflict: the pod is going away, gated, another pod by that name, or on a node already.
    """
    name, node = pod.metadata.name or "", binding.target.name or ""
    why = ""
    if binding.metadata.uid and binding.metadata.uid != pod.metadata.uid:
        why = (
            f"Precondition failed: UID in precondition: {binding.metadata.uid}, UID in object meta: {pod.metadata.uid}"
        )
    elif pod.metadata.deletion_timestamp is not None:
        why = f"pod {name} is being deleted, cannot be assigned to a host"
    elif pod.spec.node_name:
        why = f'pod {name} is already assigned to node "{pod.spec.node_name}"'
    elif pod.spec.scheduling_gates:
        why = f"pod {name} has non-empty .spec.schedulingGates"
    if why:
        raise _conflict(name, why)
    metadata = pod.metadata
    if binding.metadata.annotations or binding.metadata.labels:
        metadata = replace(
            metadata,
            annotations={**metadata.annotations, **binding.metadata.annotations},
            labels={**metadata.labels, **binding.metadata.labels},
        )
    status = replace(pod.status, conditions=_scheduled(pod, now))
    return replace(pod, metadata=metadata, spec=replace(pod.spec, node_name=node), status=status)


def _conflict(name: str, why: str) -> errors.ApiError:
    message = f'Operation cannot be fulfilled on pods/binding "{name}": {why}'
    return errors.Conflict(message, name=name, kind="pods/binding")


def _scheduled(pod: Pod, now: float) -> tuple[PodCondition, ...]:
    """The conditions with PodScheduled true; one that was true already keeps its time."""
    kept = [condition for condition in pod.status.conditions if condition.type != "PodScheduled"]
    before = next((condition for condition in pod.status.conditions if condition.type == "PodScheduled"), None)
    if before is not None and before.status == "True":
        return pod.status.conditions
    made = PodCondition(
        type="PodScheduled",
        status="True",
        observed_generation=pod.metadata.generation,
        last_transition_time=format_time(now),
    )
    return (*kept, made)
