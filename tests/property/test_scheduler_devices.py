"""Allocation against a model that tries everything: what exists is found, by the best alternatives, and keeps every rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations, product
from random import Random
from typing import Any

from device_lab import DRIVER, asks, device, make_claim, make_class, make_node, make_slice, request
from hypothesis import event, given, settings
from hypothesis import strategies as st

from kaa.api.scheme import convert
from kaa.api.types.resource_v1 import AllocationResult, ResourceClaim
from kaa.scheduler.devices import Fault, Inventory, Taken, allocate, rank_of

NODE = make_node("n1")
CLASSES = {"gpu": make_class("gpu"), "big": make_class("big", f"device.attributes['{DRIVER}'].size == 1")}
NAMES = ("a", "b", "c", "d")
SIZE = f"{DRIVER}/size"


@st.composite
def devices(draw: st.DrawFn, name: str) -> dict[str, Any]:
    shared = draw(st.booleans())
    made = device(name, attributes={"size": draw(st.integers(0, 1)), "rack": draw(st.sampled_from("xy"))})
    made["taints"] = [{"key": "ill", "effect": draw(st.sampled_from(("None", "NoSchedule")))}]
    made["capacity"] = {"memory": {"value": str(draw(st.integers(1, 3)))}}
    if shared:
        made["allowMultipleAllocations"] = True
        made["capacity"]["memory"]["requestPolicy"] = {"default": "1"}
    if draw(st.booleans()):
        made["consumesCounters"] = [
            {"counterSet": "set", "counters": {"slots": {"value": str(draw(st.integers(1, 2)))}}}
        ]
    return made


@st.composite
def wants(draw: st.DrawFn, *, exactly: bool) -> dict[str, Any]:
    made = asks(draw(st.sampled_from((1, 1, 2, -1))), cls=draw(st.sampled_from(("gpu", "big"))))
    if draw(st.booleans()):
        made["selectors"] = [{"cel": {"expression": f"device.attributes['{DRIVER}'].rack == 'x'"}}]
    if draw(st.booleans()):
        made["tolerations"] = [{"key": "ill", "operator": "Exists"}]
    if draw(st.booleans()):
        made["capacity"] = {"requests": {"memory": str(draw(st.integers(1, 2)))}}
    if exactly and draw(st.integers(0, 4)) == 0:
        made["adminAccess"] = True
    return made


@st.composite
def claims(draw: st.DrawFn, name: str) -> ResourceClaim:
    requests = []
    for each in ("one", "two")[: draw(st.integers(1, 2))]:
        if draw(st.booleans()):
            requests.append({"name": each, "exactly": draw(wants(exactly=True))})
        else:
            requests.append(request(each, draw(wants(exactly=False)), draw(wants(exactly=False))))
    kind = draw(st.sampled_from(("", "", "matchAttribute", "distinctAttribute")))
    constraints = []
    if kind:
        which = draw(st.sampled_from(([], ["one"], ["one/alt0"])))
        if which != ["one/alt0"] or "firstAvailable" in requests[0]:
            constraints = [{kind: f"{DRIVER}/rack", "requests": which}]
    return make_claim(name, *requests, constraints=constraints)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[ResourceClaim], set[str], int]:
    offered = [draw(devices(name)) for name in NAMES[: draw(st.integers(1, 4))]]
    wanted = [draw(claims(name)) for name in ("p", "q")[: draw(st.integers(1, 2))]]
    gone = draw(st.sets(st.sampled_from([each["name"] for each in offered]), max_size=2))
    return offered, wanted, gone, draw(st.integers(1, 4))


# ------------------------------------------------------------------------------------------------------ the model

Pick = tuple[int, str, str, dict[str, Any], tuple[dict[str, Any], ...]]  #: claim, request, alternative, asked, devices


def alternatives(wanted: ResourceClaim) -> Iterator[list[tuple[str, str, Any]]]:
    """Every way to pick one alternative of each request: [(request, alternative, what is asked)]."""
    each = [
        [(r.name, sub.name, sub) for sub in r.first_available] if r.first_available else [(r.name, "", r.exactly)]
        for r in wanted.spec.devices.requests
    ]
    for picked in product(*each):
        yield list(picked)


def selected(asked: Any, one: dict[str, Any]) -> bool:
    attributes = one["attributes"]
    if asked.device_class_name == "big" and attributes["size"]["int"] != 1:
        return False
    return not asked.selectors or attributes["rack"]["string"] == "x"


def solutions(offered: Sequence[dict[str, Any]], wanted: Sequence[ResourceClaim]) -> Iterator[list[Pick]]:
    for per_claim in product(*(list(alternatives(claim)) for claim in wanted)):
        flat = [(n, *each) for n, picked in enumerate(per_claim) for each in picked]
        choices = []
        for _, _, _, asked in flat:
            if asked.allocation_mode == "All":
                every = tuple(one for one in offered if selected(asked, one))
                choices.append([every] if every else [])
            else:
                choices.append(list(combinations(offered, asked.count)))
        for chosen in product(*choices):
            yield [(*where, given) for where, given in zip(flat, chosen, strict=True)]


def keeps_rules(
    picks: Sequence[Pick],
    offered: Sequence[dict[str, Any]],
    wanted: Sequence[ResourceClaim],
    gone: set[str],
    slots: int,
) -> bool:
    whole: dict[str, list[tuple[int, bool]]] = {}
    used: dict[str, Fraction] = {}
    in_use = set(gone)
    for claim, _, _, asked, chosen in picks:
        admin = bool(getattr(asked, "admin_access", False))
        for one in chosen:
            name, shared = one["name"], "allowMultipleAllocations" in one
            if not selected(asked, one):
                return False
            if one["taints"][0]["effect"] == "NoSchedule" and not asked.tolerations:
                return False
            has = Fraction(one["capacity"]["memory"]["value"])
            least = Fraction(asked.capacity.requests["memory"]) if asked.capacity else None
            if (least or (Fraction(1) if shared else has)) > has:
                return False
            if shared:
                if not admin:
                    if name in gone:
                        return False
                    used[name] = used.get(name, Fraction(0)) + (least or Fraction(1))
                    if used[name] > has:
                        return False
                    in_use.add(name)
                continue
            before = whole.setdefault(name, [])
            if admin and any(other == claim for other, _ in before):
                return False
            if not admin and (before or name in gone):
                return False
            before.append((claim, admin))
            if not admin:
                in_use.add(name)
    drawn = sum(
        int(one["consumesCounters"][0]["counters"]["slots"]["value"])
        for one in offered
        if one["name"] in in_use and "consumesCounters" in one
    )
    fresh = {one["name"] for one in offered if "consumesCounters" in one} & (in_use - gone)
    if fresh and drawn > slots:
        return False
    return all(_constrained(n, claim, picks) for n, claim in enumerate(wanted))


def _constrained(number: int, claim: ResourceClaim, picks: Sequence[Pick]) -> bool:
    for constraint in claim.spec.devices.constraints:
        values = [
            one["attributes"]["rack"]["string"]
            for n, name, alternative, _, chosen in picks
            if n == number
            for one in chosen
            if not constraint.requests or {name, f"{name}/{alternative}"} & set(constraint.requests)
        ]
        if constraint.match_attribute and len(set(values)) > 1:
            return False
        if constraint.distinct_attribute and len(set(values)) != len(values):
            return False
    return True


# ------------------------------------------------------------------------------------------------------- the test


def taken_of(names: set[str]) -> Taken:
    taken = Taken()
    for name in names:
        result = {"request": "r", "driver": DRIVER, "pool": "pool", "device": name}
        made = make_claim(f"before-{name}")
        taken.set(made.metadata.uid or "", convert(AllocationResult, {"devices": {"results": [result]}}))
    return taken


def described(
    found: Sequence[AllocationResult], offered: Sequence[dict[str, Any]], wanted: Sequence[ResourceClaim]
) -> list[Pick]:
    by_name = {one["name"]: one for one in offered}
    picks: list[Pick] = []
    for number, (result, claim) in enumerate(zip(found, wanted, strict=True)):
        for each in claim.spec.devices.requests:
            mine = [one for one in result.devices.results if one.request.split("/")[0] == each.name]
            alternative = mine[0].request.partition("/")[2]
            asked = each.exactly or next(sub for sub in each.first_available if sub.name == alternative)
            picks.append((number, each.name, alternative, asked, tuple(by_name[one.device] for one in mine)))
    return picks


@given(world=worlds())
@settings(max_examples=200, deadline=None)
def test_what_exists_is_found_and_keeps_the_rules(
    world: tuple[list[dict[str, Any]], list[ResourceClaim], set[str], int],
) -> None:
    offered, wanted, gone, slots = world
    inventory = Inventory()
    counters = [{"name": "set", "counters": {"slots": {"value": str(slots)}}}]
    inventory.put(make_slice("devices", *offered, count=2))
    inventory.put(make_slice("counters", count=2, sharedCounters=counters))
    pools = inventory.pools_on(NODE)
    right = [p for p in solutions(offered, wanted) if keeps_rules(p, offered, wanted, gone, slots)]
    try:
        found = allocate(wanted, pools, CLASSES.get, taken_of(gone), node=NODE, random=Random(0))
    except Fault as fault:
        if "cannot add device" not in str(fault):
            raise
        event("a constraint forbids all")
        return
    event("found" if found else "none")
    assert (found is None) == (not right)
    if found is None:
        assert rank_of(wanted, pools, CLASSES.get, taken_of(gone)) is None
        return
    picks = described(found, offered, wanted)
    assert keeps_rules(picks, offered, wanted, gone, slots)
    assert order(picks, offered) == min(order(each, offered) for each in right), "the first that can be had"


def order(picks: Sequence[Pick], offered: Sequence[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    """Which of two solutions comes first: by request, its alternatives first, then its devices."""
    return [(alternative, [offered.index(one) for one in chosen]) for _, _, alternative, _, chosen in picks]
