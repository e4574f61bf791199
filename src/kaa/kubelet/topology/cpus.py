"""CPUs of their own for containers that ask for whole ones; all others share the rest. The CPU manager's ``static`` policy.

    all CPUs ── reserved ones stay shared ──> those that may be taken ── a container takes ──> its own

The idea: the shared pool is what nobody owns. It shrinks and grows as pods come and go, and ``changed`` says so, that running
containers are moved at once. CPUs of init containers that have ended are their pod's other containers' to take.
Source: pkg/kubelet/cm/cpumanager/policy_static.go, policy_options.go; KEP-3570.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from kaa.api.types.core_v1 import Container, Pod

from .asked import WHOLE_POD, containers, largest, own_cpus, plain_inits
from .base import Given, Hint, NotGiven
from .checkpoint import CpuState, InvalidState, load, save, try_to_save
from .cpu_lists import Cpus, read_list, write_list
from .machine import Machine
from .policy import on_few_nodes
from .settings import CpuOptions, SettingsError
from .take import Manner, NotEnough, take

STATE_FILE, POLICY = "cpu_manager_state", "static"
_NONE: Cpus = frozenset()


def unexpected(err: object) -> NotGiven:
    """A refusal for which upstream has no name of its own."""
    return NotGiven("UnexpectedAdmissionError", f"Allocate failed due to {err}, which is unexpected")


class StaticCpus:
    """The provider of CPUs. Raises SettingsError when the machine cannot serve the options, InvalidState as its file says."""

    def __init__(
        self,
        machine: Machine,
        file: Path,
        options: CpuOptions,
        *,
        reserved: int | Cpus,
        changed: Callable[[], None] = lambda: None,
        pinning: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """``reserved``: how many CPUs, or which, are never anyone's alone. Each allocation is made in a ``pinning()``."""
        self._pinning = pinning
        self._machine, self._file, self._options, self._changed = machine, file, options, changed
        if options.align_by_socket and len(machine.sockets) > len(machine.cpu_nodes):
            raise SettingsError(
                "Align by socket is not compatible with hardware where number of sockets are more than number of NUMA"
            )
        self.reserved = reserved if isinstance(reserved, frozenset) else self._lowest(reserved)
        self._pool = machine.all - self.reserved if options.strict_cpu_reservation else machine.all
        self.shared = self._pool
        self._own: dict[str, dict[str, Cpus]] = {}  #: {pod uid: {container: its CPUs}}
        self._restore()

    def _lowest(self, count: int) -> Cpus:
        if not count:
            raise SettingsError(
                "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
            )
        try:
            return self._take(self._machine.all, count)
        except NotEnough:
            raise SettingsError(
                f"[cpumanager] unable to reserve the required amount of CPUs (size of  did not equal {count})"
            ) from None

    # ------------------------------------------------------------------------------------------------ on disk

    def _restore(self) -> None:
        found = load(self._file, CpuState, POLICY)
        if found is not None:
            try:
                self.shared = read_list(found.default_cpu_set)
                self._own = {
                    uid: {name: read_list(cpus) for name, cpus in of.items()} for uid, of in found.entries.items()
                }
            except ValueError as err:
                raise InvalidState(f"could not parse the CPUs of {self._file}: {err}") from err
            self._check()
        save(self._file, _state(self.shared, self._own))

    def _check(self) -> None:
        """Whether what the file says can be, on this machine and with these reservations. Raises InvalidState."""
        shared, reserved = self.shared, self.reserved
        if not shared and not self._own:
            self.shared = self._pool
            return
        if not shared and not self._options.strict_cpu_reservation:
            raise InvalidState("default cpuset cannot be empty")
        both = reserved & shared
        if self._options.strict_cpu_reservation and both:
            raise InvalidState(
                f'some of strictly reserved cpus: "{write_list(both)}" are present in defaultCpuSet:'
                f' "{write_list(shared)}"'
            )
        if not self._options.strict_cpu_reservation and both != reserved:
            raise InvalidState(
                f'not all reserved cpus: "{write_list(reserved)}" are present in defaultCpuSet: "{write_list(shared)}"'
            )
        known = shared
        for uid, of in self._own.items():
            for name, cpus in of.items():
                known |= cpus
                if cpus & shared:
                    raise InvalidState(
                        f'pod: {uid}, container: {name} cpuset: "{write_list(cpus)}" overlaps with default cpuset'
                        f' "{write_list(shared)}"'
                    )
        if known != self._pool:
            raise InvalidState(
                f'current set of available CPUs "{write_list(self._pool)}" doesn\'t match with CPUs in state'
                f' "{write_list(known)}"'
            )

    # ------------------------------------------------------------------------------------------------ what there is

    @property
    def held(self) -> Cpus:
        """CPUs that are somebody's own."""
        return _NONE.union(*(cpus for of in self._own.values() for cpus in of.values()))

    def per_node(self) -> dict[int, int]:
        """{NUMA node: how many of its CPUs are somebody's own}"""
        return {node: len(self.held & self._machine.in_nodes({node})) for node in self._machine.cpu_nodes}

    @property
    def assignable(self) -> Cpus:
        """CPUs that may become somebody's own."""
        return self._machine.all - self.reserved

    def own(self, uid: str, container: str) -> Cpus:
        """CPUs that are a container's alone; none when it shares."""
        return self._own.get(uid, {}).get(container, _NONE)

    def holders(self) -> Iterable[str]:
        return list(self._own)

    def _reusable(self, pod: Pod) -> Cpus:
        """CPUs of the pod's init containers that end, as far as none of its lasting containers has them."""
        ending, lasting = _NONE, _NONE
        for name, cpus in self._own.get(pod.metadata.uid or "", {}).items():
            if name in plain_inits(pod):
                ending |= cpus
            else:
                lasting |= cpus
        return ending - lasting

    # ------------------------------------------------------------------------------------------------ hints

    def hints(self, pod: Pod, container: Container) -> Mapping[str, Sequence[Hint] | None]:
        if container.name == WHOLE_POD:
            return self._pod_hints(pod)
        count = own_cpus(pod, container)
        if not count:
            return {}
        has = self.own(pod.metadata.uid or "", container.name)
        if has:
            return {"cpu": self._hints(has, _NONE, count) if len(has) == count else ()}
        return {"cpu": self._hints(self.shared - self.reserved, self._reusable(pod), count)}

    def _pod_hints(self, pod: Pod) -> Mapping[str, Sequence[Hint] | None]:
        asked = {one.name: own_cpus(pod, one) for one in containers(pod)}
        count = largest(pod, asked)
        if not count:
            return {}
        has = self._own.get(pod.metadata.uid or "", {})
        if any(len(cpus) != asked.get(name) for name, cpus in has.items()):
            return {"cpu": ()}
        together = _NONE.union(*has.values())
        if len(together) == count:
            return {"cpu": self._hints(together, _NONE, count)}
        return {"cpu": self._hints(self.shared - self.reserved, self._reusable(pod) | together, count)}

    def _hints(self, free: Cpus, reusable: Cpus, count: int) -> list[Hint]:
        """Sets of NUMA nodes with CPUs enough. Preferred: no fewer nodes of this machine would have so many, used or not."""
        machine, made, least = self._machine, list[frozenset[int]](), len(self._machine.cpu_nodes)
        for nodes in on_few_nodes(machine.cpu_nodes):
            every = machine.in_nodes(nodes)
            if len(every) >= count:
                least = min(least, len(nodes))
            if reusable <= every and len(reusable) + len(free & every) >= count:
                made.append(nodes)
        return [Hint(nodes, len(nodes) == least or self._on_few_sockets(nodes, least)) for nodes in made]

    def _on_few_sockets(self, nodes: frozenset[int], least: int) -> bool:
        """Whether the nodes are of no more sockets than so many nodes need."""
        machine = self._machine
        each = len(machine.cpu_nodes) // len(machine.sockets)
        if not self._options.align_by_socket or not each:
            return False
        return len(machine.sockets_of_nodes(nodes)) == -(-least // each)

    # ------------------------------------------------------------------------------------------------ giving

    async def allocate(self, pod: Pod, container: Container, where: Hint) -> None:
        uid, count = pod.metadata.uid or "", own_cpus(pod, container)
        if not count or self.own(uid, container.name):
            return
        with self._pinning():
            self._check_cores(count)
            try:
                found = self._choose(count, where, self._reusable(pod))
            except NotEnough as err:
                raise unexpected(err) from None
        own = {**self._own, uid: {**self._own.get(uid, {}), container.name: found}}
        save(self._file, _state(self.shared - found, own))
        self.shared, self._own = self.shared - found, own
        self._changed()

    def _check_cores(self, count: int) -> None:
        """Whole cores alone are given out where the options say so. Raises NotGiven."""
        threads = self._machine.cpus_per_core
        if not self._options.full_pcpus_only:
            return
        why = ""
        free = len(self.shared - self._machine.siblings(self.reserved))
        if count % threads:
            why = f"requested {count} cpus not multiple cpus per core = {threads}"
        elif count > free:
            why = (
                f"not enough free physical CPUs: available physical CPUs = {free}, requested CPUs = {count},"
                f" CPUs per core = {threads}"
            )
        if why:
            raise NotGiven("SMTAlignmentError", f"SMT Alignment Error: {why}")

    def _choose(self, count: int, where: Hint, reusable: Cpus) -> Cpus:
        """From the nodes of the hint first, the rest from anywhere. Raises NotEnough."""
        free = (self.shared - self.reserved) | reusable
        near = _NONE
        if where.nodes is not None:
            aligned = free & self._aligned(where.nodes)
            near = self._take(aligned, min(count, len(aligned)))
        return near | self._take(free - near, count - len(near))

    def _aligned(self, nodes: frozenset[int]) -> Cpus:
        if self._options.align_by_socket:
            return self._machine.in_sockets(self._machine.sockets_of_nodes(nodes))
        return self._machine.in_nodes(nodes)

    def _take(self, free: Cpus, count: int) -> Cpus:
        options = self._options
        group = self._machine.cpus_per_core if options.full_pcpus_only else 1
        return take(
            self._machine,
            free,
            count,
            Manner(
                spread=options.distribute_cpus_across_cores,
                uncore=options.prefer_align_cpus_by_uncorecache,
                group=group if options.distribute_cpus_across_numa else 0,
            ),
        )

    def given(self, pod: Pod, container: Container) -> Given:
        return Given(cpus=self.of(pod.metadata.uid or "", container.name))

    def of(self, uid: str, container: str) -> str:
        """The list of CPUs that a container may use: its own, else those that all share."""
        return write_list(self.own(uid, container) or self.shared)

    def release(self, pod_uid: str) -> None:
        had = self._own.pop(pod_uid, None)
        if had is not None:
            self.shared = self.shared.union(*had.values())
            try_to_save(self._file, _state(self.shared, self._own))
            self._changed()


def _state(shared: Cpus, own: Mapping[str, Mapping[str, Cpus]]) -> CpuState:
    entries = {uid: {name: write_list(cpus) for name, cpus in of.items()} for uid, of in own.items()}
    return CpuState(policy_name=POLICY, default_cpu_set=write_list(shared), entries=entries)
