"""What the node and its pods use: cgroups of both versions on fake trees, rates, and the Summary API's shape."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod
from msgspec.structs import replace

from kaa.api.types.core_v1 import EmptyDirVolumeSource, Volume
from kaa.kubelet.cgroups import CgroupManager
from kaa.kubelet.metrics import cadvisor, groups, resource
from kaa.kubelet.metrics.cgroup_stats import CgroupReader, Pressure, Stall, Usage, read_pressure
from kaa.kubelet.metrics.exposition import Family, Histogram, text
from kaa.kubelet.metrics.stats import Rates, Stats, read_links
from kaa.kubelet.metrics.summary import summary

NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    2000      20    1    2    0     0          0         0     3000      30    3    4    0     0       0          0
"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def tree_v1(root: Path, path: str, *, cpu_ns: int = 5_000_000_000, pids: str = "") -> None:
    write(
        root,
        {
            f"cpuacct/{path}/cpuacct.usage": f"{cpu_ns}\n",
            f"cpuacct/{path}/cpuacct.stat": "user 300\nsystem 100\n",
            f"cpu/{path}/cpu.stat": "nr_periods 10\nnr_throttled 2\nthrottled_time 7000000\n",
            f"cpu/{path}/cpu.shares": "512\n",
            f"cpu/{path}/cpu.cfs_quota_us": "50000\n",
            f"cpu/{path}/cpu.cfs_period_us": "100000\n",
            f"memory/{path}/memory.usage_in_bytes": "4000\n",
            f"memory/{path}/memory.limit_in_bytes": "10000\n",
            f"memory/{path}/memory.memsw.usage_in_bytes": "4500\n",
            f"memory/{path}/memory.memsw.limit_in_bytes": "12000\n",
            f"memory/{path}/memory.max_usage_in_bytes": "6000\n",
            f"memory/{path}/memory.stat": "total_inactive_file 1000\ntotal_rss 2500\ntotal_pgfault 9\ntotal_pgmajfault 1\n"
            "total_cache 1500\ntotal_mapped_file 64\n",
            f"pids/{path}/pids.current": "3\n",
            f"pids/{path}/pids.max": "100\n",
            f"pids/{path}/cgroup.procs": pids,
            f"blkio/{path}/blkio.throttle.io_service_bytes": "8:0 Read 4096\n8:0 Write 8192\nTotal 12288\n",
            f"blkio/{path}/blkio.throttle.io_serviced": "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
        },
    )


def tree_v2(root: Path, path: str) -> None:
    write(
        root,
        {
            "cgroup.controllers": "cpu memory pids io\n",
            f"{path}/cpu.stat": "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 1000000\nnr_periods 10\nnr_throttled 2\n"
            "throttled_usec 7000\n",
            f"{path}/cpu.max": "50000 100000\n",
            f"{path}/cpu.weight": "20\n",
            f"{path}/memory.current": "4000\n",
            f"{path}/memory.max": "10000\n",
            f"{path}/memory.peak": "6000\n",
            f"{path}/memory.swap.current": "500\n",
            f"{path}/memory.swap.max": "2000\n",
            f"{path}/memory.stat": "anon 2500\nfile 1500\ninactive_file 1000\npgfault 9\npgmajfault 1\nfile_mapped 64\n",
            f"{path}/memory.events": "low 0\nmax 4\noom 1\noom_kill 1\n",
            f"{path}/pids.current": "3\n",
            f"{path}/pids.max": "100\n",
            f"{path}/io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
            f"{path}/cpu.pressure": "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        },
    )


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroup_says_the_same_in_both_versions(tmp_path: Path, version: int) -> None:
    (tree_v1 if version == 1 else tree_v2)(tmp_path, "kubepods/pod1")
    reader = CgroupReader(tmp_path)
    used = reader.usage("/kubepods/pod1", 7.0)
    assert used is not None
    assert replace(used, pressure={}) == Usage(7.0, 5 * 10**9, 4000, 3000, 2500, 9, 1, 10000, 500, 2000, 3)
    more = reader.details("/kubepods/pod1")
    assert (more.user_ns, more.system_ns, more.throttled_ns) == (3 * 10**9, 10**9, 7_000_000)
    assert (more.quota_us, more.period_us, more.shares, more.max_bytes) == (
        50000,
        100000,
        512 if version == 1 else 500,
        6000,
    )
    assert (more.reads, more.writes) == ({"8:0": (4096, 1)}, {"8:0": (8192, 2)})
    assert reader.usage("/kubepods/pod2", 7.0) is None


def test_pressure_is_told_where_the_kernel_tells_it(tmp_path: Path) -> None:
    tree_v2(tmp_path, "a")
    used = CgroupReader(tmp_path).usage("/a", 1.0)
    assert used is not None
    assert used.pressure == {"cpu": Pressure(Stall(1.5, 0.25, 0.0, 1234), Stall())}
    assert read_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n").full == Stall()


def test_no_limit_is_none(tmp_path: Path) -> None:
    write(tmp_path, {"memory/a/memory.usage_in_bytes": "1", "memory/a/memory.limit_in_bytes": "9223372036854771712"})
    used = CgroupReader(tmp_path).usage("/a", 1.0)
    assert used is not None
    assert used.memory_limit_bytes is None


def test_the_root_of_version_2_is_the_machine(tmp_path: Path) -> None:
    write(
        tmp_path, {"cgroup.controllers": "memory", "memory.stat": "inactive_file 1024\n", "cpu.stat": "usage_usec 5\n"}
    )
    write(tmp_path, {"meminfo": "MemTotal: 100 kB\nMemFree: 40 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n"})
    used = CgroupReader(tmp_path, tmp_path).usage("/", 1.0)
    assert used is not None
    assert (used.memory_bytes, used.working_set_bytes, used.swap_bytes) == (60 * 1024, 59 * 1024, 6 * 1024)


def test_rates_are_of_windows_of_ten_seconds() -> None:
    rates = Rates()

    def at(seconds: float, cpu_s: float) -> int | None:
        return rates.rate("x", Usage(seconds, int(cpu_s * 1e9)), 0.0)

    assert at(100, 50) == 500_000_000  # since it began
    assert at(120, 70) == 1_000_000_000  # since it was asked first
    assert at(121, 71) == 1_000_000_000
    assert at(130, 5) == 38_461_538  # another life: since it began
    rates.keep_only([])
    assert at(200, 20) == 100_000_000


def test_links_that_lead_outside() -> None:
    [link] = read_links(NET_DEV)
    assert (link.name, link.rx_bytes, link.rx_errors, link.tx_bytes, link.tx_errors, link.tx_dropped) == (
        "eth0",
        2000,
        1,
        3000,
        3,
        4,
    )


def gathered(tmp_path: Path, *, only: bool = False) -> tuple[Any, Stats, World]:
    """A pod with a log and an emptyDir on a fake machine of cgroup v1."""
    found: list[Any] = []
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    write(
        proc,
        {
            "self/net/dev": NET_DEV,
            "4711/net/dev": NET_DEV,
            "meminfo": "MemTotal: 1000 kB\nMemFree: 400 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n",
            "stat": "cpu 1\nbtime 1000\n",
            "loadavg": "0.00 0.00 0.00 2/123 999\n",
            "sys/kernel/pid_max": "4000\n",
            "sys/kernel/threads-max": "3000\n",
            "self/cgroup": "5:memory:/agent\n0::/\n",
        },
    )
    for path in ("", "agent", "kubepods"):
        tree_v1(mount, path)

    async def go() -> None:
        async with World(tmp_path, cgroups=CgroupManager(mount)) as world:
            volumes = (Volume(name="scratch", empty_dir=EmptyDirVolumeSource()),)
            world.client.put(make_pod(volumes=volumes, containers=(make_container(),)))
            await world.rest()
            [container] = await world.runtime.list_containers()
            tree_v1(mount, f"kubepods/besteffort/poduid-web/{container.id}", pids="4711\n")
            tree_v1(mount, "kubepods/besteffort/poduid-web")
            stats = Stats(world.runtime, world.clock, world.config, world.kubelet.workers, proc=proc)
            found.extend((await stats.snapshot(only_cpu_and_memory=only), stats, world))

    asyncio.run(go())
    return found[0], found[1], found[2]


def test_the_summary_is_upstreams(tmp_path: Path) -> None:
    made = summary(gathered(tmp_path)[0])
    node, [pod] = made["node"], made["pods"]
    assert set(node) == {
        "nodeName", "systemContainers", "startTime", "cpu", "memory", "network", "fs", "runtime", "rlimit", "swap",
    }  # fmt: skip
    assert [one["name"] for one in node["systemContainers"]] == ["kubelet", "pods"]
    assert node["startTime"] == "1970-01-01T00:16:40Z"
    assert node["memory"]["availableBytes"] == 1000 * 1024 - 3000
    assert node["network"]["name"] == "eth0"
    assert set(node["runtime"]) == {"imageFs", "containerFs"}
    assert {"maxpid": 3000, "curproc": 123}.items() <= node["rlimit"].items()
    assert set(pod) == {
        "podRef", "startTime", "containers", "cpu", "memory", "network", "volume", "ephemeral-storage", "process_stats", "swap",
    }  # fmt: skip
    assert pod["podRef"] == {"name": "web", "namespace": "default", "uid": "uid-web"}
    assert pod["process_stats"] == {"process_count": 3}
    assert pod["network"]["interfaces"] == [
        {"name": "eth0", "rxBytes": 2000, "rxErrors": 1, "txBytes": 3000, "txErrors": 3}
    ]
    assert [one["name"] for one in pod["volume"]] == ["scratch"]
    [container] = pod["containers"]
    assert set(container) == {"name", "startTime", "cpu", "memory", "rootfs", "logs", "swap"}
    assert container["memory"] == {
        "time": container["memory"]["time"],
        "availableBytes": 7000,
        "usageBytes": 4000,
        "workingSetBytes": 3000,
        "rssBytes": 2500,
        "pageFaults": 9,
        "majorPageFaults": 1,
    }
    assert container["swap"]["swapAvailableBytes"] == 1500


def test_only_cpu_and_memory(tmp_path: Path) -> None:
    made = summary(gathered(tmp_path, only=True)[0])
    assert set(made["node"]) == {"nodeName", "systemContainers", "startTime", "cpu", "memory", "swap"}
    assert set(made["pods"][0]) == {"podRef", "startTime", "containers", "cpu", "memory", "swap"}
    assert set(made["pods"][0]["containers"][0]) == {"name", "startTime", "cpu", "memory", "swap"}


def test_resource_metrics_carry_their_time(tmp_path: Path) -> None:
    snapshot, _, world = gathered(tmp_path, only=True)
    page = text(resource.families(snapshot)).decode()
    stamp = int(world.clock.now() * 1000)
    assert (
        "# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds\n"
        in page
    )
    assert f"node_cpu_usage_seconds_total 5 {stamp}\n" in page
    labels = 'container="main",namespace="default",pod="web"'
    assert f"container_cpu_usage_seconds_total{{{labels}}} 5 {stamp}\n" in page
    assert f"container_memory_working_set_bytes{{{labels}}} 3000 {stamp}\n" in page
    assert f"container_swap_limit_bytes{{{labels}}} 2000 {stamp}\n" in page
    assert f'pod_memory_working_set_bytes{{namespace="default",pod="web"}} 3000 {stamp}\n' in page
    assert f"container_start_time_seconds{{{labels}}} " in page
    assert "resource_scrape_error 0\n" in page
    assert b"resource_scrape_error 1\n" in text(resource.families(None))


def test_cadvisors_labels(tmp_path: Path) -> None:
    snapshot, stats, world = gathered(tmp_path)
    assert stats.reader is not None
    found = list(groups.groups(snapshot, stats.reader, "/kubepods", world.clock.now()))
    pod = "/kubepods/besteffort/poduid-web"
    classes = ["/kubepods/besteffort", "/kubepods/burstable"]
    assert sorted(one.id for one in found) == ["/", "/kubepods", classes[0], pod, f"{pod}/{found[-1].name}", classes[1]]
    page = text(cadvisor.families(found, groups.machine(snapshot, "v1.36.0"), world.clock.now())).decode()
    assert (
        f'container_network_receive_bytes_total{{container="",id="{pod}",image="",interface="eth0",name="",namespace="default",'
        'pod="web"} 2000 ' in page
    )
    mine = f'container="main",id="{pod}/{found[-1].name}",image="busybox:1.36",name="{found[-1].name}",namespace="default",pod="web"'
    assert f"container_memory_working_set_bytes{{{mine}}} 3000 " in page
    assert f"container_spec_cpu_quota{{{mine}}} 50000\n" in page
    assert f'container_fs_reads_bytes_total{{container="main",device="8:0",id="{pod}/{found[-1].name}"' in page
    assert "machine_memory_bytes{" in page


def test_cores_and_sockets() -> None:
    block = "processor: {0}\nphysical id: {1}\ncore id: {2}\n"
    info = "\n".join(block.format(n, n // 4, n // 2 % 2) for n in range(8))
    assert groups.topology(info) == (4, 2)
    assert groups.topology("processor: 0\n") == (0, 0)


def test_the_exposition_escapes_and_orders_labels() -> None:
    family = Family("a_total", "counter", "Help.", ("z", "b"))
    family.add(1.5, 'say "x"\n', "back\\slash", at=2.0)
    histogram = Histogram("h", "Help.", ("l",), (0.5, 1.0))
    for value in (0.5, 0.7, 3.0):
        histogram.observe(value, "v")
    assert text([histogram.family(), family, Family("none", "gauge", "Never told.")]).decode() == (
        "# HELP a_total Help.\n# TYPE a_total counter\n"
        'a_total{b="back\\\\slash",z="say \\"x\\"\\n"} 1.5 2000\n'
        '# HELP h Help.\n# TYPE h histogram\nh_bucket{l="v",le="0.5"} 1\nh_bucket{l="v",le="1"} 2\nh_bucket{l="v",le="+Inf"} 3\n'
        'h_sum{l="v"} 4.2\nh_count{l="v"} 3\n'
    )
