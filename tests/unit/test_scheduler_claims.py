"""Pods with ResourceClaims: where they go, what is written before they are bound, and what is said when they cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from claims_lab import Bench, play
from device_lab import DRIVER, asks, device, make_claim, make_class, make_node, make_slice, request
from msgspec.structs import replace

from kaa.api.errors import Conflict, InternalError
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Event, Pod
from kaa.api.types.resource_v1 import ResourceClaim, ResourceClaimTemplate
from kaa.scheduler.queue import Place

FINALIZER = "resource.kubernetes.io/delete-protection"


def make_pod(name: str, *claims: str, template: str = "", **spec: Any) -> Pod:
    entries: list[dict[str, Any]] = [{"name": f"c{n}", "resourceClaimName": each} for n, each in enumerate(claims)]
    if template:
        entries.append({"name": "own", "resourceClaimTemplateName": template})
    meta = {"name": name, "namespace": "d", "uid": f"uid-{name}"}
    body = {"containers": [{"name": "c"}], "resourceClaims": entries, **spec}
    return convert(Pod, {"metadata": meta, "spec": body})


def make_template(name: str, *requests: dict[str, Any]) -> ResourceClaimTemplate:
    spec = {"spec": {"devices": {"requests": list(requests)}}}
    return convert(ResourceClaimTemplate, {"metadata": {"name": name, "namespace": "d"}, "spec": spec})


def one_each(*names: str) -> list[Any]:
    """Nodes with a device of their own."""
    slices = [make_slice(f"of-{n}", device("gpu"), pool=n, nodeName=n) for n in names]
    return [make_class(), *(make_node(n) for n in names), *slices]


def test_a_claim_gets_a_device_before_its_pod_a_node() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(*one_each("n1"), make_node("n2"), make_claim("gpu", request("r")))
        await bench.put(make_pod("p", "gpu"))
        claim = bench.claim("gpu")
        assert bench.node_of("p") == "n1"
        assert FINALIZER in claim.metadata.finalizers
        assert [(one.resource, one.name, one.uid) for one in claim.status.reserved_for] == [("pods", "p", "uid-p")]
        given = claim.status.allocation
        assert given is not None
        assert given.allocation_timestamp is not None
        assert [(one.driver, one.pool, one.device) for one in given.devices.results] == [(DRIVER, "n1", "gpu")]
        assert given.node_selector is not None

        await bench.put(make_claim("more", request("r")), make_pod("q", "more"))
        assert bench.why("q") == (
            "Unschedulable: 0/2 nodes are available: 2 cannot allocate all claims. still not schedulable,"
            " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        )
        await bench.end("p")
        assert bench.devices("gpu") is None
        await bench.clock.advance(15)
        assert bench.node_of("q") == "n1"

    play(story)


def test_claims_of_templates() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(*one_each("n1", "n2", "n3"), make_template("t", request("r")))
        await bench.put(*(make_pod(f"p{n}", template="t") for n in range(3)))
        assert {bench.node_of(f"p{n}") for n in range(3)} == {"n1", "n2", "n3"}
        await bench.put(make_pod("late", template="t"))
        assert "cannot allocate all claims" in bench.why("late")
        await bench.put(make_node("n4"), make_slice("of-n4", device("gpu"), pool="n4", nodeName="n4"), seconds=12)
        assert bench.node_of("late") == "n4"

    play(story)


def test_many_pods_at_once_never_share_a_device() -> None:
    async def story(bench: Bench) -> None:
        six = [device(f"g{n}") for n in range(6)]
        await bench.put(make_class(), make_node("n1"), make_slice("s", *six), make_template("t", request("r", count=2)))
        await bench.put(*(make_pod(f"p{n}", template="t") for n in range(5)))
        placed = [n for n in range(5) if bench.node_of(f"p{n}")]
        assert len(placed) == 3
        given = [d for c in bench.api.all(ResourceClaim) for d in bench.devices(c.metadata.name) or ()]
        assert sorted(given) == [f"g{n}" for n in range(6)]
        await bench.end(f"p{placed[0]}")
        await bench.clock.advance(15)
        assert sum(bool(pod.spec.node_name) for pod in bench.api.all(Pod)) == 3

    play(story)


def test_a_pod_is_not_looked_at_before_its_claims_are_there() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(*one_each("n1"), make_pod("p", "gpu"), make_pod("q", template="t"))
        assert bench.places() == {Place.GATED: 2}
        assert bench.why("p") == bench.why("q") == ""
        await bench.put(make_claim("gpu", request("r")))
        assert bench.node_of("p") == "n1"
        await bench.put(make_template("t", request("r")))
        assert "cannot allocate all claims" in bench.why("q")
        assert bench.places() == {Place.UNSCHEDULABLE: 1}

    play(story)


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        pytest.param(
            make_claim("c", request("r", **asks(cls="none"))),
            "Unschedulable: 0/1 nodes are available: request r: device class none does not exist. no new claims to"
            " deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
            id="no such class",
        ),
        pytest.param(
            make_claim("c", request("r", asks(), asks(cls="none"))),
            "Unschedulable: 0/1 nodes are available: request r/alt1: device class none does not exist. no new claims to"
            " deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
            id="no such class among the alternatives",
        ),
        pytest.param(
            make_claim("c", request("r", **asks(1, "device.attributes['x.com'].y > 1"))),
            'SchedulerError: running "DynamicResources" filter plugin: claim d/c: selector #0 on device'
            " gpu.example.com/n1/gpu: CEL runtime error: no such key: y",
            id="a selector that fails",
        ),
    ],
)
def test_what_is_wrong_with_a_claim_is_said(claim: ResourceClaim, reason: str) -> None:
    async def story(bench: Bench) -> None:
        await bench.put(*one_each("n1"), claim, make_pod("p", "c"))
        assert bench.why("p") == reason
        assert not bench.node_of("p")

    play(story)


def test_a_class_that_comes_later() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(
            make_node("n1"), make_slice("s", device("a")), make_claim("c", request("r")), make_pod("p", "c")
        )
        assert "device class gpu does not exist" in bench.why("p")
        await bench.put(make_class())
        assert bench.node_of("p") == "n1"

    play(story)


def test_pods_share_a_claim_where_its_devices_are() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(*one_each("n1", "n2"), make_claim("gpu", request("r")))
        await bench.put(*(make_pod(f"p{n}", "gpu") for n in range(5)), seconds=15)
        assert len({bench.node_of(f"p{n}") for n in range(5)} - {""}) == 1
        assert all(bench.node_of(f"p{n}") for n in range(5))
        assert sorted(user.name for user in bench.claim("gpu").status.reserved_for) == [f"p{n}" for n in range(5)]

    play(story)


def test_a_claim_that_cannot_be_used_any_more_is_taken_back() -> None:
    """Its device is on a node that is gone, and nobody uses it."""

    async def story(bench: Bench) -> None:
        await bench.put(*one_each("n1"), make_claim("gpu", request("r")), make_pod("p", "gpu"))
        await bench.end("p")
        held = bench.claim("gpu")
        assert held.status.allocation is None
        await bench.put(make_pod("p", "gpu"))
        other = {"resource": "others", "apiGroup": "x.com", "name": "o", "uid": "o"}
        held = bench.claim("gpu")
        await bench.put(replace(held, status=convert(type(held.status), {**_plain(held), "reservedFor": [other]})))
        await bench.end("p")
        assert bench.devices("gpu") == ["gpu"], "somebody else uses it"
        bench.api.remove(make_node("n1"))
        await bench.put(*one_each("n2"), make_pod("q", "gpu"))
        assert bench.why("q").startswith(
            "Unschedulable: 0/1 nodes are available: 1 resourceclaim not available on the node. still not schedulable,"
        )
        held = bench.claim("gpu")
        await bench.put(replace(held, status=replace(held.status, reserved_for=())), seconds=20)
        assert bench.node_of("q") == "n2"

    play(story)


def _plain(claim: ResourceClaim) -> dict[str, Any]:
    from kaa.api.scheme import to_builtins

    found: dict[str, Any] = to_builtins(claim.status)
    return found


def test_what_is_written_at_the_same_time_is_a_conflict_and_written_again() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(*one_each("n1"), make_claim("gpu", request("r")))
        left = [2]

        def refuse(verb: str, obj: Any) -> None:
            if verb == "update" and isinstance(obj, ResourceClaim) and left[0]:
                left[0] -= 1
                raise Conflict("somebody was first")

        bench.api.refuse = refuse
        await bench.put(make_pod("p", "gpu"))
        assert bench.node_of("p") == "n1"

    play(story)


def test_a_binding_that_fails_lets_go_of_devices_and_claim() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(*one_each("n1"), make_claim("gpu", request("r")))
        left = [1]

        def refuse(verb: str, obj: Any) -> None:
            if verb == "bind" and left[0]:
                left[0] -= 1
                raise InternalError("no")

        bench.api.refuse = refuse
        await bench.put(make_pod("p", "gpu"), seconds=0.5)
        assert bench.why("p").startswith("SchedulerError: binding rejected")
        assert bench.claim("gpu").status.reserved_for == ()
        await bench.clock.advance(5)
        assert bench.node_of("p") == "n1"
        assert len(bench.claim("gpu").status.reserved_for) == 1

    play(story)


def test_a_claim_that_cannot_be_written_is_told() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(*one_each("n1"), make_claim("gpu", request("r")), make_claim("more", request("r")))
        left = [1]

        def refuse(verb: str, obj: Any) -> None:
            if verb == "update" and isinstance(obj, ResourceClaim) and left[0]:
                left[0] -= 1
                raise InternalError("the disk is full")

        bench.api.refuse = refuse
        await bench.put(make_pod("p", "gpu"), seconds=0.5)
        assert bench.why("p") == (
            'SchedulerError: running PreBind plugin "DynamicResources": add finalizer to claim d/gpu: the disk is full'
        )
        await bench.clock.advance(5)
        assert bench.node_of("p") == "n1"

    play(story)


def test_better_alternatives_decide_between_nodes() -> None:
    async def story(bench: Bench) -> None:
        big = {"attributes": {"big": True}}
        await bench.put(
            make_class(),
            *(make_node(f"n{n}") for n in range(4)),
            *(
                make_slice(
                    f"s{n}",
                    device("gpu", **(big if n == 2 else {"attributes": {"big": False}})),
                    pool=f"n{n}",
                    nodeName=f"n{n}",
                )
                for n in range(4)
            ),
            make_claim("c", request("r", asks(1, f"device.attributes['{DRIVER}'].big"), asks())),
            make_pod("p", "c"),
        )
        assert bench.node_of("p") == "n2"
        given = bench.claim("c").status.allocation
        assert given is not None
        assert given.devices.results[0].request == "r/alt0"

    play(story)


BOUND = {"bindingConditions": ["attached"], "bindingFailureConditions": ["broken"]}


async def _waiting(bench: Bench) -> ResourceClaim:
    """A pod whose device must be attached first."""
    attachable = make_slice("s", device("far", bindsToNode=True, **BOUND))
    await bench.put(make_class(), make_node("n1"), attachable, make_claim("c", request("r")), make_pod("p", "c"))
    assert bench.node_of("p") == ""
    texts = [event.message for event in bench.api.all(Event) if event.reason == "BindingConditionsPending"]
    assert texts == ["waiting for binding conditions for device on node n1"]
    return bench.claim("c")


def _told(claim: ResourceClaim, condition: str) -> ResourceClaim:
    condition_true = {
        "type": condition,
        "status": "True",
        "reason": "Why",
        "message": "so",
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    }
    told = {"driver": DRIVER, "pool": "pool", "device": "far", "conditions": [condition_true]}
    return replace(claim, status=convert(type(claim.status), {**_plain(claim), "devices": [told]}))


def test_a_device_that_must_be_attached_first() -> None:
    async def story(bench: Bench) -> None:
        claim = await _waiting(bench)
        await bench.clock.advance(100)
        assert bench.node_of("p") == ""
        await bench.put(_told(claim, "attached"))
        assert bench.node_of("p") == "n1"

    play(story)


def test_a_device_that_cannot_be_attached() -> None:
    async def story(bench: Bench) -> None:
        claim = await _waiting(bench)
        await bench.put(_told(claim, "broken"), seconds=0.5)
        text = 'running PreBind plugin "DynamicResources": claim c binding failed: reason=Why, message="so"'
        assert bench.why("p") == f"SchedulerError: {text}"
        await bench.clock.advance(5)
        events = [event.message or "" for event in bench.api.all(Event) if event.reason == "FailedScheduling"]
        assert any("deallocation of ResourceClaim completed" in message for message in events)

    play(story)


def test_a_device_that_is_never_attached() -> None:
    async def story(bench: Bench) -> None:
        await _waiting(bench)
        await bench.clock.advance(605)
        events = [event.message or "" for event in bench.api.all(Event) if event.reason == "FailedScheduling"]
        assert any("binding timeout" in message for message in events)

    play(story)


def test_taints_of_devices_keep_new_pods_off() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class(), make_node("n1"), make_slice("s", device("a", taint="NoSchedule")))
        await bench.put(make_claim("c", request("r")), make_pod("p", "c"))
        assert "cannot allocate all claims" in bench.why("p")
        await bench.put(make_slice("s", device("a")), seconds=12)
        assert bench.node_of("p") == "n1"

    play(story)


def test_shared_devices_are_judged_by_what_nodes_see() -> None:
    """Devices of a fabric, for nodes of a zone: all of those are alike, and change together."""

    async def story(bench: Bench) -> None:
        zone = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}
        nodes = [make_node(f"a{n}", zone="a") for n in range(3)] + [make_node(f"b{n}", zone="b") for n in range(3)]
        fabric = make_slice("fabric", device("x"), device("y"), nodeSelector=zone, pool="fabric")
        await bench.put(make_class(), *nodes, fabric, *one_each("c0"), make_template("t", request("r")))
        await bench.put(*(make_pod(f"p{n}", template="t") for n in range(4)), seconds=12)
        placed = sorted(bench.node_of(f"p{n}") for n in range(4))
        assert placed[0] == ""
        assert [name[:1] for name in placed[1:]] == ["a", "a", "c"]

    play(story)


def test_a_change_asks_anew_only_the_nodes_it_concerns() -> None:
    async def story(bench: Bench) -> None:
        names = [f"n{n}" for n in range(20)]
        await bench.put(*one_each(*names), make_claim("c", request("r", count=2)), make_pod("p", "c"))
        assert "20 cannot allocate all claims" in bench.why("p")
        known = bench.scheduler._claims.inventory
        asked: list[str] = []
        pools_on = known.pools_on

        def counted(node: Any) -> Any:
            asked.append(node.metadata.name)
            return pools_on(node)

        known.pools_on = counted  # type: ignore[method-assign]
        await bench.put(make_slice("of-n3", device("gpu"), device("more"), pool="n3", nodeName="n3", generation=2))
        assert bench.node_of("p") == "n3"
        assert set(asked) == {"n3"}
        asked.clear()
        await bench.put(make_claim("e", request("r", count=2)), make_pod("q", "e"))
        await bench.put(make_node("n20"), seconds=0)
        asked.clear()
        await bench.put(make_slice("of-n20", device("a"), device("b"), pool="n20", nodeName="n20"), seconds=15)
        assert bench.node_of("q") == "n20"
        assert "n7" not in asked

    play(story)
