"""The scale subresource: one shape for everything that counts replicas.

Source: pkg/registry/apps/deployment/storage (ScaleREST); pkg/apis/autoscaling/validation ValidateScale.
"""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec.structs import replace

from kaa.api import selectors
from kaa.api.errors import Invalid
from kaa.api.fields import Path
from kaa.api.types.autoscaling_v1 import Scale, ScaleSpec, ScaleStatus
from kaa.api.types.core_v1 import ReplicationController
from kaa.api.types.meta_v1 import ObjectMeta

from ..validation.common import not_negative

T = TypeVar("T")


def scale_of(obj: Any) -> Scale:
    """The scale of a deployment, replica set, stateful set or replication controller."""
    if isinstance(obj, ReplicationController):
        selector = str(selectors.from_labels(obj.spec.selector))
    else:
        selector = str(selectors.from_label_selector(obj.spec.selector))
    current = obj.status.replicas if obj.status is not None else 0
    return Scale(
        metadata=scale_metadata(obj.metadata),
        spec=ScaleSpec(replicas=obj.spec.replicas),
        status=ScaleStatus(replicas=current or 0, selector=selector or None),
    )


def with_scale(obj: T, scale: Scale) -> T:
    """``obj`` with the replicas that ``scale`` asks for; an absent number is none."""
    spec = replace(obj.spec, replicas=scale.spec.replicas or 0)  # type: ignore[attr-defined]  # all that scale have one
    made: T = replace(obj, spec=spec)  # type: ignore[type-var]
    return made


def scale_metadata(metadata: ObjectMeta) -> ObjectMeta:
    """What a scale says of the object that it belongs to."""
    return ObjectMeta(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        resource_version=metadata.resource_version,
        creation_timestamp=metadata.creation_timestamp,
    )


def checked(scale: Scale) -> Scale:
    """A scale that a client has sent. Raises Invalid: it asks for fewer than none."""
    faults = list(not_negative(Path("spec"), "replicas", scale.spec.replicas))
    if faults:
        raise Invalid.of("autoscaling", "Scale", scale.metadata.name or "", faults)
    return scale
