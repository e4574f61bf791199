"""What a KubeletConfiguration says of CPUs, memory and topology, checked in upstream's words.

Source: pkg/kubelet/apis/config/validation; pkg/kubelet/cm/{cpumanager,topologymanager}/policy_options.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from kaa.api import quantity
from kaa.api.durations import parse_seconds

from .cpu_lists import Cpus, read_list, write_list

TOPOLOGY_POLICIES = ("none", "best-effort", "restricted", "single-numa-node")
_MOST_NODES = 8

Json = Mapping[str, Any]


class SettingsError(ValueError):
    """The settings cannot be served; the message is upstream's."""


class CpuOptions(msgspec.Struct, frozen=True):
    """Options of the static policy of CPUs, by their names."""

    full_pcpus_only: bool = False
    distribute_cpus_across_numa: bool = False
    align_by_socket: bool = False
    distribute_cpus_across_cores: bool = False
    strict_cpu_reservation: bool = False
    prefer_align_cpus_by_uncorecache: bool = False


class TopologyOptions(msgspec.Struct, frozen=True):
    prefer_closest_numa_nodes: bool = False
    max_allowable_numa_nodes: int = _MOST_NODES


class Settings(msgspec.Struct, frozen=True):
    """``reserved_memory``: {NUMA node: {``memory`` or ``hugepages-2Mi``: bytes}}; ``reserved_cpus`` a list, or empty."""

    cpus: Literal["none", "static"] = "none"
    cpu_options: CpuOptions = CpuOptions()
    reserved_cpus: str = ""
    memory: Literal["None", "Static"] = "None"
    reserved_memory: Mapping[int, Mapping[str, int]] = {}
    topology: Literal["none", "best-effort", "restricted", "single-numa-node"] = "none"
    topology_options: TopologyOptions = TopologyOptions()
    scope: Literal["container", "pod"] = "container"
    retry_s: float = 10.0  #: a container that could not be moved to its CPUs is tried again


def read_settings(given: Json, *, cpu_count: int) -> Settings | None:
    """The settings of a KubeletConfiguration; None when they are upstream's defaults. Raises SettingsError."""
    gates = given.get("featureGates") or {}
    made = Settings(
        cpus=_one_of(given.get("cpuManagerPolicy") or "none", ("none", "static")),
        cpu_options=_cpu_options(given, gates),
        reserved_cpus=write_list(reserved_cpus(given, cpu_count)),
        memory=_one_of(given.get("memoryManagerPolicy") or "None", ("None", "Static")),
        reserved_memory=_reserved_memory(given.get("reservedMemory") or ()),
        topology=_topology_policy(given.get("topologyManagerPolicy") or "none"),
        topology_options=_topology_options(given.get("topologyManagerPolicyOptions") or {}),
        scope=_scope(given.get("topologyManagerScope") or "container"),
        retry_s=parse_seconds(given.get("cpuManagerReconcilePeriod") or "10s"),
    )
    if made.cpu_options.align_by_socket and made.topology == "single-numa-node":
        raise SettingsError(
            "Topolgy manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option"
        )
    if (made.cpus, made.memory, made.topology) == ("none", "None", "none"):
        return None
    return made


def _one_of(name: str, known: Sequence[str]) -> Any:
    if name not in known:
        raise SettingsError(f'unknown policy: "{name}"')
    return name


def _topology_policy(name: str) -> Any:
    if name not in TOPOLOGY_POLICIES:
        listed = " ".join(f'"{one}"' for one in TOPOLOGY_POLICIES)
        raise SettingsError(f'topologyManagerPolicy (--topology-manager-policy) "{name}" must be one of: [{listed}]')
    return name


def _scope(name: str) -> Any:
    if name not in ("container", "pod"):
        raise SettingsError(
            f'topologyManagerScope (--topology-manager-scope) "{name}" must be one of: "container", or "pod"'
        )
    return name


# ------------------------------------------------------------------------------------------------------ reservations


def reserved_cpus(given: Json, cpu_count: int) -> Cpus:
    """CPUs that are kept from pods by name; none, as upstream has it, when this machine has not all of them."""
    text = given.get("reservedSystemCPUs") or ""
    if not text:
        return frozenset()
    if given.get("systemReservedCgroup") or given.get("kubeReservedCgroup"):
        raise SettingsError(
            "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup)"
            " or kubeReservedCgroup (--kube-reserved-cgroup)"
        )
    try:
        cpus = read_list(text)
    except ValueError as err:
        raise SettingsError(f"unable to parse reservedSystemCPUs (--reserved-cpus) {text}, error: {err}") from None
    return cpus if max(cpus) < cpu_count else frozenset()


def _reserved_memory(rows: Sequence[Json]) -> dict[int, dict[str, int]]:
    made: dict[int, dict[str, int]] = {}
    for row in rows:
        node = int(row.get("numaNode") or 0)
        of = made.setdefault(node, {})
        for name, amount in (row.get("limits") or {}).items():
            text = str(amount)
            if name != "memory" and not name.startswith("hugepages-"):
                raise SettingsError(
                    f'the limit type "{name}" for NUMA node {node} is not supported, only'
                    " [memory hugepages-<HugePageSize>] is accepted"
                )
            if not quantity.parse(text):
                raise SettingsError(f'reserved memory may not be zero for NUMA node {node} and resource "{name}"')
            if name in of:
                raise SettingsError(
                    f'the reserved memory has a duplicate value for NUMA node {node} and resource "{name}"'
                )
            of[name] = quantity.whole(text)
    return made


# ------------------------------------------------------------------------------------------------------ options

_ALPHA = frozenset(("align-by-socket", "distribute-cpus-across-cores"))
_BETA = frozenset(("distribute-cpus-across-numa", "prefer-align-cpus-by-uncorecache"))
_STABLE = frozenset(("full-pcpus-only", "strict-cpu-reservation"))
_TOPOLOGY = frozenset(("prefer-closest-numa-nodes", "max-allowable-numa-nodes"))
_APART = (
    ("full-pcpus-only", "distribute-cpus-across-cores"),
    ("distribute-cpus-across-numa", "distribute-cpus-across-cores"),
    ("prefer-align-cpus-by-uncorecache", "distribute-cpus-across-cores"),
    ("prefer-align-cpus-by-uncorecache", "distribute-cpus-across-numa"),
)
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def _cpu_options(given: Json, gates: Json) -> CpuOptions:
    options: Mapping[str, str] = given.get("cpuManagerPolicyOptions") or {}
    if options and (given.get("cpuManagerPolicy") or "none") == "none":
        listed = " ".join(f"{name}:{value}" for name, value in sorted(options.items()))
        raise SettingsError(f"None policy: received unsupported options=map[{listed}]")
    values = {}
    for name, text in options.items():
        if name not in _ALPHA | _BETA | _STABLE:
            raise SettingsError(f'unknown CPU Manager Policy option: "{name}"')
        if name in _ALPHA and not gates.get("CPUManagerPolicyAlphaOptions", False):
            raise SettingsError(f'CPU Manager Policy Alpha-level Options not enabled, but option "{name}" provided')
        if name in _BETA and not gates.get("CPUManagerPolicyBetaOptions", True):
            raise SettingsError(f'CPU Manager Policy Beta-level Options not enabled, but option "{name}" provided')
        values[name] = _switch(name, text)
    for one, other in _APART:
        if values.get(one) and values.get(other):
            raise SettingsError(f"static policy options {one} and {other} can not be used at the same time")
    return CpuOptions(**{name.replace("-", "_"): value for name, value in values.items()})


def _switch(name: str, text: str) -> bool:
    if text not in _TRUE | _FALSE:
        raise SettingsError(f'bad value for option "{name}": strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE


def _topology_options(options: Mapping[str, str]) -> TopologyOptions:
    made = TopologyOptions()
    for name, text in options.items():
        if name not in _TOPOLOGY:
            raise SettingsError(f'unknown Topology Manager Policy option: "{name}"')
        if name == "prefer-closest-numa-nodes":
            made = msgspec.structs.replace(made, prefer_closest_numa_nodes=_switch(name, text))
        else:
            made = msgspec.structs.replace(made, max_allowable_numa_nodes=_node_limit(name, text))
    return made


def _node_limit(name: str, text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise SettingsError(
            f'unable to convert policy option to integer "{name}": strconv.Atoi: parsing "{text}": invalid syntax'
        )
    if int(text) < _MOST_NODES:
        raise SettingsError(f'the minimum value of "{name}" should not be less than {_MOST_NODES}')
    return int(text)
