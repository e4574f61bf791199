"""What pods and ResourceClaims say of each other, and which taints of devices are tolerated. No I/O.

The scheduler, the controllers and the kubelet decide by it alike.

Source: k8s.io/dynamic-resource-allocation resourceclaim.
"""

from __future__ import annotations

from .types.core_v1 import Pod, PodResourceClaim
from .types.resource_v1 import (
    DeviceTaint,
    DeviceToleration,
    ResourceClaim,
    ResourceClaimConsumerReference,
)

#: What keeps a claim from going while it is allocated.
FINALIZER = "resource.kubernetes.io/delete-protection"
MOST_CONSUMERS = 256
MOST_RESULTS = 32
MOST_ENTRIES = 32  #: attributes and capacities of a device
DOMAIN_LENGTH, NAME_LENGTH, VALUE_LENGTH = 63, 32, 64  #: of an attribute


def actual_name(pod: Pod, claim: PodResourceClaim) -> tuple[str | None, bool, str]:
    """(name of the ResourceClaim behind a pod's claim, whether it is the pod's own, what is wrong)."""
    where = f'pod "{pod.metadata.namespace}/{pod.metadata.name}"'
    if claim.resource_claim_name is not None:
        return claim.resource_claim_name, False, ""
    if claim.resource_claim_template_name is None:
        return None, False, f'{where}, spec.resourceClaim "{claim.name}": none of the supported fields are set'
    for status in pod.status.resource_claim_statuses:
        if status.name == claim.name:
            return status.resource_claim_name, True, ""
    return None, True, f"{where}: ResourceClaim not created yet"


def foreign_fault(pod: Pod, claim: ResourceClaim) -> str:
    """What is wrong with a claim that was made for somebody else; empty when it was made for the pod."""
    meta, own = claim.metadata, pod.metadata
    if any(ref.controller and ref.uid == own.uid for ref in meta.owner_references):
        return ""
    return (
        f"ResourceClaim {meta.namespace}/{meta.name} was not created for pod {own.namespace}/{own.name}"
        " (pod is not owner)"
    )


def is_reserved_for(pod: Pod, claim: ResourceClaim) -> bool:
    return any(ref.uid == pod.metadata.uid for ref in claim.status.reserved_for)


def can_be_reserved(claim: ResourceClaim) -> bool:
    """Whether one more may use it."""
    return len(claim.status.reserved_for) < MOST_CONSUMERS


def consumer(pod: Pod) -> ResourceClaimConsumerReference:
    """How a claim names a pod that uses it."""
    return ResourceClaimConsumerReference(resource="pods", name=pod.metadata.name or "", uid=pod.metadata.uid or "")


def tolerates(toleration: DeviceToleration, taint: DeviceTaint) -> bool:
    """Whether a toleration covers a taint. An empty key covers every key, an empty effect every effect."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    match toleration.operator or "Equal":
        case "Equal":
            return (toleration.value or "") == (taint.value or "")
        case "Exists":
            return True
    return False
