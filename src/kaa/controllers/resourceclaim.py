"""ResourceClaims of pods: made from templates, reserved while a pod may run, let go when it has ended.

The scheduler allocates devices and reserves claims; here claims are generated for pods, and reservations of pods that are
gone or over are dropped, with the allocation when nobody is left. What was generated for a pod goes when the pod is over.

Source: API concepts "Dynamic Resource Allocation"; kubernetes pkg/controller/resourceclaim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from kaa.api.device_claims import FINALIZER
from kaa.api.errors import ApiError, NotFound
from kaa.api.types.core_v1 import Pod, PodResourceClaim, PodResourceClaimStatus
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.resource_v1 import (
    ResourceClaim,
    ResourceClaimConsumerReference,
    ResourceClaimTemplate,
)
from kaa.client.client import PatchType
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller, refused_since_it_ends
from .owners import BY_CONTROLLER, add_owner_indexes, controller_of
from .pods import controller_reference, is_finished

#: Which entry of the pod a generated claim is for.
POD_CLAIM = "resource.kubernetes.io/pod-claim-name"


def is_over(pod: Pod) -> bool:
    """Whether a pod runs no more and never will: it ended, or was deleted before it had a node."""
    return is_finished(pod) or (pod.metadata.deletion_timestamp is not None and not pod.spec.node_name)


def claim_from(pod: Pod, entry: PodResourceClaim, template: ResourceClaimTemplate) -> ResourceClaim:
    """The claim that a template describes, for one entry of a pod."""
    given = template.spec.metadata
    meta = ObjectMeta(
        generate_name=f"{pod.metadata.name}-{entry.name}-"[:57],
        namespace=pod.metadata.namespace,
        labels=given.labels,
        annotations={**given.annotations, POD_CLAIM: entry.name},
        owner_references=(controller_reference(pod),),
    )
    return ResourceClaim(metadata=meta, spec=template.spec.spec)


def missing(pod: Pod, claims: Iterable[ResourceClaim]) -> dict[str, ResourceClaim | None]:
    """{entry: the claim that stands for it already, but is not in the pod's status; None: it must be made}."""
    told = {status.name for status in pod.status.resource_claim_statuses}
    mine = {c.metadata.annotations.get(POD_CLAIM, ""): c for c in claims if _is_of(c, pod)}
    return {
        entry.name: mine.get(entry.name)
        for entry in pod.spec.resource_claims
        if entry.resource_claim_template_name and entry.name not in told
    }


def _is_of(claim: ResourceClaim, pod: Pod) -> bool:
    owner = controller_of(claim)
    return owner is not None and owner.uid == pod.metadata.uid and claim.metadata.deletion_timestamp is None


def released(claim: ResourceClaim, holds: Callable[[ResourceClaimConsumerReference], bool]) -> ResourceClaim | None:
    """The claim without reservations of those who hold it no more, and then without what was allocated to nobody; None
    when nothing changes."""
    kept = tuple(each for each in claim.status.reserved_for if holds(each))
    status = replace(claim.status, reserved_for=kept)
    if not kept and claim.status.reserved_for and claim.status.allocation is not None:
        status = replace(status, allocation=None)
    ending = claim.metadata.deletion_timestamp is not None
    if ending and not kept and claim.status.allocation is not None:
        status = replace(status, allocation=None)
    return None if status == claim.status else replace(claim, status=status)


class ResourceClaims(Controller[tuple[str, Key]]):
    """Keys are ("pod", its key) and ("claim", its key)."""

    name = "resource-claim-controller"
    component = "resource_claim"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pods = self.informers.of(Pod)
        self.templates = self.watch(ResourceClaimTemplate, self._on_template)
        self.claims = self.watch(ResourceClaim, self._on_claim)
        add_owner_indexes(self.claims)
        self.watch(Pod, self._on_pod)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        if not pod.spec.resource_claims and pod.status.extended_resource_claim_status is None:
            return
        if new is not None and not is_over(new):
            self.queue.add(("pod", key_of(new)))
            return
        for name in self._claim_names(pod):
            self.queue.add(("claim", Key(pod.metadata.namespace or "", name)))

    @staticmethod
    def _claim_names(pod: Pod) -> set[str]:
        told = {s.resource_claim_name for s in pod.status.resource_claim_statuses}
        extended = pod.status.extended_resource_claim_status
        if extended is not None:
            told.add(extended.resource_claim_name)
        return {name for name in (*told, *(e.resource_claim_name for e in pod.spec.resource_claims)) if name}

    def _on_template(self, old: ResourceClaimTemplate | None, new: ResourceClaimTemplate | None) -> None:
        """Pods may have been waiting for it."""
        if old is None and new is not None:
            for pod in self.pods.in_namespace(new.metadata.namespace or ""):
                if any(e.resource_claim_template_name == new.metadata.name for e in pod.spec.resource_claims):
                    self.queue.add(("pod", key_of(pod)))

    def _on_claim(self, old: ResourceClaim | None, new: ResourceClaim | None) -> None:
        if new is not None:
            self.queue.add(("claim", key_of(new)))
        owner = controller_of(old) if old is not None and new is None else None
        if owner is not None and owner.kind == "Pod":
            self.queue.add(("pod", Key(key_of(old).namespace, owner.name)))

    async def reconcile(self, key: tuple[str, Key]) -> None:
        kind, where = key
        if kind == "pod":
            pod = self.pods.by_key(where)
            if pod is not None and not is_over(pod) and pod.metadata.deletion_timestamp is None:
                await self._make_claims(pod)
            return
        claim = self.claims.by_key(where)
        if claim is not None:
            await self._let_go(claim)

    # ---------------------------------------------------------------------------------------------- for pods

    async def _make_claims(self, pod: Pod) -> None:
        wanted = missing(pod, self.claims.by_index(BY_CONTROLLER, pod.metadata.uid or ""))
        told = list(pod.status.resource_claim_statuses)
        for name, claim in wanted.items():
            made = claim if claim is not None else await self._make(pod, name)
            if made is not None:
                told.append(PodResourceClaimStatus(name=name, resource_claim_name=made.metadata.name))
        if len(told) == len(pod.status.resource_claim_statuses):
            return
        entries = [{"name": s.name, "resourceClaimName": s.resource_claim_name} for s in told]
        patch: dict[str, Any] = {
            "metadata": {"uid": pod.metadata.uid},
            "status": {"resourceClaimStatuses": entries},
        }
        name, namespace = pod.metadata.name or "", pod.metadata.namespace
        try:
            await self.client.patch(Pod, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")
        except NotFound:
            return

    async def _make(self, pod: Pod, name: str) -> ResourceClaim | None:
        entry = next(each for each in pod.spec.resource_claims if each.name == name)
        template_name = entry.resource_claim_template_name or ""
        try:
            template = self.templates.get(template_name, pod.metadata.namespace)
            if template is None:
                raise NotFound(f'resource claim template "{template_name}": not found')
            made = await self.client.create(claim_from(pod, entry, template))
        except ApiError as err:
            if refused_since_it_ends(err):
                return None
            text = f"PodResourceClaim {name}: {err}"
            self.events.event(pod, "Warning", "FailedResourceClaimCreation", text)
            raise
        await self.claims.shows(made.metadata.resource_version)
        return made

    # ---------------------------------------------------------------------------------------------- for claims

    async def _let_go(self, claim: ResourceClaim) -> None:
        """A claim that is free and was not before is no longer protected: the scheduler protects one before it allocates."""
        wanted = released(claim, lambda consumer: self._holds(claim, consumer))
        try:
            if wanted is not None:
                claim = await self.client.update_status(wanted)
                await self.claims.shows(claim.metadata.resource_version)
            ended = wanted is not None or claim.metadata.deletion_timestamp is not None
            if ended and FINALIZER in claim.metadata.finalizers and claim.status.allocation is None:
                left = tuple(each for each in claim.metadata.finalizers if each != FINALIZER)
                claim = await self.client.update(replace(claim, metadata=replace(claim.metadata, finalizers=left)))
            if self._was_for_a_pod_that_is_over(claim):
                await self.client.delete(ResourceClaim, claim.metadata.name or "", claim.metadata.namespace)
        except NotFound:
            return

    def _holds(self, claim: ResourceClaim, consumer: ResourceClaimConsumerReference) -> bool:
        """Whether a consumer is there still. Of others than pods nothing is known: they hold it."""
        if consumer.resource != "pods" or consumer.api_group:
            return True
        pod = self.pods.get(consumer.name, claim.metadata.namespace)
        return pod is not None and pod.metadata.uid == consumer.uid and not is_over(pod)

    def _was_for_a_pod_that_is_over(self, claim: ResourceClaim) -> bool:
        owner = controller_of(claim)
        if owner is None or owner.kind != "Pod" or claim.metadata.deletion_timestamp is not None:
            return False
        pod = self.pods.get(owner.name, claim.metadata.namespace)
        return pod is not None and pod.metadata.uid == owner.uid and is_over(pod)
