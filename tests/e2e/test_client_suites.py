"""Other projects' own test suites, unchanged, against one kaa cluster: what a client's authors expect of Kubernetes.

Nothing of a suite is replaced but what finds its cluster (``suites/find_cluster.py``). Images cannot be pulled here, so
they are imported, and an admission policy makes the pods of suites that name ``latest`` use what is imported.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import suites_lab
from cluster_lab import E2E, Done, Lab

from kaa.runtime.oci.build import busybox_archive

pytestmark = [*E2E, pytest.mark.timeout(600)]

USE_WHAT_IS_IMPORTED = """
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: use-what-is-imported}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  reinvocationPolicy: Never
  failurePolicy: Fail
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: >-
        Object{spec: Object.spec{containers: object.spec.containers.map(c,
        Object.spec.containers{name: c.name, imagePullPolicy: "IfNotPresent"})}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: use-what-is-imported}
spec: {policyName: use-what-is-imported}
"""
#: The official client's tests that fail against every Kubernetes of today, and why.
OUTDATED = {
    "test_cluster_custom_resources": "asks for apiextensions.k8s.io/v1beta1, which ended with 1.22",
    "test_namespaced_custom_resources": "asks for apiextensions.k8s.io/v1beta1, which ended with 1.22",
    "test_async_namespaced_custom_resources": "asks for apiextensions.k8s.io/v1beta1, which ended with 1.22",
    "test_cache_decoder_resource_and_subresource": "compares objects that hold two different clients",
}


def import_images(lab: Lab) -> None:
    """What the suites' pods use of these images: a process that stays, a shell, a page."""
    docker = "docker.io/library"
    idle = ["sh", "-c", "trap 'exit 0' TERM; sleep 2147483647 & wait"]
    serve = [
        "sh",
        "-c",
        "echo serving; httpd -p 80 -h /usr/share/nginx/html; trap 'exit 0' TERM QUIT; sleep 2147483647 & wait",
    ]
    page = {"usr/share/nginx/html/index.html": (b"<title>Welcome to nginx!</title>\n", 0o644)}
    made = [
        busybox_archive(lab.home / "pause.tar", ["gcr.io/google_containers/pause:latest"], command=idle),
        busybox_archive(lab.home / "box.tar", [f"{docker}/busybox:latest", f"{docker}/ubuntu:latest"]),
        busybox_archive(lab.home / "nginx.tar", [f"{docker}/nginx:latest"], files=page, command=serve, ports=[80]),
    ]
    for archive in made:
        lab.kaa("image import", str(archive))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    made = Lab()
    try:
        made.kaa("up")
        import_images(made)
        leave_ports_to_the_suites(made)
        made.kube().apply(USE_WHAT_IS_IMPORTED)
        yield made
    finally:
        made.close()


def leave_ports_to_the_suites(lab: Lab) -> None:
    """kr8s picks a local port from 10000 to 60000 at random: none of those may be a connection's own end just then."""
    done = lab.run("sh", "-c", "echo 60001 65535 > /proc/sys/net/ipv4/ip_local_port_range")
    assert done.code == 0, str(done)


def run_suite(lab: Lab, folder: Path, *words: str, timeout_s: float) -> Done:
    """Run a project's tests in the folder of its sources. What it writes goes to the lab's home."""
    program = [str(suites_lab.python()), "-m", "pytest", "-p", "find_cluster", "-p", "no:cacheprovider", "-q", *words]
    environment = {**lab.environment(), "PYTHONPATH": str(suites_lab.HERE), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["TMPDIR"] = str(lab.home / "user")
    done = subprocess.run(
        ["nsenter", f"--net={lab.netns}", *program],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )
    return Done(f"pytest {' '.join(words)}  # in {folder.name}", done.returncode, done.stdout[-20000:], done.stderr)


def outcome(done: Done) -> dict[str, int]:
    """{"passed": 3, "failed": 1, …} of pytest's last line."""
    last = done.out.strip().splitlines()[-1]
    return {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed)", last)}


def test_kr8s(cluster: Lab) -> None:
    # left out: it gives the server 10 us to answer, and takes an answer that came before the client looked for a fault
    words = ("kr8s", "-o", "addopts=", "--deselect", "kr8s/tests/test_api.py::test_api_timeout")
    done = run_suite(cluster, suites_lab.sdist("kr8s"), *words, timeout_s=400)
    assert done.code == 0, str(done)
    # skipped: a test of what is so outside of a terminal; expected failures: kr8s cannot send standard input yet
    assert outcome(done) == {"passed": 291, "skipped": 1, "xfailed": 2}, str(done)


def test_kopf_runs_its_examples(cluster: Lab) -> None:
    words = ("tests/e2e", "examples", "--only-e2e", "--timeout=90")
    done = run_suite(cluster, suites_lab.sdist("kopf"), *words, timeout_s=500)
    assert done.code == 0, str(done)
    assert outcome(done) == {"passed": 17}, str(done)


def test_the_official_clients_dynamic_client(cluster: Lab) -> None:
    words = ("kubernetes/dynamic", *(f"--deselect={name}" for name in _outdated_ids()))
    done = run_suite(cluster, suites_lab.sdist("kubernetes"), *words, timeout_s=120)
    assert done.code == 0, str(done)
    assert outcome(done) == {"passed": 10}, str(done)


def _outdated_ids() -> list[str]:
    client, discovery = "test_client.py::TestDynamicClient", "test_discovery.py::TestDiscoverer"
    return [f"kubernetes/dynamic/{discovery if 'cache' in name else client}::{name}" for name in OUTDATED]


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="not installed: node, npm")
def test_the_javascript_client(cluster: Lab) -> None:
    cluster.kube()("create namespace javascript")
    done = cluster.run("node", str(suites_lab.node_script()), "javascript", timeout_s=60)
    assert done.code == 0, str(done)
    assert dict(json.loads(line) for line in done.out.splitlines()) == {
        "nodes": 1,
        "patch": {"a": "b"},
        "merge": {"a": "b", "c": "d"},
        "apply": ["node Apply"],
        "object": ["Deployment", 1],
        "exec": ["got hello\n", "Failure", "NonZeroExitCode", "3"],
        "log": "serving\n",
        "forward": "<title>Welcome to nginx!</title>",
        "informer": ["add web", True, "delete web", []],
        "gone": 404,
    }
