"""What a kubelet counts of pods' starts, of hardware and of what it takes away again; names are upstream's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod
from machines import asking, guaranteed, machine, write_sys
from msgspec.structs import replace

from kaa.api.clock import VirtualClock, format_time
from kaa.api.types.core_v1 import EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume
from kaa.kubelet.metrics import gauges
from kaa.kubelet.metrics.exposition import text
from kaa.kubelet.metrics.images import ImageMetrics
from kaa.kubelet.metrics.starts import covered, stateless
from kaa.kubelet.topology.settings import Settings
from kaa.runtime.simulated import Latencies

Story = Callable[[World], Awaitable[None]]


def play(tmp_path: Path, story: Story, **config: Any) -> None:
    async def go() -> None:
        async with World(tmp_path, **config) as world:
            await story(world)

    asyncio.run(go())


def told(world: World) -> dict[str, float]:
    """{sample with its labels: value}"""
    kubelet = world.kubelet
    page = text([*kubelet.metrics.families(), *gauges.now_of(kubelet)]).decode()
    pairs = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def created(world: World, pod: Pod) -> Pod:
    return replace(pod, metadata=replace(pod.metadata, creation_timestamp=format_time(world.clock.now())))


# ------------------------------------------------------------------------------------------------ starts


def test_a_start_without_its_pull_and_its_init_container(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.runtime._latencies = Latencies(pull_s=7.0)
        ends = {"simulated.kaa.dev/exit-after.setup": "20s"}
        first = make_pod("first", init_containers=(make_container("setup"),), annotations=ends)
        world.client.put(created(world, first))
        await world.advance(60)
        total = told(world)["kubelet_pod_start_total_duration_seconds_sum"]
        sli = told(world)["kubelet_pod_start_sli_duration_seconds_sum"]
        assert total >= 27
        assert 0 <= sli <= total - 27
        assert told(world)["kubelet_first_network_pod_start_sli_duration_seconds"] == sli
        assert told(world)["kubelet_pod_start_sli_duration_seconds_count"] == 1
        assert told(world)['kubelet_pod_worker_duration_seconds_count{operation_type="sync"}'] >= 2

    play(tmp_path, story)


def test_spans_that_overlap_count_once() -> None:
    assert covered([(0, 4), (2, 5), (7, 8), (3, 4)]) == 6
    assert covered([]) == 0


@pytest.mark.parametrize(
    ("volume", "wanted"),
    [
        (Volume(name="v", empty_dir=EmptyDirVolumeSource()), True),
        (Volume(name="v", host_path=HostPathVolumeSource(path="/")), False),
    ],
)
def test_who_has_an_sli(volume: Volume, wanted: bool) -> None:
    assert stateless(make_pod(volumes=(volume,))) is wanted


# ------------------------------------------------------------------------------------------------ hardware

FOUR = machine(2, 1, 2)  # CPUs 0 and 1 on node 0, 2 and 3 on node 1


def test_cpus_that_are_given_and_refused(tmp_path: Path) -> None:
    write_sys(tmp_path / "machine", FOUR)

    async def story(world: World) -> None:
        assert told(world)["kubelet_cpu_manager_pinning_requests_total"] == 0
        assert told(world)["kubelet_cpu_manager_shared_pool_size_millicores"] == 3000
        for pod in (make_pod("web"), guaranteed("db", asking(cpu="2")), guaranteed("more", asking(cpu="2"))):
            world.client.put(pod)
            await world.rest()
        found = told(world)
        assert found["kubelet_topology_manager_admission_requests_total"] == 3
        assert found["kubelet_topology_manager_admission_errors_total"] == 1
        assert found["kubelet_topology_manager_admission_duration_ms_count"] == 3
        assert found["kubelet_cpu_manager_pinning_requests_total"] == 1
        assert found["kubelet_cpu_manager_pinning_errors_total"] == 0
        assert found["kubelet_cpu_manager_exclusive_cpu_allocation_count"] == 2
        assert found["kubelet_cpu_manager_shared_pool_size_millicores"] == 1000
        assert [found[f'kubelet_cpu_manager_allocation_per_numa{{numa_node="{n}"}}'] for n in (0, 1)] == [0, 2]
        where = '{boundary="numa_node",scope="container"}'
        assert found[f"kubelet_container_aligned_compute_resources_count{where}"] == 2
        assert found[f"kubelet_container_aligned_compute_resources_failure_count{where}"] == 1
        assert found['kubelet_admission_rejections_total{reason="TopologyAffinityError"}'] == 1

    play(
        tmp_path,
        story,
        capacity={"cpu": "5", "memory": "32Gi"},
        topology=Settings(cpus="static", topology="single-numa-node"),
        machine_root=tmp_path / "machine",
        reserved={"cpu": "500m"},
        eviction=None,
    )


# ------------------------------------------------------------------------------------------------ what is let in and goes


def test_rejections_by_their_reason(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.client.put(guaranteed("large", asking(cpu="3")))
        await world.rest()
        found = told(world)
        assert found['kubelet_admission_rejections_total{reason="OutOfcpu"}'] == 1
        working = 'kubelet_working_pods{{config="desired",lifecycle="{}",static=""}}'.format
        assert found[working("terminated")] == found['kubelet_desired_pods{static=""}'] == 1

    play(tmp_path, story, capacity={"cpu": "2", "memory": "4Gi"})


def test_images_that_are_asked_for(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for name in ("first", "second"):
            world.client.put(make_pod(name))
            await world.rest()
        asked = 'kubelet_image_manager_ensure_image_requests_total{{present_locally="{}",pull_policy="ifnotpresent",pull_required="{}"}}'
        assert [told(world)[asked.format(*both)] for both in (("false", "true"), ("true", "false"))] == [1, 1]

    play(tmp_path, story)


def test_a_program_that_gives_credentials() -> None:
    metrics = ImageMetrics(VirtualClock())
    with metrics.plugin("ecr"):
        pass
    with pytest.raises(OSError, match="gone"), metrics.plugin("ecr"):
        raise OSError("gone")
    assert metrics.credential_provider_plugin_duration.count("ecr") == 2
    assert metrics.credential_provider_plugin_errors_total.value("ecr") == 1


def test_images_that_are_collected(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        evictor = world.kubelet.evictor
        assert evictor is not None
        world.runtime.add_image("docker.io/library/old:1")
        await evictor._remove_images(1 << 40, 0.0)
        assert told(world)['kubelet_image_garbage_collected_total{reason="space"}'] == 1

    play(tmp_path, story)
