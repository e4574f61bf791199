"""The node as the cluster sees it: registered, kept up to date, kept alive by its lease.

Source: pkg/kubelet/kubelet_node_status.go, nodestatus/setters.go, component-helpers lease controller.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import replace

from kaa.api import quantity
from kaa.api.clock import Clock, format_micro_time, format_time
from kaa.api.errors import AlreadyExists, ApiError, NotFound
from kaa.api.scheme import to_builtins
from kaa.api.types.coordination_v1 import Lease, LeaseSpec
from kaa.api.types.core_v1 import (
    ContainerImage,
    DaemonEndpoint,
    Node,
    NodeAddress,
    NodeCondition,
    NodeDaemonEndpoints,
    NodeFeatures,
    NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures,
    NodeSpec,
    NodeStatus,
    NodeSwapStatus,
    NodeSystemInfo,
    Taint,
)
from kaa.api.types.meta_v1 import ObjectMeta, OwnerReference
from kaa.api.values import Quantity
from kaa.client.client import Client, PatchType
from kaa.client.informer import Informer
from kaa.runtime.base import Image, Runtime, RuntimeFailure, RuntimeInfo

from .cgroups import CgroupManager, PodLimits, shares
from .config import KubeletConfig, Recorder
from .machine import process_limit
from .reservations import EnforcementError, Reservation, check_capacity, enforce

log = structlog.get_logger(__name__)
LEASE_NAMESPACE = "kube-node-lease"
MAX_IMAGE_NAMES = 5
_PATIENCE_S = 7.0
#: Labels that a node which is there already is given anew as its kubelet starts; others are for its first registration.
_KEPT_LABELS = frozenset(
    """beta.kubernetes.io/arch beta.kubernetes.io/instance-type beta.kubernetes.io/os
    failure-domain.beta.kubernetes.io/region failure-domain.beta.kubernetes.io/zone kubernetes.io/arch
    kubernetes.io/hostname kubernetes.io/os node.kubernetes.io/instance-type topology.kubernetes.io/region
    topology.kubernetes.io/zone""".split()
)
_UNINITIALIZED = Taint(key="node.cloudprovider.kubernetes.io/uninitialized", value="true", effect="NoSchedule")
PROVIDED_IP = "alpha.kubernetes.io/provided-node-ip"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

#: (type, reason, message) of the conditions of a node under no pressure.
NO_PRESSURE = (
    ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
)

PRESSURE = {
    "MemoryPressure": (
        "MemoryPressure",
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "True",
    ),
    "DiskPressure": ("DiskPressure", "KubeletHasDiskPressure", "kubelet has disk pressure", "True"),
    "PIDPressure": ("PIDPressure", "KubeletHasInsufficientPID", "kubelet has insufficient PID available", "True"),
}
#: {condition: (the event's reason when it begins, when it ends)}
_PRESSURE_EVENTS = {
    "MemoryPressure": ("NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    "DiskPressure": ("NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    "PIDPressure": ("NodeHasInsufficientPID", "NodeHasSufficientPID"),
}


def architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def machine_capacity(config: KubeletConfig) -> dict[str, str]:
    """What the machine has, as quantities; the config's own figures go before."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = _disk_bytes(config.root)
    found = {
        "cpu": str(os.cpu_count() or 1),
        "ephemeral-storage": f"{disk // 1024}Ki",
        **{f"hugepages-{size}": quantity.format_bytes(held) for size, held in config.machine.huge_pages.items()},
        "memory": f"{memory // 1024}Ki",
        "pods": str(_most_pods(config, os.cpu_count() or 1)),
    }
    return {**found, **config.capacity}


def _most_pods(config: KubeletConfig, cores: int) -> int:
    return min(config.max_pods, config.pods_per_core * cores) if config.pods_per_core else config.max_pods


def _disk_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    stat = os.statvfs(path)
    return stat.f_blocks * stat.f_frsize


def advertised_by_others(shown: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Extended resources that somebody else wrote into the node's capacity: they stay, and pods may have all of them.

    Source: pkg/kubelet/nodestatus MachineInfo; concepts "Node-level extended resources".
    """
    return {name: amount for name, amount in shown.items() if "/" in name and name not in own}


def allocatable(
    capacity: Mapping[str, str], reserved: Mapping[str, str], eviction: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Capacity less what is kept from pods."""
    made = dict(capacity)
    for name, amount in kept_from_pods(capacity, reserved, eviction).items():
        left = max(quantity.parse(capacity[name]) - amount, Fraction(0))
        made[name] = quantity.format_millis(int(left * 1000)) if name == "cpu" else quantity.format_bytes(int(left))
    huge = sum(quantity.whole(text) for name, text in made.items() if name.startswith("hugepages-"))
    if huge:  # nobody can use that memory but as huge pages
        made["memory"] = quantity.format_bytes(max(quantity.whole(made["memory"]) - huge, 0))
    return made


def kept_from_pods(
    capacity: Mapping[str, str], reserved: Mapping[str, str], eviction: Mapping[str, str] | None
) -> dict[str, Fraction]:
    """What is reserved for the machine itself, and what pods are evicted for before it is used.

    Source: pkg/kubelet/cm/node_container_manager_linux.go (GetNodeAllocatableReservation).
    """
    kept = {name: quantity.parse(text) for name, text in reserved.items() if name in capacity}
    for signal, name in (("memory.available", "memory"), ("nodefs.available", "ephemeral-storage")):
        if eviction and signal in eviction and name in capacity:
            kept[name] = kept.get(name, Fraction(0)) + _threshold(eviction[signal], quantity.parse(capacity[name]))
    return kept


def _threshold(text: str, capacity: Fraction) -> Fraction:
    """``100Mi``, or ``10%`` of the capacity, in whole bytes."""
    if not text.endswith("%"):
        return quantity.parse(text)
    return Fraction(int(capacity * Fraction(text[:-1]) / 100))


def runtime_features(info: RuntimeInfo) -> dict[str, Any]:
    """The fields of a node's status that say what its container runtime can."""
    handlers = (
        NodeRuntimeHandler(
            name=name,
            features=NodeRuntimeHandlerFeatures(
                recursive_read_only_mounts=one.recursive_read_only, user_namespaces=one.user_namespaces
            ),
        )
        for name, one in sorted(info.features.items())
    )
    return {
        "features": NodeFeatures(supplemental_groups_policy=info.strict_groups),
        "runtime_handlers": tuple(handlers),
    }


def system_info(runtime_version: str, kubelet_version: str, swap_bytes: int = 0) -> NodeSystemInfo:
    """What nodeInfo tells of the machine; unreadable facts are empty."""
    return NodeSystemInfo(
        machine_id=_read("/etc/machine-id"),
        system_uuid=_read("/sys/class/dmi/id/product_uuid") or _read("/etc/machine-id"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        kernel_version=platform.release(),
        os_image=_os_name(),
        container_runtime_version=runtime_version,
        kubelet_version=kubelet_version,
        kube_proxy_version="",
        operating_system="linux",
        architecture=architecture(),
        swap=NodeSwapStatus(capacity=swap_bytes) if swap_bytes else None,
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _os_name() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip('"')
    return "Linux"


def conditions(
    old: tuple[NodeCondition, ...], now: float, not_ready: str, pressure: frozenset[str] = frozenset()
) -> tuple[NodeCondition, ...]:
    """The four conditions; transition times stand while a status stays. ``not_ready`` says why the node is not."""
    ready = (
        ("Ready", "KubeletReady", "kubelet is posting ready status")
        if not not_ready
        else ("Ready", "KubeletNotReady", not_ready)
    )
    held = {c.type: c for c in old}
    wanted: list[tuple[str, str, str, str]] = [
        PRESSURE[row[0]] if row[0] in pressure else (*row, "False") for row in NO_PRESSURE
    ]
    wanted += [(*ready, "False" if not_ready else "True")]
    made = []
    for type_, reason, message, status in wanted:
        before = held.get(type_)
        since = before.last_transition_time if before is not None and before.status == status else format_time(now)
        made.append(
            NodeCondition(
                type=type_,
                status=status,
                reason=reason,
                message=message,
                last_heartbeat_time=format_time(now),
                last_transition_time=since,
            )
        )
    return (*made, *(c for c in old if c.type not in {row[0] for row in wanted}))


def image_list(images: list[Image], most: int = 50) -> tuple[ContainerImage, ...]:
    """The largest images first, ``most`` of them (-1: all), with up to five names each."""
    largest = sorted(images, key=lambda i: i.size_bytes, reverse=True)[: most if most >= 0 else None]
    return tuple(
        ContainerImage(names=(*i.repo_digests, *i.repo_tags)[:MAX_IMAGE_NAMES], size_bytes=i.size_bytes)
        for i in largest
    )


def differs(old: NodeStatus | None, new: NodeStatus) -> bool:
    """Whether a status says something new: that a heart still beats is nothing new."""

    def still(status: NodeStatus) -> NodeStatus:
        return replace(status, conditions=tuple(replace(c, last_heartbeat_time=None) for c in status.conditions))

    return old is None or still(old) != still(new)


class NodeKeeper:
    """Registers the node, then writes its status when it changes and every five minutes, and its lease every ten seconds.

    A node that somebody deletes is not registered again before the kubelet starts anew, as with upstream's.
    """

    def __init__(
        self,
        client: Client,
        runtime: Runtime,
        clock: Clock,
        config: KubeletConfig,
        recorder: Recorder,
        pressure: Callable[[], frozenset[str]] = frozenset,
        devices: Callable[[], tuple[Mapping[str, int], Mapping[str, int]]] = lambda: ({}, {}),
        trouble: Callable[[], str] = str,
    ) -> None:
        self._devices = devices  #: (capacity, allocatable) of plugins' devices
        self._trouble = trouble  #: why the node is not ready, whatever its runtime says; empty when it may be
        self._pressure = pressure  #: the conditions of pressure that hold now
        self._had_pressure: frozenset[str] = frozenset()
        self._client, self._runtime, self._clock = client, runtime, clock
        self._config, self._recorder = config, recorder
        self.capacity = machine_capacity(config)
        self._thresholds = config.eviction.hard if config.eviction is not None else None
        self.allocatable = allocatable(self.capacity, config.reserved, self._thresholds)
        self._node: Node | None = None
        self._nodes: Informer[Node] = Informer(client, Node, clock, field_selector=f"metadata.name={config.node_name}")
        self._nodes.add_handler(self._seen)
        self._report_at = 0.0
        self._unschedulable = False
        self._changed = asyncio.Event()
        self._was_ready: bool | None = None
        self._restarted = True
        self.registered = asyncio.Event()

    def changed(self) -> None:
        """Look at the node again soon: an image came, the runtime's state is another."""
        self._changed.set()

    def reference(self) -> Node:
        """The node as events name it: by its name as uid, as upstream does."""
        meta = ObjectMeta(name=self._config.node_name, uid=self._config.node_name)
        return Node(metadata=meta)

    async def run(self) -> None:
        """Never ends. Failures are retried: a node that cannot report stays alive for its pods."""
        enforced = await self._enforce()
        await self._persist("register node", self.register)
        self._say_starting(enforced)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run(), name="kubelet/node-watch")
            tasks.create_task(self._keep_status(), name="kubelet/node-status")
            tasks.create_task(self._keep_lease(), name="kubelet/lease")

    async def _enforce(self) -> str:
        """Bound all pods together by what they may have, and who has what is reserved by that; why the pods are not, if
        they are not. Raises EnforcementError."""
        config = self._config
        if config.cgroups is None:
            return ""
        check_capacity(self.capacity, kept_from_pods(self.capacity, config.reserved, self._thresholds))
        enforced = "pods" in config.enforced
        limits = allocatable(self.capacity, config.reserved) if enforced else self.capacity
        cpus, memory = quantity.millis(limits["cpu"]), quantity.whole(limits["memory"])
        pids = process_limit()
        if pids and enforced:
            pids -= quantity.whole(config.reserved.get("pid", "0"))
        bounds = PodLimits(shares(cpus), None, memory, pids or None)
        fault = ""
        try:
            await asyncio.to_thread(config.cgroups.bound_pods, bounds, config.memory_qos)
        except OSError as err:
            log.warning("node allocatable not enforced", error=str(err))
            fault = str(err)
        for one in config.reservations:
            if one.enforced:
                await self._enforce_reservation(config.cgroups, one)
        return fault

    async def _enforce_reservation(self, cgroups: CgroupManager, one: Reservation) -> None:
        """Raises EnforcementError: what was reserved is not kept, and the kubelet must not go on as if it were."""
        try:
            told = await asyncio.to_thread(enforce, cgroups, one, protect=self._config.memory_qos is not None)
        except EnforcementError as err:
            self._say("Warning", "FailedNodeAllocatableEnforcement", str(err))
            raise
        self._say("Normal", "NodeAllocatableEnforced", told)

    def _seen(self, old: Node | None, new: Node | None) -> None:
        """Somebody changed the node."""
        if new is None:
            log.warning("the node was deleted; it is registered again when the kubelet is started again")
            return
        self._node = new
        unschedulable = bool(new.spec.unschedulable)
        if unschedulable != self._unschedulable:
            self._unschedulable = unschedulable
            reason = "NodeNotSchedulable" if unschedulable else "NodeSchedulable"
            self._say("Normal", reason, f"Node {self._config.node_name} status is now: {reason}")

    async def _persist(self, what: str, work: Any) -> None:
        wait = 0.2
        while True:
            try:
                await work()
                return
            except NotFound as err:
                log.warning("node: failed", what=what, error=str(err))
                if self.registered.is_set():  # it was deleted: nothing that asking again would mend
                    return
                await self._clock.sleep(_PATIENCE_S)
            except (ApiError, OSError, TimeoutError, RuntimeFailure) as err:
                log.warning("node: failed", what=what, error=str(err))
                await self._clock.sleep(wait)
                wait = min(wait * 2, _PATIENCE_S)

    async def register(self) -> None:
        if self._config.register:
            try:
                await self._client.create(await self._fresh())
            except AlreadyExists:
                await self._reconcile_labels()
        self._node = await self._client.get(Node, self._config.node_name)
        self.registered.set()

    def _labels(self) -> dict[str, str]:
        return {
            "beta.kubernetes.io/arch": architecture(),
            "beta.kubernetes.io/os": "linux",
            "kubernetes.io/arch": architecture(),
            "kubernetes.io/hostname": self._config.hostname or self._config.node_name,
            "kubernetes.io/os": "linux",
            **self._config.labels,
        }

    async def _fresh(self) -> Node:
        meta = ObjectMeta(
            name=self._config.node_name,
            labels=self._labels(),
            annotations={
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
                **({PROVIDED_IP: ",".join(self._config.node_ips)} if self._config.external_cloud else {}),
                **self._config.annotations,
            },
        )
        spec = NodeSpec(
            taints=(*self._config.taints, *((_UNINITIALIZED,) if self._config.external_cloud else ())),
            unschedulable=self._config.unschedulable or None,
            provider_id=self._config.provider_id or None,
        )
        return Node(metadata=meta, spec=spec, status=await self._status(None))

    async def _reconcile_labels(self) -> None:
        found = await self._client.get(Node, self._config.node_name)
        kept = {k: v for k, v in self._labels().items() if k in _KEPT_LABELS or k.startswith("kaa.dev/")}
        missing = {k: v for k, v in kept.items() if found.metadata.labels.get(k) != v}
        if missing:
            await self._client.patch(
                Node, self._config.node_name, {"metadata": {"labels": missing}}, type=PatchType.MERGE
            )

    async def _status(self, old: NodeStatus | None) -> NodeStatus:
        can: dict[str, Any] = {}
        try:
            info = await self._runtime.info()
            can = runtime_features(info)
            runtime_version = f"{info.name}://{info.version}"
            not_ready = "" if info.network_ready else f"container runtime network not ready: {info.message}"
        except RuntimeFailure as err:
            runtime_version = old.node_info.container_runtime_version if old is not None else "unknown://"
            not_ready = "container runtime is down"
            log.warning("container runtime is down", error=str(err))
        troubles = [one for one in (not_ready, self._trouble()) if one]
        not_ready = f"[{', '.join(troubles)}]" if len(troubles) > 1 else "".join(troubles)
        swap = self._config.machine.swap_bytes
        name = self._config.hostname or self._config.node_name
        addresses = [NodeAddress(type="InternalIP", address=ip) for ip in self._config.node_ips]
        base = (
            old
            if old is not None
            else NodeStatus(
                daemon_endpoints=NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=self._config.port)),
                node_info=system_info(runtime_version, self._config.version),
            )
        )
        total, free = ({name: str(count) for name, count in of.items()} for of in self._devices())
        others = advertised_by_others(base.capacity, {**self.capacity, **total})
        return replace(
            base,
            addresses=base.addresses
            if self._config.external_cloud and base.addresses
            else (*addresses, NodeAddress(type="Hostname", address=name)),
            capacity=_quantities({**self.capacity, **total, **others}),
            allocatable=_quantities({**self.allocatable, **free, **others}),
            conditions=conditions(base.conditions, self._clock.now(), not_ready, self._pressure()),
            daemon_endpoints=NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=self._config.port)),
            node_info=await asyncio.to_thread(system_info, runtime_version, self._config.version, swap),
            images=image_list(await self._runtime.list_images(), self._config.max_images),
            **can,
        )

    async def _keep_status(self) -> None:
        await self._persist("update node status", self.report)
        while True:
            await self._until_changed(self._config.status_check_s)
            self._changed.clear()
            await self._persist("update node status", self._report_news)

    async def _report_news(self) -> None:
        """Write the status if it differs from what the API server has, or its time has come."""
        if self._node is not None and self._clock.monotonic() < self._report_at:
            status = await self._status(self._node.status)
            if not differs(self._node.status, status):
                return
        await self.report()

    async def _until_changed(self, seconds: float) -> None:
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((timer, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            changed.cancel()

    async def report(self) -> None:
        """Write the status. A node that is gone stays gone."""
        self._report_at = self._clock.monotonic() + self._config.status_period_s
        try:
            found = await self._client.get(Node, self._config.node_name)
        except NotFound as err:
            log.warning("unable to update node status", error=str(err))
            self._node = None
            return
        status = await self._status(found.status)
        boot = found.status.node_info.boot_id if found.status is not None else ""
        booted = status.node_info.boot_id
        if boot and boot != booted:
            name = self._config.node_name
            self._say("Warning", "NodeRebooted", f"Node {name} has been rebooted, boot id: {booted}")
        patch = _node_patch(found.status, status)
        self._node = await self._client.patch(
            Node, self._config.node_name, {"status": patch}, type=PatchType.STRATEGIC, subresource="status"
        )
        self._say_pressure(frozenset(c.type for c in status.conditions if c.type in PRESSURE and c.status == "True"))
        ready = any(c.type == "Ready" and c.status == "True" for c in status.conditions)
        if ready != self._was_ready:
            self._was_ready = ready
            reason = "NodeReady" if ready else "NodeNotReady"
            self._say("Normal", reason, f"Node {self._config.node_name} status is now: {reason}")

    def _say(self, type: str, reason: str, message: str) -> None:
        self._recorder.event(self.reference(), type, reason, message)

    def _say_pressure(self, has: frozenset[str]) -> None:
        for name in sorted(has ^ self._had_pressure):
            reason = _PRESSURE_EVENTS[name][name not in has]
            self._say("Normal", reason, f"Node {self._config.node_name} status is now: {reason}")
        self._had_pressure = has

    def _say_starting(self, fault: str) -> None:
        name = self._config.node_name
        self._say("Normal", "Starting", "Starting kubelet.")
        for reason in ("NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"):
            self._say("Normal", reason, f"Node {name} status is now: {reason}")
        if fault:
            text = f'Failed to update Node Allocatable Limits ["kubepods"]: {fault}'
            self._say("Warning", "FailedNodeAllocatableEnforcement", text)
        else:
            self._say("Normal", "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")

    # ---- lease

    async def _keep_lease(self) -> None:
        while True:
            await self._persist("renew lease", self.renew)
            period = min(self._config.lease_period_s, self._config.lease_duration_s / 4)
            await self._clock.sleep(period * (1 + 0.04 * self._clock.random.random()))

    async def renew(self) -> None:
        """Say that the node lives."""
        name, now = self._config.node_name, format_micro_time(self._clock.now())
        try:
            await self._client.patch(Lease, name, {"spec": {"renewTime": now}}, LEASE_NAMESPACE, type=PatchType.MERGE)
        except NotFound:
            node = await self._client.get(Node, name)  # none without it: a lease goes with its node
            owners = (OwnerReference(api_version="v1", kind="Node", name=name, uid=node.metadata.uid or ""),)
            spec = LeaseSpec(holder_identity=name, lease_duration_seconds=self._config.lease_duration_s, renew_time=now)
            meta = ObjectMeta(name=name, namespace=LEASE_NAMESPACE, owner_references=owners)
            await self._client.create(Lease(metadata=meta, spec=spec))


def _quantities(amounts: Mapping[str, str]) -> dict[str, Quantity]:
    return {name: Quantity(quantity.canonical(text)) for name, text in sorted(amounts.items())}


def _node_patch(old: NodeStatus | None, new: NodeStatus) -> dict[str, Any]:
    before: dict[str, Any] = to_builtins(old) if old is not None else {}
    after: dict[str, Any] = to_builtins(new)
    patch = _merge_patch(before, after)
    if patch.get("conditions"):
        patch["$setElementOrder/conditions"] = [{"type": c["type"]} for c in after["conditions"]]
    if patch.get("addresses"):
        patch["addresses"] = [*after["addresses"], {"$patch": "replace"}]
    return patch


def _merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What makes one document of another: what is gone is null."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        had = old.get(key)
        if had != value:
            patch[key] = _merge_patch(had, value) if isinstance(had, dict) and isinstance(value, dict) else value
    return patch
