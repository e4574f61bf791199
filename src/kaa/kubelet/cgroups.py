"""Where a pod's processes are counted and limited: QoS classes, cgroup names and values, for cgroup v1 and v2.

The hierarchy is ``/<root>/kubepods[/burstable|/besteffort]/pod<uid>``; the runtime puts containers below. Deciding is pure;
``CgroupManager`` makes the folders and writes the files.
Source: pkg/kubelet/cm (qos_container_manager_linux, helpers_linux), pkg/kubelet/qos/policy.go.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from kaa.api import quantity
from kaa.api.types.core_v1 import Container, Pod
from kaa.runtime.base import Resources
from kaa.runtime.folders import remove_folders

from .memory_qos import LOW, MIN, Classes, MemoryQos, kept_bytes

QosClass = Literal["Guaranteed", "Burstable", "BestEffort"]
MIN_SHARES, MAX_SHARES = 2, 262144
MIN_QUOTA_US, PERIOD_US = 1000, 100_000
_COMPUTE = ("cpu", "memory")


def qos_class(pod: Pod) -> QosClass:
    """Guaranteed when every container's limits equal its requests for cpu and memory; BestEffort when none names any.

    Resources of the pod as a whole decide alone where there are any (KEP-2837).
    """
    if pod.status.qos_class:
        return pod.status.qos_class  # type: ignore[return-value]  # the API's closed set
    named = False
    guaranteed = True
    whole = pod.spec.resources
    if whole is None or not (whole.limits or whole.requests):
        listed = [one.resources for one in (*pod.spec.init_containers, *pod.spec.containers)]
    else:
        listed = [whole]
    for given in listed:
        limits = {k: v for k, v in given.limits.items() if k in _COMPUTE and quantity.parse(v) > 0}
        requests = {k: v for k, v in given.requests.items() if k in _COMPUTE and quantity.parse(v) > 0}
        named = named or bool(limits) or bool(requests)
        same = all(quantity.parse(requests.get(k, v)) == quantity.parse(v) for k, v in limits.items())
        guaranteed = guaranteed and len(limits) == len(_COMPUTE) and same
    if not named:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def shares(milli_cpu: int) -> int:
    """CPU shares of a request: 1024 a core, at least 2."""
    return min(max(milli_cpu * 1024 // 1000, MIN_SHARES), MAX_SHARES) if milli_cpu else MIN_SHARES


def quota_us(milli_cpu: int, period_us: int = PERIOD_US) -> int:
    """CFS quota of a limit; at least a millisecond."""
    return max(milli_cpu * period_us // 1000, MIN_QUOTA_US)


def weight(cpu_shares: int) -> int:
    """cgroup v2's ``cpu.weight`` (1..10000) of v1's shares (2..262144), linearly. Source: KEP-2254."""
    return 1 + ((cpu_shares - 2) * 9999) // 262142


def oom_score(pod: Pod, container: Container, memory_capacity_bytes: int) -> int:
    """``oom_score_adj``: -997 for guaranteed and critical pods, 1000 for best-effort ones, else by the share requested.

    What a pod requests beyond its containers counts for each of them in equal parts. A sidecar is not ended before the
    containers that it serves. Source: pkg/kubelet/qos/policy.go (GetContainerOOMScoreAdjust).
    """
    if (pod.spec.priority or 0) >= 2_000_000_000:
        return -997
    match qos_class(pod):
        case "Guaranteed":
            return -997
        case "BestEffort":
            return 1000
    asked = _memory_request(container)
    if container.restart_policy == "Always" and container in pod.spec.init_containers:
        asked = max(asked, min(_memory_request(one) for one in pod.spec.containers))
    asked += _spare_memory(pod)
    score = 1000 - (1000 * asked) // max(memory_capacity_bytes, 1)
    return min(max(score, 3), 999)


def _memory_request(container: Container) -> int:
    return _amount(container.resources.requests or container.resources.limits, "memory")


def _spare_memory(pod: Pod) -> int:
    """A container's part of the memory that its pod requests and no container does, in bytes."""
    whole = pod.spec.resources
    asked = _amount(whole.requests, "memory") if whole is not None else 0
    if not asked:
        return 0
    spare = asked - _of_containers(pod, "requests", "memory")[0]
    return max(spare, 0) // (len(pod.spec.containers) + len(pod.spec.init_containers))


def _amount(values: Mapping[str, str], name: str) -> int:
    return quantity.whole(values[name]) if name in values else 0


def container_resources(
    pod: Pod, container: Container, *, memory_capacity_bytes: int, pids_limit: int | None = None
) -> Resources:
    """What the runtime enforces for one container; the pod's cpu and memory limits bound one that has none of its own."""
    requests = container.resources.requests
    limits = {**_pod_limits_for(pod), **{k: v for k, v in container.resources.limits.items() if quantity.parse(v) > 0}}
    cpu_limit = quantity.millis(limits["cpu"]) if "cpu" in limits else 0
    cpu_request = quantity.millis(requests["cpu"]) if "cpu" in requests else cpu_limit
    memory = _amount(limits, "memory") or None
    return Resources(
        cpu_shares=shares(cpu_request),
        cpu_quota_us=quota_us(cpu_limit) if cpu_limit else None,
        cpu_period_us=PERIOD_US if cpu_limit else None,
        memory_limit_bytes=memory,
        memory_swap_limit_bytes=memory,
        pids_limit=pids_limit,
        oom_score_adj=oom_score(pod, container, memory_capacity_bytes),
        hugepage_limits={
            k.removeprefix("hugepages-"): quantity.whole(v) for k, v in limits.items() if k.startswith("hugepages-")
        },
    )


def _pod_limits_for(pod: Pod) -> Mapping[str, str]:
    """Limits of the pod as a whole that its containers inherit. Source: kuberuntime_container_linux.go (getMemoryLimit)."""
    whole = pod.spec.resources
    return {k: v for k, v in whole.limits.items() if k in _COMPUTE} if whole is not None else {}


@dataclass(frozen=True, slots=True)
class PodLimits:
    """A pod's cgroup: shares always, quota and memory only when the pod or every container has a limit."""

    cpu_shares: int = MIN_SHARES
    cpu_quota_us: int | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    huge_pages: Mapping[str, int] = field(default_factory=dict)  #: {page size, as ``2Mi``: bytes}
    kept: Mapping[str, str] = field(default_factory=dict)  #: {file of ``memory_qos``: bytes}; of version 2 alone


def pod_amount(pod: Pod, side: Literal["limits", "requests"], resource: str) -> int | None:
    """What a pod asks of a resource (cpu in millis): what it names for itself, else its containers together; and overhead.

    None when a container names nothing, which for limits means the pod has none.
    """
    read = quantity.millis if resource == "cpu" else quantity.whole
    total, complete = _of_containers(pod, side, resource)
    whole = pod.spec.resources
    if whole is not None and (resource in _COMPUTE or resource.startswith("hugepages-")):
        own = (whole.limits if side == "limits" else whole.requests).get(resource)
        if own is None and side == "requests" and not total:  # as the API defaults it
            own = whole.limits.get(resource)
        if own is not None and quantity.parse(own) > 0:
            total, complete = read(own), True
    if resource in pod.spec.overhead:
        total += read(pod.spec.overhead[resource])
    return total if complete or side == "requests" else None


def _of_containers(pod: Pod, side: Literal["limits", "requests"], resource: str) -> tuple[int, bool]:
    """Containers and sidecars add up, init containers overlap; and whether every one of them names the resource."""
    read = quantity.millis if resource == "cpu" else quantity.whole
    complete = True

    def of(container: Container) -> int:
        nonlocal complete
        held = container.resources.limits if side == "limits" else container.resources.requests
        if side == "requests" and resource not in held:
            held = container.resources.limits
        complete = complete and resource in held
        return read(held[resource]) if resource in held else 0

    running = sum(of(c) for c in pod.spec.containers)
    sidecars = largest_init = 0
    for container in pod.spec.init_containers:
        amount = of(container)
        if container.restart_policy == "Always":
            sidecars += amount
            largest_init = max(largest_init, sidecars)
        else:
            largest_init = max(largest_init, sidecars + amount)
    return max(running + sidecars, largest_init), complete


def pod_limits(
    pod: Pod, *, pids: int | None = None, throttled: bool = True, memory_qos: MemoryQos | None = None
) -> PodLimits:
    """``throttled``: its CPU limit is a quota, as it is unless it has CPUs of its own."""
    cpu_limit = pod_amount(pod, "limits", "cpu") if throttled else None
    memory = pod_amount(pod, "limits", "memory")
    return PodLimits(
        cpu_shares=shares(pod_amount(pod, "requests", "cpu") or 0),
        cpu_quota_us=quota_us(cpu_limit) if cpu_limit else None,
        memory_bytes=memory or None,
        pids=pids,
        huge_pages={size: pod_amount(pod, "limits", f"hugepages-{size}") or 0 for size in _page_sizes(pod)},
        kept=memory_qos.kept(qos_class(pod), pod_amount(pod, "requests", "memory") or 0) if memory_qos else {},
    )


def _page_sizes(pod: Pod) -> list[str]:
    """The sizes of huge pages that containers of a pod, or the pod itself, are limited to."""
    listed = [one.resources.limits for one in (*pod.spec.init_containers, *pod.spec.containers)]
    if pod.spec.resources is not None:
        listed.append(pod.spec.resources.limits)
    named = {name for limits in listed for name in limits if name.startswith("hugepages-")}
    return sorted(name.removeprefix("hugepages-") for name in named)


def pod_cgroup(pod: Pod, root: str = "") -> str:
    """``/<root>/kubepods/burstable/pod<uid>``"""
    folder = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}[qos_class(pod)]
    parts = [root.strip("/"), "kubepods", folder, f"pod{pod.metadata.uid}"]
    return "/" + "/".join(part for part in parts if part)


class CgroupManager:
    """The cgroup file system. ``mount`` is its root; a file ``cgroup.controllers`` in it means v2."""

    V1 = ("cpu", "memory", "pids")

    def __init__(self, mount: Path = Path("/sys/fs/cgroup"), root: str = "") -> None:
        self.mount = self._mount = mount
        self._root = root
        self._burstable: dict[str, int] | None = None  #: {path of a burstable pod: its CPU shares}, once asked for
        self.kept = Classes({})  #: memory that is not reclaimed from pods
        self._lock = threading.Lock()  #: pods come and go in threads
        self.v2 = (mount / "cgroup.controllers").exists()

    @property
    def kubepods(self) -> str:
        """The cgroup above all pods'."""
        return "/" + "/".join(part for part in (self._root.strip("/"), "kubepods") if part)

    def pod_cgroup(self, pod: Pod) -> str:
        return pod_cgroup(pod, self._root)

    def ensure_pod(
        self, pod: Pod, *, pids: int | None = None, throttled: bool = True, memory_qos: MemoryQos | None = None
    ) -> str:
        """Make a pod's cgroup with its limits; returns its path below the mount."""
        path = self.pod_cgroup(pod)
        limits = pod_limits(pod, pids=pids, throttled=throttled, memory_qos=memory_qos)
        self._put(path, limits)
        self._class_changed(path, limits.cpu_shares)
        self._keep(path, kept_bytes(limits.kept))
        return path

    def bound_pods(self, limits: PodLimits, memory_qos: MemoryQos | None = None) -> None:
        """What all pods have together; and what best-effort pods have when others want it. Raises OSError.

        Source: pkg/kubelet/cm/node_container_manager_linux.go, qos_container_manager_linux.go.
        """
        self._put(self.kubepods, limits)
        self._put(f"{self.kubepods}/besteffort", PodLimits())
        self._put(f"{self.kubepods}/burstable", PodLimits(self._burstable_shares()))
        if self.v2:
            tiered = memory_qos is not None and memory_qos.tiered
            self.kept = Classes({path: self._kept_now(path) for _, path in self.pods()} if tiered else {})
            self._write_kept()  # 0, where nothing is kept any more

    # What pods keep of memory counts for no more than the classes above them keep.

    def _kept_now(self, path: str) -> int:
        """What a pod of an earlier life keeps."""
        files = [self._mount / path[1:] / name for name in (MIN, LOW)]
        return max((int(file.read_text()) for file in files if file.is_file()), default=0)

    def _keep(self, path: str, kept: int) -> None:
        """A pod keeps so much now; 0 when it has gone."""
        with self._lock:
            if self.kept.changed(path, kept):
                self._write_kept()

    def _write_kept(self) -> None:
        base = self._mount / self.kubepods[1:]
        _write(base, {MIN: str(self.kept.all)})
        _write(base / "burstable", {LOW: str(self.kept.burstable)})

    def _put(self, path: str, limits: PodLimits) -> None:
        """Make a cgroup with its limits."""
        if self.v2:
            self._make_v2(path)
            _write(self._mount / path[1:], _v2_values(limits))
            _write(self._mount / path[1:], _huge_pages(self._mount / path[1:], limits, "max"))
            return
        for controller in self.V1:
            folder = self._mount / controller / path[1:]
            if (self._mount / controller).is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                _write(folder, _v1_values(limits, controller))
        if (self._mount / "hugetlb").is_dir():
            folder = self._mount / "hugetlb" / path[1:]
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder, _huge_pages(folder, limits, "limit_in_bytes"))

    # Guaranteed pods compete with their own shares; burstable ones first as a class, which has what they ask together.

    def _burstable_shares(self) -> int:
        if self._burstable is None:
            self._burstable = dict(self._burstable_pods())
        return min(max(sum(self._burstable.values()), MIN_SHARES), MAX_SHARES)

    def _burstable_pods(self) -> Iterator[tuple[str, int]]:
        """What pods of an earlier life have."""
        for _, path in self.pods():
            file = self._mount / ("" if self.v2 else "cpu") / path[1:] / ("cpu.weight" if self.v2 else "cpu.shares")
            if "/burstable/" in path and file.is_file():
                found = int(file.read_text())
                yield path, 2 + (found - 1) * 262142 // 9999 if self.v2 else found

    def _class_changed(self, path: str, has: int) -> None:
        """A pod came (or changed) with so many shares, or went with 0: its class follows, by one write."""
        if "/burstable/" not in path:
            return
        with self._lock:
            before = self._burstable_shares()
            assert self._burstable is not None
            if has:
                self._burstable[path] = has
            else:
                self._burstable.pop(path, None)
            now = self._burstable_shares()
            folder = self._mount / ("" if self.v2 else "cpu") / path[1:].rpartition("/")[0]
            if now != before and folder.is_dir():
                _write(folder, {"cpu.weight": str(weight(now))} if self.v2 else {"cpu.shares": str(now)})

    def loosen_pod(self, pod: Pod, *, throttled: bool = True) -> None:
        """Let a pod have what it is allocated now, without taking anything yet: its containers have that still. What it
        keeps of memory is settled in the end, by ``ensure_pod``."""
        path, limits = self.pod_cgroup(pod), pod_limits(pod, throttled=throttled)
        for folder, values in (
            [(self._mount / path[1:], _v2_values(limits))]
            if self.v2
            else [(self._mount / one / path[1:], _v1_values(limits, one)) for one in ("cpu", "memory")]
        ):
            if folder.is_dir():
                _write(folder, {name: text for name, text in values.items() if _is_more(folder / name, text)})

    def _make_v2(self, path: str) -> None:
        folder = self._mount
        for part in path[1:].split("/"):
            available = (
                (folder / "cgroup.controllers").read_text().split() if (folder / "cgroup.controllers").exists() else []
            )
            wanted = [c for c in ("cpu", "memory", "pids", "cpuset", "io", "hugetlb") if c in available]
            if wanted:
                _write(folder, {"cgroup.subtree_control": " ".join(f"+{c}" for c in wanted)})
            folder = folder / part
            folder.mkdir(exist_ok=True)

    @cached_property
    def _tops(self) -> list[str]:
        """The hierarchies of cgroups; of version 1's, ``memory``, by which a pod's is found again, comes last."""
        if self.v2:
            return [str(self._mount)]
        found = [entry.path for entry in os.scandir(self._mount) if not entry.is_symlink()]
        return sorted(found, key=lambda path: path.endswith("/memory"))

    def remove_pod(self, pod_path: str) -> None:
        """Remove a pod's cgroup and what is left below it. Processes in it make this fail with OSError.

        In version 1 the OCI runtime makes it in every hierarchy.
        """
        for top in self._tops:
            remove_folders(f"{top}{pod_path}")
        self._class_changed(pod_path, 0)
        self._keep(pod_path, 0)

    def pods(self) -> Iterable[tuple[str, str]]:
        """(uid, path) of every pod that has a cgroup."""
        base = (self._mount if self.v2 else self._mount / "memory") / self._root.strip("/") / "kubepods"
        for folder in (base, base / "burstable", base / "besteffort"):
            if folder.is_dir():
                for entry in folder.iterdir():
                    if entry.name.startswith("pod") and entry.is_dir():
                        relative = entry.relative_to(self._mount if self.v2 else self._mount / "memory")
                        yield entry.name[3:], f"/{relative}"


def _v2_values(limits: PodLimits) -> dict[str, str]:
    quota = "max" if limits.cpu_quota_us is None else str(limits.cpu_quota_us)
    return {
        "cpu.weight": str(weight(limits.cpu_shares)),
        "cpu.max": f"{quota} {PERIOD_US}",
        "memory.max": "max" if limits.memory_bytes is None else str(limits.memory_bytes),
        "pids.max": "max" if limits.pids is None else str(limits.pids),
        **limits.kept,
    }


def _v1_values(limits: PodLimits, controller: str) -> dict[str, str]:
    match controller:
        case "cpu":
            quota = -1 if limits.cpu_quota_us is None else limits.cpu_quota_us
            return {
                "cpu.shares": str(limits.cpu_shares),
                "cpu.cfs_period_us": str(PERIOD_US),
                "cpu.cfs_quota_us": str(quota),
            }
        case "memory":
            return {} if limits.memory_bytes is None else {"memory.limit_in_bytes": str(limits.memory_bytes)}
        case _:
            return {} if limits.pids is None else {"pids.max": str(limits.pids)}


def _huge_pages(folder: Path, limits: PodLimits, word: str) -> dict[str, str]:
    """A limit for each size of huge pages that the pod names, and none at all of the others that the machine has."""
    there = {file.name: "0" for file in folder.glob(f"hugetlb.*B.{word}")}
    return there | {f"hugetlb.{size.replace('i', '')}B.{word}": str(held) for size, held in limits.huge_pages.items()}


_ALL = frozenset({"max", "-1"})


def _is_more(file: Path, text: str) -> bool:
    """Whether a limit would rise; what is no limit may be written any time."""
    wanted, has = text.split()[0], file.read_text().split()[0]
    if file.name not in ("memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max"):
        return file.name != "pids.max"
    return wanted in _ALL or (has not in _ALL and int(wanted) > int(has))


def _write(folder: Path, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        (folder / name).write_text(value)
