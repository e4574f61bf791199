"""What claims get of a node's devices, in the API's words; and what keeps them from getting any."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from device_lab import DRIVER, asks, device, make_claim, make_class, make_node, make_slice, request

from kaa.api.scheme import convert, to_builtins
from kaa.api.types.core_v1 import Node
from kaa.api.types.resource_v1 import AllocationResult, ResourceClaim, ResourceSlice
from kaa.scheduler.devices import Fault, Inventory, Taken, allocate
from kaa.scheduler.devices.search import TooLong

NODE = make_node("n1", zone="a")


def give(
    slices: Sequence[ResourceSlice],
    *claims: ResourceClaim,
    classes: Sequence[Any] = (make_class(),),
    node: Node = NODE,
    taken: Taken | None = None,
) -> list[AllocationResult] | None:
    inventory = Inventory()
    for each in slices:
        inventory.put(each)
    known = {each.metadata.name: each for each in classes}
    return allocate(claims, inventory.pools_on(node), known.get, taken or Taken(), node=node, random=Random(1))


def names(found: list[AllocationResult] | None) -> list[list[str]]:
    assert found is not None
    return [[f"{one.request}:{one.device}" for one in each.devices.results] for each in found]


def had(claim: str, *devices: str, **more: Any) -> Taken:
    results = [{"request": "r", "driver": DRIVER, "pool": "pool", "device": each, **more} for each in devices]
    taken = Taken()
    taken.set(claim, convert(AllocationResult, {"devices": {"results": results}}))
    return taken


TWO = make_slice("s", device("a"), device("b"))


@pytest.mark.parametrize(
    ("slices", "claims", "expected"),
    [
        pytest.param([TWO], [make_claim("c", request("r"))], [["r:a"]], id="the first in the slice's order"),
        pytest.param([TWO], [make_claim("c", request("r", count=2))], [["r:a", "r:b"]], id="two"),
        pytest.param([TWO], [make_claim("c", request("r", count=3))], None, id="not three"),
        pytest.param(
            [TWO], [make_claim("c", request("r")), make_claim("e", request("r"))], [["r:a"], ["r:b"]], id="claims"
        ),
        pytest.param(
            [TWO], [make_claim("c", request("r", **asks(-1)))], [["r:a", "r:b"]], id="all of them, however many"
        ),
        pytest.param(
            [TWO],
            [make_claim("c", request("r", asks(3), asks(2)))],
            [["r/alt1:a", "r/alt1:b"]],
            id="the first alternative that can be had",
        ),
        pytest.param([], [make_claim("c", request("r", **asks(-1)))], None, id="all of none is none"),
        pytest.param(
            [make_slice("s", device("a"), count=2)], [make_claim("c", request("r"))], None, id="a pool half published"
        ),
        pytest.param(
            [make_slice("s", device("a")), make_slice("t", device("b"), generation=2)],
            [make_claim("c", request("r"))],
            [["r:b"]],
            id="the newest generation alone",
        ),
        pytest.param(
            [make_slice("s", device("a")), make_slice("t", device("b"), generation=2, nodeName="n2")],
            [make_claim("c", request("r"))],
            None,
            id="even if the newest is for another node",
        ),
        pytest.param(
            [make_slice("s", device("a"), device("a"))], [make_claim("c", request("r"))], None, id="a name used twice"
        ),
        pytest.param(
            [make_slice("s", device("a"), nodeName="n2")], [make_claim("c", request("r"))], None, id="another node's"
        ),
        pytest.param(
            [make_slice("s", device("a", nodeName="n2"), device("b", allNodes=True), perDeviceNodeSelection=True)],
            [make_claim("c", request("r"))],
            [["r:b"]],
            id="each device says where it is",
        ),
        pytest.param(
            [
                make_slice(
                    "s", device("a", taint="NoSchedule"), device("b", taint="NoExecute"), device("c", taint="None")
                )
            ],
            [make_claim("c", request("r"))],
            [["r:c"]],
            id="tainted",
        ),
        pytest.param(
            [make_slice("s", device("a", taint="NoSchedule"))],
            [make_claim("c", request("r", tolerations=[{"key": "ill", "operator": "Exists"}]))],
            [["r:a"]],
            id="a taint tolerated",
        ),
        pytest.param(
            [make_slice("z", device("a"), pool="bind", count=1), make_slice("s", device("b"), pool="pool")],
            [make_claim("c", request("r"))],
            [["r:a"]],
            id="pools by name",
        ),
        pytest.param(
            [
                make_slice("z", device("a", bindingConditions=["x"], bindingFailureConditions=["y"]), pool="bind"),
                make_slice("s", device("b")),
            ],
            [make_claim("c", request("r"))],
            [["r:b"]],
            id="pools that must be waited for at the end",
        ),
    ],
)
def test_which_devices(slices: Sequence[ResourceSlice], claims: list[ResourceClaim], expected: Any) -> None:
    found = give(slices, *claims)
    assert (found if expected is None else names(found)) == expected


def test_selectors_of_class_and_request_both_hold() -> None:
    slices = [make_slice("s", *(device(f"d{n}", attributes={"size": n, "x.com/on": n % 2 == 0}) for n in range(5)))]
    classes = [make_class("gpu", f"device.driver == '{DRIVER}'", "device.attributes['x.com'].on")]
    wanted = make_claim("c", request("r", **asks(1, f"device.attributes['{DRIVER}'].size > 2")))
    assert names(give(slices, wanted, classes=classes)) == [["r:d4"]]


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        pytest.param(
            make_claim("c", request("r", **asks(1, "device.nothing"))),
            r"claim d/c: selector #0: CEL compile error: .*undefined field 'nothing'",
            id="no CEL",
        ),
        pytest.param(
            make_claim("c", request("r", **asks(1, "true", "device.attributes['x.com'].size > 0"))),
            r"claim d/c: selector #1 on device gpu.example.com/pool/a: CEL runtime error: no such key: size",
            id="an attribute that is not there",
        ),
        pytest.param(
            make_claim("c", request("r", **asks(cls="none"))),
            r"claim d/c, request r: could not retrieve device class none",
            id="no such class",
        ),
        pytest.param(
            make_claim("c", request("r", count=33)),
            r"claim d/c: number of requested devices 33 exceeds the claim limit of 32",
            id="too many",
        ),
        pytest.param(
            make_claim("c", request("r", **asks(-1)), constraints=[{"matchAttribute": "x.com/size"}]),
            r"claim d/c, request r: cannot add device gpu.example.com/pool/a because a claim constraint would not be satisfied",
            id="all, but not alike",
        ),
    ],
)
def test_what_is_wrong_is_said(claim: ResourceClaim, text: str) -> None:
    with pytest.raises(Fault, match=text):
        give([TWO], claim)


def test_all_of_a_pool_that_changes_is_unknown() -> None:
    with pytest.raises(
        Fault, match=r"asks for all devices, but resource pool gpu.example.com/pool is currently being updated"
    ):
        give([make_slice("s", device("a"), count=2)], make_claim("c", request("r", **asks(-1))))


def test_constraints() -> None:
    racks = [device(f"d{n}", attributes={"rack": "xxyyz"[n]}) for n in range(5)]
    alike = {"constraints": [{"matchAttribute": f"{DRIVER}/rack"}]}
    apart = {"constraints": [{"distinctAttribute": f"{DRIVER}/rack"}]}
    taken = had("before", "d0")
    slices = [make_slice("s", *racks)]
    assert names(give(slices, make_claim("c", request("r", count=2), **alike), taken=taken)) == [["r:d2", "r:d3"]]
    assert names(give(slices, make_claim("c", request("r", count=3), **apart))) == [["r:d0", "r:d2", "r:d4"]]
    assert give(slices, make_claim("c", request("r", count=4), **apart)) is None
    one = make_claim("c", request("r"), request("t"), constraints=[{**alike["constraints"][0], "requests": ["r"]}])
    assert names(give(slices, one)) == [["r:d0", "t:d1"]]


def test_admin_access_takes_nothing_from_others() -> None:
    every = make_claim("watch", request("r", **asks(-1), adminAccess=True))
    found = give([TWO], every, taken=had("user", "a", "b"))
    assert names(found) == [["r:a", "r:b"]]
    assert found is not None
    assert all(one.admin_access for one in found[0].devices.results)
    taken = Taken()
    taken.set("watch", found[0])
    assert names(give([TWO], make_claim("c", request("r", count=2)), taken=taken)) == [["r:a", "r:b"]]


def test_partitions_share_what_there_is() -> None:
    def draws(slots: int) -> dict[str, Any]:
        return {"consumesCounters": [{"counterSet": "card", "counters": {"slots": {"value": str(slots)}}}]}

    cards = make_slice("cards", count=2, sharedCounters=[{"name": "card", "counters": {"slots": {"value": "4"}}}])
    parts = make_slice(
        "parts", device("all", **draws(4)), device("left", **draws(2)), device("right", **draws(2)), count=2
    )
    assert names(give([cards, parts], make_claim("c", request("r", count=2)))) == [["r:left", "r:right"]]
    assert names(give([cards, parts], make_claim("c", request("r")), taken=had("b", "right"))) == [["r:left"]]
    assert give([cards, parts], make_claim("c", request("r")), taken=had("b", "all")) is None
    assert give([parts], make_claim("c", request("r"))) is None, "its counters are not known yet"


def shared(name: str, value: str, **policy: Any) -> dict[str, Any]:
    of = {"value": value, **({"requestPolicy": policy} if policy else {})}
    return device(name, allowMultipleAllocations=True, capacity={"memory": of})


@pytest.mark.parametrize(
    ("offered", "asked", "got"),
    [
        pytest.param(shared("a", "10Gi"), "3Gi", "3Gi", id="what is asked for"),
        pytest.param(shared("a", "10Gi"), None, "10Gi", id="else all of it"),
        pytest.param(shared("a", "10Gi", default="1Gi"), None, "1Gi", id="or the default"),
        pytest.param(shared("a", "10Gi", default="1Gi", validValues=["1Gi", "4Gi"]), "2Gi", "4Gi", id="the next value"),
        pytest.param(
            shared("a", "10Gi", default="1Gi", validValues=["1Gi", "4Gi"]), "5Gi", None, id="beyond all values"
        ),
        pytest.param(
            shared("a", "10Gi", default="1Gi", validRange={"min": "1Gi", "step": "2Gi", "max": "7Gi"}),
            "4Gi",
            "5Gi",
            id="steps",
        ),
        pytest.param(
            shared("a", "10Gi", default="1Gi", validRange={"min": "1Gi", "max": "7Gi"}),
            "8Gi",
            None,
            id="beyond the range",
        ),
        pytest.param(shared("a", "10", default="1", validRange={"min": "2"}), "1", "2", id="at least"),
        pytest.param(shared("a", "2Gi"), "3Gi", None, id="more than there is"),
    ],
)
def test_a_part_of_a_device(offered: dict[str, Any], asked: str | None, got: str | None) -> None:
    wish = {"capacity": {"requests": {"memory": asked}}} if asked else {}
    found = give([make_slice("s", offered)], make_claim("c", request("r", **wish)))
    if got is None:
        assert found is None
        return
    assert found is not None
    (one,) = found[0].devices.results
    assert one.consumed_capacity == {"memory": got}
    assert one.share_id is not None
    assert len(one.share_id) == 36


def test_parts_add_up() -> None:
    slices = [make_slice("s", shared("a", "10Gi"), shared("b", "2Gi"))]
    wants = [make_claim(f"c{n}", request("r", capacity={"requests": {"memory": "4Gi"}})) for n in range(3)]
    assert names(give(slices, *wants[:2])) == [["r:a"], ["r:a"]]
    assert give(slices, *wants) is None
    taken = had("b", "a", shareID="11111111-1111-4111-8111-111111111111", consumedCapacity={"memory": "7Gi"})
    assert give(slices, wants[0], taken=taken) is None
    taken.set("b", None)
    assert names(give(slices, wants[0], taken=taken)) == [["r:a"]]


def test_configuration_of_class_and_claim() -> None:
    def opaque(word: str) -> dict[str, Any]:
        return {"opaque": {"driver": DRIVER, "parameters": {"mode": word}}}

    classes = [make_class("gpu", config=[opaque("class")]), make_class("other", config=[opaque("other")])]
    wanted = make_claim(
        "c",
        request("r", asks(9), asks(1)),
        request("t", **asks(cls="other")),
        config=[
            opaque("all"),
            {**opaque("first"), "requests": ["r/alt0"]},
            {**opaque("second"), "requests": ["r/alt1"]},
            {**opaque("both"), "requests": ["r", "t"]},
        ],
    )
    found = give([TWO], wanted, classes=classes)
    assert found is not None
    told = [(c.source, c.requests, to_builtins(c)["opaque"]["parameters"]["mode"]) for c in found[0].devices.config]
    assert told == [
        ("FromClass", ("r/alt1",), "class"),
        ("FromClass", ("t",), "other"),
        ("FromClaim", (), "all"),
        ("FromClaim", ("r/alt1",), "second"),
        ("FromClaim", (), "both"),
    ]


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        pytest.param([TWO], None, id="everywhere"),
        pytest.param(
            [make_slice("s", device("a"), device("b"), nodeName="n1")],
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
            id="its node's",
        ),
        pytest.param(
            [make_slice("s", device("a", bindsToNode=True), device("b"))],
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
            id="tied to where it is used",
        ),
        pytest.param(
            [
                make_slice(
                    f"s{pool}",
                    device(pool),
                    pool=pool,
                    nodeSelector={"nodeSelectorTerms": [{"matchExpressions": terms}]},
                )
                for pool, terms in (
                    ("p", [{"key": "zone", "operator": "In", "values": ["a", "b"]}]),
                    (
                        "q",
                        [
                            {"key": "zone", "operator": "In", "values": ["b", "a"]},
                            {"key": "zone", "operator": "Exists"},
                        ],
                    ),
                )
            ],
            {
                "matchExpressions": [
                    {"key": "zone", "operator": "In", "values": ["a", "b"]},
                    {"key": "zone", "operator": "Exists"},
                ]
            },
            id="where all can be used",
        ),
    ],
)
def test_where_an_allocation_can_be_used(slices: Sequence[ResourceSlice], expected: Any) -> None:
    found = give(slices, make_claim("c", request("r", count=2)))
    assert found is not None
    selector = found[0].node_selector
    assert (to_builtins(selector)["nodeSelectorTerms"] if selector else None) == ([expected] if expected else None)


def test_a_search_without_end_is_given_up() -> None:
    alike = [device(f"d{n:02}", attributes={"rack": n}) for n in range(40)]
    wanted = make_claim("c", request("r", count=16), request("t", **asks(16, "device.driver == 'none'")))
    with pytest.raises(TooLong):
        give([make_slice("s", *alike)], wanted)
