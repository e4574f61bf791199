"""What must hold of plans whatever the numbers: nobody too many, nobody too few, and an end to it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pod_lists import POD_LISTS
from service_builders import make_service
from world import World, make_deployment, make_pod, make_replica_set

from kaa.api.types.apps_v1 import Deployment, ReplicaSet, ReplicaSetStatus
from kaa.api.types.core_v1 import Pod, Service
from kaa.api.types.discovery_v1 import EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.controllers import attachments, deployment, endpointslice, replicaset, rolling
from kaa.controllers import service_loadbalancer as balancers
from kaa.controllers.graph import Graph
from kaa.controllers.pods import deletion_order, is_active

# ------------------------------------------------------------------------------------------------ replica sets


@given(replicas=st.integers(0, 50), pods=POD_LISTS, burst=st.integers(1, 500))
def test_one_plan_settles_a_replica_set(replicas: int, pods: list[Pod], burst: int) -> None:
    for _ in range(60):
        wanted = replicaset.plan(replicas, pods, now=2000, burst=burst)
        assert wanted.create <= burst
        assert len(wanted.delete) <= burst
        if wanted == replicaset.Plan():
            break
        doomed = {pod.metadata.uid for pod in wanted.delete}
        pods = [pod for pod in pods if pod.metadata.uid not in doomed]
        pods += [make_pod(f"new-{len(pods)}-{n}") for n in range(wanted.create)]
    assert sum(map(is_active, pods)) == replicas
    assert replicaset.plan(replicas, pods, now=2000) == replicaset.Plan()


@given(pods=POD_LISTS)
def test_the_order_of_deletion_spares_the_useful(pods: list[Pod]) -> None:
    ordered = deletion_order(pods, {}, 2000)
    assert sorted(p.metadata.name or "" for p in ordered) == sorted(p.metadata.name or "" for p in pods)
    placed = [bool(pod.spec.node_name) for pod in ordered]
    assert placed == sorted(placed)


# ------------------------------------------------------------------------------------------------ rolling updates

LIMITS = st.one_of(st.integers(0, 6), st.integers(0, 100).map(lambda n: f"{n}%"))


class Rollout:
    """A deployment's sets as numbers: sizes and available pods, with a cluster that serves them at its whim."""

    def __init__(self, spec: Deployment, old: Sequence[int]) -> None:
        self.spec = spec
        self.sets = [self._old(n, size) for n, size in enumerate(old)]

    def _old(self, n: int, size: int) -> ReplicaSet:
        made = make_replica_set(f"old-{n}", replicas=size)
        template = make_deployment(image=f"old:{n}").spec.template
        note = {"deployment.kubernetes.io/revision": str(n + 1)}
        made = replace(
            made,
            metadata=replace(made.metadata, creation_timestamp=f"2026-01-01T00:00:{n:02}Z", annotations=note),
            spec=replace(made.spec, template=template),
            status=ReplicaSetStatus(replicas=size, available_replicas=size),
        )
        return deployment.resized(self.spec, made, size)

    def step(self) -> bool:
        """Apply one plan. Whether there was anything to do."""
        step = deployment.plan(self.spec, self.sets, old_pods_run=False)
        named = {each.metadata.name or "": each for each in self.sets}
        before = dict(named)
        if step.create is not None:
            meta = replace(step.create.metadata, creation_timestamp="2026-01-02T00:00:00Z")
            named[meta.name or ""] = replace(step.create, metadata=meta, status=ReplicaSetStatus(replicas=0))
        if step.revise is not None:
            named[step.revise.metadata.name or ""] = step.revise
        for name, size in step.sizes.items():
            named[name] = self._shrunk(deployment.resized(self.spec, named[name], size))
        for each in step.forget:
            named.pop(each.metadata.name or "")
        self.sets = list(named.values())
        return named != before

    @staticmethod
    def _shrunk(each: ReplicaSet) -> ReplicaSet:
        """Pods that go are, at worst, available ones only where no others are left: unready ones go first."""
        assert each.status is not None
        left = min(each.status.available_replicas or 0, rolling.size(each))
        return replace(each, status=replace(each.status, available_replicas=left))

    def serve(self, chosen: int) -> None:
        """One more pod of some set becomes available."""
        short = [each for each in self.sets if rolling.available(each) < rolling.size(each)]
        if short:
            each = short[chosen % len(short)]
            assert each.status is not None
            status = replace(each.status, available_replicas=rolling.available(each) + 1)
            self.sets[self.sets.index(each)] = replace(each, status=status)

    @property
    def size(self) -> int:
        return rolling.total_size(self.sets)

    @property
    def available(self) -> int:
        return sum(map(rolling.available, self.sets))


@settings(deadline=None)
@given(
    replicas=st.integers(1, 12),
    surge=LIMITS,
    unavailable=LIMITS,
    split=st.integers(0, 12),
    choices=st.lists(st.integers(0, 5), max_size=40),
)
def test_a_rolling_update_keeps_its_promises(
    replicas: int, surge: int | str, unavailable: int | str, split: int, choices: list[int]
) -> None:
    spec = make_deployment(replicas=replicas, surge=surge, unavailable=unavailable)
    first = min(split, replicas)
    world = Rollout(spec, [each for each in (first, replicas - first) if each])
    limits = rolling.limits_of(spec)
    for choice in [*choices, *([0] * 80)]:
        available = world.available
        busy = world.step()
        assert world.size <= limits.most
        assert world.available >= min(available, limits.least_available)
        world.serve(choice)
        if not busy and world.available == world.size == replicas:
            break
    (new,) = [each for each in world.sets if rolling.size(each) > 0]
    assert new.spec.template.spec.containers[0].image == "web:1"
    assert rolling.size(new) == rolling.available(new) == replicas
    assert not world.step()


@settings(deadline=None)
@given(
    before=st.integers(1, 20),
    after=st.integers(0, 20),
    split=st.integers(0, 20),
    surge=st.integers(1, 5),
)
def test_scaling_shares_exactly(before: int, after: int, split: int, surge: int) -> None:
    first = min(split, before)
    world = Rollout(make_deployment(replicas=before, surge=surge), [n for n in (first, before - first) if n])
    world.spec = make_deployment(replicas=after, surge=surge)
    sizes = rolling.rescale(world.spec, None, world.sets)
    assert all(size >= 0 for size in sizes.values())
    assert sum(sizes.values()) == (after if len(world.sets) == 1 else (after + surge if after else 0))


# ------------------------------------------------------------------------------------------------ slices


@settings(deadline=None)
@given(histories=st.lists(POD_LISTS, min_size=1, max_size=4), most=st.integers(1, 10))
def test_slices_hold_each_endpoint_once(histories: list[list[Pod]], most: int) -> None:
    slices: list[EndpointSlice] = []
    made = 0
    for pods in histories:
        step = endpointslice.plan(make_service(), pods, slices, {}, most=most)
        updated = {each.metadata.name: each for each in step.update}
        gone = {each.metadata.name for each in step.delete}
        slices = [updated.get(s.metadata.name, s) for s in slices if s.metadata.name not in gone]
        for each in step.create:
            made += 1
            slices.append(replace(each, metadata=replace(each.metadata, name=f"s{made}", generate_name=None)))
        held = [e.target_ref.uid for each in slices for e in each.endpoints if e.target_ref is not None]
        wanted = [pod.metadata.uid for pod in pods if pod.status.phase not in ("Succeeded", "Failed")]
        assert sorted(held, key=str) == sorted(wanted, key=str)
        assert all(len(each.endpoints) <= most for each in slices)
        assert endpointslice.plan(make_service(), pods, slices, {}, most=most) == endpointslice.Plan()


# ------------------------------------------------------------------------------------------------ load balancers

BALANCED = st.builds(
    lambda type, theirs, held, deleting, port, ranges: replace(
        make_service(
            type=type, load_balancer_class="example.com/theirs" if theirs else None, load_balancer_source_ranges=ranges
        ),
        metadata=ObjectMeta(
            name="web",
            namespace="default",
            uid="uid",
            finalizers=(balancers.FINALIZER,) if held else (),
            deletion_timestamp="2026-01-01T00:00:00Z" if deleting else None,
            labels={"port": str(port)},
        ),
    ),
    st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from(((), ("10.0.0.0/8",))),
)


@given(old=st.none() | BALANCED, new=BALANCED)
def test_a_balancer_stands_only_for_who_asks_and_nobody_is_held_for_nothing(old: Service | None, new: Service) -> None:
    ensured = balancers.plan(new) is balancers.Plan.ENSURE
    asks = new.spec.type == "LoadBalancer" and new.spec.load_balancer_class is None
    assert not ensured or asks
    held = balancers.FINALIZER in new.metadata.finalizers
    if held and (new.metadata.deletion_timestamp is not None or new.spec.type != "LoadBalancer"):
        assert not ensured
        assert balancers.concerns(old, new), "until it is released"
    assert not balancers.concerns(new, new) or balancers.needs_cleanup(new), "nothing changed"
    if old is not None and balancers.plan(old) is not balancers.plan(new) and (balancers.wants(old) != asks):
        assert balancers.concerns(old, new)


# ------------------------------------------------------------------------------------------------ attachments

HOSTS = ("n1", "n2", "n3")
STANDING = st.builds(
    attachments.Standing,
    attached=st.booleans(),
    leaving=st.booleans(),
    in_use=st.booleans(),
    healthy=st.booleans(),
    out_of_service=st.booleans(),
    unwanted_s=st.sampled_from((0.0, 359.0, 361.0)),
)


@given(
    wanted=st.lists(st.sampled_from(HOSTS), unique=True),
    standing=st.dictionaries(st.sampled_from(HOSTS), STANDING),
    shared=st.booleans(),
)
def test_volumes_are_where_they_are_asked_for_and_never_taken_from_under_a_pod(
    wanted: list[str], standing: dict[str, attachments.Standing], shared: bool
) -> None:
    for _ in range(6):
        step = attachments.plan(wanted, standing, shared=shared)
        assert set(step.attach) <= set(wanted) - set(standing)
        assert shared or not step.attach or (len(step.attach) == 1 and not standing), "two nodes never share it"
        assert set(step.blocked) <= set(wanted) - set(standing) - set(step.attach)
        for node, forced in step.detach.items():
            each = standing[node]
            assert node not in wanted
            assert not each.leaving
            assert not each.in_use or (forced and (each.out_of_service or not each.healthy))
        waiting = [each for node, each in standing.items() if node not in wanted and not each.leaving]
        silent = any(
            each.in_use and not each.healthy and not each.out_of_service and each.unwanted_s < 360 for each in waiting
        )
        assert (step.again_s is not None) == silent, "a silent node is looked at again when its time is up"
        gone = {*step.detach, *(node for node, each in standing.items() if each.leaving)}
        standing = {node: each for node, each in standing.items() if node not in gone}
        standing = {node: replace_standing(each) for node, each in standing.items()}
        standing |= {node: attachments.Standing(attached=True) for node in step.attach}
    assert attachments.plan(wanted, standing, shared=shared).attach == ()
    assert set(standing) == set(wanted) if shared else set(standing) <= set(wanted)
    assert not wanted or standing


def replace_standing(each: attachments.Standing) -> attachments.Standing:
    """What becomes of an attachment in time: it is made, and its node lets it go."""
    return dataclasses.replace(each, attached=True, in_use=False)


# ------------------------------------------------------------------------------------------------ the graph


@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 6), st.sets(st.integers(0, 6), max_size=2)),
        max_size=40,
    )
)
def test_the_graph_forgets_what_is_gone(steps: list[tuple[bool, int, set[int]]]) -> None:
    from kaa.api.scheme import resource_of
    from kaa.api.types.meta_v1 import OwnerReference

    graph = Graph(lambda uid: None)
    standing: dict[int, set[int]] = {}
    for there, uid, owners in steps:
        if there:
            refs = tuple(OwnerReference(api_version="v1", kind="Pod", name=f"{o}", uid=f"{o}") for o in sorted(owners))
            graph.see(resource_of(Pod), ObjectMeta(name=f"{uid}", uid=f"{uid}", owner_references=refs))
            standing[uid] = owners
        else:
            graph.lose(f"{uid}")
            standing.pop(uid, None)
        known = {f"{each}" for each in standing} | {f"{o}" for owners in standing.values() for o in owners}
        assert set(graph.nodes) == known
        for each, node in graph.nodes.items():
            assert set(node.dependents) == {f"{u}" for u, owners in standing.items() if int(each) in owners}
            assert node.virtual == (int(each) not in standing)


# ------------------------------------------------------------------------------------------------ together


@settings(deadline=None, max_examples=8)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    images=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_whatever_is_asked_the_world_comes_to_rest_as_asked(sizes: list[int], images: list[int], seed: int) -> None:
    async def play() -> None:
        async with World(seed=seed) as world:
            await world.api.create(make_deployment(replicas=1))
            for size, image in zip(sizes, images, strict=False):
                await world.settle(0.05, rounds=world.clock.random.randrange(4))
                old = await world.api.get(Deployment, "web", "default")
                template = make_deployment(image=f"web:{image}").spec.template
                await world.api.update(replace(old, spec=replace(old.spec, replicas=size, template=template)))
            await world.settle(0.5)
            wanted = await world.api.get(Deployment, "web", "default")
            image_now = wanted.spec.template.spec.containers[0].image
            assert [p.spec.containers[0].image for p in world.pods()] == [image_now] * (wanted.spec.replicas or 0)
            version = world.api.version
            await world.settle(1.0, rounds=3)
            assert world.api.version == version

    asyncio.run(play())
