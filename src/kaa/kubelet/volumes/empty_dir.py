"""emptyDir: a folder of the pod's own, on disk, in memory or in huge pages.

A marker beside the volumes says that a folder has been set up: its users may have changed its mode since, and that stays.
Source: pkg/volume/emptydir.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from kaa.api import quantity
from kaa.api.types.core_v1 import EmptyDirVolumeSource, Pod

from ..cgroups import pod_amount
from . import ownership
from .mounts import Mounter
from .payload import PayloadError

_HUGE = "HugePages"
_HUGE_RESOURCE = "hugepages-"


def prepare(
    folder: Path, marker: Path, source: EmptyDirVolumeSource, pod: Pod, mounter: Mounter, memory_bytes: int | None
) -> None:
    """Make the volume, or leave it as it is. ``memory_bytes``: what pods may use of the node. Raises PayloadError."""
    medium = source.medium or ""
    if medium and medium != "Memory" and not medium.startswith(_HUGE):
        raise PayloadError(f'unknown storage medium "{medium}"')
    page_size = huge_page_size(pod, medium) if medium.startswith(_HUGE) else ""
    if marker.exists() and (not medium or mounter.mounted(folder)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    if medium == "Memory":
        mounter.tmpfs(folder, memory_size(source, pod, memory_bytes))
    elif medium:
        mounter.hugetlbfs(folder, page_size)
        folder.chmod(0o777)
    group = pod.spec.security_context.fs_group if pod.spec.security_context else None
    if group is not None:
        ownership.give_root(folder, group)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


def memory_size(source: EmptyDirVolumeSource | None, pod: Pod, memory_bytes: int | None) -> int | None:
    """Bytes of a volume in memory: the least of its own limit, its pod's and what all pods may use; None is the kernel's."""
    pod_limit = pod_amount(pod, "limits", "memory")
    own = quantity.whole(source.size_limit) if source is not None and source.size_limit else None
    return min((size for size in (memory_bytes, pod_limit, own) if size), default=None)


def huge_page_size(pod: Pod, medium: str) -> str:
    """The size of page, ``2Mi``, that a medium means for a pod. Raises PayloadError."""
    asked = _requested(pod)
    if medium == _HUGE:
        if len({quantity.parse(size) for size in asked}) > 1:
            raise PayloadError(f"medium: {medium} can't be used if container requests multiple huge page sizes")
        found = next(iter(asked), "")
    else:
        wanted = medium.removeprefix(f"{_HUGE}-")
        try:
            size = quantity.parse(wanted)
        except ValueError as err:
            raise PayloadError(str(err)) from err
        found = next((each for each in asked if quantity.parse(each) == size), "")
    if not found:
        raise PayloadError(
            f"medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        )
    return found


def _requested(pod: Pod) -> list[str]:
    held: Iterable[Mapping[str, str]] = (
        {**one.resources.limits, **one.resources.requests} for one in (*pod.spec.containers, *pod.spec.init_containers)
    )
    return [name.removeprefix(_HUGE_RESOURCE) for one in held for name in one if name.startswith(_HUGE_RESOURCE)]
