"""Devices of plugins, whatever happens: none belongs to two pods, and what is written is what is read."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kaa.kubelet.devices import checkpoint
from kaa.kubelet.devices.messages import HEALTHY, UNHEALTHY, ContainerAllocation, Device, NumaNode, Topology
from kaa.kubelet.devices.pool import Pool, Unavailable
from kaa.kubelet.topology.base import Hint

NAME = "example.com/dev"
keys = st.sampled_from("abcdef")
uids = st.sampled_from(("u1", "u2", "u3"))
nodes = st.frozensets(st.integers(0, 2), max_size=2)


@st.composite
def devices(draw: st.DrawFn) -> list[Device]:
    found = draw(st.dictionaries(keys, st.tuples(st.booleans(), nodes)))
    return [
        Device(key, HEALTHY if well else UNHEALTHY, Topology(tuple(map(NumaNode, sorted(places)))) if places else None)
        for key, (well, places) in found.items()
    ]


class Devices(RuleBasedStateMachine):
    """Plugins come and go, pods come and go, the kubelet restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()

    @rule(told=devices())
    def tell(self, told: list[Device]) -> None:
        self.pool.tell(NAME, told)

    @rule()
    def lose(self) -> None:
        self.pool.lost(NAME)

    @rule(
        uid=uids,
        name=st.sampled_from(("init", "main", "side")),
        wanted=st.integers(1, 4),
        where=nodes,
        liked=st.lists(keys),
    )
    def allocate(self, uid: str, name: str, wanted: int, where: frozenset[int], liked: list[str]) -> None:
        try:
            if not self.pool.check((uid, name), NAME, wanted):
                return
            again = self.pool.reusable(uid, NAME, {"init"})
            choice = self.pool.choice(NAME, wanted, again, Hint(where or None))
        except Unavailable:
            return
        chosen = choice.settle(liked)
        assert len(chosen) == wanted
        assert chosen <= self.pool.seen[NAME].healthy, "only what is well"
        if choice.asks is not None:
            available, must = choice.asks
            assert must <= chosen <= available | must
        free = self.pool.available(NAME)
        assert chosen - free <= again
        self.pool.hold((uid, name), NAME, chosen, ContainerAllocation(envs={"IDS": " ".join(sorted(chosen))}))

    @rule(uid=uids)
    def release(self, uid: str) -> None:
        self.pool.release(uid)
        assert not self.pool.release(uid)

    @rule()
    def restart(self) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            path = Path(folder) / checkpoint.FILE
            checkpoint.save(path, self.pool.written())
            found = checkpoint.load(path)
        assert found == self.pool.written()
        before, self.pool = self.pool, Pool()
        self.pool.restore(found)
        assert self.pool.held == before.held
        assert self.pool.available(NAME) == set()

    @invariant()
    def none_has_two_owners(self) -> None:
        taken: dict[str, str] = {}
        for (uid, _), every in self.pool.held.items():
            for one in every[NAME].all:
                assert taken.setdefault(one, uid) == uid

    @invariant()
    def sidecars_share_with_nobody(self) -> None:
        mine = [every[NAME].all for (_, name), every in self.pool.held.items() if name != "init"]
        assert len(frozenset[str]().union(*mine)) == sum(map(len, mine))


TestDevices = Devices.TestCase
TestDevices.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(told=devices(), wanted=st.integers(1, 4), machine=st.integers(1, 3))
def test_hints_can_be_kept(told: list[Device], wanted: int, machine: int) -> None:
    """Every hint names nodes that have enough; a preferred one is as small as any."""
    pool = Pool()
    pool.tell(NAME, told)
    hints = pool.hints(("u", "c"), NAME, wanted, (), range(machine))
    for hint in hints or ():
        assert hint.nodes is not None
        choice = pool.choice(NAME, wanted, (), hint)
        assert len(choice.near) >= wanted
        assert choice.settle() <= set(choice.near)
    preferred = [len(hint.nodes or ()) for hint in hints or () if hint.preferred]
    assert len(set(preferred)) <= 1
    assert all(len(hint.nodes or ()) >= preferred[0] for hint in hints or ()) if preferred else True
