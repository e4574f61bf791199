"""Volumes that must be attached to a node before a pod can mount them: a VolumeAttachment each, made and taken away.

What does the attaching is the CSI driver's external attacher, which follows VolumeAttachments. What is attached is what they
say; what should be, what pods that stand on nodes ask for. Nothing is taken from under a pod: a volume leaves its node's
``status.volumesAttached`` first, then the node is asked once more whether it is in use (``volumesInUse``), then the attachment
goes. A kubelet does it the other way round, so one of the two sees the other. Of a node that is silent or out of service
nothing more is to be heard: there it goes without.

Volumes that need no attaching (local ones, those of drivers with ``attachRequired: false``) are nobody's business here.

Source: kubernetes pkg/controller/volume/attachdetach; pkg/volume/csi/csi_attacher.go.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from kaa.api.clock import parse_time
from kaa.api.errors import AlreadyExists, ApiError, NotFound
from kaa.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim, Pod
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta, Preconditions
from kaa.api.types.storage_v1 import CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec
from kaa.api.volume_match import claim_names, foreign_claim_fault
from kaa.client.workqueue import WorkQueue

from .attachments import (
    Disk,
    Plan,
    Standing,
    attachment_name,
    blocked_text,
    disk_of,
    is_over,
    is_ready,
    is_shared,
    plan,
)
from .controller import Context, Controller, in_parallel
from .persistentvolume import BY_CLAIM, claims_of
from .podgc import BY_NODE, OUT_OF_SERVICE

T = TypeVar("T")

RETRY_S, RETRY_MAX_S = 0.5, 122.0
#: How long an external attacher may take until it is told of.
ATTACH_S = 120.0
MANAGED = "volumes.kubernetes.io/controller-managed-attach-detach"
KEEPS_ENDED = "volumes.kubernetes.io/keep-terminated-pod-volumes"
BY_HANDLE, BY_VOLUME = "driver and handle", "persistent volume"


# ------------------------------------------------------------------------------------------------ doing


class NotYet(ApiError):
    """A volume could not be attached or detached; tried again later."""


@dataclass(frozen=True, slots=True)
class Users:
    """Who asks for a volume on one node, the first asker first, and by which PersistentVolume."""

    volume: PersistentVolume
    pods: list[Pod]


class AttachDetach(Controller[Disk | str]):
    """Keys are volumes, and names of nodes of which the status tells what is attached to them."""

    name = "attachdetach-controller"
    workers = 10

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.queue = WorkQueue(context.clock, base_s=RETRY_S, max_s=RETRY_MAX_S)
        self._since: dict[Disk, dict[str, float]] = {}  #: {volume: {node: since when nobody there wants it, monotonic}}
        self._told: dict[Disk, set[str]] = {}  #: {volume: nodes whose pods know that others have it}
        self._unsure: dict[Disk, set[str]] = {}  #: {volume: nodes where one may have been made, or gone, unheard}
        self._leaving: set[tuple[Disk, str]] = set()  #: what no node may be told of any more
        self._last_used: dict[str, tuple[str, ...]] = {}  #: {node that is gone: what it used to the last}
        self._reporting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        informers = context.informers
        informers.of(Pod).add_index(BY_CLAIM, claims_of)
        informers.of(Pod).add_index(BY_NODE, lambda pod: (pod.spec.node_name or "",))
        informers.of(PersistentVolume).add_index(BY_HANDLE, lambda each: (str(disk_of(each)),) if each.spec.csi else ())
        informers.of(VolumeAttachment).add_index(
            BY_VOLUME, lambda each: filter(None, (each.spec.source.persistent_volume_name,))
        )
        informers.of(VolumeAttachment).add_index(BY_NODE, lambda each: (each.spec.node_name,))
        self.drivers = self.watch(CSIDriver, self._on_driver)
        self.volumes = self.watch(PersistentVolume, self._on_volume)
        self.claims = self.watch(PersistentVolumeClaim, self._on_claim)
        self.nodes = self.watch(Node, self._on_node)
        self.pods = self.watch(Pod, self._on_pod)
        self.attachments = self.watch(VolumeAttachment, self._on_attachment)

    # ------------------------------------------------------------------------------------------ wiring

    def _on_driver(self, old: CSIDriver | None, new: CSIDriver | None) -> None:
        driver = new or old
        assert driver is not None
        if _differ(old, new, lambda each: each.spec.attach_required):
            for volume in self.volumes:
                if volume.spec.csi is not None and volume.spec.csi.driver == driver.metadata.name:
                    self._look_at(volume)

    def _on_volume(self, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        if _differ(old, new, lambda each: each.spec):
            self._look_at(old)
            self._look_at(new)

    def _on_claim(self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
        if _differ(old, new, lambda each: (each.spec, each.status.phase, each.metadata.owner_references)):
            self._look_at_claimed(old)
            self._look_at_claimed(new)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        if claim_names(pod) and _differ(old, new, _place):
            self._look_at_used(pod)

    def _on_attachment(self, old: VolumeAttachment | None, new: VolumeAttachment | None) -> None:
        attachment = new or old
        assert attachment is not None
        self._look_at(self.volumes.get(attachment.spec.source.persistent_volume_name or ""))
        self.queue.add(attachment.spec.node_name)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        node = new or old
        assert node is not None
        name, standing = node.metadata.name or "", self.attachments.by_index(BY_NODE, node.metadata.name or "")
        if new is not None:
            self._last_used.pop(name, None)
        else:
            self._reporting.pop(name, None)
            if standing:
                self._last_used[name] = _in_use(node)
        if _differ(old, new, _facts) or _differ(old, new, _attached_to):
            self.queue.add(name)
        if _differ(old, new, _facts):
            for attachment in standing:
                self._look_at(self.volumes.get(attachment.spec.source.persistent_volume_name or ""))
        if _differ(old, new, _rules):
            for pod in self.pods.by_index(BY_NODE, name):
                self._look_at_used(pod)

    def _look_at(self, volume: PersistentVolume | None) -> None:
        disk = disk_of(volume) if volume is not None else None
        if disk is not None:
            self.queue.add(disk)

    def _look_at_claimed(self, claim: PersistentVolumeClaim | None) -> None:
        if claim is not None and claim.spec.volume_name:
            self._look_at(self.volumes.get(claim.spec.volume_name))

    def _look_at_used(self, pod: Pod) -> None:
        for name, _ in claim_names(pod):
            self._look_at_claimed(self.claims.get(name, pod.metadata.namespace))

    # ------------------------------------------------------------------------------------------ what is, what should be

    def _needs_attaching(self, driver: str) -> bool:
        found = self.drivers.get(driver)
        return found is None or found.spec.attach_required is not False

    def _users(self, volumes: Iterable[PersistentVolume]) -> dict[str, Users]:
        """Who asks for a volume, by node: that which has asked longest first."""
        asked = [(volume, pod) for volume in volumes for pod in self._askers(volume)]
        asked.sort(key=lambda each: (each[1].metadata.creation_timestamp or "", each[1].metadata.name or ""))
        found: dict[str, Users] = {}
        for volume, pod in asked:
            found.setdefault(pod.spec.node_name or "", Users(volume, [])).pods.append(pod)
        return found

    def _askers(self, volume: PersistentVolume) -> list[Pod]:
        """The pods on nodes that use the claim a volume is bound to."""
        ref = volume.spec.claim_ref
        claim = self.claims.get(ref.name or "", ref.namespace) if ref is not None else None
        if ref is None or claim is None or claim.metadata.uid != ref.uid:
            return []
        if claim.status.phase != "Bound" or claim.spec.volume_name != volume.metadata.name:
            return []
        pods = self.pods.by_index(BY_CLAIM, f"{ref.namespace}/{ref.name}")
        return [pod for pod in pods if self._holds(pod, claim)]

    def _holds(self, pod: Pod, claim: PersistentVolumeClaim) -> bool:
        node = self.nodes.get(pod.spec.node_name) if pod.spec.node_name else None
        managed, keeps = _rules(node) if node is not None else (False, None)
        if not managed or (is_over(pod) and keeps != "true"):
            return False
        owned = dict(claim_names(pod)).get(claim.metadata.name or "", False)
        return not owned or not foreign_claim_fault(pod, claim)

    async def _hear_of_unsure(self, disk: Disk) -> None:
        """Find out what became of attachments that were asked for, or to go, when no answer came."""
        for node in tuple(self._unsure.get(disk, ())):
            name = attachment_name(disk, node)
            known = self.attachments.get(name)
            try:
                made = await self.client.get(VolumeAttachment, name)
                await self.attachments.shows(made.metadata.resource_version)
            except NotFound:
                await self.attachments.gone([known] if known is not None else [])
            self._sure(disk, node)

    def _sure(self, disk: Disk, node: str) -> None:
        """The cache shows what was done."""
        self._unsure[disk].discard(node)
        if not self._unsure[disk]:
            del self._unsure[disk]
        self._leaving.discard((disk, node))
        self.queue.add(node)

    def _found(
        self, disk: Disk, volumes: Iterable[PersistentVolume], nodes: Iterable[str]
    ) -> dict[str, VolumeAttachment]:
        """The attachments of a volume by node; ``nodes``: where there may be one made for a volume nobody knows."""
        named = [self.attachments.get(attachment_name(disk, node)) for node in nodes]
        names = [volume.metadata.name or "" for volume in volumes]
        found = [*named, *(each for name in names for each in self.attachments.by_index(BY_VOLUME, name))]
        return {
            each.spec.node_name: each
            for each in found
            if each is not None and each.metadata.name == attachment_name(disk, each.spec.node_name)
        }

    def _standing(self, disk: Disk, attachment: VolumeAttachment) -> Standing:
        name = attachment.spec.node_name
        node, since = self.nodes.get(name), self._since.get(disk, {}).get(name)
        return Standing(
            attached=_is_attached(attachment),
            leaving=attachment.metadata.deletion_timestamp is not None,
            in_use=self._is_in_use(disk, name),
            healthy=node is not None and is_ready(node),
            out_of_service=node is not None and _is_out_of_service(node),
            unwanted_s=0.0 if since is None else self.clock.monotonic() - since,
        )

    def _is_in_use(self, disk: Disk, name: str) -> bool:
        """By what the node said last; one of which nothing is known may well use it."""
        node = self.nodes.get(name)
        used = _in_use(node) if node is not None else self._last_used.get(name)
        return used is None or str(disk) in used

    # ------------------------------------------------------------------------------------------ a volume

    async def reconcile(self, key: Disk | str) -> float | None:
        if isinstance(key, Disk):
            return await self._volume(key)
        await self._report(key)
        return None

    async def _volume(self, disk: Disk) -> float | None:
        volumes = self.volumes.by_index(BY_HANDLE, str(disk))
        if not volumes or not self._needs_attaching(disk.driver):
            self._since.pop(disk, None)
            self._told.pop(disk, None)
            return None
        await self._hear_of_unsure(disk)
        users = self._users(volumes)
        found = self._found(disk, volumes, users)
        self._note_unwanted(disk, found, users)
        standing = {node: self._standing(disk, each) for node, each in found.items()}
        step = plan(tuple(users), standing, shared=is_shared(volumes))
        self._tell_blocked(disk, step, users)
        results = await in_parallel(
            [
                *(self._detach(disk, found[node], forced=forced) for node, forced in step.detach.items()),
                *(self._attach(disk, node, users[node]) for node in step.attach),
                *(self._await(disk, each, users[node]) for node, each in found.items() if node in users),
            ]
        )
        for node in found.keys() & users.keys():
            self.queue.add(node)  # it may not be told yet
        for result in results:
            if isinstance(result, Exception):
                raise result
        return min((each for each in (step.again_s, *results) if isinstance(each, float)), default=None)

    def _note_unwanted(self, disk: Disk, found: Iterable[str], users: Mapping[str, Users]) -> None:
        before, now = self._since.pop(disk, {}), self.clock.monotonic()
        since = {node: before.get(node, now) for node in found if node not in users}
        if since:
            self._since[disk] = since

    def _tell_blocked(self, disk: Disk, step: Plan, users: Mapping[str, Users]) -> None:
        told = self._told.pop(disk, set())
        for node, holders in step.blocked.items():
            others = [pod for holder in holders if holder in users for pod in users[holder].pods]
            for pod in users[node].pods if node not in told else ():
                self._tell(pod, f'Multi-Attach error for volume "{_name(users[node])}" {blocked_text(pod, others)}')
        if step.blocked:
            self._told[disk] = set(step.blocked)

    def _tell(self, pod: Pod, text: str) -> None:
        self.events.event(pod, "Warning", "FailedAttachVolume", text)

    def _failed(self, users: Users, why: str) -> NotYet:
        text = f'AttachVolume.Attach failed for volume "{_name(users)}" : {why}'
        for pod in users.pods:
            self._tell(pod, text)
        return NotYet(text)

    async def _attach(self, disk: Disk, node: str, users: Users) -> float | None:
        source = VolumeAttachmentSource(persistent_volume_name=_name(users))
        spec = VolumeAttachmentSpec(attacher=disk.driver, node_name=node, source=source)
        self._unsure.setdefault(disk, set()).add(node)
        try:
            meta = ObjectMeta(name=attachment_name(disk, node))
            made = await self.client.create(VolumeAttachment(metadata=meta, spec=spec))
        except AlreadyExists:  # the cache is behind
            return 0.0
        except (ApiError, OSError, TimeoutError) as err:
            raise self._failed(users, f"kubernetes.io/csi: attacher.Attach failed: {err}") from err
        await self.attachments.shows(made.metadata.resource_version)
        self._sure(disk, node)
        return ATTACH_S

    async def _await(self, disk: Disk, attachment: VolumeAttachment, users: Users) -> float | None:
        """Tell of an attachment that does not come about. Returns the seconds after which that may be so."""
        if _is_attached(attachment) or attachment.metadata.deletion_timestamp is not None:
            return None
        error = attachment.status.attach_error if attachment.status is not None else None
        if error is not None:
            raise self._failed(users, error.message or "")
        waited = self.clock.now() - parse_time(attachment.metadata.creation_timestamp or self.now())
        if waited >= ATTACH_S:
            driver = f"external-attacher of {disk.driver} CSI driver"
            self._failed(users, f"timed out waiting for {driver} to attach volume {disk.handle}")
        return ATTACH_S - waited % ATTACH_S

    async def _detach(self, disk: Disk, attachment: VolumeAttachment, *, forced: bool) -> None:
        node = attachment.spec.node_name
        self._leaving.add((disk, node))
        try:
            await self._report(node)
            if not forced:
                await self._ask(disk, node)
        except BaseException:
            self._leaving.discard((disk, node))
            self.queue.add(node)  # it stays, and its node is told so
            raise
        self._unsure.setdefault(disk, set()).add(node)
        same = DeleteOptions(preconditions=Preconditions(uid=attachment.metadata.uid))
        with suppress(NotFound):  # the cache is about to say so
            await self.client.delete(VolumeAttachment, attachment.metadata.name or "", options=same)
        await self.attachments.gone([attachment])
        self._sure(disk, node)

    async def _ask(self, disk: Disk, name: str) -> None:
        """Ask the server whether a node, told that a volume is to go, uses it all the same. Raises NotYet."""
        try:
            node = await self.client.get(Node, name)
        except NotFound:
            return
        if str(disk) in (*_in_use(node), *_attached_to(node)):
            raise NotYet(f'DetachVolume failed for volume "{disk}": node {name} may still use it')

    # ------------------------------------------------------------------------------------------ a node

    async def _report(self, name: str) -> None:
        """Tell a node what is attached to it, and those who waited for it."""
        async with self._reporting[name]:
            node = self.nodes.get(name)
            if node is None or node.status is None:
                return
            found = self._reported(name)
            before = _attached_to(node)
            if found.keys() == before:
                return
            listed = [{"name": each, "devicePath": ""} for each in sorted(found)]
            patch = {"metadata": {"uid": node.metadata.uid}, "status": {"volumesAttached": listed or None}}
            try:
                written = await self.client.patch(Node, name, patch, subresource="status")
            except NotFound:
                return
            await self.nodes.shows(written.metadata.resource_version)
        for new in sorted(found.keys() - before):
            self._tell_attached(found[new])

    def _tell_attached(self, users: Users | None) -> None:
        if users is not None:
            text = f'AttachVolume.Attach succeeded for volume "{_name(users)}" '
            for pod in users.pods:
                self.events.event(pod, "Normal", "SuccessfulAttachVolume", text)

    def _reported(self, name: str) -> dict[str, Users | None]:
        """What a node may mount: what is attached to it, wanted there or in use, and not about to go."""
        found: dict[str, Users | None] = {}
        for attachment in self.attachments.by_index(BY_NODE, name):
            volume = self.volumes.get(attachment.spec.source.persistent_volume_name or "")
            disk = disk_of(volume) if volume is not None else None
            if disk is None or attachment.metadata.name != attachment_name(disk, name):
                continue
            if not _is_attached(attachment) or attachment.metadata.deletion_timestamp is not None:
                continue
            users = self._users(self.volumes.by_index(BY_HANDLE, str(disk))).get(name)
            if (disk, name) not in self._leaving and (users is not None or self._is_in_use(disk, name)):
                found[str(disk)] = users
        return found


def _differ(old: T | None, new: T | None, view: Callable[[T], object]) -> bool:
    """Whether an object came, went, or changed in what we look at."""
    return old is None or new is None or view(old) != view(new)


def _place(pod: Pod) -> tuple[str | None, bool]:
    return pod.spec.node_name, is_over(pod)


def _rules(node: Node) -> tuple[bool, str | None]:
    """Whether a node leaves attaching to us, and whether ended pods keep their volumes."""
    return MANAGED in node.metadata.annotations, node.metadata.annotations.get(KEEPS_ENDED)


def _facts(node: Node) -> tuple[object, ...]:
    """What of a node says what may be attached to it or taken away."""
    return _rules(node), is_ready(node), _is_out_of_service(node), _in_use(node)


def _is_out_of_service(node: Node) -> bool:
    return any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints)


def _attached_to(node: Node) -> set[str]:
    """What a node's status tells it is attached."""
    return {each.name for each in node.status.volumes_attached} if node.status is not None else set()


def _in_use(node: Node) -> tuple[str, ...]:
    return node.status.volumes_in_use if node.status is not None else ()


def _is_attached(attachment: VolumeAttachment) -> bool:
    return attachment.status is not None and attachment.status.attached


def _name(users: Users) -> str:
    return users.volume.metadata.name or ""
