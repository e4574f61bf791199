"""A whole cluster to measure: ``kaa up`` in a network namespace and folders of its own, and nothing left behind.

As root the bench runs itself again under ``unshare --net`` (the namespace ends with its last process) and has real
containers; otherwise the runtime is the simulated one.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kaa.cluster.config import ClusterConfig, read_config
from kaa.cluster.lifecycle import Api, pid_file
from kaa.cluster.pki import Pki
from kaa.cluster.processes import running_pid

from .load import Load

NETWORK = """ip link set lo up
ip link add eth0 type bridge
ip addr add 192.168.77.2/24 dev eth0
ip link set eth0 up
ip route add default via 192.168.77.1"""
NAME = "bench"
PARTS = ("server", "agent")
POD_PATH = "/api/v1/namespaces/default/pods"


def enter_namespace() -> None:
    """Run this program again in a network namespace of its own, unless this is already it (or cannot be)."""
    if os.geteuid() == 0 and not os.environ.get("KAA_BENCH_NETNS"):
        sys.stdout.flush()
        environment = {**os.environ, "KAA_BENCH_NETNS": "1"}
        os.execvpe("unshare", ["unshare", "--net", sys.executable, "-m", "bench", *sys.argv[1:]], environment)


class Cluster:
    """A cluster that runs. Times are wall-clock seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.real = os.geteuid() == 0
        self.token = ""

    def kaa(self, *arguments: str) -> str:
        """Run a command. Raises CalledProcessError with what it said."""
        environment = {
            **os.environ,
            "KAA_HOME": str(self.folder / "home"),
            "KUBECONFIG": str(self.folder / "kubeconfig"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "kaa", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"kaa {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def up(self, *, kubelet: str = "") -> float:
        """Start it; returns how long that took, the command's own start included. ``kubelet``: a KubeletConfiguration."""
        words = [] if self.real else ["--runtime", "simulated"]
        if kubelet:
            (self.folder / "kubelet.yaml").write_text(kubelet)
            words += ["--kubelet-config", str(self.folder / "kubelet.yaml")]
        begin = time.perf_counter()
        self.kaa("up", "--name", NAME, *words)
        return time.perf_counter() - begin

    def reset(self) -> None:
        self.kaa("reset", "--name", NAME)

    @property
    def config(self) -> ClusterConfig:
        found = read_config(self.folder / "home" / NAME)
        assert found is not None
        return found

    def pids(self) -> list[int]:
        return [running_pid(pid_file(self.config, part)) for part in PARTS]

    # ------------------------------------------------------------------------------------------------ asking

    def api(self) -> Api:
        return Api(self.config, timeout_s=60.0)

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, content_type: str = "application/json"
    ) -> Any:
        """One request as the administrator. Raises RuntimeError unless it succeeded."""
        api = self.api()
        try:
            data = json.dumps(body).encode() if body is not None else b""
            status, answer = api.ask(method, path, data, content_type)
        finally:
            api.close()
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer.decode()}")
        return json.loads(answer)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        return self.ask("PATCH", path, body, "application/merge-patch+json")

    def watch(self, path: str) -> Iterator[Any]:
        """The events of a watch, from now on."""
        config = self.config
        pki = Pki(config.pki_dir, None)  # type: ignore[arg-type]  # only its paths
        context = ssl.create_default_context(cafile=str(pki.ca))
        context.load_cert_chain(pki.cert("admin"), pki.key("admin"))
        version = self.ask("GET", path)["metadata"]["resourceVersion"]
        connection = http.client.HTTPSConnection("127.0.0.1", config.api_port, timeout=120, context=context)
        connection.request("GET", f"{path}?watch=1&resourceVersion={version}")
        answer = connection.getresponse()

        def events() -> Iterator[Any]:
            try:
                while line := answer.readline():
                    yield json.loads(line)
            finally:
                connection.close()

        return events()

    def make_user(self) -> None:
        """A service account that may do everything, and its token: the load's bearer token."""
        rbac = "rbac.authorization.k8s.io"
        self.ask("POST", "/api/v1/namespaces/kube-system/serviceaccounts", {"metadata": {"name": "bench"}})
        subject = {"kind": "ServiceAccount", "name": "bench", "namespace": "kube-system"}
        binding = {
            "metadata": {"name": "bench"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [subject],
        }
        self.ask("POST", f"/apis/{rbac}/v1/clusterrolebindings", binding)
        path = "/api/v1/namespaces/kube-system/serviceaccounts/bench/token"
        self.token = self.ask("POST", path, {"spec": {"expirationSeconds": 36000}})["status"]["token"]

    def load(self, **what: Any) -> Load:
        config = self.config
        return Load(port=config.api_port, token=self.token, ca=str(config.pki_dir / "ca.crt"), **what)

    # ------------------------------------------------------------------------------------------------ looking

    def memory(self) -> tuple[float, float]:
        """(resident, proportional) megabytes of its two processes."""
        resident = proportional = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                resident += int(line.split()[1]) if line.startswith("Rss:") else 0
                proportional += int(line.split()[1]) if line.startswith("Pss:") else 0
        return resident / 1024, proportional / 1024

    def cpu_s(self) -> float:
        """The CPU seconds that its processes have used."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A folder and a network for a cluster; whatever ran there is removed in the end."""
    if os.environ.get("KAA_BENCH_NETNS"):
        for line in NETWORK.splitlines():
            subprocess.run(line.split(), check=True)
    with tempfile.TemporaryDirectory(prefix="kaa-bench-") as folder:
        made = Cluster(Path(folder))
        try:
            yield made
        finally:
            if (Path(folder) / "home" / NAME / "config.json").exists():
                made.reset()
