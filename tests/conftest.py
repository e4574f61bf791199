"""Fixtures of whole clusters: one per worker that all its tests share, and machines for tests that break theirs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from cluster_lab import BOX, Kubectl, Lab, until
from node_lab import census, settled

from kaa.runtime.oci.build import busybox_archive


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
