"""Properties of the pod plan: any history of exits, kills and losses, played on a model of the runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import replace as with_fields

from hypothesis import given, settings
from hypothesis import strategies as st
from kubelet_world import make_container, make_pod

from kaa.api.types.core_v1 import ContainerRestartRule, ContainerRestartRuleOnExitCodes, Pod
from kaa.kubelet.pod_plan import (
    BACKOFF_ANNOTATION,
    LIFE_ANNOTATION,
    RESTART_ALL,
    CreateSandbox,
    Ending,
    Facts,
    Finish,
    KillSandbox,
    PodView,
    RemoveContainer,
    StartContainer,
    StopContainer,
    is_sidecar,
    life_of,
    plan,
    pod_life,
)
from kaa.runtime.base import Container, ContainerState, Sandbox, SandboxState


@dataclass
class Model:
    """A runtime without a runtime: applies actions at once and checks what must never be."""

    pod: Pod
    now: float = 1000.0
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    ending: Ending | None = None
    finished: bool = False
    made: int = 0
    starts: list[str] = field(default_factory=list)
    longest_backoff_s: float = 300.0

    def facts(self) -> Facts:
        view = PodView.of(list(self.sandboxes.values()), list(self.containers.values()))
        longest = self.longest_backoff_s
        return Facts(pod=self.pod, view=view, now=self.now, ending=self.ending, longest_backoff_s=longest)

    def settle(self) -> float | None:
        """Plan and apply until nothing is left to do; returns when to look again."""
        for _ in range(60):
            decided = plan(self.facts())
            actions = [a for a in decided.actions if not isinstance(a, Finish)]
            self.finished = len(actions) < len(decided.actions)
            if not actions:
                return decided.wake_at
            for action in actions:
                self.apply(action)
        raise AssertionError("the plan does not settle")

    def apply(self, action: object) -> None:
        self.made += 1
        self.now += 0.001
        match action:
            case CreateSandbox(attempt=attempt):
                sandbox_id = f"s{self.made}"
                assert not any(s.state is SandboxState.READY for s in self.sandboxes.values())
                self.sandboxes[sandbox_id] = Sandbox(
                    sandbox_id, "web", "default", "uid", attempt, SandboxState.READY, self.now, ("10.0.0.1",)
                )
            case StartContainer(name=name, attempt=attempt, backoff=backoff, life=life):
                self.start(name, attempt, str(backoff) if backoff else "", life)
            case StopContainer(container_id=container_id):
                self.exit(container_id, 137)
            case RemoveContainer(container_id=container_id):
                assert self.containers[container_id].state is not ContainerState.RUNNING
                del self.containers[container_id]
            case KillSandbox(sandbox_id=sandbox_id, remove=remove):
                self.lose(sandbox_id)
                if remove:
                    del self.sandboxes[sandbox_id]
                    self.containers = {k: c for k, c in self.containers.items() if c.sandbox_id != sandbox_id}

    def start(self, name: str, attempt: int, backoff: str, life: int) -> None:
        running = [c for c in self.containers.values() if c.state is ContainerState.RUNNING]
        assert name not in {c.name for c in running}, "two running containers of one name"
        assert self.ending is None, "a start in a pod that ends"
        [ready] = [s for s in self.sandboxes.values() if s.state is SandboxState.READY]
        assert all(life_of(c) == life for c in running), "what an earlier life left behind still runs"
        self.check_order(name, ready.id, life)
        assert attempt > max((c.attempt for c in self.containers.values() if c.name == name), default=-1)
        notes = {BACKOFF_ANNOTATION: backoff} if backoff else {}
        notes |= {LIFE_ANNOTATION: str(life)} if life else {}
        self.starts.append(name)
        self.containers[f"c{self.made}"] = Container(
            id=f"c{self.made}",
            sandbox_id=ready.id,
            name=name,
            attempt=attempt,
            state=ContainerState.RUNNING,
            image="i",
            image_id="i",
            image_ref="i",
            created_at=self.now,
            started_at=self.now,
            annotations=notes,
        )

    def check_order(self, name: str, sandbox_id: str, life: int) -> None:
        """A main container starts only when every init container before it is done, or for a sidecar up."""
        inits = self.pod.spec.init_containers
        now = [c for c in self.containers.values() if c.sandbox_id == sandbox_id and life_of(c) == life]
        if name in {c.name for c in inits} or any(c.name not in {i.name for i in inits} for c in now):
            return
        for init in inits:
            runs = [c for c in now if c.name == init.name]
            if is_sidecar(init):
                assert any(c.state is ContainerState.RUNNING for c in runs), f"{name} before sidecar {init.name}"
            else:
                assert any(c.exit_code == 0 and c.state is ContainerState.EXITED for c in runs), (
                    f"{name} before {init.name}"
                )

    def exit(self, container_id: str, code: int) -> None:
        container = self.containers[container_id]
        if container.state is ContainerState.RUNNING:
            self.containers[container_id] = with_fields(
                container, state=ContainerState.EXITED, exit_code=code, finished_at=self.now
            )

    def lose(self, sandbox_id: str) -> None:
        self.sandboxes[sandbox_id] = with_fields(self.sandboxes[sandbox_id], state=SandboxState.NOT_READY)
        for container in list(self.containers.values()):
            if container.sandbox_id == sandbox_id:
                self.exit(container.id, 137)

    def running(self) -> list[Container]:
        return sorted((c for c in self.containers.values() if c.state is ContainerState.RUNNING), key=lambda c: c.name)


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    inits = tuple(
        make_container(f"init-{n}", restart_policy="Always" if draw(st.booleans()) else None)
        for n in range(draw(st.integers(0, 3)))
    )
    mains = tuple(make_container(f"main-{n}") for n in range(draw(st.integers(1, 3))))
    policy = draw(st.sampled_from(["Always", "OnFailure", "Never"]))
    if draw(st.booleans()):
        rule = ContainerRestartRule(
            action=RESTART_ALL, exit_codes=ContainerRestartRuleOnExitCodes(operator="In", values=(2,))
        )
        mains = (make_container("main-0", restart_policy="Never", restart_policy_rules=(rule,)), *mains[1:])
    return make_pod(init_containers=inits, containers=mains, restart_policy=policy)


#: (what happens, to which of the running containers, exit code, seconds that pass)
steps = st.lists(
    st.tuples(
        st.sampled_from(["exit", "exit", "exit", "wait", "lose"]),
        st.integers(0, 5),
        st.integers(0, 2),
        st.floats(0, 700, allow_nan=False),
    ),
    max_size=15,
)


def play(model: Model, history: list[tuple[str, int, int, float]]) -> None:
    model.settle()
    for what, which, code, seconds in history:
        running = model.running()
        if what == "exit" and running:
            model.exit(running[which % len(running)].id, code)
        elif what == "lose":
            for sandbox_id in list(model.sandboxes):
                model.lose(sandbox_id)
        model.now += seconds
        model.settle()


@settings(max_examples=150, deadline=None)
@given(pod=pods(), history=steps)
def test_any_history_keeps_the_rules_and_settles(pod: Pod, history: list[tuple[str, int, int, float]]) -> None:
    play(Model(pod), history)


@settings(max_examples=150, deadline=None)
@given(pod=pods(), history=steps)
def test_a_deleted_pod_ends_with_nothing_running(pod: Pod, history: list[tuple[str, int, int, float]]) -> None:
    model = Model(pod)
    play(model, history)
    model.ending = Ending(model.now, 30.0)
    model.settle()
    assert model.running() == []
    assert all(s.state is SandboxState.NOT_READY for s in model.sandboxes.values())
    assert model.finished


@settings(max_examples=100, deadline=None)
@given(pod=pods(), history=steps)
def test_a_pod_of_always_comes_up_again(pod: Pod, history: list[tuple[str, int, int, float]]) -> None:
    if pod.spec.restart_policy != "Always" or pod.spec.containers[0].restart_policy:
        return
    model = Model(pod)
    play(model, history)
    plain = {c.name for c in pod.spec.init_containers if not is_sidecar(c)}
    for _ in range(40):
        for container in model.running():
            if container.name in plain:
                model.exit(container.id, 0)
        wake = model.settle()
        model.now = max(model.now, wake or 0) + 1
    names = {c.name for c in model.running()}
    wanted = {c.name for c in (*pod.spec.init_containers, *pod.spec.containers)} - plain
    assert names == wanted


@settings(max_examples=150, deadline=None)
@given(pod=pods(), history=steps)
def test_a_pod_begins_anew_once_for_each_exit_that_asks_for_it(
    pod: Pod, history: list[tuple[str, int, int, float]]
) -> None:
    if not pod.spec.containers[0].restart_policy_rules:
        return
    model = Model(pod)
    plain = {c.name for c in pod.spec.init_containers if not is_sidecar(c)}
    model.settle()
    for life in range(3):
        for _ in range(60):
            for container in model.running():
                if container.name in plain:
                    model.exit(container.id, 0)
            wake = model.settle()
            model.now = max(model.now, wake or 0) + 1
        assert pod_life(pod, PodView.of([], list(model.containers.values()))) == life
        wanted = {c.name for c in (*pod.spec.init_containers, *pod.spec.containers)} - plain
        assert {(c.name, life_of(c)) for c in model.running()} == {(name, life) for name in wanted}
        before = len(model.starts)
        [trigger] = [c for c in model.running() if c.name == "main-0"]
        model.exit(trigger.id, 2)
        model.settle()
        assert all(life_of(c) == life + 1 for c in model.running())
        assert len(model.starts) >= before


@given(crashes=st.integers(1, 12))
@settings(max_examples=12, deadline=None)
def test_back_off_doubles_to_five_minutes(crashes: int) -> None:
    model = Model(make_pod())
    model.settle()
    waits = []
    for _ in range(crashes):
        [container] = model.running()
        model.exit(container.id, 1)
        wake = model.settle()
        waits.append(round((wake or model.now) - model.now))
        if wake is not None:
            model.now = wake
            model.settle()
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300, 300][:crashes]


def test_a_node_may_shorten_the_back_off() -> None:
    model = Model(make_pod(), longest_backoff_s=15.0)
    model.settle()
    waits = []
    for _ in range(5):
        [container] = model.running()
        model.exit(container.id, 1)
        wake = model.settle()
        waits.append(round((wake or model.now) - model.now))
        if wake is not None:
            model.now = wake
            model.settle()
    assert waits == [0, 10, 15, 15, 15]
