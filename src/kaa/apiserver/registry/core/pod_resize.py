"""The resize subresource of pods: other amounts of cpu and memory, and nothing else.

Source: pkg/registry/core/pod/strategy.go (podResizeStrategy), pkg/apis/core/validation ValidatePodResize.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import Container, Pod, ResourceRequirements

from ...validation import pods as pod_rules
from ...validation import resources as resource_rules
from ...validation.internal import diff
from . import pod_defaults
from .pod_qos import COMPUTE, qos_class


def resized(new: Pod, old: Pod) -> Pod:
    """``old`` with the resources and resize policies of ``new``. Containers stand as ``new`` has them, for validation."""
    wanted = pod_defaults.pod(new)

    def of(mine: Sequence[Container], its: Sequence[Container]) -> tuple[Container, ...]:
        by_name = {one.name: one for one in its}
        return tuple(
            replace(by_name[one.name], resources=one.resources, resize_policy=one.resize_policy)
            if one.name in by_name
            else one
            for one in mine
        )

    spec = replace(
        old.spec,
        containers=of(wanted.spec.containers, old.spec.containers),
        init_containers=of(wanted.spec.init_containers, old.spec.init_containers),
        resources=wanted.spec.resources,
    )
    return replace(old, metadata=new.metadata, spec=spec)


def faults(new: Pod, old: Pod) -> Iterator[FieldError]:
    spec = Path("spec")
    lists = (
        ("containers", new.spec.containers, old.spec.containers),
        ("initContainers", new.spec.init_containers, old.spec.init_containers),
    )
    disordered = [fault for wire, mine, its in lists for fault in _order_faults(wire, mine, its)]
    yield from disordered
    if disordered:
        return
    for wire, mine, its in lists:
        for n, (one, before) in enumerate(zip(mine, its, strict=True)):
            at = spec.child(wire).index(n).child("resources")
            yield from resource_rules.requirements(one.resources, at)
            for side in ("limits", "requests"):
                if getattr(before.resources, side).keys() - getattr(one.resources, side).keys():
                    yield fields.forbidden(at.child(side), f"resource {side} cannot be removed")
    yield from _removed(new.spec.resources, old.spec.resources, spec.child("resources"))
    if new.spec.resources is not None:
        yield from pod_rules.pod_resources(new.spec, spec.child("resources"))
    if qos_class(new.spec) != (old.status.qos_class or qos_class(old.spec)):
        detail = "Pod QOS Class may not change as a result of resizing"
        yield fields.invalid(spec, qos_class(new.spec), detail)
    unsized = replace(
        new.spec,
        containers=tuple(map(_with_old_size, new.spec.containers, old.spec.containers)),
        init_containers=tuple(
            _with_old_size(one, before) if one.restart_policy == "Always" else one  # the others are over
            for one, before in zip(new.spec.init_containers, old.spec.init_containers, strict=True)
        ),
        resources=_with_old_amounts(new.spec.resources, old.spec.resources),
    )
    if unsized != old.spec:
        detail = f"only cpu and memory resources are mutable\n{diff(old.spec, unsized)}"
        yield fields.forbidden(spec, detail)


def _removed(mine: ResourceRequirements | None, its: ResourceRequirements | None, path: Path) -> Iterator[FieldError]:
    """What a pod asks for as a whole cannot be given up."""
    for side in ("limits", "requests"):
        before, now = (getattr(one, side) if one is not None else {} for one in (its, mine))
        if before.keys() - now.keys():
            yield fields.forbidden(path.child(side), f"resource {side} cannot be removed")


def _with_old_amounts(
    mine: ResourceRequirements | None, its: ResourceRequirements | None
) -> ResourceRequirements | None:
    """A pod's own resources with the cpu and memory of before."""
    if mine is None or its is None:
        return its
    limits, requests = _old_amounts(mine.limits, its.limits), _old_amounts(mine.requests, its.requests)
    return replace(mine, limits=limits, requests=requests)


def _order_faults(wire: str, mine: Sequence[Container], its: Sequence[Container]) -> Iterator[FieldError]:
    path = Path("spec").child(wire)
    if len(mine) != len(its):
        yield fields.forbidden(path, f"{wire} may not be added or removed on resize")
        return
    for n, (one, before) in enumerate(zip(mine, its, strict=True)):
        if one.name != before.name:
            yield fields.forbidden(path.index(n).child("name"), f"{wire} may not be renamed or reordered on resize")


def _with_old_size(one: Container, before: Container) -> Container:
    """A container with the cpu and memory of before, and its resize policy: what still differs may not."""
    limits = _old_amounts(one.resources.limits, before.resources.limits)
    requests = _old_amounts(one.resources.requests, before.resources.requests)
    resources = replace(one.resources, limits=limits, requests=requests)
    return replace(one, resources=resources, resize_policy=before.resize_policy)


def _old_amounts(mine: Mapping[str, str], its: Mapping[str, str]) -> dict[str, str]:
    kept = {name: amount for name, amount in mine.items() if name not in COMPUTE}
    return {**kept, **{name: amount for name, amount in its.items() if name in COMPUTE}}
