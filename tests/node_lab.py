"""What a node's containers leave behind, counted; and ways to harm a node at a chosen moment.

``census`` names every mount, cgroup, link, lease, folder, socket and process that belongs to some folder and cgroup roots, so
that a test can compare before and after. ``slow_engine`` writes an OCI runtime that does as it is told by files: it hangs, dies
or refuses instead of creating.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster_lab import BOX, REPO, Lab

from kaa.runtime.oci.build import busybox_archive
from kaa.runtime.oci.cgroups import Cgroups
from kaa.runtime.oci.linux import start_time, unmount

CGROUPS = Path("/sys/fs/cgroup")
_PER_POD_CGROUP = re.compile("/pod[0-9a-f-]{36}|/[0-9a-f]{64}")
#: Folders below a cluster's root that hold one entry for each pod, sandbox, container or lease.
_PER_POD = (
    "containers/sandboxes",
    "containers/containers",
    "containers/writable",
    "containers/trash",
    "run/containers/sandboxes",
    "run/containers/containers",
    "run/containers/engine",
    "run/containers/execs",
    "kubelet/pods",
    "kubelet/trash",
    "pod-logs",
    "network/leases",
)


def own_cgroup(run_dir: Path) -> str:
    """The cgroup in which a runtime with this run folder keeps what names no other."""
    return f"kaa-runtime-{hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:12]}"


def cgroups(*roots: str) -> set[str]:
    """Every cgroup at and below some roots, in every hierarchy."""
    tops = [top / root for root in roots for top in (CGROUPS, *CGROUPS.iterdir()) if (top / root).is_dir()]
    return {f"cgroup {folder}" for top in tops for folder, _, _ in os.walk(top)}


def mounts(folder: Path) -> set[str]:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return {f"mount {point}" for point in points if point.startswith(f"{folder}/")}


def processes(folder: Path, *, but: Iterable[int] = ()) -> set[str]:
    """Conmon, the OCI runtime and whatever else names the folder in its command line."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in line and int(entry.name) not in {os.getpid(), os.getppid(), *but}:
                found.add(f"process {entry.name} {line[:200]}")
    return found


def sweep(folder: Path, *roots: str) -> None:
    """End by force all that a restart of the machine would: processes, mounts, cgroups. The folders stay."""
    inside = Cgroups()
    deadline = time.monotonic() + 20
    while (found := processes(folder)) or _kill_inside(inside, _paths(*roots)):
        for line in found:  # conmon first: nobody is to note how the rest ends
            with suppress(ProcessLookupError):
                os.kill(int(line.split()[1]), signal.SIGKILL)
        assert time.monotonic() < deadline, found
    for root in roots:
        while not inside.remove(f"/{root}"):
            assert time.monotonic() < deadline, root
    for point in sorted(mounts(folder), reverse=True):
        while unmount(point.removeprefix("mount ")):
            pass


def _kill_inside(inside: Cgroups, paths: Iterable[str]) -> bool:
    """Whether there was something to kill, in whichever of the cgroups."""
    return sum(inside.kill(path) for path in paths) > 0


def _paths(*roots: str) -> set[str]:
    """The names of cgroups below some roots, whatever their hierarchy."""
    return {"/" + place[place.index(root) :] for root in roots for place in cgroups(root)}


def sockets(folder: Path) -> set[str]:
    """Sockets in a folder; what was thrown away there is gone when somebody comes to it."""
    found = set()
    for place, folders, names in os.walk(folder):
        if "trash" in folders:
            folders.remove("trash")
        for name in names:
            with suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.lstat(f"{place}/{name}").st_mode):
                    found.add(f"socket {place}/{name}")
    return found


def entries(root: Path, folders: Iterable[str] = _PER_POD) -> set[str]:
    found = set()
    for name in folders:
        with suppress(FileNotFoundError):
            found |= {f"folder {root / name / entry}" for entry in os.listdir(root / name)}
    return found


def census(lab: Lab, name: str = "") -> set[str]:
    """All that the pods of a lab's cluster may leave behind on its machine."""
    name = name or lab.name
    root = lab.home / name
    parts = {lab.pid(part) for part in ("server", "agent") if (root / f"run/{part}.pid").exists()}
    inside = {f"process {pid} {line[:200]}" for pid, line in lab.processes().items() if pid not in parts}
    return (
        mounts(lab.home)
        | {
            place
            for place in cgroups(f"kaa-{name}", own_cgroup(root / "run/containers"))
            if _PER_POD_CGROUP.search(place)
        }
        | {f"link {link}" for link in lab.links()}
        | entries(root)
        | sockets(root)
        | inside
    )


def slow_engine(folder: Path, name: str) -> Path:
    """An OCI runtime that is runc or crun, but for its ``create``: while a file ``hang`` lies beside it, it never ends; with
    ``die`` it kills itself before it begins, with ``die-after`` once the container is made. It writes ``create`` when asked to
    create."""
    folder.mkdir(parents=True, exist_ok=True)
    program, real = folder / name, shutil.which(name)
    program.write_text(
        textwrap.dedent(f"""\
            #!/bin/sh
            case " $* " in *" create "*)
              echo "$*" >> {folder}/create
              [ -e {folder}/hang ] && read forever < {folder}/never
              [ -e {folder}/die ] && kill -9 $$
              if [ -e {folder}/die-after ]; then {real} "$@"; kill -9 $$; fi
            esac
            exec {real} "$@"
            """)
    )
    program.chmod(0o755)
    if not (folder / "never").exists():
        os.mkfifo(folder / "never")
    return program


class Node:
    """A lab's cluster whose agent can be harmed; its OCI runtimes are ``slow_engine``'s."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.bin = lab.home / "bin"
        for name in ("crun", "runc"):
            slow_engine(self.bin, name)
        self.root = lab.home / lab.name
        self.env = {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        self.up()
        lab.kaa("image import", str(busybox_archive(lab.home / "box.tar", [BOX])))

    def up(self) -> None:
        """Start what does not run."""
        self.lab.kaa("up", env=self.env)

    def alive(self, part: str) -> bool:
        """Whether the server or the agent runs."""
        pid, _, started = (self.root / f"run/{part}.pid").read_text().strip().partition(" ")
        return str(start_time(int(pid))) == started

    def arm(self, moment: str) -> subprocess.Popen[bytes]:
        """Replace the agent by one that is shot at a moment (see ``faulty_agent``); the caller waits for it."""
        self.lab.kill("agent")
        words = [sys.executable, str(REPO / "tests/faulty_agent.py"), moment, "agent", "--name", self.lab.name]
        with (self.root / "faulty.log").open("ab") as log:
            agent = subprocess.Popen(
                ["nsenter", f"--net={self.lab.netns}", *words, "--log-files"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.lab.environment(**self.env),
            )
        (self.root / "run/agent.pid").write_text(f"{agent.pid} {start_time(agent.pid)}\n")
        return agent

    def volume(self, uid: str, name: str = "state") -> Path:
        """Where a pod's emptyDir lies on the node."""
        return self.root / f"kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/{name}"

    def records(self, kind: str = "containers") -> list[Any]:
        """What the runtime has written down of its containers or sandboxes."""
        found = []
        for file in (self.root / "containers" / kind).iterdir():
            with suppress(FileNotFoundError):
                if last := file.read_bytes().rpartition(b"\n")[2]:  # one that is being made is still empty
                    found.append(json.loads(last))
        return found

    def reboot(self) -> None:
        """Take everything that a restart of the machine would: processes, mounts, cgroups, links, rules; the boot is another."""
        for part in ("agent", "server"):
            if (self.root / f"run/{part}.pid").exists():
                self.lab.kill(part)
        sweep(self.lab.home, f"kaa-{self.lab.name}", own_cgroup(self.root / "run/containers"))
        for pid in self.lab.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for link in self.lab.links():
            self.lab.run("ip", "link", "del", link)
        self.lab.run("nft", "flush", "ruleset")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        for kind in ("sandboxes", "containers"):
            for file in (self.root / "containers" / kind).iterdir():
                file.write_text(file.read_text().replace(boot, "b" * len(boot)))


def settled(lab: Lab, before: set[str], timeout_s: float = 20) -> None:
    """Assert that all that came since ``before`` is gone again, or goes within some seconds."""
    deadline = time.monotonic() + timeout_s
    while left := census(lab) - before:
        assert time.monotonic() < deadline, "left on the node:\n" + "\n".join(sorted(left))
        time.sleep(0.1)
