"""What to do about one pod now: its spec and what the runtime shows, in; actions and the next wake-up, out.

The idea: nothing is remembered between two plans but what the runtime itself keeps (attempts and crash back-off ride on the
containers), so a restarted kubelet goes on where the last one stopped, and no action is ever planned twice: what is under
way is named in ``busy`` and ``stopping``.

    facts ── plan ──> CreateSandbox | StartContainer | StopContainer | RemoveContainer | KillSandbox | …, wake_at

Source: kuberuntime_manager.go computePodActions, kuberuntime_container.go (sidecars), flowcontrol backoff.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kaa.api.types.core_v1 import Container as ContainerSpec
from kaa.api.types.core_v1 import Pod
from kaa.runtime.base import Container, ContainerState, Sandbox, SandboxState

from .cgroups import container_resources

BACKOFF_ANNOTATION = "kaa.dev/restart-backoff"
HASH_ANNOTATION = "io.kubernetes.container.hash"
LIFE_ANNOTATION = "kaa.dev/pod-life"  #: how many times the pod had begun anew when a container was made; absent is 0
BACKOFF_FIRST_S, BACKOFF_MAX_S = 10.0, 300.0
MIN_GRACE_S = 2.0
DEFAULT_GRACE_S = 30
#: The name under which making a sandbox is ``busy``.
SANDBOX = ""

RESTART_ALL = "RestartAllContainers"

Role = Literal["init", "sidecar", "main", "ephemeral"]


# -------------------------------------------------------------------------------------------------------- facts


@dataclass(frozen=True, slots=True)
class PodView:
    """What the runtime has of a pod, newest first: by attempt, for the clock may have been set back between two."""

    sandboxes: tuple[Sandbox, ...] = ()
    containers: tuple[Container, ...] = ()

    @classmethod
    def of(cls, sandboxes: list[Sandbox], containers: list[Container]) -> PodView:
        return cls(
            tuple(sorted(sandboxes, key=lambda s: (s.attempt, s.created_at), reverse=True)),
            tuple(sorted(containers, key=lambda c: (c.attempt, c.created_at), reverse=True)),
        )

    @property
    def sandbox(self) -> Sandbox | None:
        """The newest, if it is ready."""
        newest = self.sandboxes[0] if self.sandboxes else None
        return newest if newest is not None and newest.state is SandboxState.READY else None

    def latest(self, name: str) -> Container | None:
        return next((c for c in self.containers if c.name == name), None)

    def previous(self, name: str) -> Container | None:
        """The newest but one that has exited."""
        found = [c for c in self.containers if c.name == name][1:]
        return next((c for c in found if c.state is ContainerState.EXITED), None)

    def running(self) -> list[Container]:
        return [c for c in self.containers if c.state in (ContainerState.RUNNING, ContainerState.UNKNOWN)]


@dataclass(frozen=True, slots=True)
class Health:
    """What probes and hooks found of one running container. ``failed`` says why it must be restarted."""

    started: bool = True
    ready: bool = True
    failed: str = ""
    grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A container could not be started: shown as ``waiting``, tried again at ``retry_at``."""

    reason: str
    message: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class Ending:
    """Why and since when a pod is being ended, and how long its containers have for it."""

    since: float
    grace_s: float
    reason: str = ""
    message: str = ""
    disrupted: bool = False  #: by the node, not by itself


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a plan depends on. ``busy`` names containers being started; ``stopping`` is {container id: when it is killed}."""

    pod: Pod
    view: PodView
    now: float
    health: Mapping[str, Health] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    stopping: Mapping[str, float] = field(default_factory=dict)
    held: frozenset[str] = frozenset()  #: those of ``stopping`` that get their signal only when it is their turn
    #: ids of containers that were stopped for another run, whatever the policy says
    again: frozenset[str] = frozenset()
    resizing: frozenset[str] = frozenset()  #: ids of containers that are being given other resources
    ending: Ending | None = None
    longest_backoff_s: float = BACKOFF_MAX_S  #: between two starts of a container that crashes


# -------------------------------------------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait before a container's next restart, and when it was last made longer."""

    delay_s: float
    at: float

    def __str__(self) -> str:
        return f"{self.delay_s:g}@{self.at:.3f}"

    @classmethod
    def read(cls, text: str) -> Backoff | None:
        delay, _, at = text.partition("@")
        return cls(float(delay), float(at)) if at else None


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    attempt: int


@dataclass(frozen=True, slots=True)
class KillSandbox:
    """Stop a sandbox; ``remove`` also forgets it. ``ending``: its pod has ended, and what it has can be let go of later."""

    sandbox_id: str
    remove: bool = False
    ending: bool = False


@dataclass(frozen=True, slots=True)
class StartContainer:
    name: str
    role: Role
    attempt: int
    backoff: Backoff | None = None
    life: int = 0


@dataclass(frozen=True, slots=True)
class StopContainer:
    container_id: str
    name: str
    grace_s: float
    message: str
    hooks: bool = True  #: whether it may run its preStop hook
    again: bool = False  #: whether it is to run again, however it ends
    held: bool = False  #: whether its signal waits for its turn, as long as there is grace; its preStop hook does not


@dataclass(frozen=True, slots=True)
class ResizeContainer:
    """Give a running container the resources that its spec now has."""

    container_id: str
    name: str


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    container_id: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing of the pod runs, and nothing will."""


Action = CreateSandbox | KillSandbox | StartContainer | StopContainer | ResizeContainer | RemoveContainer | Finish


@dataclass(frozen=True, slots=True)
class Waiting:
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """``waiting`` {container name: why it is not running}; ``wake_at`` is when to plan again even if nothing happens."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None
    waiting: Mapping[str, Waiting] = field(default_factory=dict)


# -------------------------------------------------------------------------------------------------------- reading specs


def resize_key(container_id: str) -> str:
    """Under what the failure of a container's resize is kept."""
    return f"resize/{container_id}"


def resources_to_change(pod: Pod, spec: ContainerSpec, current: Container) -> tuple[str, ...]:
    """Which of cpu and memory a running container has otherwise than its spec says."""
    if current.resources is None:
        return ()
    has, wanted = current.resources, container_resources(pod, spec, memory_capacity_bytes=0)
    quota = wanted.cpu_quota_us if has.cpu_quota_us == -1 else has.cpu_quota_us  # none, with CPUs of its own
    cpu = (has.cpu_shares, quota) != (wanted.cpu_shares, wanted.cpu_quota_us)
    memory = has.memory_limit_bytes != wanted.memory_limit_bytes
    return (*(("cpu",) if cpu else ()), *(("memory",) if memory else ()))


def is_resized(pod: Pod, view: PodView) -> bool:
    """Whether all that runs has what it was allocated."""
    specs = {spec.name: spec for spec in (*pod.spec.init_containers, *pod.spec.containers)}
    return not any(one.name in specs and resources_to_change(pod, specs[one.name], one) for one in view.running())


def is_sidecar(container: Any) -> bool:
    return bool(container.restart_policy == "Always")


def container_hash(container: Any) -> str:
    """Changes when a container must be replaced: its name or image did."""
    return f"{container.name}|{container.image}"


def is_changed(spec: Any, run: Container) -> bool:
    """Whether a run is no longer what its spec says."""
    return run.annotations.get(HASH_ANNOTATION, container_hash(spec)) != container_hash(spec)


def image_of(run: Container) -> str:
    """The image that a run's spec named."""
    return run.annotations.get(HASH_ANNOTATION, "").partition("|")[2]


def restart_action(container: Any, exit_code: int) -> str:
    """What the first of a container's restart rules that fits its exit code says; empty without one."""
    for rule in container.restart_policy_rules:
        codes = rule.exit_codes
        if codes is not None and (exit_code in codes.values) == (codes.operator == "In"):
            return str(rule.action)
    return ""


def should_restart(pod: Pod, container: Any, exit_code: int) -> bool:
    """Whether an exited main or plain init container is to run again. Rules of the container go before policies."""
    if restart_action(container, exit_code):
        return True
    policy = container.restart_policy or pod.spec.restart_policy or "Always"
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


# A pod whose container exits with a code for which its rules say RestartAllContainers begins anew: a next life, in which init
# containers run again. A run belongs to the life that its annotation names, so nothing has to be remembered. Source: KEP-5532.


def may_begin_anew(pod: Pod) -> bool:
    """Whether any container's exit could restart all of them."""
    specs = (*pod.spec.init_containers, *pod.spec.containers)
    return any(rule.action == RESTART_ALL for spec in specs for rule in spec.restart_policy_rules)


def life_of(container: Container) -> int:
    """The life of its pod for which a container was made."""
    return int(container.annotations.get(LIFE_ANNOTATION, "0"))


def pod_life(pod: Pod, view: PodView) -> int:
    """The life that a pod is in, or is to begin: what was made for an earlier one has to go."""
    if not may_begin_anew(pod):
        return 0
    specs = {spec.name: spec for spec in (*pod.spec.init_containers, *pod.spec.containers)}
    return max((life_of(run) + _ended_a_life(specs.get(run.name), run) for run in view.containers), default=0)


def _ended_a_life(spec: Any, run: Container | None) -> bool:
    ended = spec is not None and run is not None and run.state is ContainerState.EXITED
    return ended and run is not None and restart_action(spec, run.exit_code) == RESTART_ALL


def should_retry_init(pod: Pod, container: Any, exit_code: int) -> bool:
    if exit_code == 0:
        return False
    if container.restart_policy_rules or container.restart_policy:
        return should_restart(pod, container, exit_code)
    return pod.spec.restart_policy != "Never"


def next_backoff(last: Container, now: float, wanted: str, longest_s: float = BACKOFF_MAX_S) -> tuple[Backoff, float]:
    """The back-off that the next start of a container carries, and when that start may be.

    The first restart is at once and begins at 10 s; each one doubles it, to 300 s or what the node says (KEP-4603); a run of
    more than 600 s starts over, as does a container whose hash is no longer the ``wanted`` one: upstream keys its back-off by
    the hash too.
    """
    held = Backoff.read(last.annotations.get(BACKOFF_ANNOTATION, ""))
    if last.annotations.get(HASH_ANNOTATION, wanted) != wanted:
        held = None
    if held is None or last.finished_at - held.at > 2 * BACKOFF_MAX_S:
        return Backoff(min(BACKOFF_FIRST_S, longest_s), now), now
    return Backoff(min(held.delay_s * 2, longest_s), now), last.finished_at + min(held.delay_s, longest_s)


def is_due(at: float, now: float) -> bool:
    """Whether a moment has come that was at most ``BACKOFF_MAX_S`` away: one further off was set before the clock went back."""
    return at <= now or at > now + BACKOFF_MAX_S


def held_delay(last: Container) -> float:
    held = Backoff.read(last.annotations.get(BACKOFF_ANNOTATION, ""))
    return held.delay_s if held is not None else 0.0


def go_duration(seconds: float) -> str:
    """Whole seconds as Go prints a Duration: ``10s``, ``1m20s``, ``5m0s``."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def full_name(pod: Pod) -> str:
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"


def grace_of(pod: Pod) -> float:
    """Seconds that a pod's containers have to end: the deletion's, else the spec's."""
    if pod.metadata.deletion_timestamp and pod.metadata.deletion_grace_period_seconds is not None:
        return max(float(pod.metadata.deletion_grace_period_seconds), 1.0)
    asked = pod.spec.termination_grace_period_seconds
    return max(float(DEFAULT_GRACE_S if asked is None else asked), 1.0)


# -------------------------------------------------------------------------------------------------------- the plan


def plan(facts: Facts) -> Plan:
    """Decide what to do now. Planning again after doing it all yields nothing more, until something happens."""
    if facts.ending is not None:
        return _end(facts, facts.ending)
    return _Sync(facts).plan()


class _Sync:
    """One pass over a pod that is meant to run."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.pod, self.view = facts, facts.pod, facts.view
        self.life = pod_life(facts.pod, facts.view)
        self.actions: list[Action] = []
        self.waiting: dict[str, Waiting] = {}
        self.wake_at: float | None = None

    def plan(self) -> Plan:
        if self.view.sandbox is None:
            self._replace_sandbox()
        elif outlived := [run for run in self.view.running() if life_of(run) < self.life]:
            for run in outlived:  # at once: no hooks, and the shortest grace
                self._stop(run, MIN_GRACE_S, f"Stopping container {run.name}", hooks=False)
        elif not self._end_strays():
            self._forget_old()
            if self._initialised():
                self._mains()
            self._ephemerals()
            if finished(self.pod, self.view, self.facts.again) and not self.facts.busy:
                return _end(self.facts, Ending(self.facts.now, grace_of(self.pod)))
        return Plan(tuple(self.actions), self.wake_at, self.waiting)

    def _wake(self, at: float) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)

    def _end_strays(self) -> bool:
        """Stop what runs in an earlier sandbox still; whether there was something: nothing may run twice."""
        assert self.view.sandbox is not None
        strays = [c for c in self.view.running() if c.sandbox_id != self.view.sandbox.id]
        for container in strays:
            self._stop(container, grace_of(self.pod), f"Stopping container {container.name}")
        return bool(strays)

    def _replace_sandbox(self) -> None:
        """Kill what is left of an old sandbox, and make a new one unless the pod has nothing left to do."""
        left = self.view.running()
        for container in left:
            self._stop(container, grace_of(self.pod), f"Stopping container {container.name}")
        if left or self.facts.busy:  # also by what is being started in the old one
            return
        if finished(self.pod, self.view, self.facts.again):
            self.actions.append(Finish())
            return
        failure = self.facts.failures.get(SANDBOX)
        if failure is not None and not is_due(failure.retry_at, self.facts.now):
            self._wake(failure.retry_at)
            return
        attempt = self.view.sandboxes[0].attempt + 1 if self.view.sandboxes else 0
        self.actions.append(CreateSandbox(attempt))

    def _forget_old(self) -> None:
        """Drop dead sandboxes without containers worth keeping, containers never started, and runs before the last two."""
        assert self.view.sandbox is not None
        kept_sandboxes = {self.view.sandbox.id}
        seen: dict[str, int] = {}
        for container in self.view.containers:
            seen[container.name] = seen.get(container.name, 0) + 1
            half_made = container.state is ContainerState.CREATED and container.name not in self.facts.busy
            if half_made or (seen[container.name] > 2 and container.state is ContainerState.EXITED):
                self.actions.append(RemoveContainer(container.id))
            else:
                kept_sandboxes.add(container.sandbox_id)
        for old in self.view.sandboxes:
            if old.id not in kept_sandboxes:
                self.actions.append(KillSandbox(old.id, remove=True))
            elif old is not self.view.sandbox and old.state is SandboxState.READY:
                self.actions.append(KillSandbox(old.id))

    # ---- containers by role

    def _current(self, name: str) -> Container | None:
        """The newest run in the present sandbox and life, that was started."""
        assert self.view.sandbox is not None
        for container in self.view.containers:
            if container.name == name and container.sandbox_id == self.view.sandbox.id:
                made_now = container.state is not ContainerState.CREATED and life_of(container) == self.life
                return container if made_now else None
        return None

    def _initialised(self) -> bool:
        """Bring init containers on by one step; true once the main ones may start."""
        begun = any(self._current(c.name) is not None for c in self.pod.spec.containers)
        for container in self.pod.spec.init_containers:
            current = self._current(container.name)
            if is_sidecar(container):
                if not self._sidecar(container, current) and not begun:
                    return False
            elif not begun and not self._init(container, current):
                return False
        return True

    def _init(self, container: ContainerSpec, current: Container | None) -> bool:
        if current is None:
            self._start(container, "init", self.view.latest(container.name), crashed=False)
            return False
        if current.state is not ContainerState.EXITED:
            if not is_changed(container, current):  # else it ends as it is: its work is not done twice
                self._check(container, current)
            return False
        if current.exit_code == 0:
            return True
        if should_retry_init(self.pod, container, current.exit_code):
            self._start(container, "init", current, crashed=True)
        return False

    def _sidecar(self, container: ContainerSpec, current: Container | None) -> bool:
        """Keep a sidecar up; true when it has started, so that what comes after it may."""
        if current is None or current.state is ContainerState.EXITED:
            self._start(container, "sidecar", current or self.view.latest(container.name), crashed=current is not None)
            return False
        self._check(container, current)
        return container.name not in self.facts.busy and self._health(current).started

    def _mains(self) -> None:
        """Main containers start one after the other: the next once the postStart hook of the one before is done."""
        for container in self.pod.spec.containers:
            current = self._current(container.name)
            last = current or self.view.latest(container.name)
            if current is not None and current.state is not ContainerState.EXITED:
                self._check(container, current)
            elif self._is_starting_a_main():
                continue
            elif last is None or last.state is ContainerState.CREATED or life_of(last) < self.life:
                self._start(container, "main", last, crashed=False)
            elif last.state is ContainerState.EXITED and is_to_restart(self.pod, container, last, self.facts.again):
                self._start(container, "main", last, crashed=current is not None)

    def _is_starting_a_main(self) -> bool:
        starting = {action.name for action in self.actions if isinstance(action, StartContainer)} | self.facts.busy
        return any(container.name in starting for container in self.pod.spec.containers)

    def _ephemerals(self) -> None:
        for container in self.pod.spec.ephemeral_containers:
            if self._current(container.name) is None and self.view.latest(container.name) is None:
                self._start(container, "ephemeral", None, crashed=False)

    # ---- one container

    def _health(self, container: Container) -> Health:
        return self.facts.health.get(container.id, Health())

    def _check(self, spec: ContainerSpec, current: Container) -> None:
        """Stop a running container that fails its probes or is no longer what its spec says."""
        health = self._health(current)
        if current.state is ContainerState.UNKNOWN:
            self._stop(
                current, MIN_GRACE_S, f"Container {spec.name} is in unknown state, try killing it before restart"
            )
        elif is_changed(spec, current):
            text = f"Container {spec.name} definition changed, will be restarted"
            self._stop(current, grace_of(self.pod), text, again=True)
        elif health.failed:
            grace = grace_of(self.pod) if health.grace_s is None else health.grace_s
            again = should_restart(self.pod, spec, 137) or is_sidecar(spec)
            end = ", will be restarted" if again else ""
            self._stop(current, grace, f"Container {spec.name} failed {health.failed}{end}", again=again)
        elif current.state is ContainerState.RUNNING:
            self._resize(spec, current)

    def _resize(self, spec: ContainerSpec, current: Container) -> None:
        """Bring what a container has to what it was allocated, by a restart where its policy says so."""
        changed = resources_to_change(self.pod, spec, current)
        if not changed:
            return
        policies = {policy.resource_name: policy.restart_policy for policy in spec.resize_policy}
        if any(policies.get(name) == "RestartContainer" for name in changed):
            self._stop(current, grace_of(self.pod), f"Container {spec.name} resize requires restart", again=True)
            return
        failure = self.facts.failures.get(resize_key(current.id))
        if failure is not None and not is_due(failure.retry_at, self.facts.now):
            self._wake(failure.retry_at)
        elif current.id not in self.facts.resizing and current.id not in self.facts.stopping:
            self.actions.append(ResizeContainer(current.id, current.name))

    def _stop(
        self, container: Container, grace_s: float, message: str, *, hooks: bool = True, again: bool = False
    ) -> None:
        if container.id not in self.facts.stopping:
            self.actions.append(StopContainer(container.id, container.name, grace_s, message, hooks, again))

    def _start(self, spec: Any, role: Role, last: Container | None, *, crashed: bool) -> None:
        if spec.name in self.facts.busy:
            return
        backoff = None
        crashed = crashed or (self.life > 0 and _ended_a_life(spec, last))
        if crashed and last is not None:
            longest = self.facts.longest_backoff_s
            backoff, may_start = next_backoff(last, self.facts.now, container_hash(spec), longest)
            if not is_due(may_start, self.facts.now):
                delay = go_duration(min(held_delay(last), longest))
                text = f"back-off {delay} restarting failed container={spec.name} pod={full_name(self.pod)}"
                self.waiting[spec.name] = Waiting("CrashLoopBackOff", text)
                self._wake(may_start)
                return
        failure = self.facts.failures.get(spec.name)
        if failure is not None:
            self.waiting[spec.name] = Waiting(failure.reason, failure.message)
            if not is_due(failure.retry_at, self.facts.now):
                self._wake(failure.retry_at)
                return
        attempt = 0 if last is None else last.attempt + (last.state is not ContainerState.CREATED)
        self.actions.append(StartContainer(spec.name, role, attempt, backoff, self.life))


# -------------------------------------------------------------------------------------------------------- ending


def is_beginning_anew(pod: Pod, view: PodView) -> bool:
    """Whether a container of the pod has still to be made for the life that the pod is in."""
    life = pod_life(pod, view)
    latest = [view.latest(spec.name) for spec in (*pod.spec.init_containers, *pod.spec.containers)] if life else []
    return any(run is not None and life_of(run) < life for run in latest)


def is_to_restart(pod: Pod, spec: Any, run: Container, again: frozenset[str]) -> bool:
    """Whether an exited main container is to run again: because it was stopped for that, or by its rules and policies."""
    return run.id in again or should_restart(pod, spec, run.exit_code)


def finished(pod: Pod, view: PodView, again: frozenset[str] = frozenset()) -> bool:
    """Every main container has exited for good, or an init container has failed for good."""
    if is_beginning_anew(pod, view):
        return False
    for container in pod.spec.init_containers:
        last = view.latest(container.name)
        if last is not None and last.state is ContainerState.EXITED and not is_sidecar(container):
            begun = any(view.latest(c.name) for c in pod.spec.containers)
            if last.exit_code != 0 and not begun and not should_retry_init(pod, container, last.exit_code):
                return True
    for container in pod.spec.containers:
        last = view.latest(container.name)
        if last is None or last.state is not ContainerState.EXITED or is_to_restart(pod, container, last, again):
            return False
    return True


def _end(facts: Facts, ending: Ending) -> Plan:
    """Stop main containers, then sidecars from the last to the first, then the sandbox. All preStop hooks run at once.

    Source: kuberuntime_termination_order.go.
    """
    actions: list[Action] = []
    running = facts.view.running()
    sidecars = [c.name for c in facts.pod.spec.init_containers if is_sidecar(c)]
    first = [c for c in running if c.name not in sidecars] or sorted(running, key=lambda c: sidecars.index(c.name))[-1:]
    if running:
        due = ending.since + ending.grace_s
        actions.extend(_stops(facts, first, due, ending.grace_s))
        actions.extend(_stops(facts, [c for c in running if c not in first], due, ending.grace_s, held=True))
    elif not facts.busy:
        for sandbox in facts.view.sandboxes:
            if sandbox.state is SandboxState.READY:
                actions.append(KillSandbox(sandbox.id, ending=True))
        if not actions:
            actions.append(Finish())
    return Plan(tuple(actions))


def _stops(
    facts: Facts, containers: list[Container], due: float, grace_s: float, *, held: bool = False
) -> Iterator[Action]:
    for container in containers:
        grace = min(max(due - facts.now, MIN_GRACE_S if grace_s >= MIN_GRACE_S else grace_s), max(grace_s, MIN_GRACE_S))
        under_way = facts.stopping.get(container.id)
        turn = container.id in facts.held and not held
        if under_way is None or under_way > facts.now + grace + 1.0 or turn:
            text = f"Stopping container {container.name}"
            yield StopContainer(container.id, container.name, grace, text, held=held)
