"""Autoscalers: the arithmetic, its windows and rates, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from api_lab import Lab
from api_lab import run as in_lab
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from world import World, make_deployment, make_pod

from kaa.api.clock import format_time
from kaa.api.durations import parse_seconds
from kaa.api.resources import RESOURCES
from kaa.api.scheme import convert
from kaa.api.types.apps_v1 import Deployment
from kaa.api.types.autoscaling_v1 import Scale
from kaa.api.types.autoscaling_v2 import HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior
from kaa.api.types.core_v1 import Pod
from kaa.controllers.autoscaling_behavior import Memory, Stamped, Verdict, decide
from kaa.controllers.autoscaling_metrics import ApiMetrics, pod_metrics
from kaa.controllers.autoscaling_replicas import (
    NoMetrics,
    PodMetric,
    Tolerance,
    by_ratio,
    by_share,
    by_utilization,
    by_value,
)

NOW = 100_000.0


def pods(count: int, *, cpu: str | None = "1", **differently: dict[str, Any]) -> list[Pod]:
    """``differently``: {pod: what is special about it}."""
    return [pod(f"p{n}", cpu=cpu, **differently.get(f"p{n}", {})) for n in range(count)]


def pod(
    name: str, *, cpu: str | None = "1", ready: bool = True, phase: str = "Running", age_s: float = 3600, **more: Any
) -> Pod:
    made = make_pod(name, node="n1", phase=phase, ready=ready, ready_at=NOW - age_s + 1, **more)
    requests = {"cpu": cpu} if cpu else {}
    container = convert(type(made.spec.containers[0]), {"name": "c", "resources": {"requests": requests}})
    status = replace(made.status, start_time=format_time(NOW - age_s))
    return replace(made, spec=replace(made.spec, containers=(container,)), status=status)


def used(*millis: int) -> dict[str, PodMetric]:
    return {f"p{n}": PodMetric(each, NOW) for n, each in enumerate(millis)}


@pytest.mark.parametrize(
    ("current", "target", "found", "metrics", "wanted"),
    [
        pytest.param(3, 30, pods(3), used(300, 500, 700), 5, id="up"),
        pytest.param(5, 50, pods(5), used(100, 300, 500, 250, 250), 3, id="down"),
        pytest.param(3, 100, pods(3), used(1010, 1030, 1020), 3, id="within a tenth"),
        pytest.param(3, 30, pods(3, p0={"ready": False, "age_s": 60}), used(300, 500, 700), 4, id="one still starts"),
        pytest.param(3, 30, pods(3, p0={"phase": "Failed"}), used(400, 500, 700), 4, id="one failed"),
        pytest.param(4, 50, pods(4), used(100, 100, 100), 3, id="one unknown, down: it may use all"),
        pytest.param(2, 100, pods(2), used(1500), 2, id="one unknown, up: it may use nothing"),
        pytest.param(4, 100, pods(4), used(200, 200, 200), 2, id="nearly idle"),
        pytest.param(
            2, 100, pods(2, p1={"phase": "Pending"}), used(1900), 2, id="a pending pod turns no scaling round"
        ),
        pytest.param(1, 80, pods(1, cpu="100m"), used(5000), 63, id="far above"),
    ],
)
def test_by_what_is_requested(
    current: int, target: int, found: list[Pod], metrics: dict[str, PodMetric], wanted: int
) -> None:
    assert by_utilization(current, target, found, metrics, resource="cpu", now=NOW).replicas == wanted


def test_what_use_is_shown() -> None:
    usage = by_utilization(3, 30, pods(3), used(300, 500, 700), resource="cpu", now=NOW)
    assert (usage.percent, usage.average) == (50, 500)


@pytest.mark.parametrize(
    ("found", "metrics", "text"),
    [
        pytest.param([], {}, "no pods returned by selector while calculating replica count", id="no pods"),
        pytest.param(
            pods(1), {}, "did not receive metrics for targeted pods (pods might be unready)", id="nothing known"
        ),
        pytest.param(
            pods(2, cpu=None), used(1, 1), "missing request for cpu in container c of Pod p0", id="nothing requested"
        ),
    ],
)
def test_why_nothing_can_be_said(found: list[Pod], metrics: dict[str, PodMetric], text: str) -> None:
    with pytest.raises(NoMetrics) as caught:
        by_utilization(1, 50, found, metrics, resource="cpu", now=NOW)
    assert str(caught.value) == text


def test_other_metrics() -> None:
    assert by_value(3, 15_000, pods(3), used(20_000, 10_000, 30_000), now=NOW).replicas == 4
    assert by_value(3, 20_000, pods(3), used(20_000, 10_000, 30_000), now=NOW).replicas == 3
    assert by_ratio(3, 2.0, pods(3)) == 6
    assert by_ratio(0, 2.4, []) == 3
    assert by_ratio(3, 1.05, []) == 3
    assert by_share(3, 8600, 2000).replicas == 5
    assert by_share(4, 8600, 2000).replicas == 4, "within a tenth"
    assert by_share(0, 10, 4).replicas == 3


def test_a_tolerance_of_its_own() -> None:
    wide = Tolerance(down=0.1, up=0.5)
    assert by_utilization(2, 100, pods(2), used(1400, 1400), resource="cpu", now=NOW, tolerance=wide).replicas == 2
    assert by_utilization(2, 100, pods(2), used(1400, 1400), resource="cpu", now=NOW).replicas == 3


# ------------------------------------------------------------------------------------------------ windows and rates


def behavior(up: Mapping[str, Any] | None = None, down: Mapping[str, Any] | None = None) -> Any:
    rules = {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}], "selectPolicy": "Max"}
    given_ = {
        "scaleUp": {**rules, "stabilizationWindowSeconds": 0, **(up or {})},
        "scaleDown": {**rules, "stabilizationWindowSeconds": 0, **(down or {})},
    }
    return convert(HorizontalPodAutoscalerBehavior, given_)


def verdict(current: int, desired: int, rules: Any = None, memory: Memory | None = None, **more: Any) -> Verdict:
    limits = {"least": 1, "most": 100, "now": NOW, **more}
    return decide(memory or Memory(), rules, current=current, desired=desired, **limits)


@pytest.mark.parametrize(
    ("current", "desired", "most", "number", "reason"),
    [
        pytest.param(3, 5, 10, 5, "DesiredWithinRange", id="within"),
        pytest.param(3, 9, 10, 6, "ScaleUpLimit", id="at most double"),
        pytest.param(1, 9, 10, 4, "ScaleUpLimit", id="or four"),
        pytest.param(3, 9, 5, 5, "TooManyReplicas", id="the maximum"),
        pytest.param(3, 0, 5, 1, "TooFewReplicas", id="the minimum"),
    ],
)
def test_limits_without_behavior(current: int, desired: int, most: int, number: int, reason: str) -> None:
    found = verdict(current, desired, most=most)
    assert (found.replicas, found.limited[0], found.is_limited) == (number, reason, reason != "DesiredWithinRange")


def test_going_down_waits_five_minutes() -> None:
    memory = Memory()
    assert verdict(8, 8, memory=memory).replicas == 8
    held = verdict(8, 2, memory=memory, now=NOW + 299)
    assert (held.replicas, held.able[0]) == (8, "ScaleDownStabilized")
    assert verdict(8, 2, memory=memory, now=NOW + 301).replicas == 2


def test_windows_of_its_own() -> None:
    rules = behavior({"stabilizationWindowSeconds": 60}, {"stabilizationWindowSeconds": 120})
    memory = Memory([Stamped(NOW - 30, 3), Stamped(NOW - 100, 9)])
    assert (verdict(3, 8, rules, memory).replicas, verdict(3, 8, rules, memory).able[0]) == (3, "ScaleUpStabilized")
    assert verdict(9, 2, rules, Memory([Stamped(NOW - 100, 9)])).replicas == 9
    assert verdict(9, 2, rules, Memory([Stamped(NOW - 130, 9)])).replicas == 2


def test_rates_of_its_own() -> None:
    slow = {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}
    memory = Memory()
    first = verdict(10, 20, behavior(slow), memory)
    assert (first.replicas, first.limited[0]) == (12, "ScaleUpLimit")
    memory.scaled(NOW, 10, 12, 60)
    assert verdict(12, 20, behavior(slow), memory, now=NOW + 30).replicas == 12
    assert verdict(12, 20, behavior(slow), memory, now=NOW + 61).replicas == 14
    assert verdict(10, 1, behavior(down=slow)).replicas == 8
    assert verdict(10, 1, behavior(down=slow)).limited[0] == "ScaleDownLimit"
    tenth = {"policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}
    assert verdict(15, 1, behavior(down=tenth)).replicas == 13
    assert verdict(1, 9, behavior(tenth)).replicas == 2, "a percentage always grows by one"
    both = {"policies": [*slow["policies"], *tenth["policies"]], "selectPolicy": "Min"}
    assert verdict(10, 1, behavior(down=both)).replicas == 9
    assert verdict(10, 1, behavior(down={"selectPolicy": "Disabled"})).replicas == 10
    assert verdict(10, 30, behavior({"selectPolicy": "Disabled"})).replicas == 10


@given(
    current=st.integers(0, 50),
    desired=st.integers(0, 60),
    limits=st.tuples(st.integers(1, 20), st.integers(20, 40)),
    past=st.lists(st.tuples(st.floats(0, 700), st.integers(0, 60)), max_size=6),
    own=st.booleans(),
)
def test_never_outside_the_limits(
    current: int, desired: int, limits: tuple[int, int], past: list[tuple[float, int]], own: bool
) -> None:
    least, most = limits
    current = min(max(current, least), most)
    memory = Memory([Stamped(NOW - ago, number) for ago, number in past])
    found = verdict(current, desired, behavior() if own else None, memory, least=least, most=most)
    assert least <= found.replicas <= most
    again = verdict(current, current, behavior() if own else None, Memory(), least=least, most=most)
    assert again.replicas == current


# ------------------------------------------------------------------------------------------------ reading metrics


def test_pod_metrics_are_summed() -> None:
    def document(name: str, **cpu: str) -> dict[str, Any]:
        containers = [{"name": key, "usage": {"cpu": amount} if amount else {}} for key, amount in cpu.items()]
        meta = {"name": name, "namespace": "default"}
        return {"metadata": meta, "timestamp": "2030-01-01T00:00:00Z", "window": "1m30s", "containers": containers}

    documents = [document("a", web="100m", log="1500u"), document("b", web="1", log="")]
    assert {name: m.value for name, m in pod_metrics(documents, "cpu").items()} == {"a": 102}
    assert {name: m.value for name, m in pod_metrics(documents, "cpu", "web").items()} == {"a": 100, "b": 1000}
    assert pod_metrics(documents, "cpu")["a"].window_s == 90
    with pytest.raises(NoMetrics, match="container db not present in metrics for pod default/a"):
        pod_metrics(documents, "cpu", "db")
    assert parse_seconds("15.5s") == 15.5


def test_without_a_metrics_api() -> None:
    async def play(lab: Lab) -> None:
        with pytest.raises(NoMetrics) as caught:
            await ApiMetrics(lab.client).resource("cpu", "default", "app=web")
        assert str(caught.value) == (
            "unable to fetch metrics from resource metrics API: "
            "the server could not find the requested resource (get pods.metrics.k8s.io)"
        )

    in_lab(play)


def test_scales_are_read_and_written_through_a_real_server() -> None:
    async def play(lab: Lab) -> None:
        await lab.client.create(make_deployment("web", replicas=2))
        row = next(r for r in RESOURCES if r.kind == "Deployment")
        scale = await lab.client.call(row, "web", "scale", None, Scale, "default", verb="get")
        assert (scale.spec.replicas, scale.status and scale.status.selector) == (2, "app=web")
        asked = replace(scale, spec=replace(scale.spec, replicas=5))
        await lab.client.call(row, "web", "scale", asked, Scale, "default", verb="update")
        http = lab.http()
        try:
            scale = await http.call(row, "web", "scale", None, Scale, "default", verb="get")
        finally:
            await http.close()
        assert scale.spec.replicas == 5

    in_lab(play, http=True)


# ------------------------------------------------------------------------------------------------ the controller


class FakeMetrics:
    """Pods that all use the same; ``None``: nothing is known."""

    def __init__(self, cpu: int | None = None) -> None:
        self.cpu, self.queue = cpu, 0
        self.world: World

    async def resource(self, resource: str, namespace: str, selector: str, container: str = "") -> Any:
        if self.cpu is None:
            raise NoMetrics("unable to fetch metrics from resource metrics API: nobody there")
        now = self.world.clock.now()
        return {pod.metadata.name: PodMetric(self.cpu, now) for pod in self.world.pods()}

    async def pods(self, metric: str, namespace: str, selector: str, metric_selector: str) -> Any:
        raise NoMetrics("no metrics returned from custom metrics API")

    async def object(self, metric: str, namespace: str, described: Any, plural: str, metric_selector: str) -> int:
        raise NoMetrics("no metrics returned from custom metrics API")

    async def external(self, metric: str, namespace: str, metric_selector: str) -> list[int]:
        return [self.queue]


CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}


def make_autoscaler(name: str = "web", *, metrics: list[dict[str, Any]] | None = None, **spec: Any) -> Any:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    whole = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 8, "metrics": metrics or [CPU], **spec}
    return convert(HorizontalPodAutoscaler, {"metadata": {"name": name, "namespace": "default"}, "spec": whole})


def play_autoscaler(
    play: Callable[[World, FakeMetrics], Awaitable[None]], *, cpu: int | None, replicas: int = 2, **spec: Any
) -> None:
    async def run() -> None:
        metrics = FakeMetrics(cpu)
        async with World(metrics=metrics) as world:
            metrics.world = world
            made = make_deployment("web", replicas=replicas)
            container = convert(
                type(made.spec.template.spec.containers[0]), {"name": "c", "resources": {"requests": {"cpu": "100m"}}}
            )  # type: ignore[union-attr]
            template = replace(made.spec.template, spec=replace(made.spec.template.spec, containers=(container,)))  # type: ignore[type-var]
            await world.api.create(replace(made, spec=replace(made.spec, template=template)))
            await world.settle()
            started(world)
            await world.api.create(make_autoscaler(**spec))
            await world.settle(rounds=3)
            await play(world, metrics)

    asyncio.run(run())


def started(world: World) -> None:
    """Pods as if they had run for an hour: their use counts."""
    hour_ago = format_time(world.clock.now() - 3600)
    for each in world.api.all(Pod):
        conditions = tuple(replace(c, last_transition_time=hour_ago) for c in each.status.conditions)
        world.api.put(replace(each, status=replace(each.status, start_time=hour_ago, conditions=conditions)))


async def passing(world: World, seconds: int) -> None:
    """Let time pass, with a kubelet that keeps pods running (their node is not known, so they are collected)."""
    for _ in range(seconds // 5):
        await world.settle(rounds=2)
        started(world)
        await world.clock.advance(5)


def wanted(world: World) -> int:
    (found,) = world.api.all(Deployment)
    return int(found.spec.replicas)


def condition(world: World, type: str) -> tuple[str, str | None, str | None]:
    found = world.api.all(HorizontalPodAutoscaler)[0].status.conditions
    one = next(c for c in found if c.type == type)
    return one.status, one.reason, one.message


def test_load_scales_up_and_its_end_down() -> None:
    async def play(world: World, metrics: FakeMetrics) -> None:
        assert wanted(world) == 4
        (hpa,) = world.api.all(HorizontalPodAutoscaler)
        assert (hpa.status.current_replicas, hpa.status.desired_replicas) == (2, 4)
        (metric,) = hpa.status.current_metrics
        assert (metric.resource.current.average_utilization, metric.resource.current.average_value) == (90, "90m")
        assert hpa.status.last_scale_time
        why = "cpu resource utilization (percentage of request) above target"
        assert f"SuccessfulRescale New size: 4; reason: {why}" in world.events()
        assert condition(world, "AbleToScale")[1] == "SucceededRescale"
        assert condition(world, "ScalingActive")[2] == (
            "the HPA was able to successfully calculate a replica count from cpu resource utilization"
            " (percentage of request)"
        )
        metrics.cpu = 10
        await passing(world, 30)
        assert wanted(world) == 4
        assert condition(world, "AbleToScale")[1] == "ScaleDownStabilized"
        await passing(world, 360)
        assert wanted(world) == 1
        assert "SuccessfulRescale New size: 1; reason: All metrics below target" in world.events()

    play_autoscaler(play, cpu=90)


def test_limits_hold_without_metrics() -> None:
    async def play(world: World, metrics: FakeMetrics) -> None:
        assert wanted(world) == 3
        assert (
            "SuccessfulRescale New size: 3; reason: Current number of replicas below Spec.MinReplicas" in world.events()
        )
        await world.clock.advance(20)
        inner = (
            "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource"
            " metrics API: nobody there"
        )
        assert condition(world, "ScalingActive") == (
            "False",
            "FailedGetResourceMetric",
            f"the HPA was unable to compute the replica count: {inner}",
        )
        assert f"FailedGetResourceMetric {inner}" in world.events()
        whole = (
            f"invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {inner}"
        )
        assert f"FailedComputeMetricsReplicas {whole}" in world.events()

    play_autoscaler(play, cpu=None, minReplicas=3)


def test_a_broken_metric_holds_back_going_down_only() -> None:
    target = {"type": "AverageValue", "averageValue": "1"}
    queue = {"type": "External", "external": {"metric": {"name": "jobs"}, "target": target}}

    async def play(world: World, metrics: FakeMetrics) -> None:
        assert wanted(world) == 2, "the queue is empty, but the processor's use is unknown"
        metrics.queue = 3000
        await world.clock.advance(20)
        assert wanted(world) == 3
        assert "SuccessfulRescale New size: 3; reason: external metric jobs(nil) above target" in world.events()

    play_autoscaler(play, cpu=None, metrics=[CPU, queue])


def test_a_target_at_zero_is_left_alone() -> None:
    async def play(world: World, metrics: FakeMetrics) -> None:
        assert wanted(world) == 0
        text = "scaling is disabled since the replica count of the target is zero"
        assert condition(world, "ScalingActive") == ("False", "ScalingDisabled", text)

    play_autoscaler(play, cpu=90, replicas=0)


def test_two_autoscalers_over_the_same_pods_do_nothing() -> None:
    async def play(world: World, metrics: FakeMetrics) -> None:
        await world.api.create(make_autoscaler("other"))
        await world.clock.advance(60)
        assert wanted(world) == 2
        text = "pods by selector app=web are controlled by multiple HPAs: [{default other} {default web}]"
        assert condition(world, "ScalingActive") == ("False", "AmbiguousSelector", text)

    play_autoscaler(play, cpu=50)


def test_a_target_that_is_not_there() -> None:
    async def play(world: World, metrics: FakeMetrics) -> None:
        lost = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "lost"}
        world.api.put(make_autoscaler(scaleTargetRef=lost))
        await world.clock.advance(1)
        assert condition(world, "AbleToScale") == (
            "False",
            "FailedGetScale",
            'the HPA controller was unable to get the target\'s current scale: deployments.apps "lost" not found',
        )

    play_autoscaler(play, cpu=50)
