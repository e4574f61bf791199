"""Any history of a level keeps its promises: seats within the limit, none idle while somebody waits, all served at last."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from kaa.apiserver.flowcontrol.queues import Queue, QueueSet, Shape, State, Ticket
from kaa.apiserver.flowcontrol.shares import Bounds, allocate, wish

#: (what, which flow or ticket, seats, seconds that pass before)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("arrive", "arrive", "finish", "abandon", "limit", "reshape")),
        st.integers(0, 30),
        st.integers(1, 12),
        st.floats(0, 2, allow_nan=False),
    ),
    max_size=120,
)


class World:
    """A level and everybody in it."""

    def __init__(self, limit: int) -> None:
        self.level = QueueSet(Shape(8, 3, 10), limit)
        self.tickets: list[Ticket] = []
        self.now = 0.0

    def of(self, state: State) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state is state]

    def step(self, what: str, which: int, seats: int, seconds: float) -> None:
        self.now += seconds
        level = self.level
        running, waiting = self.of(State.EXECUTING), self.of(State.WAITING)
        if what == "arrive":
            self.tickets.append(level.arrive(level.hand(f"flow-{which}"), seats, self.now))
        elif what == "finish" and running:
            level.finish(running[which % len(running)], self.now)
        elif what == "abandon" and waiting:
            level.abandon(waiting[which % len(waiting)], "time-out", self.now)
        elif what == "limit":
            level.set_limit(seats, self.now)
        elif what == "reshape":
            level.reshape(Shape(which % 8 + 1, min(3, which % 8 + 1), 10))

    def check(self) -> None:
        level = self.level
        running, waiting = self.of(State.EXECUTING), self.of(State.WAITING)
        assert level.executing == len(running)
        assert level.seats_in_use == sum(ticket.seats for ticket in running)
        assert level.waiting == len(waiting)
        assert level.demand.seats == level.seats_in_use + sum(ticket.seats for ticket in waiting)
        queues: set[Queue] = {ticket.queue for ticket in (*running, *waiting) if ticket.queue is not None}
        assert level._active == len(queues)


@given(limit=st.integers(1, 10), steps=STEPS)
def test_the_accounts_are_right_and_no_seat_is_kept_from_who_waits(
    limit: int, steps: list[tuple[str, int, int, float]]
) -> None:
    world = World(limit)
    for step in steps:
        began = {id(ticket) for ticket in world.of(State.EXECUTING)}
        world.step(*step)
        world.check()
        level = world.level
        for ticket in world.of(State.EXECUTING):
            if id(ticket) not in began:  # whoever began found room, or was alone
                assert level.seats_in_use <= level.limit or level.executing == 1
        if level.waiting:  # work conserving: the next in turn does not fit
            head = level._next().waiting[0]
            assert not level._fits(head.seats)


@given(limit=st.integers(1, 10), steps=STEPS)
def test_all_who_wait_are_served_when_others_end(limit: int, steps: list[tuple[str, int, int, float]]) -> None:
    world = World(limit)
    for step in steps:
        world.step(*step)
    for _ in range(len(world.tickets)):
        running = world.of(State.EXECUTING)
        if running:
            world.now += 0.01
            world.level.finish(running[0], world.now)
    assert world.level.idle
    assert not world.of(State.WAITING)


@given(flood=st.integers(1, 9), seconds=st.floats(0.001, 1.0))
def test_no_flow_starves_beside_a_flood(flood: int, seconds: float) -> None:
    """A flow of single requests, in a queue of its own, waits for no more than the requests that run."""
    level = QueueSet(Shape(32, 1, 10_000), limit=2)
    busy = level.hand("busy")
    quiet = next(hand for hand in (level.hand(f"quiet-{n}") for n in range(50)) if hand != busy)
    running = [level.arrive(busy, 1, 0.0) for _ in range(2)]
    now = 0.0
    for _ in range(20):
        for _ in range(flood):
            level.arrive(busy, 1, now)
        mine = level.arrive(quiet, 1, now)
        for _turn in range(3):
            if mine.state is State.EXECUTING:
                break
            now += seconds
            running += level.finish(running.pop(0), now)
        assert mine.state is State.EXECUTING
        running = [ticket for ticket in running if ticket.state is State.EXECUTING and ticket is not mine]
        running += level.finish(mine, now)


@given(
    numbers=st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 200, allow_nan=False)), min_size=1, max_size=8
    ),
    total=st.integers(1, 300),
)
@example(numbers=[(0, 2, 2.6e-281)], total=2)
def test_lending_keeps_to_bounds_and_hands_out_all(numbers: list[tuple[int, int, float]], total: int) -> None:
    wishes = {str(n): wish(Bounds(low, low, low + more), 0, want) for n, (low, more, want) in enumerate(numbers)}
    given_ = allocate(wishes, total)
    for name, one in wishes.items():
        assert one.least - 0.5 <= given_[name] <= one.most + 0.5
    if sum(one.least for one in wishes.values()) <= total <= sum(one.most for one in wishes.values() if one.target):
        assert abs(sum(given_.values()) - total) <= len(wishes)
