"""Masks are what asking node by node gives; nothing is ever overcommitted; the queue loses nobody."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kaa.api.clock import VirtualClock
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Node, Pod
from kaa.scheduler.config import SchedulerConfig, plugins
from kaa.scheduler.cycle import Pass, Passes
from kaa.scheduler.framework import ClusterEvent
from kaa.scheduler.plugins.node_resources_fit import NodeResourcesFit
from kaa.scheduler.queue import Entry, SchedulingQueue
from kaa.scheduler.snapshot import Snapshot

INFO = dict.fromkeys(
    [
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ],
    "",
)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
ZONES = (None, "x", "y")
APPS = ("web", "db")


def make_node(name: str, cpu: int, pods: int, zone: str | None, gpu: int, cordoned: bool) -> Node:
    has = {"cpu": str(cpu), "memory": "1Ti", "pods": str(pods), "example.com/gpu": str(gpu)}
    labels = {"host": name, **({"zone": zone} if zone else {})}
    status = {"allocatable": has, "daemonEndpoints": {}, "nodeInfo": INFO}
    return convert(
        Node, {"metadata": {"name": name, "labels": labels}, "spec": {"unschedulable": cordoned}, "status": status}
    )


def make_pod(name: str, asks: dict[str, Any]) -> Pod:
    requests = {"cpu": str(asks["cpu"]), **({"example.com/gpu": "1"} if asks["gpu"] else {})}
    spec: dict[str, Any] = {"containers": [{"name": "c", "resources": {"requests": requests}}]}
    if asks["zone"]:
        spec["nodeSelector"] = {"zone": asks["zone"]}
    if asks["near"]:
        term = {"labelSelector": {"matchLabels": {"app": asks["near"]}}, "topologyKey": "zone"}
        spec["affinity"] = {"podAffinity": {REQUIRED: [term]}}
    if asks["apart"]:
        term = {"labelSelector": {"matchLabels": {"app": asks["apart"]}}, "topologyKey": asks["apart_by"]}
        spec.setdefault("affinity", {})["podAntiAffinity"] = {REQUIRED: [term]}
    if asks["skew"]:
        selector = {"matchLabels": {"app": asks["app"]}}
        when = "DoNotSchedule" if asks["skew"] > 0 else "ScheduleAnyway"
        how = {"maxSkew": abs(asks["skew"]), "topologyKey": "zone", "whenUnsatisfiable": when}
        spec["topologySpreadConstraints"] = [{**how, "labelSelector": selector}]
    meta = {"name": name, "namespace": "d", "uid": name, "labels": {"app": asks["app"]}}
    return convert(Pod, {"metadata": meta, "spec": spec})


nodes_of = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.sampled_from(ZONES), st.integers(0, 1), st.booleans()),
    min_size=1,
    max_size=5,
)
asks_of = st.fixed_dictionaries(
    {
        "cpu": st.integers(0, 2),
        "gpu": st.booleans(),
        "app": st.sampled_from(APPS),
        "zone": st.sampled_from((None, None, None, "x")),
        "near": st.sampled_from((None, None, *APPS)),
        "apart": st.sampled_from((None, None, *APPS)),
        "apart_by": st.sampled_from(("zone", "host")),
        "skew": st.sampled_from((0, 0, 1, -1)),  # negative: a wish, not a demand
    }
)

Placed = list[tuple[dict[str, Any], int]]


def naive(nodes: list[Any], placed: Placed, asks: dict[str, Any], number: int) -> bool:
    """Whether a pod fits on a node, by the documentation's words and loops."""
    cpu, room, zone, gpu, cordoned = nodes[number]
    here = [other for other, where in placed if where == number]
    if cordoned or len(here) >= room or (asks["zone"] and asks["zone"] != zone):
        return False
    if asks["cpu"] and sum(other["cpu"] for other in here) + asks["cpu"] > cpu:
        return False
    if asks["gpu"] and sum(other["gpu"] for other in here) + 1 > gpu:
        return False
    return _near(nodes, placed, asks, zone) and _apart(nodes, placed, asks, number) and _even(nodes, placed, asks, zone)


def _near(nodes: list[Any], placed: Placed, asks: dict[str, Any], zone: str | None) -> bool:
    if not asks["near"]:
        return True
    zones = {nodes[where][2] for other, where in placed if other["app"] == asks["near"]} - {None}
    if not zones and asks["near"] == asks["app"]:
        return zone is not None
    return zone in zones


def _same(nodes: list[Any], key: str, a: int, b: int) -> bool:
    return a == b if key == "host" else nodes[a][2] is not None and nodes[a][2] == nodes[b][2]


def _apart(nodes: list[Any], placed: Placed, asks: dict[str, Any], number: int) -> bool:
    for other, where in placed:
        if asks["apart"] == other["app"] and _same(nodes, asks["apart_by"], number, where):
            return False
        if other["apart"] == asks["app"] and _same(nodes, other["apart_by"], number, where):
            return False
    return True


def _even(nodes: list[Any], placed: Placed, asks: dict[str, Any], zone: str | None) -> bool:
    if asks["skew"] <= 0:
        return True
    eligible = {z for _, _, z, _, _ in nodes if z and (not asks["zone"] or z == asks["zone"])}
    if zone is None:
        return False
    counts = dict.fromkeys(eligible, 0)
    for other, where in placed:
        if other["app"] == asks["app"] and nodes[where][2] in counts:
            counts[nodes[where][2]] += 1
    return counts.get(zone, 0) + 1 - min(counts.values(), default=0) <= asks["skew"]


@settings(max_examples=150, deadline=None)
@given(nodes=nodes_of, pods=st.lists(asks_of, max_size=14), seed=st.integers(0, 9))
def test_masks_equal_the_naive_answer_and_nothing_is_overcommitted(
    nodes: list[Any], pods: list[dict[str, Any]], seed: int
) -> None:
    snapshot, config, draw = Snapshot(), SchedulerConfig(), random.Random(seed)
    for number, node in enumerate(nodes):
        snapshot.set_node(make_node(f"n{number}", *node))
    passes = Passes(snapshot, plugins(config), config.weights)
    placed: Placed = []
    for number, asks in enumerate(pods):
        pod = make_pod(f"p{number}", asks)
        found = passes.of(snapshot.templates.of(pod))
        assert list(found.feasible()) == [naive(nodes, placed, asks, row) for row in range(len(nodes))]
        fresh = Pass(found.template, snapshot, plugins(config), config.weights)
        assert list(found.totals(found.feasible())) == list(fresh.totals(fresh.feasible())), (
            "corrected is as asked anew"
        )
        row = found.choose(draw)
        if row >= 0:
            snapshot.add_pod(pod, f"n{row}")
            placed.append((asks, row))
        else:
            assert not found.feasible().any()
            assert sum(int(part.split()[0]) for part in _parts(found.diagnose().message())) >= len(nodes)
        assert (snapshot.used <= snapshot.alloc).all()
        assert (snapshot.used_pods <= snapshot.alloc_pods).all()


def _parts(message: str) -> list[str]:
    return message.split(": ", 1)[1].removesuffix(".").split(", ")


@settings(max_examples=60, deadline=None)
@given(pods=st.lists(asks_of, max_size=12), order=st.randoms(use_true_random=False))
def test_what_comes_and_goes_leaves_no_trace(pods: list[dict[str, Any]], order: random.Random) -> None:
    snapshot = Snapshot()
    snapshot.set_node(make_node("n", 4, 4, "x", 1, False))
    names = [f"p{number}" for number in range(len(pods))]
    for name, asks in zip(names, pods, strict=True):
        snapshot.add_pod(make_pod(name, asks), order.choice(("n", "unknown")))
    order.shuffle(names)
    for name in names:
        snapshot.remove_pod(name)
    assert not snapshot.used.any()
    assert not snapshot.used_pods.any()
    assert not snapshot.scored.any()
    assert not any(snapshot.placed.values())
    assert not snapshot.affine


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(st.sampled_from(("add", "pop", "reject", "fail", "done", "wake", "time")), max_size=40))
def test_the_queue_loses_nobody(steps: list[str]) -> None:
    async def build() -> tuple[VirtualClock, SchedulingQueue]:
        clock = VirtualClock()
        return clock, SchedulingQueue(clock)

    clock, queue = asyncio.run(build())
    snapshot, held, finished = Snapshot(), list[Entry](), set[str]()
    asks = {"cpu": 1, "gpu": False, "app": "web", "zone": None, "near": None, "apart": None, "skew": 0}
    added = 0

    for step in steps:
        if step == "add":
            pod = make_pod(f"p{added}", asks)
            queue.add(pod, snapshot.templates.of(pod))
            added += 1
        elif step == "pop":
            entry = queue.pop()
            held += [entry] if entry else []
        elif step == "wake":
            queue.wake(ClusterEvent.POD_DELETE)
        elif step == "time":
            clock._now += 3
        elif held:
            entry = held.pop()
            if step == "reject":
                queue.reject(entry, [NodeResourcesFit()])
            elif step == "fail":
                queue.failed(entry)
            else:
                queue.done(entry)
                finished.add(entry.key.name)
    for entry in held:
        queue.failed(entry)
    clock._now += 400
    left = {entry.key.name for entry in iter(queue.pop, None)}
    assert left | finished == {f"p{number}" for number in range(added)}
    assert not left & finished
