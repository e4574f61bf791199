"""A containerd of its own for tests: its folders, socket, network and cgroups are the lab's, and end with it.

It runs in a network namespace, given or made, so that the bridge which its CNI plugins make and the port that it streams on
are nobody else's. Images are built from busybox and imported by ``ctr``; its sandboxes run a pause made the same way.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from kaa.runtime.oci.build import busybox_archive

NEEDED = ("containerd", "ctr", "runc", "nsenter", "ip")
PLUGINS = Path("/usr/lib/cni")
PAUSE = "kaa.dev/pause:1"
BUSYBOX = "docker.io/library/busybox:latest"


def missing() -> str:
    """What this machine lacks for a containerd; empty when all is there."""
    absent = [program for program in NEEDED if not shutil.which(program)]
    absent += [] if (PLUGINS / "bridge").exists() else ["containernetworking-plugins"]
    absent += [] if os.access("/bin/busybox", os.X_OK) else ["busybox-static"]
    return "root" if os.geteuid() else ", ".join(absent)


class Containerd:
    """A running containerd. ``close`` ends it and asserts that nothing of it is left."""

    def __init__(self, netns: Path | None = None, subnet: str = "10.199.0.0/24") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kaa-ctd-"))
        self.name = f"ctd{uuid.uuid4().hex[:8]}"
        self._own_netns = netns is None
        self.netns = netns or Path(f"/run/netns/{self.name}")
        if self._own_netns:
            _sh("ip", "netns", "add", self.name)
            _sh("ip", "-n", self.name, "link", "set", "lo", "up")
        self.socket = self.folder / "c.sock"
        self.endpoint = f"unix://{self.socket}"
        self._configure(subnet)
        self._start()
        self.load(busybox_archive(self.folder / "pause.tar", (PAUSE,), entrypoint=("sleep", "2147483647"), command=()))

    def _configure(self, subnet: str) -> None:
        network = {
            "cniVersion": "0.4.0",
            "name": self.name,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.folder / "ipam"),
                        "ranges": [[{"subnet": subnet}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
        (self.folder / "cni").mkdir()
        (self.folder / "cni" / "10-test.conflist").write_text(json.dumps(network))
        (self.folder / "config.toml").write_text(
            f"""
version = 2
root = "{self.folder}/root"
state = "{self.folder}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{self.folder}/cni"
"""
        )

    def _start(self) -> None:
        self.log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            ["nsenter", f"--net={self.netns}", "containerd", "--config", str(self.folder / "config.toml")],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 30
        while subprocess.run(self._ctr("version"), capture_output=True, check=False).returncode:
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def restart(self) -> None:
        """Kill it as a crash would, and start it anew; what it runs lives on under its shims."""
        self._process.kill()
        self._process.wait()
        self.log.close()
        self._start()

    def said(self) -> str:
        return (self.folder / "log").read_text()[-4000:]

    def _ctr(self, *words: str) -> list[str]:
        return ["ctr", "-a", str(self.socket), "-n", "k8s.io", *words]

    def load(self, archive: Path) -> None:
        """Import an image archive, under its tags and, as a pull would, under its digest."""
        _sh(*self._ctr("images", "import", "--snapshotter", "overlayfs", str(archive)))
        for line in _sh(*self._ctr("images", "ls")).splitlines()[1:]:
            reference, _, digest = line.split()[:3]
            if "@" not in reference and not reference.startswith("sha256:"):
                name = reference.rpartition(":")[0]
                subprocess.run(
                    self._ctr("images", "tag", reference, f"{name}@{digest}"), capture_output=True, check=False
                )

    def busybox(self) -> None:
        archive = self.folder / "busybox.tar"
        self.load(archive if archive.exists() else busybox_archive(archive, (BUSYBOX,)))

    def tasks(self) -> list[str]:
        """What runs, by containerd's word."""
        return _sh(*self._ctr("tasks", "ls", "-q")).split()

    # ------------------------------------------------------------------------------------------------------- the end

    def processes(self) -> dict[int, str]:
        """{pid: command line} of what names our folder or lives in our network namespace, the caller's own aside."""
        space = self.netns.stat().st_ino if self._own_netns and self.netns.exists() else 0
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = str(self.folder) in line or (entry / "ns/net").stat().st_ino == space
                dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                if ours and not dead and int(entry.name) != os.getpid():
                    found[int(entry.name)] = line
        return found

    def mounts(self) -> list[str]:
        points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [point for point in reversed(points) if point.startswith(f"{self.folder}/")]

    def cgroups(self) -> list[str]:
        """Of containers whose id our log tells, where sandboxes without a parent go."""
        log = (self.folder / "log").read_text()
        return [str(path) for path in Path("/sys/fs/cgroup").glob("*/k8s.io/*") if path.is_dir() and path.name in log]

    def leftovers(self) -> dict[str, object]:
        seen = {"processes": self.processes(), "mounts": self.mounts(), "cgroups": self.cgroups()}
        return {kind: found for kind, found in seen.items() if found}

    def close(self) -> None:
        """End it; whoever used it has removed its sandboxes."""
        try:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self.log.close()
            _drop_empty_folders()
            assert self.leftovers() == {}, self.said()
        finally:
            self._sweep()

    def _sweep(self) -> None:
        """Remove by force what a failed test left."""
        self._process.kill()
        self._process.wait()
        self.log.close()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in self.mounts():
            _sh("umount", "-l", point)
        if self._own_netns:
            _sh("ip", "netns", "del", self.name)
        if not self.mounts():
            shutil.rmtree(self.folder)


def _drop_empty_folders() -> None:
    """Cgroups, and the folders that shims and CNI have outside of ours whatever the configuration says."""
    run, cni = Path("/run/containerd"), Path("/var/lib/cni")
    shims = (run / "runc/k8s.io", run / "runc", run / "s", run / "fifo", run)
    cgroups = (*Path("/sys/fs/cgroup").glob("*/k8s.io"), Path("/sys/fs/cgroup/k8s.io"))
    for path in (*cgroups, *shims, cni / "results", cni):
        with suppress(OSError):  # absent, or in use by another containerd
            path.rmdir()


def _sh(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"$ {' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout
