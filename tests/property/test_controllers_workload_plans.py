"""Plans of workloads that name, place or count their pods, played out on small models: what is never done, and what it
comes to in the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from job_world import make_job
from msgspec.structs import replace
from world import NODE_FACTS, make_pod, make_template

from kaa.api.clock import format_time
from kaa.api.types.apps_v1 import (
    DaemonSet,
    DaemonSetSpec,
    DaemonSetUpdateStrategy,
    RollingUpdateDaemonSet,
    RollingUpdateStatefulSetStrategy,
    StatefulSet,
    StatefulSetSpec,
    StatefulSetUpdateStrategy,
)
from kaa.api.types.batch_v1 import CronJob, CronJobSpec, Job, JobCondition, JobTemplateSpec
from kaa.api.types.core_v1 import Node, NodeSpec, NodeStatus, Pod, PodCondition, Taint
from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta
from kaa.controllers import cron, cronjob, daemon_pods, history, job, job_tally, statefulset
from kaa.controllers.pods import available_in, is_active, is_finished
from kaa.controllers.stateful_pods import first_ordinal, new_pod, ordinal_of, ordinals, revision_of

NOW = 1_800_000_000.0
READY = (PodCondition(type="Ready", status="True", last_transition_time=format_time(0)),)
WHIMS = st.lists(st.tuples(st.integers(0, 20), st.sampled_from(("serve", "serve", "break", "end", "go"))), max_size=40)


def serving(pod: Pod) -> Pod:
    return replace(pod, status=replace(pod.status, phase="Running", conditions=READY))


def leaving(pod: Pod) -> Pod:
    return replace(pod, metadata=replace(pod.metadata, deletion_timestamp=format_time(0)))


def is_serving(pod: Pod) -> bool:
    return is_active(pod) and available_in(pod, 0, NOW) == 0


def changed(pods: Sequence[Pod], chosen: int, whim: str) -> list[Pod]:
    """What a cluster does to one of the pods. Those that leave are gone, those that are new serve, when it ``serve``\\ s."""
    if not pods:
        return []
    at = chosen % len(pods)
    pod = pods[at]
    if pod.metadata.deletion_timestamp is not None:
        return [*pods[:at], *pods[at + 1 :]] if whim in ("serve", "go") else list(pods)
    if is_finished(pod):
        return list(pods)
    new = {
        "serve": serving(pod),
        "break": replace(pod, status=replace(pod.status, phase="Running", conditions=())),
        "end": replace(pod, status=replace(pod.status, phase="Failed", conditions=())),
        "go": leaving(pod),
    }[whim]
    return [*pods[:at], new, *pods[at + 1 :]]


def without(pods: Sequence[Pod], doomed: Iterable[Pod]) -> list[Pod]:
    """The pods, of which some have been told to go."""
    uids = {pod.metadata.uid for pod in doomed}
    return [leaving(pod) if pod.metadata.uid in uids else pod for pod in pods]


#: (revision of a pod, whether it serves); no revision, no pod. Most serve, and are old.
STATES = (("old", True), ("old", True), ("old", True), ("old", False), ("new", True), ("new", False), ("", False))


# ------------------------------------------------------------------------------------------------ stateful sets


@dataclass
class Ordinals:
    """The pods of a StatefulSet. ``step`` carries out one plan, and checks that it did nothing that it must not."""

    owner: StatefulSet
    pods: list[Pod] = field(default_factory=list)
    made: int = 0

    def put(self, ordinal: int, revision: str) -> Pod:
        self.made += 1
        pod = new_pod(self.owner, self.owner.spec.template, revision, ordinal)
        pod = replace(pod, metadata=replace(pod.metadata, uid=f"u{self.made}"))
        self.pods.append(pod)
        return pod

    @property
    def rolling(self) -> RollingUpdateStatefulSetStrategy:
        found = self.owner.spec.update_strategy.rolling_update
        assert found is not None
        return found

    def step(self) -> bool:
        wanted = statefulset.plan(self.owner, self.pods, "new", NOW)
        self._check_creations(wanted)
        self._check_deletions(wanted)
        self.pods = without(self.pods, wanted.delete)
        for ordinal in wanted.create:
            self.put(ordinal, "old" if statefulset.wants_current(self.owner, ordinal) else "new")
        return bool(wanted.create or wanted.delete)

    def _check_creations(self, wanted: statefulset.Plan) -> None:
        there = {ordinal_of(pod) for pod in self.pods}
        assert not there & set(wanted.create), "no two of one ordinal"
        assert len(set(wanted.create)) == len(wanted.create)
        assert set(wanted.create) <= set(ordinals(self.owner))
        if statefulset.is_ordered(self.owner) and wanted.create:
            (made,) = wanted.create
            before = {ordinal_of(pod) for pod in self.pods if is_serving(pod)}
            assert set(range(first_ordinal(self.owner), made)) <= before, "those before it serve"

    def _check_deletions(self, wanted: statefulset.Plan) -> None:
        mine = set(ordinals(self.owner))
        beyond = [ordinal_of(pod) for pod in self.pods if ordinal_of(pod) not in mine]
        taken = [ordinal_of(pod) for pod in wanted.delete if ordinal_of(pod) not in mine]
        if statefulset.is_ordered(self.owner):
            assert taken in ([], [max(beyond, default=-1)]), "the last one goes first"
        first = first_ordinal(self.owner) + (self.rolling.partition or 0)
        rolled = [pod for pod in wanted.delete if ordinal_of(pod) in mine and not is_finished(pod)]
        assert all(revision_of(pod) != "new" and ordinal_of(pod) >= first for pod in rolled)
        assert not (rolled and wanted.create), "nothing is rolled while something is missing"
        if statefulset.is_ordered(self.owner) and rolled:
            assert {ordinal_of(pod) for pod in self.pods if is_serving(pod)} >= mine
        if len(rolled) > 1:
            limit = int(self.rolling.max_unavailable or 1)
            left = {ordinal_of(pod) for pod in self.pods if is_serving(pod) and pod not in rolled}
            assert len(mine - left) <= limit


@settings(deadline=None)
@given(
    replicas=st.integers(0, 5),
    start=st.integers(0, 3),
    partition=st.integers(0, 4),
    unavailable=st.one_of(st.none(), st.integers(1, 3)),
    policy=st.sampled_from(("OrderedReady", "Parallel")),
    standing=st.one_of(st.none(), st.lists(st.sampled_from(STATES), max_size=9)),
    whims=WHIMS,
)
def test_a_stateful_set_keeps_its_order(
    replicas: int,
    start: int,
    partition: int,
    unavailable: int | None,
    policy: str,
    standing: list[tuple[str, bool]] | None,
    whims: list[tuple[int, str]],
) -> None:
    """``standing``: what there is at first, by ordinal; None: an old set at rest, about to be rolled."""
    world = Ordinals(make_stateful(replicas, start, partition, unavailable, policy))
    at_rest = [("" if n < start else "old", True) for n in range(start + replicas)]
    for ordinal, (revision, serves) in enumerate(at_rest if standing is None else standing):
        if revision:
            pod = world.put(ordinal, revision)
            world.pods[-1] = serving(pod) if serves else pod
    play(world, whims)
    assert sorted(map(ordinal_of, world.pods)) == list(ordinals(world.owner))
    assert all(map(is_serving, world.pods))
    assert all(revision_of(pod) == "new" for pod in world.pods if ordinal_of(pod) >= start + partition)


def make_stateful(replicas: int, start: int, partition: int, unavailable: int | str | None, policy: str) -> StatefulSet:
    from kaa.api.types.apps_v1 import StatefulSetOrdinals

    rolling = RollingUpdateStatefulSetStrategy(partition=partition, max_unavailable=unavailable)
    spec = StatefulSetSpec(
        replicas=replicas,
        service_name="web",
        selector=LabelSelector(match_labels={"app": "web"}),
        template=make_template(),
        pod_management_policy=policy,
        ordinals=StatefulSetOrdinals(start=start),
        update_strategy=StatefulSetUpdateStrategy(type="RollingUpdate", rolling_update=rolling),
    )
    return StatefulSet(metadata=ObjectMeta(name="web", namespace="default", uid="u"), spec=spec)


# ------------------------------------------------------------------------------------------------ daemon sets


@dataclass
class Fleet:
    """The daemons of a DaemonSet on some nodes; ``step`` as above."""

    owner: DaemonSet
    nodes: list[Node]
    pods: list[Pod] = field(default_factory=list)
    made: int = 0

    def put(self, node: str, word: str) -> None:
        self.made += 1
        pod = daemon_pods.new_pod(self.owner, node, word)
        meta = replace(
            pod.metadata, name=f"p{self.made}", uid=f"u{self.made}", creation_timestamp=format_time(self.made)
        )
        self.pods.append(replace(pod, metadata=meta, spec=replace(pod.spec, node_name=node)))

    def view(self) -> daemon_pods.View:
        return daemon_pods.View(self.owner, self.nodes, daemon_pods.by_node(self.pods), "new", NOW)

    @property
    def wanted(self) -> set[str]:
        return {node.metadata.name or "" for node in self.nodes if daemon_pods.belongs(self.owner, node)[0]}

    def served(self) -> set[str]:
        return {pod.spec.node_name or "" for pod in self.pods if is_serving(pod)} & self.wanted

    def step(self) -> bool:
        done = self._carry_out(daemon_pods.plan(self.view()))
        if daemon_pods.limits(self.owner, len(self.nodes))[0]:
            assert {pod.spec.node_name for pod in self.pods if is_active(pod)} >= self.wanted, "at once, in a surge"
        return done | self._roll()

    def _roll(self) -> bool:
        before = self.served()
        surge, unavailable = daemon_pods.limits(self.owner, len(self.wanted))
        done = self._carry_out(daemon_pods.roll(self.view()))
        if surge:
            assert self.served() >= before, "who served has somebody who serves"
        else:
            assert len(self.served()) >= min(len(before), len(self.wanted) - unavailable)
        return done

    def _carry_out(self, wanted: daemon_pods.Plan) -> bool:
        assert len(set(wanted.create)) == len(wanted.create)
        assert set(wanted.create) <= self.wanted
        surge = daemon_pods.limits(self.owner, len(self.wanted))[0]
        standing = [pod.spec.node_name for pod in self.pods if is_active(pod)]
        assert surge or not set(wanted.create) & set(standing), "never two on one node"
        doomed = [*wanted.delete, *wanted.failed, *wanted.succeeded]
        self.pods = without(self.pods, doomed)
        for node in wanted.create:
            self.put(node, "new")
        return bool(doomed or wanted.create)


def make_daemons(surge: int | str, unavailable: int | str) -> DaemonSet:
    rolling = RollingUpdateDaemonSet(max_surge=surge, max_unavailable=unavailable)
    spec = DaemonSetSpec(
        selector=LabelSelector(match_labels={"app": "web"}),
        template=make_template(),
        update_strategy=DaemonSetUpdateStrategy(type="RollingUpdate", rolling_update=rolling),
    )
    return DaemonSet(metadata=ObjectMeta(name="log", namespace="default", uid="u"), spec=spec)


def make_nodes(taints: Sequence[str]) -> list[Node]:
    """A node for each: ``""`` takes daemons, the others' taints are of that effect."""
    return [
        Node(
            metadata=ObjectMeta(name=f"n{n}"),
            spec=NodeSpec(taints=(Taint(key="kept", effect=effect),) if effect else ()),
            status=NodeStatus(**NODE_FACTS),
        )
        for n, effect in enumerate(taints)
    ]


LIMIT = st.one_of(st.integers(0, 3), st.sampled_from(("10%", "50%", "100%")))


@settings(deadline=None)
@given(
    nodes=st.lists(
        st.tuples(st.sampled_from(("", "", "", "", "NoSchedule", "NoExecute")), st.sampled_from(STATES)), max_size=6
    ),
    limits=st.one_of(st.tuples(st.just(0), LIMIT), st.tuples(LIMIT, st.just(0))),
    more=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(STATES)), max_size=3),
    whims=WHIMS,
)
def test_daemons_roll_within_their_limits(
    nodes: list[tuple[str, tuple[str, bool]]],
    limits: tuple[int | str, int | str],
    more: list[tuple[int, tuple[str, bool]]],
    whims: list[tuple[int, str]],
) -> None:
    world = Fleet(make_daemons(*limits), make_nodes([taint for taint, _ in nodes]))
    standing = [(at, state) for at, (_, state) in enumerate(nodes)] + [each for each in more if each[0] < len(nodes)]
    for at, (word, serves) in standing:
        if word:
            world.put(f"n{at}", word)
            world.pods[-1] = serving(world.pods[-1]) if serves else world.pods[-1]
    play(world, whims)
    placed = [pod.spec.node_name or "" for pod in world.pods]
    assert all(daemon_pods.belongs(world.owner, node)[1] for node in world.nodes if node.metadata.name in placed)
    assert sorted(name for name in placed if name in world.wanted) == sorted(world.wanted)
    assert all(world.view().is_new(pod) for pod in world.pods if pod.spec.node_name in world.wanted)


def play(world: Ordinals | Fleet, whims: Iterable[tuple[int, str]]) -> None:
    """Steps and whims in turn; then a cluster where all goes well, until there is nothing left to do."""
    for chosen, whim in whims:
        world.step()
        world.pods = changed(world.pods, chosen, whim)
    for _ in range(200):
        busy = world.step()
        before = world.pods
        for at in range(len(before) - 1, -1, -1):
            world.pods = changed(world.pods, at, "serve")
        if not busy and world.pods == before:
            return
    raise AssertionError("no end in sight")


# ------------------------------------------------------------------------------------------------ jobs


@settings(deadline=None)
@given(
    completions=st.integers(0, 6),
    parallelism=st.integers(0, 6),
    mode=st.sampled_from(("Indexed", "NonIndexed")),
    ends=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(("Succeeded", "Failed"))), max_size=30),
)
def test_a_job_runs_no_more_than_it_may(
    completions: int, parallelism: int, mode: str, ends: list[tuple[int, str]]
) -> None:
    owner = make_job(completions=completions, parallelism=parallelism, completion_mode=mode)
    pods: list[Pod] = []
    for chosen, phase in [*ends, *[(0, "Succeeded")] * 20]:
        found = job_tally.tally(owner, pods)
        wanted = job.plan(owner, found, NOW)
        assert not (wanted.create and wanted.delete)
        pods = without(pods, wanted.delete)
        for index in wanted.create:
            pod = job.pod_of(owner, index)
            meta = replace(pod.metadata, uid=f"u{len(pods)}", creation_timestamp=format_time(0))
            pods.append(replace(pod, metadata=meta))
        live = [pod for pod in pods if is_active(pod)]
        assert len(live) <= min(parallelism, completions)
        indexes = [job_tally.index_of(pod) for pod in live]
        assert mode != "Indexed" or len(set(indexes)) == len(indexes), "one at a time for an index"
        assert not found.indexes & set(indexes), "what is complete is not run again"
        if live:
            pod = live[chosen % len(live)]
            ended = replace(pod, status=replace(pod.status, phase=phase))
            pods = [ended if each is pod else each for each in pods]
    found = job_tally.tally(owner, pods)
    assert found.succeeded == (completions if parallelism else 0)
    assert job.plan(owner, found, NOW) == job.Plan()


@given(
    pods=st.lists(st.tuples(st.sampled_from(("Running", "Succeeded", "Failed")), st.integers(0, 3)), max_size=12),
    mode=st.sampled_from(("Indexed", "NonIndexed")),
    crashes=st.lists(st.sampled_from(("enlisted", "freed", "settled")), max_size=6),
)
def test_counting_survives_a_crash_between_any_two_writes(
    pods: list[tuple[str, int]], mode: str, crashes: list[str]
) -> None:
    """Enlist the uids, let the pods go, turn uids into numbers: stopped after any of the three, the next pass ends it."""
    owner = make_job(completions=4, completion_mode=mode)
    standing = [counted_pod(n, phase, index) for n, (phase, index) in enumerate(pods)]
    for crash in [*crashes, "settled", "settled"]:
        found = job_tally.tally(owner, standing)
        owner = replace(owner, status=job_tally.enlist(owner, found))
        if crash == "enlisted":
            continue
        listed = owner.status.uncounted_terminated_pods
        uids = {*listed.succeeded, *listed.failed} if listed else set()
        uids |= {pod.metadata.uid or "" for pod in found.done} if mode == "Indexed" else set()
        standing = [freed(pod) if pod.metadata.uid in uids else pod for pod in standing]
        if crash == "freed":
            continue
        tracked = {pod.metadata.uid or "" for pod in standing if pod.metadata.finalizers}
        owner = replace(owner, status=job_tally.settle(owner.status, tracked))
    ended = {phase: [index for each, index in pods if each == phase] for phase in ("Succeeded", "Failed")}
    many = set(ended["Succeeded"]) if mode == "Indexed" else ended["Succeeded"]
    assert (owner.status.succeeded or 0, owner.status.failed or 0) == (len(many), len(ended["Failed"]))


def counted_pod(n: int, phase: str, index: int) -> Pod:
    pod = make_pod(f"p{n}", node="n1", phase=phase, annotations={job_tally.INDEX: str(index)})
    return replace(pod, metadata=replace(pod.metadata, finalizers=(job_tally.FINALIZER,)))


def freed(pod: Pod) -> Pod:
    return replace(pod, metadata=replace(pod.metadata, finalizers=()))


# ------------------------------------------------------------------------------------------------ cron jobs


def make_cron(schedule: str, **spec: Any) -> CronJob:
    meta = ObjectMeta(name="tick", namespace="default", creation_timestamp=format_time(NOW))
    template = JobTemplateSpec(spec=make_job().spec)
    return CronJob(metadata=meta, spec=CronJobSpec(schedule=schedule, job_template=template, **spec))


@settings(deadline=None)
@given(
    schedule=st.sampled_from(("* * * * *", "*/7 * * * *", "5,50 */3 * * *", "@every 90s", "@hourly")),
    passed=st.integers(0, 40_000),
    deadline=st.one_of(st.none(), st.integers(0, 5000)),
)
def test_the_last_time_missed_is_the_one_that_is_due(schedule: str, passed: int, deadline: int | None) -> None:
    """Against a walk from time to time."""
    owner = make_cron(schedule, starting_deadline_seconds=deadline)
    times, now = cron.parse(schedule), NOW + passed
    since = NOW if deadline is None else max(NOW, now - deadline)
    walked: list[float] = []
    at = times.after(since)
    while at is not None and at <= now:
        walked.append(at)
        at = times.after(at)
    found = cronjob.due(owner, times, now)
    assert found.missed == min(len(walked), cronjob.MANY + 1)
    assert found.next == times.after(now)
    if not walked:
        assert found.at is None
    elif len(walked) <= cronjob.MANY or not schedule.startswith("@every"):
        assert found.at == walked[-1]
    names = {cronjob.job_name(owner, each) for each in walked}
    assert schedule.startswith("@every") or len(names) == len(walked), "a name for each time"


@given(
    ended=st.lists(st.sampled_from(("Complete", "Failed", "")), max_size=12),
    good=st.one_of(st.none(), st.integers(0, 4)),
    bad=st.one_of(st.none(), st.integers(0, 4)),
)
def test_a_history_keeps_the_latest(ended: list[str], good: int | None, bad: int | None) -> None:
    owner = make_cron("* * * * *", successful_jobs_history_limit=good, failed_jobs_history_limit=bad)
    jobs = [ended_job(n, type) for n, type in enumerate(ended)]
    doomed = cronjob.outdated(owner, jobs)
    for type, limit, default in (("Complete", good, 3), ("Failed", bad, 1)):
        mine = [each for each in jobs if job.condition_of(each, type) is not None]
        kept = default if limit is None else limit
        assert [each for each in mine if each not in doomed] == mine[max(0, len(mine) - kept) :]
    assert all(job.is_finished(each) for each in doomed)
    assert cronjob.outdated(owner, [each for each in jobs if each not in doomed]) == []


def ended_job(n: int, type: str) -> Job:
    made = make_job()
    conditions = (JobCondition(type=type, status="True"),) if type else ()
    status = replace(made.status, conditions=conditions, start_time=format_time(NOW + n))
    return replace(made, metadata=replace(made.metadata, name=f"tick-{n}"), status=status)


# ------------------------------------------------------------------------------------------------ histories


@given(
    templates=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    limit=st.one_of(st.none(), st.integers(0, 3)),
    live=st.sets(st.integers(0, 4)),
)
def test_a_template_has_one_revision_and_the_newest_number(
    templates: list[int], limit: int | None, live: set[int]
) -> None:
    kept: list[Any] = []
    for image in templates:
        owner = make_daemons(0, 1)
        owner = replace(owner, spec=replace(owner.spec, template=make_template(f"web:{image}")))
        found = history.plan(owner, kept, 0, hash_label="hash")
        kept = [each for each in kept if each.metadata.name != found.update.metadata.name] + [found.update]
        assert found.update.revision == max(each.revision for each in kept)
        assert history.plan(owner, kept, 0, hash_label="hash") == history.Plan(found.update, exists=True)
    assert len({each.revision for each in kept}) == len(kept) == len(set(templates))
    used = {each.metadata.name or "" for each in kept if any(f"web:{n}" in str(each.data) for n in live)}
    doomed = history.forgettable(kept, used, limit)
    assert not {each.metadata.name for each in doomed} & used
    assert len(kept) - len(doomed) <= len(used) + (history.DEFAULT_LIMIT if limit is None else limit)
