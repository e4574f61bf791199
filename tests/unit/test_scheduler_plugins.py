"""Each plugin's verdicts, and the messages that come of them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kaa.api.scheme import convert, to_builtins
from kaa.api.types.core_v1 import Node, Pod
from kaa.scheduler.config import SchedulerConfig, plugins
from kaa.scheduler.cycle import Passes
from kaa.scheduler.preemption import Preemptor
from kaa.scheduler.snapshot import Snapshot
from kaa.scheduler.template import Templates

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
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def make_node(
    name: str, *, labels: dict[str, str] | None = None, room: dict[str, str] | None = None, **spec: Any
) -> Node:
    has = {"cpu": "2", "memory": "4Gi", "pods": "10", **(room or {})}
    images = spec.pop("images", [])
    return convert(
        Node,
        {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
            "spec": spec,
            "status": {"allocatable": has, "daemonEndpoints": {}, "nodeInfo": INFO, "images": images},
        },
    )


def make_pod(name: str, *, cpu: str = "", labels: dict[str, str] | None = None, **spec: Any) -> Pod:
    meta = spec.pop("metadata", {})
    container: dict[str, Any] = {"name": "c", "image": "web", "ports": spec.pop("ports", [])}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    return convert(
        Pod,
        {
            "metadata": {"name": name, "namespace": "d", "uid": name, "labels": labels or {}, **meta},
            "spec": {"containers": [container], **spec},
        },
    )


class World:
    """Nodes and placed pods, asked about one more pod."""

    def __init__(self, *nodes: Node, placed: dict[str, list[Pod]] | None = None) -> None:
        self.nodes = Snapshot()
        for node in nodes:
            self.nodes.set_node(node)
        for name, pods in (placed or {}).items():
            for pod in pods:
                self.nodes.add_pod(pod, name)
        config = SchedulerConfig()
        self.passes = Passes(self.nodes, plugins(config), config.weights)

    def fits(self, pod: Pod) -> set[str]:
        mask = self.passes.of(self.nodes.templates.of(pod)).feasible()
        return {name for name, row in self.nodes.rows.items() if mask[row]}

    def best(self, pod: Pod) -> str:
        return self.nodes.names[self.passes.of(self.nodes.templates.of(pod)).choose(random.Random(0))]

    def message(self, pod: Pod) -> str:
        return self.passes.of(self.nodes.templates.of(pod)).diagnose().message()


def node_affinity(*expressions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    term = {"matchExpressions": list(expressions), **fields}
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}}


def pod_affinity(kind: str, key: str = "zone", app: str = "web", **more: Any) -> dict[str, Any]:
    return {kind: {REQUIRED: [{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key, **more}]}}


LABELLED = (
    make_node("a", labels={"zone": "1", "size": "5"}),
    make_node("b", labels={"zone": "2", "size": "50"}),
    make_node("c"),
)


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        pytest.param({"nodeSelector": {"zone": "1"}}, "a", id="a selector wants its value"),
        pytest.param({"nodeSelector": {"zone": "9"}}, "", id="no node has the value"),
        pytest.param(
            {"affinity": node_affinity({"key": "zone", "operator": "NotIn", "values": ["1"]})},
            "bc",
            id="NotIn takes absence",
        ),
        pytest.param({"affinity": node_affinity({"key": "zone", "operator": "Exists"})}, "ab", id="Exists"),
        pytest.param({"affinity": node_affinity({"key": "zone", "operator": "DoesNotExist"})}, "c", id="DoesNotExist"),
        pytest.param(
            {"affinity": node_affinity({"key": "size", "operator": "Gt", "values": ["9"]})}, "b", id="Gt is numeric"
        ),
        pytest.param({"affinity": node_affinity({"key": "size", "operator": "Lt", "values": ["9"]})}, "a", id="Lt"),
        pytest.param({"affinity": node_affinity()}, "", id="an empty term matches nothing"),
        pytest.param(
            {"affinity": node_affinity(matchFields=[{"key": "metadata.name", "operator": "In", "values": ["b"]}])},
            "b",
            id="a daemon names its node",
        ),
    ],
)
def test_node_affinity(spec: dict[str, Any], fits: str) -> None:
    assert World(*LABELLED).fits(make_pod("p", **spec)) == set(fits)


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        pytest.param(None, "b", id="not tolerated"),
        pytest.param({"key": "k", "operator": "Exists"}, "ab", id="Exists takes any value"),
        pytest.param({"key": "k", "value": "v"}, "ab", id="Equal is the default"),
        pytest.param({"key": "k", "value": "w"}, "b", id="another value"),
        pytest.param({"key": "k", "value": "v", "effect": "NoExecute"}, "b", id="another effect"),
        pytest.param({"operator": "Exists"}, "ab", id="no key takes all"),
    ],
)
def test_taints(toleration: dict[str, Any] | None, fits: str) -> None:
    world = World(make_node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]), make_node("b"))
    assert world.fits(make_pod("p", tolerations=[toleration] if toleration else [])) == set(fits)


@pytest.mark.parametrize(
    ("held", "wanted", "fits"),
    [
        pytest.param(("", "TCP"), ("", "TCP"), False, id="same port"),
        pytest.param(("", "TCP"), ("", "UDP"), True, id="another protocol"),
        pytest.param(("10.0.0.1", "TCP"), ("10.0.0.2", "TCP"), True, id="another address"),
        pytest.param(("10.0.0.1", "TCP"), ("0.0.0.0", "TCP"), False, id="the wildcard meets all"),
    ],
)
def test_host_ports(held: tuple[str, str], wanted: tuple[str, str], fits: bool) -> None:
    def ports(one: tuple[str, str]) -> list[dict[str, Any]]:
        return [{"containerPort": 80, "hostPort": 80, "hostIP": one[0], "protocol": one[1]}]

    world = World(make_node("a"), placed={"a": [make_pod("h", ports=ports(held))]})
    assert bool(world.fits(make_pod("p", ports=ports(wanted)))) is fits


@pytest.mark.parametrize(
    ("node", "pod", "placed", "message"),
    [
        pytest.param(make_node("a"), make_pod("p", cpu="3"), [], "1 Insufficient cpu.", id="beyond the node"),
        pytest.param(
            make_node("a", room={"pods": "1"}),
            make_pod("p", cpu="2"),
            [make_pod("q", cpu="1")],
            "1 Insufficient cpu, 1 Too many pods.",
            id="two reasons for one node",
        ),
        pytest.param(
            make_node("a", unschedulable=True), make_pod("p"), [], "1 node(s) were unschedulable.", id="cordoned"
        ),
        pytest.param(
            make_node("a", taints=[{"key": "k", "effect": "NoSchedule"}]),
            make_pod("p"),
            [],
            "1 node(s) had untolerated taint(s).",
            id="tainted",
        ),
        pytest.param(
            make_node("a"),
            make_pod("p", nodeSelector={"x": "y"}),
            [],
            "1 node(s) didn't match Pod's node affinity/selector.",
            id="not selected",
        ),
        pytest.param(
            make_node("a", labels={"zone": "1"}),
            make_pod("p", affinity=pod_affinity("podAntiAffinity")),
            [make_pod("q", labels={"app": "web"})],
            "1 node(s) didn't match pod anti-affinity rules.",
            id="must keep away",
        ),
        pytest.param(
            make_node("a", labels={"zone": "1"}),
            make_pod("p", affinity=pod_affinity("podAffinity")),
            [],
            "1 node(s) didn't match pod affinity rules.",
            id="nobody to be near to",
        ),
        pytest.param(
            make_node("a", labels={"zone": "1"}),
            make_pod("p", labels={"app": "web"}),
            [make_pod("q", affinity=pod_affinity("podAntiAffinity"))],
            "1 node(s) didn't satisfy existing pods anti-affinity rules.",
            id="kept away by another",
        ),
    ],
)
def test_messages(node: Node, pod: Pod, placed: list[Pod], message: str) -> None:
    world = World(node, placed={"a": placed})
    assert world.message(pod) == f"0/1 nodes are available: {message}"


def test_no_nodes_have_their_own_message() -> None:
    assert World().message(make_pod("p")) == "no nodes available to schedule pods"


def test_nodes_a_daemon_does_not_name_were_never_asked() -> None:
    world = World(make_node("a"), make_node("b"), make_node("c"))
    named = node_affinity(matchFields=[{"key": "metadata.name", "operator": "In", "values": ["b"]}])
    assert world.message(make_pod("p", cpu="9", affinity=named)) == (
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )


def test_the_first_of_a_group_may_go_anywhere_and_others_follow() -> None:
    world = World(*LABELLED)
    pod = make_pod("p", labels={"app": "web"}, affinity=pod_affinity("podAffinity"))
    assert world.fits(pod) == {"a", "b"}
    world.nodes.add_pod(pod, "b")
    assert world.fits(make_pod("q", labels={"app": "web"}, affinity=pod_affinity("podAffinity"))) == {"b"}


def spread(skew: int = 1, **more: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": "web"}}
    return {
        "maxSkew": skew,
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector,
        **more,
    }


@pytest.mark.parametrize(
    ("constraint", "placed", "fits"),
    [
        pytest.param(spread(), {}, "ab", id="all empty"),
        pytest.param(spread(), {"a": 1}, "b", id="one ahead"),
        pytest.param(spread(2), {"a": 1}, "ab", id="a skew of two allowed"),
        pytest.param(spread(minDomains=3), {"a": 1, "b": 1}, "", id="too few domains: the least is zero"),
    ],
)
def test_topology_spread(constraint: dict[str, Any], placed: dict[str, int], fits: str) -> None:
    labels = {"app": "web"}
    there = {node: [make_pod(f"{node}{n}", labels=labels) for n in range(count)] for node, count in placed.items()}
    pod = make_pod("p", labels=labels, topologySpreadConstraints=[constraint])
    assert World(*LABELLED, placed=there).fits(pod) == set(fits)


def test_scores_prefer_the_emptier_node() -> None:
    assert (
        World(make_node("a"), make_node("b"), placed={"a": [make_pod("q", cpu="1")]}).best(make_pod("p", cpu="1"))
        == "b"
    )


def test_a_preferred_node_outweighs_room() -> None:
    choice = {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["1"]}]}}
    pod = make_pod("p", cpu="1", affinity={"nodeAffinity": {PREFERRED: [choice]}})
    assert World(*LABELLED, placed={"a": [make_pod("q", cpu="1")]}).best(pod) == "a"


def test_a_soft_taint_repels() -> None:
    taint = {"key": "k", "effect": "PreferNoSchedule"}
    assert World(make_node("a", taints=[taint]), make_node("b")).best(make_pod("p")) == "b"


def test_a_large_image_attracts() -> None:
    image = {"names": ["web:latest"], "sizeBytes": 1000 * 1024 * 1024}
    assert World(make_node("a", images=[image]), make_node("b")).best(make_pod("p")) == "a"


def test_soft_spreading_prefers_the_emptier_zone() -> None:
    labels = {"app": "web"}
    pod = make_pod("p", labels=labels, topologySpreadConstraints=[spread(whenUnsatisfiable="ScheduleAnyway")])
    big = make_node("a", labels={"zone": "1"}, room={"cpu": "64"})
    assert World(big, LABELLED[1], placed={"a": [make_pod("q", labels=labels)]}).best(pod) == "b"


def test_requests_count_sidecars_init_containers_and_overhead() -> None:
    def container(name: str, cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "resources": {"requests": {"cpu": cpu}}, **more}

    pod = make_pod(
        "p",
        initContainers=[container("s", "100m", restartPolicy="Always"), container("i", "1")],
        containers=[container("a", "200m"), container("b", "300m")],
        overhead={"cpu": "50m"},
    )
    assert Snapshot().templates.of(pod).requests == {"cpu": 1150}  # the init container beside the sidecar, and overhead


def preempt(world: World, pod: Pod) -> tuple[list[str], str]:
    template = world.nodes.templates.of(pod)
    diagnosis = world.passes.of(template).diagnose()
    found, why = Preemptor(world.nodes, world.passes.of).find(template, diagnosis, (), random.Random(0))
    return [placed.pod.metadata.name or "" for placed in found.victims] if found else [], why


def test_preemption_takes_the_fewest_and_least() -> None:
    placed = [make_pod("low", cpu="1", priority=1), make_pod("mid", cpu="900m", priority=5)]
    world = World(make_node("a"), placed={"a": placed})
    assert preempt(world, make_pod("p", cpu="1", priority=9)) == (["low"], "")
    assert set(world.nodes.pods) == {"low", "mid"}, "a dry run leaves everything as it was"


def test_preemption_says_why_not() -> None:
    world = World(
        make_node("a"), make_node("b", unschedulable=True), placed={"a": [make_pod("q", cpu="2", priority=9)]}
    )
    assert preempt(world, make_pod("p", cpu="1", priority=9)) == (
        [],
        "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, "
        "1 Preemption is not helpful for scheduling.",
    )


@pytest.mark.parametrize(
    ("conditions", "wanted", "used"),
    [
        ([], "500m", 500),
        ([{"type": "PodResizePending", "reason": "Deferred"}], "1500m", 1500),
        ([{"type": "PodResizePending", "reason": "Infeasible"}], "9", 1000),
        ([{"type": "PodResizeInProgress"}], "500m", 1000),
    ],
)
def test_a_pod_that_is_being_resized_uses_what_it_has_and_what_it_may_get(
    conditions: list[dict[str, str]], wanted: str, used: int
) -> None:
    status = {
        "conditions": [{"status": "True", **condition} for condition in conditions],
        "containerStatuses": [
            {"name": "c", "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}},
             "image": "web", "imageID": "", "ready": True, "restartCount": 0}
        ],
    }  # fmt: skip
    pod = make_pod("p", cpu=wanted)
    placed = convert(Pod, {**to_builtins(pod), "status": status})
    assert Templates().of(placed).requests["cpu"] == used
