"""What a node keeps from its pods for the machine's own processes and for Kubernetes': read, checked, and enforced.

    KubeletConfiguration ── read ──> Reservations ──┬─ what is allocatable is that much less
                                                    └─ enforce ──> the cgroups that those processes are in, where it is asked

The cgroup of a reservation is the administrator's: it is bounded, never made.
Source: pkg/kubelet/cm/node_container_manager_linux.go, pkg/kubelet/apis/config/validation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import msgspec

from kaa.api import quantity

from .cgroups import CgroupManager, shares, weight

Json = Mapping[str, Any]

FIELDS = frozenset(
    """cgroupsPerQOS enforceNodeAllocatable kubeReserved kubeReservedCgroup reservedSystemCPUs systemReserved
    systemReservedCgroup""".split()
)
_OPTION = "enforceNodeAllocatable (--enforce-node-allocatable)"
_KEYS = (
    "pods",
    "system-reserved",
    "system-reserved-compressible",
    "kube-reserved",
    "kube-reserved-compressible",
    "none",
)
#: Controllers that a cgroup must have to be bounded, as far as the machine has them.
_V1, _V2 = ("cpu", "cpuacct", "cpuset", "memory", "pids", "systemd"), ("cpu", "cpuset", "memory", "pids")


class EnforcementError(RuntimeError):
    """What was reserved cannot be kept from pods: a kubelet does not run so, as upstream's does not."""


class Reservation(msgspec.Struct, frozen=True):
    """``amounts``: {``cpu``, ``memory``, ``pid``, ``ephemeral-storage``: a quantity}; ``enforced`` on ``cgroup``, all of it
    or what is compressible: its CPU."""

    name: str  #: as events say it: ``system`` or ``kube``
    amounts: Mapping[str, str] = {}
    cgroup: str = ""
    enforced: bool = False
    compressible: bool = False


# ------------------------------------------------------------------------------------------------ reading


def changes(given: Json) -> dict[str, Any]:
    """{field of the config: its value} of what a KubeletConfiguration says. Raises ValueError."""
    asked = given.get("enforceNodeAllocatable")
    enforced = tuple(asked) if asked is not None else ("pods",)
    check(enforced, given)
    made = tuple(
        Reservation(
            name,
            {key: str(amount) for key, amount in (given.get(f"{name}Reserved") or {}).items()},
            given.get(f"{name}ReservedCgroup") or "",
            f"{name}-reserved" in enforced or f"{name}-reserved-compressible" in enforced,
            f"{name}-reserved-compressible" in enforced,
        )
        for name in ("system", "kube")
    )
    together = _together(made, given)
    return {"enforced": enforced, "reservations": made, **({"reserved": together} if together else {})}


def check(enforced: tuple[str, ...], given: Json) -> None:
    """Raises ValueError, in upstream's words."""
    if "none" in enforced and len(enforced) > 1:
        raise ValueError(f'{_OPTION} may not contain additional enforcements when "none" is specified')
    for name in ("system", "kube"):
        both = f'"{name}-reserved" and "{name}-reserved-compressible"'
        if {f"{name}-reserved", f"{name}-reserved-compressible"} <= set(enforced):
            raise ValueError(f"both {both} cannot be specified together in {_OPTION}")
    for number, one in enumerate(enforced):
        if one in enforced[:number]:
            raise ValueError(f'duplicated enforcements "{one}" in {_OPTION}')
        if one not in _KEYS:
            *first, last = (f'"{key}"' for key in _KEYS)
            raise ValueError(f'option "{one}" specified for {_OPTION}. Valid options are {", ".join(first)} or {last}')
        name = one.partition("-")[0]
        if name in ("system", "kube") and not given.get(f"{name}ReservedCgroup"):
            raise ValueError(
                f"{name}ReservedCgroup (--{name}-reserved-cgroup) must be specified when"
                f' "{name}-reserved" or "{name}-reserved-compressible" included in {_OPTION}'
            )
        if one != "none" and given.get("cgroupsPerQOS") is False:
            raise ValueError(
                f'cgroupsPerQOS (--cgroups-per-qos) must be set to true when "{one}" contained in {_OPTION}'
            )


def _together(reservations: tuple[Reservation, ...], given: Json) -> dict[str, str]:
    """What pods cannot have of each resource."""
    sums: dict[str, Fraction] = {}
    for one in reservations:
        for name, amount in one.amounts.items():
            sums[name] = sums.get(name, Fraction(0)) + quantity.parse(amount)
    if given.get("reservedSystemCPUs"):
        from .topology.settings import reserved_cpus

        listed = reserved_cpus(given, os.cpu_count() or 1)
        sums |= {"cpu": Fraction(len(listed))} if listed else {}
    return {name: quantity.format_millis(int(amount * 1000)) for name, amount in sums.items()}


# ------------------------------------------------------------------------------------------------ enforcing


def check_capacity(capacity: Mapping[str, str], kept: Mapping[str, Fraction]) -> None:
    """Raises EnforcementError where more is kept from pods than there is."""
    faults = []
    for name, amount in kept.items():
        left = quantity.parse(capacity[name]) - amount
        if left < 0:
            of, less = (quantity.format_millis(int(each * 1000)) for each in (amount, left))
            faults.append(f'Resource "{name}" has an allocatable of {of}, capacity of {less}')
    if faults:
        raise EnforcementError(f"invalid Node Allocatable configuration. {' '.join(faults)}")


def enforce(cgroups: CgroupManager, one: Reservation, *, protect: bool = False) -> str:
    """Bound a reservation's cgroup; returns what is to be said of it. ``protect``: its memory is not taken by others.

    Raises EnforcementError.
    """
    try:
        _check_cgroup(cgroups, one.cgroup)
        for folder, values in _values(cgroups, one, protect):
            for name, text in values.items():
                (folder / name).write_text(text)
    except (OSError, ValueError) as err:
        text = f'Failed to enforce {one.name.capitalize()} Reserved Cgroup Limits on "{one.cgroup}": {err}'
        raise EnforcementError(text) from err
    return f"Updated limits on {one.name} reserved cgroup {one.cgroup}"


def _check_cgroup(cgroups: CgroupManager, path: str) -> None:
    """Raises ValueError when the cgroup is not there, or not in every controller."""
    parts = [part for part in path.split("/") if part]
    shown = "[" + " ".join(f'"{part}"' for part in parts) + "]"
    if cgroups.v2:
        folder = cgroups.mount.joinpath(*parts)
        there = set((cgroups.mount / "cgroup.controllers").read_text().split())
        try:
            enabled = set((folder / "cgroup.controllers").read_text().split())
        except OSError as err:
            raise ValueError(f"could not read controllers for cgroup {shown}: {err}") from err
        lacking = sorted(there & set(_V2) - enabled)
        if lacking:
            raise ValueError(f"cgroup {shown} has some missing controllers: {', '.join(lacking)}")
        return
    wanted = [cgroups.mount.joinpath(one, *parts) for one in _V1 if (cgroups.mount / one).is_dir()]
    absent = [str(folder) for folder in wanted if not folder.is_dir()]
    if absent:
        raise ValueError(f"cgroup {shown} has some missing paths: {', '.join(absent)}")


def _values(cgroups: CgroupManager, one: Reservation, protect: bool) -> list[tuple[Any, dict[str, str]]]:
    """[(folder, {file: text})]; only what is reserved is bounded."""
    kept = {name: text for name, text in one.amounts.items() if name == "cpu" or not one.compressible}
    cpu = shares(quantity.millis(kept["cpu"])) if "cpu" in kept else None
    memory, pids = (str(quantity.whole(kept[name])) if name in kept else None for name in ("memory", "pid"))
    if cgroups.v2:
        told = {
            "cpu.weight": str(weight(cpu)) if cpu is not None else None,
            "memory.max": memory,
            "memory.min": memory if protect else None,
            "pids.max": pids,
        }
        return [(cgroups.mount / one.cgroup.strip("/"), _given(told))]
    return [
        (cgroups.mount / controller / one.cgroup.strip("/"), _given(values))
        for controller, values in (
            ("cpu", {"cpu.shares": str(cpu) if cpu is not None else None}),
            ("memory", {"memory.limit_in_bytes": memory}),
            ("pids", {"pids.max": pids}),
        )
    ]


def _given(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: text for name, text in values.items() if text is not None}
