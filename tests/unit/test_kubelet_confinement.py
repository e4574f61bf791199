"""QoS, cgroups on fake trees of both versions, security contexts, host names and hosts files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubelet_world import make_container, make_pod
from msgspec.structs import replace

from kaa.api.types.core_v1 import (
    Capabilities,
    HostAlias,
    PodSecurityContext,
    ResourceRequirements,
    SeccompProfile,
    SecurityContext,
)
from kaa.api.values import Quantity
from kaa.kubelet import cgroups, security
from kaa.kubelet.env import ConfigError
from kaa.runtime.base import Security


def needs(requests: dict[str, str] | None = None, limits: dict[str, str] | None = None) -> ResourceRequirements:
    return ResourceRequirements(
        requests={k: Quantity(v) for k, v in (requests or {}).items()},
        limits={k: Quantity(v) for k, v in (limits or {}).items()},
    )


def pod_with(**resources: Any) -> Any:
    return make_pod(containers=(make_container(resources=needs(**resources)),))


@pytest.mark.parametrize(
    ("resources", "qos", "score"),
    [
        ({}, "BestEffort", 1000),
        ({"requests": {"memory": "1Gi"}}, "Burstable", 900),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed", -997),
        ({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}, "Burstable", 900),
    ],
)
def test_qos_and_oom_score(resources: dict[str, Any], qos: str, score: int) -> None:
    pod = pod_with(**resources)
    assert cgroups.qos_class(pod) == qos
    assert cgroups.oom_score(pod, pod.spec.containers[0], 10 * 2**30) == score


def test_container_resources() -> None:
    pod = pod_with(requests={"cpu": "250m"}, limits={"cpu": "500m", "memory": "64Mi"})
    made = cgroups.container_resources(pod, pod.spec.containers[0], memory_capacity_bytes=2**30)
    assert (made.cpu_shares, made.cpu_quota_us, made.cpu_period_us) == (256, 50000, 100000)
    assert made.memory_limit_bytes == 64 * 2**20


def test_pod_cgroup_v2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    manager = cgroups.CgroupManager(tmp_path, "kaa")
    pod = pod_with(requests={"cpu": "1"}, limits={"cpu": "2", "memory": "64Mi"})
    path = manager.ensure_pod(pod, pids=100)
    assert path == "/kaa/kubepods/burstable/poduid-web"
    folder = tmp_path / path[1:]
    held = {p.name: p.read_text() for p in folder.iterdir()}
    assert held == {"cpu.weight": "39", "cpu.max": "200000 100000", "memory.max": "67108864", "pids.max": "100"}
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert list(manager.pods()) == [("uid-web", path)]
    for file in folder.iterdir():  # a real cgroup's files go with it
        file.unlink()
    manager.remove_pod(path)
    manager.remove_pod(path)
    assert not folder.exists()


def test_pod_cgroup_v1(tmp_path: Path) -> None:
    for controller in ("cpu", "memory"):
        (tmp_path / controller).mkdir()
    manager = cgroups.CgroupManager(tmp_path)
    path = manager.ensure_pod(pod_with(limits={"cpu": "500m", "memory": "64Mi"}))
    assert path == "/kubepods/poduid-web"
    assert (tmp_path / "cpu" / path[1:] / "cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "cpu" / path[1:] / "cpu.shares").read_text() == "512"
    assert (tmp_path / "memory" / path[1:] / "memory.limit_in_bytes").read_text() == "67108864"
    assert list(manager.pods()) == [("uid-web", path)]


def test_sidecars_add_up_and_inits_overlap() -> None:
    inits = (
        make_container("big", resources=needs(limits={"cpu": "3"})),
        make_container("side", restart_policy="Always", resources=needs(limits={"cpu": "1"})),
    )
    pod = make_pod(init_containers=inits, containers=(make_container(resources=needs(limits={"cpu": "1"})),))
    assert cgroups.pod_amount(pod, "limits", "cpu") == 3000
    assert cgroups.pod_amount(pod, "limits", "memory") is None


def of_whole_pod(*containers: Any, **resources: Any) -> Any:
    pod = make_pod(containers=containers or (make_container(),))
    return replace(pod, spec=replace(pod.spec, resources=needs(**resources)))


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ({"requests": {"memory": "1Gi"}}, "Burstable"),
        ({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
    ],
)
def test_qos_of_pod_level_resources(resources: dict[str, Any], qos: str) -> None:
    loose = make_container("loose", resources=needs(requests={"cpu": "10m"}, limits={"cpu": "20m"}))
    assert cgroups.qos_class(of_whole_pod(loose, **resources)) == qos


def test_pod_level_limits_bound_the_pod_and_containers_without_their_own() -> None:
    small = make_container("small", resources=needs(requests={"cpu": "100m"}, limits={"memory": "64Mi"}))
    free = make_container("free")
    pod = of_whole_pod(small, free, requests={"cpu": "1", "memory": "1Gi"}, limits={"cpu": "2", "memory": "2Gi"})
    limits = cgroups.pod_limits(pod)
    assert (limits.cpu_shares, limits.cpu_quota_us, limits.memory_bytes) == (1024, 200_000, 2 * 2**30)
    made = [cgroups.container_resources(pod, one, memory_capacity_bytes=2**33) for one in pod.spec.containers]
    assert [one.memory_limit_bytes for one in made] == [64 * 2**20, 2 * 2**30]
    assert [one.cpu_quota_us for one in made] == [200_000, 200_000]
    assert [one.cpu_shares for one in made] == [102, 2048]


def test_pod_level_requests_replace_the_containers_sum() -> None:
    one = make_container(resources=needs(requests={"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "1Gi"}))
    pod = of_whole_pod(one, requests={"cpu": "1"}, limits={"memory": "2Gi"})
    pod = replace(pod, spec=replace(pod.spec, overhead={"cpu": Quantity("50m")}))
    assert cgroups.pod_amount(pod, "requests", "cpu") == 1050
    assert cgroups.pod_amount(pod, "requests", "memory") == 64 * 2**20
    assert cgroups.pod_amount(pod, "requests", "ephemeral-storage") == 2**30


def test_oom_score_spreads_what_the_pod_requests_beyond_its_containers() -> None:
    busy = make_container("busy", resources=needs(requests={"memory": "1Gi"}))
    pod = of_whole_pod(busy, make_container("idle"), requests={"memory": "3Gi"})
    assert [cgroups.oom_score(pod, one, 10 * 2**30) for one in pod.spec.containers] == [800, 900]


def test_a_sidecar_is_not_ended_before_the_containers_it_serves() -> None:
    main = make_container("main", resources=needs(requests={"memory": "2Gi"}))
    pod = make_pod(containers=(main,), init_containers=(make_container("side", restart_policy="Always"),))
    assert cgroups.oom_score(pod, pod.spec.init_containers[0], 10 * 2**30) == 800


def test_security_of_container_goes_before_pods() -> None:
    context = PodSecurityContext(
        run_as_user=1,
        run_as_group=2,
        fs_group=3,
        supplemental_groups=(4,),
        seccomp_profile=SeccompProfile(type="RuntimeDefault"),
    )
    own = SecurityContext(
        run_as_user=10,
        allow_privilege_escalation=False,
        capabilities=Capabilities(add=("CAP_NET_ADMIN",), drop=("all",)),
        read_only_root_filesystem=True,
    )
    pod = make_pod(security_context=context, containers=(make_container(security_context=own),))
    assert security.security(pod, pod.spec.containers[0]) == Security(
        user=10,
        group=2,
        supplemental_groups=(4, 3),
        read_only_root=True,
        no_new_privileges=True,
        add_capabilities=("NET_ADMIN",),
        drop_capabilities=("ALL",),
        seccomp="runtime/default",
    )


@pytest.mark.parametrize(
    ("user", "image_user", "message"),
    [
        (0, "", "container's runAsUser breaks non-root policy"),
        (None, "", "container has runAsNonRoot and image will run as root"),
        (None, "0:0", "container has runAsNonRoot and image will run as root"),
        (None, "00", "container has runAsNonRoot and image will run as root"),
        (None, "²", "image has non-numeric user"),
        (None, "nginx", r"image has non-numeric user \(nginx\), cannot verify user is non-root"),
        (None, "101", ""),
        (5, "root", ""),
    ],
)
def test_run_as_non_root(user: int | None, image_user: str, message: str) -> None:
    pod = make_pod(security_context=PodSecurityContext(run_as_non_root=True, run_as_user=user))
    container = pod.spec.containers[0]
    confined = security.security(pod, container)
    if message:
        with pytest.raises(ConfigError, match=message):
            security.check_non_root(pod, container, confined, image_user)
    else:
        security.check_non_root(pod, container, confined, image_user)


def test_hostnames() -> None:
    assert security.hostname(make_pod(), "cluster.local", "node") == ("web", "")
    assert security.hostname(make_pod(host_network=True), "cluster.local", "node") == ("node", "")
    assert security.hostname(make_pod(hostname="a", subdomain="b"), "cluster.local", "node") == (
        "a",
        "a.b.default.svc.cluster.local",
    )
    assert security.hostname(make_pod("x" * 62 + "-yy"), "cluster.local", "node")[0] == "x" * 62


def test_hosts_file() -> None:
    aliases = (HostAlias(ip="10.0.0.9", hostnames=("foo.local", "bar.local")),)
    text = security.hosts_file(("10.0.0.1",), "a", "a.b.default.svc.cluster.local", aliases)
    assert text == (
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        "10.0.0.1\ta.b.default.svc.cluster.local\ta\n"
        "\n# Entries added by HostAliases.\n10.0.0.9\tfoo.local\tbar.local\n"
    )
