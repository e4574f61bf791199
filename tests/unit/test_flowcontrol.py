"""Priority and fairness: who belongs where, how seats are shared, and requests that wait over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kaa.api.clock import VirtualClock
from kaa.api.types.flowcontrol_v1 import FlowSchema, PriorityLevelConfiguration
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.rbac_v1 import ClusterRoleBinding, RoleRef, Subject
from kaa.apiserver.bootstrap.flow import flow_schemas, priority_levels
from kaa.apiserver.flowcontrol import shares, upkeep
from kaa.apiserver.flowcontrol.classify import Digest, in_order, matches
from kaa.apiserver.flowcontrol.control import FlowControl, RetryAfter
from kaa.apiserver.flowcontrol.queues import QueueSet, Shape, State, deal
from kaa.apiserver.flowcontrol.shares import Bounds, Wish
from kaa.apiserver.options import ApiServerOptions
from kaa.client.pipeline import User
from tests import api_lab
from tests.api_lab import Answer, Lab

NODE = User("system:node:n1", groups=("system:nodes", "system:authenticated"))
MANAGER = User("system:kube-controller-manager", groups=("system:authenticated",))
JANE = User("jane", groups=("system:authenticated",))
DNS = User("system:serviceaccount:kube-system:coredns", groups=("system:serviceaccounts", "system:authenticated"))
POD = User("system:serviceaccount:apps:web", groups=("system:serviceaccounts", "system:authenticated"))


@pytest.mark.parametrize(
    ("digest", "schema"),
    [
        pytest.param(Digest(User("admin", groups=("system:masters",)), "get", path="/x"), "exempt", id="masters"),
        pytest.param(Digest(JANE, "get", path="/healthz"), "probes", id="probe"),
        pytest.param(Digest(JANE, "get", path="/version"), "global-default", id="path"),
        pytest.param(
            Digest(MANAGER, "update", "coordination.k8s.io", "leases", "", "kube-system"),
            "system-leader-election",
            id="leader election",
        ),
        pytest.param(Digest(MANAGER, "list", "", "pods"), "kube-controller-manager", id="controllers"),
        pytest.param(Digest(NODE, "patch", "", "nodes", "status"), "system-node-high", id="node status"),
        pytest.param(Digest(NODE, "get", "", "pods", "", "ns"), "system-nodes", id="node"),
        pytest.param(Digest(DNS, "list", "", "services"), "kube-system-service-accounts", id="system account"),
        pytest.param(Digest(POD, "list", "", "services", "", "ns"), "service-accounts", id="account"),
        pytest.param(Digest(JANE, "list", "", "pods", "", "ns"), "global-default", id="user"),
        pytest.param(Digest(User("x"), "list", "", "pods", "", "ns"), "catch-all", id="without a group"),
    ],
)
def test_the_suggested_schemas_classify(digest: Digest, schema: str) -> None:
    found = next((one for one in in_order(flow_schemas(0.0)) if matches(one, digest)), None)
    assert (found.metadata.name if found is not None else "catch-all") == schema


def test_nominal_seats_of_the_suggested_levels() -> None:
    found = shares.bounds({one.metadata.name or "": one.spec for one in priority_levels()}, 600)
    assert found["workload-low"] == Bounds(245, 24, 600)
    assert found["catch-all"] == Bounds(13, 13, 600)
    assert found["leader-election"] == Bounds(25, 25, 600)
    assert found["exempt"].nominal == 0


@pytest.mark.parametrize(
    ("wishes", "given"),
    [
        pytest.param({"a": Wish(0, 100, 10), "b": Wish(0, 100, 30)}, {"a": 25, "b": 75}, id="in proportion"),
        pytest.param({"a": Wish(40, 100, 10), "b": Wish(0, 100, 30)}, {"a": 40, "b": 60}, id="not below its least"),
        pytest.param({"a": Wish(0, 20, 10), "b": Wish(0, 100, 10)}, {"a": 20, "b": 80}, id="not above its most"),
        pytest.param({"a": Wish(80, 100, 10), "b": Wish(60, 100, 10)}, {"a": 80, "b": 60}, id="too much is promised"),
    ],
)
def test_seats_are_lent(wishes: dict[str, Wish], given: dict[str, int]) -> None:
    assert shares.allocate(wishes, 100) == given


def test_hands_are_of_different_queues_and_spread() -> None:
    hands = [tuple(deal(value * 2_654_435_761, 8, 3)) for value in range(4000)]
    assert all(len(set(hand)) == 3 and max(hand) < 8 for hand in hands)
    assert len({frozenset(hand) for hand in hands}) == 56  # every choice of three of eight


def test_a_light_flow_does_not_wait_behind_a_flood() -> None:
    level = QueueSet(Shape(queues=64, hand_size=1, length_limit=500), limit=2)
    flood, light = level.hand("flood"), level.hand("light")
    assert flood != light
    running = [level.arrive(flood, 1, 0.0) for _ in range(2)]
    for _ in range(100):
        level.arrive(flood, 1, 0.0)
    ticket = level.arrive(light, 1, 0.1)
    level.finish(running[0], 0.2)
    level.finish(running[1], 0.2)
    assert ticket.state is State.EXECUTING


def test_a_wide_request_has_its_turn_among_narrow_ones() -> None:
    level = QueueSet(Shape(queues=16, hand_size=1, length_limit=500), limit=4)
    hand = level.hand("narrow")
    running = [level.arrive(hand, 1, 0.0) for _ in range(4)]
    wide = level.arrive(level.hand("wide"), 9, 0.0)  # wider than the level: it runs alone
    now = 0.0
    for _ in range(100):
        if wide.state is State.EXECUTING:
            break
        now += 0.01
        level.arrive(hand, 1, now)
        level.arrive(hand, 1, now)
        running += level.finish(running.pop(0), now)
    assert wide.state is State.EXECUTING
    assert level.executing == 1


def test_a_full_queue_and_a_level_without_queues_turn_away() -> None:
    level = QueueSet(Shape(queues=1, hand_size=1, length_limit=1), limit=1)
    states = [level.arrive(level.hand("a"), 1, 0.0) for _ in range(3)]
    assert [ticket.state for ticket in states] == [State.EXECUTING, State.WAITING, State.REJECTED]
    assert states[2].reason == "queue-full"
    plain = QueueSet(Shape(0, 0, 0), limit=1)
    assert plain.arrive((), 1, 0.0).state is State.EXECUTING
    assert plain.arrive((), 1, 0.0).reason == "concurrency-limit"


def test_who_is_turned_away_often_is_told_to_stay_longer() -> None:
    told = RetryAfter()
    assert told.record(100.0) == 1
    for n in range(20):
        told.record(101.0 + n / 20)
    assert told.record(102.0) == 2
    for second in range(103, 200, 10):
        last = told.record(float(second))
    assert last == 1


# -------------------------------------------------------------------------------------------------------- waiting


def test_a_wait_that_is_too_long_ends() -> None:
    async def test(lab: Lab) -> None:
        clock = lab.clock
        assert isinstance(clock, VirtualClock)
        control = FlowControl(lab.plane.api.cacher, clock, total=10, patience_s=60)
        flow = control.flow(JANE, "create", "", "pods", "", "ns")
        seats = [control.sit(flow, 1) for _ in range(flow.level.limits.nominal)]
        waiting = asyncio.create_task(control.wait(flow, 1), name="waits")
        gone = asyncio.create_task(control.wait(flow, 1), name="goes")
        await clock.settle()
        gone.cancel()
        await clock.advance(16)
        assert "time-out" in repr(waiting.exception())
        queues = flow.level.queues
        assert queues is not None
        assert (queues.waiting, queues.executing) == (0, len(seats))
        seats.clear()  # dropped, as by requests that were cancelled before they began
        assert queues.idle

    api_lab.run(test, clock=VirtualClock(), bootstrapped=True)


MAPS = "/api/v1/namespaces/default/configmaps"
BODY = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}


async def as_jane(lab: Lab, method: str, path: str, body: Any = b"") -> Answer:
    return await lab.ask(method, path, body, Impersonate_User="jane")


def test_answers_name_their_schema_and_level() -> None:
    async def test(lab: Lab) -> None:
        schema = await lab.client.get(FlowSchema, "global-default")
        level = await lab.client.get(PriorityLevelConfiguration, "global-default")
        for path in ("/version", MAPS, MAPS + "/none"):
            answer = await as_jane(lab, "GET", path)
            assert answer.headers["x-kubernetes-pf-flowschema-uid"] == schema.metadata.uid
            assert answer.headers["x-kubernetes-pf-prioritylevel-uid"] == level.metadata.uid
        await lab.client.patch(
            FlowSchema, "global-default", {"spec": {"priorityLevelConfiguration": {"name": "workload-low"}}}
        )
        other = await lab.client.get(PriorityLevelConfiguration, "workload-low")
        answer = await as_jane(lab, "GET", MAPS)
        assert answer.headers["x-kubernetes-pf-prioritylevel-uid"] == other.metadata.uid

    api_lab.run(test, http=True, bootstrapped=True)


def test_a_request_waits_for_a_seat_and_is_then_answered() -> None:
    async def test(lab: Lab) -> None:
        assert lab.plane.seating is not None
        control = lab.plane.seating.control
        flow = control.flow(JANE, "create", "", "configmaps", "", "default")
        queues = flow.level.queues
        assert queues is not None
        seats = [control.sit(flow, 1) for _ in range(queues.limit)]
        asked = asyncio.create_task(as_jane(lab, "POST", MAPS, BODY), name="asked")
        while not queues.waiting:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)
        assert (await as_jane(lab, "GET", "/version")).status == 200  # needs no seat
        assert (await lab.ask("POST", MAPS, BODY)).status == 201  # exempt
        seats.pop()
        assert (await asked).status == 403  # jane may not: but that was asked only now
        assert not queues.waiting

    api_lab.run(test, http=True, bootstrapped=True, options=ApiServerOptions(max_requests_inflight=10))


def test_without_a_seat_or_a_queue_it_is_429() -> None:
    async def test(lab: Lab) -> None:
        assert lab.plane.seating is not None
        control = lab.plane.seating.control
        flow = control.flow(JANE, "create", "", "configmaps", "", "default")
        assert flow.schema == "catch-all"  # nothing else is there without a bootstrap
        seats = [control.sit(flow, 1) for _ in range(flow.level.limits.nominal)]
        answer = await as_jane(lab, "POST", MAPS, BODY)
        assert (answer.status, answer.body) == (429, b"Too many requests, please try again later.\n")
        assert answer.headers["retry-after"] == "1"
        assert flow.counts.rejected == {"concurrency-limit": 1}
        seats.clear()
        assert (await as_jane(lab, "POST", MAPS, BODY)).status == 403

    api_lab.run(test, http=True)


def test_seats_are_left_by_writes_lists_and_watches() -> None:
    async def test(lab: Lab) -> None:
        assert lab.plane.seating is not None
        control = lab.plane.seating.control
        level = control.flow(User("kubernetes-super-admin", groups=("system:masters",)), "get", path="/").level
        for n in range(120):
            await lab.ask("POST", MAPS, {**BODY, "metadata": {"name": f"m-{n}", "annotations": {"x": "y" * 20_000}}})
        assert level.exempt_executing == 0
        assert len((await lab.ask("GET", MAPS)).body) > 2_000_000
        assert level.exempt_executing == 0
        reader, writer = await lab.connect()
        writer.write(f"GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"ADDED")
        assert level.exempt_executing == 0
        writer.close()

    api_lab.run(test, http=True)


def test_clients_that_go_away_leave_no_seat_taken() -> None:
    """Writers of which many hang up before, while and after they wait; in the end every seat is free."""
    patient = 5  # writers that stay for their answers: more than there are seats, so that somebody waits

    async def writer(lab: Lab, n: int) -> None:
        random = lab.clock.random
        for turn in range(2):
            answers, out = await lab.connect()
            body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m-%d-%d"}}' % (n, turn)
            head = f"POST {MAPS} HTTP/1.1\r\nHost: x\r\nImpersonate-User: jane\r\nImpersonate-Group: writers\r\n"
            out.write(
                head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            if n < patient:
                await api_lab.read_answer(answers)
            else:
                await asyncio.sleep(random.random() * 0.2)
            out.transport.abort()

    async def test(lab: Lab) -> None:
        assert lab.plane.seating is not None
        put, control = lab.plane.store.put, lab.plane.seating.control
        has_queued = False

        async def slow(*given: Any, **more: Any) -> Any:
            nonlocal has_queued
            level = control.levels.get("global-default")
            queues = level.queues if level is not None else None
            while queues is not None and queues.executing and not has_queued:  # keep the seat until somebody wants it
                await asyncio.sleep(0.001)
                has_queued = queues.waiting > 0
            await asyncio.sleep(0.01)
            return await put(*given, **more)

        lab.plane.store.put = slow  # type: ignore[method-assign]  # so that requests pile up
        role = RoleRef(api_group="rbac.authorization.k8s.io", kind="ClusterRole", name="cluster-admin")
        subject = Subject(api_group="rbac.authorization.k8s.io", kind="Group", name="writers")
        binding = ClusterRoleBinding(metadata=ObjectMeta(name="writers"), role_ref=role, subjects=(subject,))
        await lab.client.create(binding)
        async with asyncio.TaskGroup() as tasks:
            for n in range(30):
                tasks.create_task(writer(lab, n), name=f"writer-{n}")
        levels = [level for level in control.levels.values() if level.queues is not None]
        async with asyncio.timeout(5):
            while not all(level.queues is not None and level.queues.idle for level in levels):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        counts = control.counts["global-default", "global-default"]
        assert counts.dispatched > 0
        assert sum(counts.waits) > 0  # some have waited
        assert control.levels["global-default"].queues is not None
        assert control.levels["global-default"].queues.demand.seats == 0

    api_lab.run(
        test,
        http=True,
        bootstrapped=True,
        options=ApiServerOptions(max_requests_inflight=10, max_mutating_requests_inflight=1),
    )


def test_the_objects_come_back_and_say_what_dangles() -> None:
    async def test(lab: Lab) -> None:
        client, cacher = lab.client, lab.plane.api.cacher
        assert upkeep.plan(cacher, lab.clock.now()) == upkeep.Plan()  # the bootstrap left nothing to do
        keeping = asyncio.create_task(upkeep.keep(cacher, client, lab.clock), name="keep")
        await client.delete(FlowSchema, "catch-all")
        spec = {"limited": {"nominalConcurrencyShares": 77}}
        await client.patch(PriorityLevelConfiguration, "catch-all", {"spec": spec, "metadata": {"annotations": None}})
        level = {"priorityLevelConfiguration": {"name": "nowhere"}}
        mine = {"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}}, "spec": level}
        await client.patch(FlowSchema, "probes", mine)
        async with asyncio.timeout(5):
            while upkeep.plan(cacher, lab.clock.now()) != upkeep.Plan():  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.01)
        found = await client.get(PriorityLevelConfiguration, "catch-all")
        assert found.spec.limited is not None
        assert found.spec.limited.nominal_concurrency_shares == 5
        probes = await client.get(FlowSchema, "probes")
        assert probes.status is not None
        (condition,) = probes.status.conditions
        assert (condition.status, condition.reason) == ("True", "NotFound")
        assert condition.message is not None
        assert condition.message.endswith('named "nowhere" but there is no such object')
        assert cacher.get(FlowSchema, "catch-all") is not None
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    api_lab.run(test, bootstrapped=True)


def test_metrics_and_debug_tables() -> None:
    async def test(lab: Lab) -> None:
        assert lab.plane.seating is not None
        control = lab.plane.seating.control
        flow = control.flow(JANE, "create", "", "configmaps", "", "default")
        assert flow.level.queues is not None
        seats = [control.sit(flow, 1) for _ in range(flow.level.queues.limit)]
        asked = asyncio.create_task(as_jane(lab, "POST", MAPS, BODY), name="asked")
        while not flow.level.queues.waiting:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)
        root = "/debug/api_priority_and_fairness/"
        levels = (await lab.ask("GET", root + "dump_priority_levels")).body.decode().splitlines()
        assert levels[0].startswith("PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests,")
        row = next(line for line in levels if line.startswith("global-default"))
        assert [cell.strip() for cell in row.split(",")][2:6] == ["false", "false", "1", str(len(seats))]
        requests = (await lab.ask("GET", root + "dump_requests")).body.decode().splitlines()
        assert [cell.strip() for cell in requests[1].split(",")][:2] == ["global-default", "global-default"]
        assert "jane" in requests[1]
        assert len((await lab.ask("GET", root + "dump_queues")).body.decode().splitlines()) > 100
        assert (await lab.ask("GET", root + "nothing")).status == 404
        text = (await lab.ask("GET", "/metrics")).body.decode()
        level = 'priority_level="global-default"'
        assert f"apiserver_flowcontrol_current_inqueue_requests{{{level}}} 1" in text
        assert f"apiserver_flowcontrol_current_executing_requests{{{level}}} {len(seats)}" in text
        assert 'apiserver_current_inflight_requests{request_kind="mutating"} 1' in text
        assert 'apiserver_storage_objects{resource="flowschemas.flowcontrol.apiserver.k8s.io"}' in text
        assert 'aggregator_unavailable_apiservice{name="v1.apps"} 0' in text
        assert "\nprocess_resident_memory_bytes " in text
        seats.clear()
        await asked

    api_lab.run(test, http=True, bootstrapped=True, options=ApiServerOptions(max_requests_inflight=10))


def test_a_narrow_request_begins_before_a_wide_one_that_does_not_fit() -> None:
    level = QueueSet(Shape(2, 1, 10), limit=3)
    first, second = level.queues
    assert level.arrive([first], 2, 0.0).state is State.EXECUTING
    assert level.arrive([first], 2, 0.0).state is State.WAITING
    assert level.arrive([second], 1, 0.0).state is State.EXECUTING
