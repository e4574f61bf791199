"""What becomes of attachments: who must wait, what may be taken away. No I/O; ``attachdetach`` does it.

Source: kubernetes pkg/controller/volume/attachdetach/reconciler; pkg/volume/csi/csi_attacher.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from kaa.api.types.core_v1 import Node, PersistentVolume, Pod

from .pods import is_finished

#: How long an unready node may take to say that it has let a volume go.
UNMOUNT_S = 360.0


class Disk(NamedTuple):
    """A volume as its driver knows it; several PersistentVolumes may stand for it."""

    driver: str
    handle: str

    def __str__(self) -> str:
        """As ``volumesAttached`` and ``volumesInUse`` of a node's status name it."""
        return f"kubernetes.io/csi/{self.driver}^{self.handle}"


def disk_of(volume: PersistentVolume) -> Disk | None:
    csi = volume.spec.csi
    return Disk(csi.driver, csi.volume_handle) if csi is not None else None


def attachment_name(disk: Disk, node: str) -> str:
    return f"csi-{sha256(f'{disk.handle}{disk.driver}{node}'.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Standing:
    """An attachment to a node. ``unwanted_s``: for how long no pod there has asked for it."""

    attached: bool = False
    leaving: bool = False
    in_use: bool = False
    healthy: bool = True
    out_of_service: bool = False
    unwanted_s: float = 0.0

    @property
    def overdue(self) -> bool:
        return self.unwanted_s > UNMOUNT_S

    @property
    def may_go(self) -> bool:
        return not self.in_use or self.out_of_service or (self.overdue and not self.healthy)


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes to attach a volume to. ``detach`` {node: whether without asking it}. ``blocked`` {node that must wait: those that
    have the volume}. ``again_s``: when time alone changes the answer."""

    attach: tuple[str, ...] = ()
    detach: Mapping[str, bool] = field(default_factory=dict)
    blocked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    again_s: float | None = None


def plan(wanted: Sequence[str], standing: Mapping[str, Standing], *, shared: bool) -> Plan:
    """Decide what becomes of a volume that pods on ``wanted`` nodes ask for, the first asker first.

    ``shared``: it may be attached to several nodes; else it comes to one when all others are rid of it.
    """
    unwanted = {node: each for node, each in standing.items() if node not in wanted and not each.leaving}
    detach = {node: each.overdue or each.out_of_service for node, each in unwanted.items() if each.may_go}
    waits = [UNMOUNT_S - each.unwanted_s + 1 for node, each in unwanted.items() if not (each.may_go or each.healthy)]
    missing = tuple(node for node in wanted if node not in standing)
    attach = missing if shared else missing[: 0 if standing else 1]
    holders = tuple(
        node for node, each in standing.items() if each.attached and not each.leaving and node not in detach
    )
    blocked = {node: holders for node in missing if node not in attach} if holders else {}
    return Plan(attach, detach, blocked, min(waits, default=None))


def is_shared(volumes: Iterable[PersistentVolume]) -> bool:
    """Whether a volume may be attached to several nodes; of one that does not say, its driver knows."""
    modes = [set(volume.spec.access_modes) for volume in volumes]
    return any(not each or each & {"ReadWriteMany", "ReadOnlyMany"} for each in modes)


def is_over(pod: Pod) -> bool:
    """Whether a pod has no use for its volumes any more: ended, or deleted and none of its containers left."""
    if is_finished(pod):
        return True
    states = [each.state for each in pod.status.container_statuses]
    return pod.metadata.deletion_timestamp is not None and all(each.terminated or each.waiting for each in states)


def is_ready(node: Node) -> bool:
    conditions = node.status.conditions if node.status is not None else ()
    return any(each.type == "Ready" and each.status == "True" for each in conditions)


def blocked_text(pod: Pod, users: Sequence[Pod]) -> str:
    """Why a pod's volume cannot come to its node. Nobody learns the names of pods in other namespaces."""
    near = [user.metadata.name or "" for user in users if user.metadata.namespace == pod.metadata.namespace]
    far = sum(user.metadata.namespace != pod.metadata.namespace for user in users)
    elsewhere = f"{far} pod(s) in different namespaces"
    if near:
        return f"Volume is already used by pod(s) {', '.join(near)}{f' and {elsewhere}' if far else ''}"
    if far:
        return f"Volume is already used by {elsewhere}"
    return "Volume is already exclusively attached to one node and can't be attached to another"
