"""Ranges of nodes: none is given twice, those that nodes came with are kept, what is given back is given again."""

from __future__ import annotations

import asyncio
import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st
from world import World

from kaa.api.types.core_v1 import Node, NodeSpec
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.controllers.nodeipam import Ranges

OWN = st.sampled_from(["", "10.0.1.0/24", "10.0.0.0/23", "10.0.2.128/25", "192.168.0.0/24", "10.0.0.0/15"])
steps = st.lists(st.tuples(st.sampled_from(["add", "add", "remove"]), st.integers(0, 20), OWN), max_size=40)


@settings(max_examples=200, deadline=None)
@given(history=steps)
def test_parts_never_overlap(history: list[tuple[str, int, str]]) -> None:
    ranges = Ranges("10.0.0.0/21", 24)
    held: dict[int, tuple[str, bool]] = {}
    for what, who, own in history:
        if what == "remove" and who in held:
            ranges.release(held.pop(who)[0])
        elif what == "add" and who not in held:
            if own:
                ranges.occupy(own)
                held[who] = own, True
                continue
            found = ranges.take()
            nets = [ipaddress.ip_network(text) for text, _ in held.values()]
            if found is None:
                assert all(any(part.overlaps(net) for net in nets) for part in ranges.whole.subnets(new_prefix=24))
                continue
            made = ipaddress.ip_network(found)
            assert made.prefixlen == 24
            assert made.overlaps(ranges.whole)
            assert not any(made.overlaps(net) for net in nets)
            held[who] = found, False


def make_node(name: str, *cidrs: str) -> Node:
    return Node(metadata=ObjectMeta(name=name), spec=NodeSpec(pod_cidr=cidrs[0] if cidrs else None, pod_cidrs=cidrs))


class Ranged(World):
    pod_ranges = (("10.0.0.0/22", 24), ("fd00::/62", 64))


async def ranges_of(world: World) -> dict[str, tuple[str, ...]]:
    return {node.metadata.name or "": node.spec.pod_cidrs for node in world.api.all(Node)}


def test_each_node_gets_a_part_of_each_range_and_waits_when_there_is_none() -> None:
    async def go() -> None:
        async with Ranged() as world:
            await world.api.create(make_node("mine", "10.0.1.0/24", "fd00:0:0:1::/64"))
            for n in range(4):
                await world.api.create(make_node(f"n{n}"))
            await world.settle()
            found = await ranges_of(world)
            assert found.pop("mine") == ("10.0.1.0/24", "fd00:0:0:1::/64")
            waiting = [name for name, cidrs in found.items() if not cidrs]
            assert sorted(cidrs for cidrs in found.values() if cidrs) == [
                ("10.0.0.0/24", "fd00::/64"),
                ("10.0.2.0/24", "fd00:0:0:2::/64"),
                ("10.0.3.0/24", "fd00:0:0:3::/64"),
            ]
            assert f"CIDRNotAvailable Node {waiting[0]} status is now: CIDRNotAvailable" in world.events()
            await world.api.delete(Node, "mine")
            await world.settle()
            assert (await ranges_of(world))[waiting[0]] == ("10.0.1.0/24", "fd00:0:0:1::/64")

    asyncio.run(go())
