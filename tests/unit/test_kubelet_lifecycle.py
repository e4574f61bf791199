"""Pods from birth to death on the simulated runtime, under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod
from msgspec.structs import replace

from kaa.api.types.coordination_v1 import Lease
from kaa.api.types.core_v1 import (
    ConfigMap,
    ConfigMapKeySelector,
    ConfigMapVolumeSource,
    ContainerRestartRule,
    ContainerRestartRuleOnExitCodes,
    EnvVar,
    EnvVarSource,
    ExecAction,
    Lifecycle,
    LifecycleHandler,
    Node,
    PodReadinessGate,
    Probe,
    SleepAction,
    Volume,
    VolumeMount,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.kubelet.pod_host import QUIET_S
from kaa.kubelet.pod_worker import PodWorker
from kaa.kubelet.status_writer import PATIENCE_S
from kaa.runtime.base import ContainerState
from kaa.runtime.simulated import SimulatedRuntime

SIM = "simulated.kaa.dev/"


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def run(story: Callable[[World], Awaitable[None]], **config: Any) -> None:
        async def go() -> None:
            async with World(tmp_path, **config) as world:
                await story(world)

        asyncio.run(go())

    return run


Play = Callable[..., None]


def test_node_registers_and_renews_its_lease(play: Play) -> None:
    async def story(world: World) -> None:
        node: Node = world.client.objects[Node, "", "n1"]
        assert node.status is not None
        assert {c.type: c.status for c in node.status.conditions} == {
            "MemoryPressure": "False",
            "DiskPressure": "False",
            "PIDPressure": "False",
            "Ready": "True",
        }
        lease = world.client.objects[Lease, "kube-node-lease", "n1"]
        await world.advance(11)
        assert world.client.objects[Lease, "kube-node-lease", "n1"].spec.renew_time > lease.spec.renew_time
        assert "NodeReady" in world.events.reasons("n1")

    play(story)


def test_pod_runs(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod())
        await world.rest()
        status = world.pod().status
        assert (status.phase, status.pod_ip, status.host_ip) == ("Running", "10.200.0.3", "192.0.2.1")
        assert [c.type for c in status.conditions] == [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
            "PodScheduled",
        ]
        assert all(c.status == "True" for c in status.conditions)
        assert status.container_statuses[0].ready
        assert (status.container_statuses[0].container_id or "").startswith("kaa://")
        assert world.events.reasons("web") == ["Pulling", "Pulled", "Created", "Started"]

    play(story)


def test_crash_loop_backs_off(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod(annotations={SIM + "exit-after": "1s", SIM + "exit-code": "3"}))
        await world.rest()
        await world.advance(2.5, 0.5)
        shown = world.pod().status.container_statuses[0]
        assert shown.restart_count == 1
        assert shown.state.waiting is not None
        assert shown.state.waiting.reason == "CrashLoopBackOff"
        assert shown.state.waiting.message == "back-off 10s restarting failed container=main pod=web_default(uid-web)"
        assert shown.last_state.terminated is not None
        assert (shown.last_state.terminated.exit_code, shown.last_state.terminated.reason) == (3, "Error")
        await world.advance(11)
        assert world.pod().status.container_statuses[0].restart_count == 2
        await world.advance(2)
        waiting = world.pod().status.container_statuses[0].state.waiting
        assert waiting is not None
        assert "back-off 20s" in (waiting.message or "")
        assert world.condition("ContainersReady").message == "containers with unready status: [main]"

    play(story)


def test_a_new_image_starts_at_once_though_the_last_one_backed_off(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod(annotations={SIM + "exit-after": "1s", SIM + "exit-code": "3"}))
        await world.rest()
        await world.advance(2.5, 0.5)
        waiting = world.pod().status.container_statuses[0].state.waiting
        assert waiting is not None
        assert waiting.reason == "CrashLoopBackOff"
        pod = world.pod()
        mended = replace(pod.spec.containers[0], image="app:mended")
        world.client.put(replace(pod, spec=replace(pod.spec, containers=(mended,))))
        await world.rest()
        assert world.pod().status.container_statuses[0].restart_count == 2
        assert world.pod().status.container_statuses[0].state.running is not None

    play(story)


def test_an_event_that_comes_as_a_worker_ends_does_no_harm(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch speaks of the pod once more between the worker's last step and the end of its task."""

    async def story(world: World) -> None:
        pod = make_pod()
        runs: list[Any] = []

        async def run(_: PodWorker) -> None:
            if not runs:
                runs.append(world.client.put(pod))

        with monkeypatch.context() as patch:
            patch.setattr(PodWorker, "run", run)
            world.client.put(pod)
            await asyncio.sleep(0.01)
            patch.undo()
        await world.rest()
        assert world.task is not None
        assert not world.task.done()
        world.client.put(make_pod(name="other"))
        await world.rest()
        assert world.pod("other").status.phase == "Running"

    play(story)


def test_job_pod_succeeds_and_is_deleted(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod(restart_policy="Never", annotations={SIM + "exit-after": "1s"}))
        await world.rest()
        await world.advance(2)
        assert world.pod().status.phase == "Succeeded"
        assert world.condition("Ready").reason == "PodCompleted"
        world.client.ask_delete("web", world.clock.now())
        await world.rest()
        assert not world.exists()
        await world.advance(QUIET_S)
        assert await world.runtime.list_sandboxes() == []

    play(story)


@pytest.mark.parametrize("deleted", [False, True])
def test_what_nobody_waits_for_is_let_go_of_a_little_later(
    play: Play, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    stopped: list[bool] = []
    stop = SimulatedRuntime.stop_sandbox

    async def noted(self: SimulatedRuntime, sandbox_id: str, *, leaving: bool = False) -> None:
        stopped.append(leaving)
        await stop(self, sandbox_id, leaving=leaving)

    monkeypatch.setattr(SimulatedRuntime, "stop_sandbox", noted)

    async def story(world: World) -> None:
        world.client.put(make_pod(restart_policy="Never", annotations={SIM + "exit-after": "1s"}))
        await world.rest()
        if deleted:
            world.client.ask_delete("web", world.clock.now())
            await world.rest()
            assert not world.exists()
        else:
            await world.advance(1)
            assert world.pod().status.phase == "Succeeded"
        assert stopped == [True]
        await world.advance(QUIET_S)
        assert stopped == [True, False]
        assert bool(await world.runtime.list_sandboxes()) != deleted

    play(story)


def test_inits_run_in_order_and_sidecar_stops_last(play: Play) -> None:
    async def story(world: World) -> None:
        inits = (make_container("setup"), make_container("proxy", restart_policy="Always"))
        world.client.put(make_pod(init_containers=inits, annotations={SIM + "exit-after.setup": "2s"}))
        await world.rest()
        status = world.pod().status
        assert status.phase == "Pending"
        assert status.container_statuses[0].state.waiting.reason == "PodInitializing"  # type: ignore[union-attr]
        assert world.condition("Initialized").message == "containers with incomplete status: [setup proxy]"
        await world.advance(3)
        assert world.pod().status.phase == "Running"
        world.client.ask_delete("web", world.clock.now())
        await world.rest()
        assert not world.exists()
        killed = [m for _, reason, m in world.events.said if reason == "Killing"]
        assert killed == ["Stopping container main", "Stopping container proxy"]

    play(story)


def test_failing_init_of_a_never_pod_fails_it(play: Play) -> None:
    async def story(world: World) -> None:
        notes = {SIM + "exit-after.setup": "1s", SIM + "exit-code.setup": "2"}
        world.client.put(
            make_pod(restart_policy="Never", init_containers=(make_container("setup"),), annotations=notes)
        )
        await world.rest()
        await world.advance(2)
        assert world.pod().status.phase == "Failed"

    play(story)


def test_image_errors_are_shown(play: Play) -> None:
    async def story(world: World) -> None:
        world.runtime.pull_errors["busybox:1.36"] = "manifest unknown"
        world.client.put(make_pod())
        await world.rest()
        waiting = world.pod().status.container_statuses[0].state.waiting
        assert waiting is not None
        assert (waiting.reason, waiting.message) == ("ErrImagePull", "manifest unknown")
        await world.advance(3)
        waiting = world.pod().status.container_statuses[0].state.waiting
        assert waiting is not None
        assert waiting.reason == "ImagePullBackOff"
        assert (waiting.message or "").startswith('Back-off pulling image "busybox:1.36"')
        world.runtime.pull_errors.clear()
        await world.advance(10)
        assert world.pod().status.phase == "Running"

    play(story)


def test_missing_config_map_is_a_config_error_until_it_appears(play: Play) -> None:
    async def story(world: World) -> None:
        source = EnvVarSource(config_map_key_ref=ConfigMapKeySelector(name="conf", key="a"))
        world.client.put(make_pod(containers=(make_container(env=(EnvVar(name="A", value_from=source),)),)))
        await world.rest()
        waiting = world.pod().status.container_statuses[0].state.waiting
        assert waiting is not None
        assert (waiting.reason, waiting.message) == ("CreateContainerConfigError", 'configmap "conf" not found')
        world.client.put(ConfigMap(metadata=ObjectMeta(name="conf", namespace="default"), data={"a": "1"}))
        await world.rest()
        assert world.pod().status.phase == "Running"

    play(story)


def test_config_map_volume_follows_changes(play: Play) -> None:
    async def story(world: World) -> None:
        meta = ObjectMeta(name="conf", namespace="default")
        world.client.put(ConfigMap(metadata=meta, data={"a": "1"}))
        volume = Volume(name="v", config_map=ConfigMapVolumeSource(name="conf"))
        mounts = (VolumeMount(name="v", mount_path="/v"),)
        world.client.put(make_pod(volumes=(volume,), containers=(make_container(volume_mounts=mounts),)))
        await world.rest()
        folder = world.config.root / "pods/uid-web/volumes/kubernetes.io~configmap/v"
        assert (folder / "a").read_text() == "1"
        world.client.put(ConfigMap(metadata=meta, data={"a": "2", "b": "3"}))
        await world.rest()
        assert ((folder / "a").read_text(), (folder / "b").read_text()) == ("2", "3")
        world.client.ask_delete("web", world.clock.now())
        await world.rest()
        assert not (world.config.root / "pods/uid-web").exists()

    play(story)


def test_missing_volume_waits(play: Play) -> None:
    async def story(world: World) -> None:
        volume = Volume(name="v", config_map=ConfigMapVolumeSource(name="conf"))
        world.client.put(make_pod(volumes=(volume,)))
        await world.rest()
        assert world.pod().status.phase is None, "it may have started at once"
        await world.advance(PATIENCE_S)
        assert world.pod().status.phase == "Pending"
        assert (
            "web",
            "FailedMount",
            'MountVolume.SetUp failed for volume "v" : configmap "conf" not found',
        ) in world.events.said
        world.client.put(ConfigMap(metadata=ObjectMeta(name="conf", namespace="default")))
        await world.rest()
        assert world.pod().status.phase == "Running"

    play(story)


def test_liveness_failure_restarts(play: Play) -> None:
    async def story(world: World) -> None:
        probe = Probe(exec=ExecAction(command=("false",)), period_seconds=1, failure_threshold=2)
        world.client.put(make_pod(containers=(make_container(liveness_probe=probe),)))
        await world.rest()
        await world.advance(2)
        assert world.pod().status.container_statuses[0].restart_count == 1
        said = [m for _, reason, m in world.events.said if reason in ("Unhealthy", "Killing")]
        assert said[:3] == [
            "Liveness probe failed: ",
            "Liveness probe failed: ",
            "Container main failed liveness probe, will be restarted",
        ]

    play(story)


def end_well(world: World) -> None:
    """Let containers take half a second after their signal, and end without an error."""

    async def stop(container_id: str, grace_s: float) -> None:
        await world.clock.sleep(0.5)
        world.runtime.exit(container_id, 0)

    world.runtime.stop_container = stop  # type: ignore[method-assign]


@pytest.mark.parametrize("policy", ["OnFailure", "Never"])
def test_a_container_that_is_replaced_runs_again_whatever_the_policy_says(play: Play, policy: str) -> None:
    """What was stopped for another run is never shown as ended: the API server lets nothing come back from that."""

    async def story(world: World) -> None:
        shown: list[tuple[str | None, str, int, bool]] = []

        def look() -> None:
            (status,) = world.pod().status.container_statuses
            shown.append(
                (world.pod().status.phase, status.image, status.restart_count, status.state.terminated is not None)
            )

        end_well(world)
        world.client.put(make_pod(restart_policy=policy))
        await world.rest()
        look()
        pod = world.pod()
        container = replace(pod.spec.containers[0], image="other:1")
        world.client.put(replace(pod, spec=replace(pod.spec, containers=(container,))))
        for _ in range(6):
            await world.advance(0.25)
            look()
        assert shown[0] == ("Running", "busybox:1.36", 0, False)
        assert shown[-1] == ("Running", "other:1", 1, False)
        assert {phase for phase, *_ in shown} == {"Running"}
        assert not any(ended for *_, ended in shown)

    play(story)


def test_a_failed_probe_restarts_what_ends_well_then(play: Play) -> None:
    async def story(world: World) -> None:
        end_well(world)
        probe = Probe(exec=ExecAction(command=("false",)), period_seconds=1, failure_threshold=2)
        world.client.put(make_pod(restart_policy="OnFailure", containers=(make_container(liveness_probe=probe),)))
        await world.rest()
        await world.advance(3)
        assert world.pod().status.container_statuses[0].restart_count == 1

    play(story)


def test_a_restart_counts_once_it_has_started(play: Play) -> None:
    """Upstream's suite waits for the count and then asks whether the pod is ready."""

    async def story(world: World) -> None:
        start = world.runtime.start_container

        async def slow(container_id: str) -> None:
            await world.clock.sleep(1)
            await start(container_id)

        world.runtime.start_container = slow  # type: ignore[method-assign]
        world.client.put(make_pod(annotations={SIM + "exit-after": "5s"}))
        await world.rest()
        seen = set()
        for _ in range(40):
            await world.advance(0.2)
            seen |= {(status.restart_count, status.ready) for status in world.pod().status.container_statuses}
        assert seen == {(0, False), (0, True), (1, True)}

    play(story)


def test_init_containers_are_started_while_they_run_and_not_replaced(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(
            make_pod(init_containers=(make_container("setup"),), annotations={SIM + "exit-after.setup": "4s"})
        )
        await world.rest()
        (init,) = world.pod().status.init_container_statuses
        assert (init.started, init.ready) == (True, False)
        pod = world.pod()
        setup = replace(pod.spec.init_containers[0], image="other:1")
        world.client.put(replace(pod, spec=replace(pod.spec, init_containers=(setup,))))
        await world.advance(5)
        (init,) = world.pod().status.init_container_statuses
        assert (init.image, init.restart_count, init.started, init.ready) == ("busybox:1.36", 0, False, True)
        assert world.pod().status.phase == "Running"

    play(story)


def test_main_containers_start_one_after_the_other(play: Play) -> None:
    async def story(world: World) -> None:
        hook = Lifecycle(post_start=LifecycleHandler(sleep=SleepAction(seconds=3)))
        world.client.put(make_pod(containers=(make_container("one", lifecycle=hook), make_container("two"))))
        await world.rest()
        await world.advance(2)
        one, two = world.pod().status.container_statuses
        assert one.state.running is not None
        assert two.state.waiting is not None
        await world.advance(2)
        assert all(status.ready for status in world.pod().status.container_statuses)

    play(story)


def test_a_pod_has_not_ended_while_something_of_it_runs(play: Play) -> None:
    async def story(world: World) -> None:
        stop = world.runtime.stop_container

        async def stubborn(container_id: str, grace_s: float) -> None:
            await world.clock.sleep(3)
            await stop(container_id, grace_s)

        world.runtime.stop_container = stubborn  # type: ignore[method-assign]
        inits = (make_container("proxy", restart_policy="Always"), make_container("setup"))
        notes = {SIM + "exit-after.setup": "1s", SIM + "exit-code.setup": "2"}
        world.client.put(make_pod(restart_policy="Never", init_containers=inits, annotations=notes))
        await world.rest()
        await world.advance(2)
        assert world.pod().status.phase == "Pending"
        await world.advance(4)
        assert world.pod().status.phase == "Failed"

    play(story)


def test_readiness_gates_and_probes(play: Play) -> None:
    async def story(world: World) -> None:
        probe = Probe(exec=ExecAction(command=("true",)), initial_delay_seconds=5)
        gates = (PodReadinessGate(condition_type="example.com/go"),)
        world.client.put(make_pod(containers=(make_container(readiness_probe=probe),), readiness_gates=gates))
        await world.rest()
        assert world.condition("Ready").reason == "ContainersNotReady"
        await world.advance(6)
        assert world.condition("ContainersReady").status == "True"
        assert world.condition("Ready").reason == "ReadinessGatesNotReady"

    play(story)


def test_grace_period_passes_for_the_stubborn(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod(annotations={SIM + "ignore-stop": "true"}))
        await world.rest()
        world.client.ask_delete("web", world.clock.now(), grace_s=5)
        await world.advance(4)
        assert world.exists()
        await world.advance(2)
        assert not world.exists()

    play(story)


def test_force_deleted_pod_ends(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod())
        await world.rest()
        await world.client.delete(type(world.pod()), "web", "default")
        await world.rest()
        await world.advance(QUIET_S)
        assert await world.runtime.list_sandboxes() == []
        assert not world.kubelet.workers

    play(story)


def test_deadline_fails_the_pod(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod(active_deadline_seconds=5))
        await world.rest()
        await world.advance(6)
        status = world.pod().status
        assert (status.phase, status.reason) == ("Failed", "DeadlineExceeded")
        assert all(c.state is ContainerState.EXITED for c in await world.runtime.list_containers())

    play(story)


def test_restarted_kubelet_adopts(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod())
        await world.rest()
        before = world.pod().status.container_statuses[0].container_id
        await world.restart()
        await world.advance(3)
        assert world.pod().status.container_statuses[0].container_id == before
        assert len(await world.runtime.list_containers()) == 1

    play(story)


def test_orphans_are_removed_after_a_restart(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod())
        await world.rest()
        await world.stop()
        await world.client.delete(type(world.pod()), "web", "default")
        world.kubelet = world.make()
        await world.start()
        assert await world.runtime.list_sandboxes() == []

    play(story)


def test_lost_sandbox_is_made_again(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod())
        await world.rest()
        [sandbox] = await world.runtime.list_sandboxes()
        await world.runtime.stop_sandbox(sandbox.id)
        await world.rest()
        assert world.pod().status.phase == "Running"
        assert world.pod().status.container_statuses[0].restart_count == 1
        assert "SandboxChanged" in world.events.reasons("web")

    play(story)


def test_conditions_of_others_stay(play: Play) -> None:
    async def story(world: World) -> None:
        world.client.put(make_pod())
        await world.rest()
        pod = world.pod()
        foreign = replace(pod.status.conditions[0], type="example.com/go")
        world.client.put(replace(pod, status=replace(pod.status, conditions=(*pod.status.conditions, foreign))))
        await world.rest()
        assert world.condition("example.com/go") is not None

    play(story)


def test_an_exit_can_restart_all_containers_of_its_pod(play: Play) -> None:
    """KEP-5532: init containers run again, each restart counts, no hook delays it, and a condition tells while it lasts."""

    async def story(world: World) -> None:
        rule = ContainerRestartRule(
            action="RestartAllContainers",
            exit_codes=ContainerRestartRuleOnExitCodes(operator="In", values=(42,)),
        )
        slow = Lifecycle(pre_stop=LifecycleHandler(sleep=SleepAction(seconds=20)))
        pod = make_pod(
            init_containers=(make_container("init"),),
            containers=(
                make_container("main", restart_policy="Never", restart_policy_rules=(rule,)),
                make_container("beside", lifecycle=slow),
            ),
            restart_policy="Never",
            annotations={SIM + "exit-after.init": "1s"},
        )
        world.client.put(pod)
        await world.until(lambda: world.pod().status.phase == "Running")
        assert world.condition("AllContainersRestarting").status == "False"
        assert [s.restart_count for s in world.pod().status.container_statuses] == [0, 0]
        [main] = [c for c in await world.runtime.list_containers() if c.name == "main"]
        began = world.clock.now()
        world.runtime.exit(main.id, 42)
        await world.until(lambda: all(s.restart_count == 1 and s.ready for s in world.pod().status.container_statuses))
        assert world.clock.now() - began < 15, "hooks were run"
        assert world.pod().status.phase == "Running"
        assert world.pod().status.init_container_statuses[0].restart_count == 1
        assert world.condition("AllContainersRestarting").status == "False"

    play(story)
