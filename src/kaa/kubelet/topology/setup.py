"""Puts the managers of CPUs, memory and topology together as a node's settings say. Imported where there are such settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

from kaa.api import quantity

from ..config import KubeletConfig
from . import cpus, memory
from .cpu_lists import read_list
from .cpus import StaticCpus
from .hardware import Hardware
from .machine import MEMORY, Machine, read_machine
from .memory import StaticMemory
from .policy import Policy
from .settings import Settings, SettingsError


def set_up(
    hardware: Hardware,
    settings: Settings,
    config: KubeletConfig,
    capacity: Mapping[str, str],
    changed: Callable[[], None],
) -> None:
    """Add what ``settings`` ask for; ``changed`` is called whenever the CPUs that all share do. Raises SettingsError, InvalidState."""
    machine = read_machine(config.machine_root, memory_bytes=quantity.whole(capacity["memory"]))
    hardware.retry_s = settings.retry_s
    hardware.policy, hardware.scope = policy_of(settings, machine), settings.scope
    if settings.cpus == "static":
        listed = read_list(settings.reserved_cpus)
        hardware.cpus = StaticCpus(
            machine,
            config.root / cpus.STATE_FILE,
            settings.cpu_options,
            reserved=listed or ceil(quantity.parse(config.reserved.get("cpu", "0"))),
            changed=changed,
            pinning=hardware.metrics.pinning_cpus,
        )
        hardware.add(hardware.cpus)
    if settings.memory == "Static":
        hardware.memory = StaticMemory(
            machine,
            config.root / memory.STATE_FILE,
            settings.reserved_memory,
            kept=kept_memory(config, capacity),
            pinning=hardware.metrics.pinning_memory,
        )
        hardware.add(hardware.memory)


def policy_of(settings: Settings, machine: Machine) -> Policy | None:
    if settings.topology == "none":
        return None
    most = settings.topology_options.max_allowable_numa_nodes
    if len(machine.nodes) > most:
        raise SettingsError(f"unsupported on machines with more than {most} NUMA Nodes")
    near = settings.topology_options.prefer_closest_numa_nodes
    return Policy(settings.topology, frozenset(machine.nodes), machine.distances if near else None)


def kept_memory(config: KubeletConfig, capacity: Mapping[str, str]) -> dict[str, int]:
    """{kind: bytes} that are kept from pods: reserved, and the last that evictions keep free."""
    made = {
        name: quantity.whole(text)
        for name, text in config.reserved.items()
        if name == MEMORY or name.startswith("hugepages-")
    }
    text = config.eviction.hard.get("memory.available", "0") if config.eviction is not None else "0"
    if text.endswith("%"):
        whole = quantity.whole(capacity[MEMORY])
        kept = int(whole * float(text.removesuffix("%")) / 100)
    else:
        kept = quantity.whole(text)
    if kept:
        made[MEMORY] = made.get(MEMORY, 0) + kept
    return made
