"""Fixtures of whole clusters (one per worker that all its tests share, and machines for tests that break theirs) and of runtimes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_lab import BOX, Kubectl, Lab, until
from hypothesis import HealthCheck, settings
from node_lab import census, cgroups, own_cgroup, settled
from runtime_lab import Body, read, runtime_in

from kaa.runtime.oci.build import busybox_archive

#: A busy machine draws examples slowly, and checks them slowly: that says nothing about what is checked.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the namespace of a failed test."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    kube = getattr(item, "funcargs", {}).get("kube")
    if report.when == "call" and report.failed and isinstance(kube, Kubectl):
        report.sections.append(("cluster", kube.state()))


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A machine with no cluster yet."""
    made = Lab()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def shared() -> Iterator[Lab]:
    """A machine with a cluster that stands as long as this worker's tests, its image imported."""
    made = Lab()
    try:
        made.kaa("up")
        archive = busybox_archive(made.home / "box.tar", [BOX])
        made.kaa("image import", str(archive))
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def no_leaks(shared: Lab) -> Iterator[None]:
    """Of what a module's pods had on the shared cluster's node nothing may be left."""
    before = census(shared)
    yield
    settled(shared, before, timeout_s=60)


@pytest.fixture
def kube(shared: Lab) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own."""
    made = shared.kube(f"t-{uuid.uuid4().hex[:8]}")
    made.api.post("/api/v1/namespaces", {"metadata": {"name": made.namespace}})
    until(lambda: made.read("serviceaccounts/default"), "the namespace's service account")
    yield made
    answer = made.api.ask("DELETE", f"/api/v1/namespaces/{made.namespace}")
    assert answer.status == 200, answer


# -------------------------------------------------------------------------------------------------------- runtimes


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_archive(tmp_path_factory.mktemp("images") / "busybox.tar")


@pytest.fixture
def leftovers(tmp_path: Path) -> Iterator[None]:
    """No cgroup, mount or process of the test's folder may be left."""
    yield
    assert cgroups(own_cgroup(tmp_path / "run")) == set()
    assert str(tmp_path) not in read("/proc/self/mounts")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            assert str(tmp_path).encode() not in (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.fixture
def run(tmp_path: Path, archive: Path, leftovers: None) -> Callable[[Body], None]:
    """Runs a test's body on a runtime that has the image ``busybox``."""

    def runner(body: Body) -> None:
        async def main() -> None:
            async with runtime_in(tmp_path, archive) as runtime:
                await body(runtime)

        asyncio.run(main())

    return runner
