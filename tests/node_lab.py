"""What a node's containers leave behind, counted; and ways to harm a node at a chosen moment.

``census`` names every mount, cgroup, link, lease, folder, socket and process that belongs to some folder and cgroup roots, so
that a test can compare before and after. ``slow_runc`` writes an OCI runtime that does as it is told by files: it hangs, dies
or refuses instead of creating.
"""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import textwrap
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cluster_lab import Lab

from kaa.runtime.oci.cgroups import Cgroups
from kaa.runtime.oci.linux import unmount

CGROUPS = Path("/sys/fs/cgroup")
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
        | cgroups(f"kaa-{name}", own_cgroup(root / "run/containers"))
        | {f"link {link}" for link in lab.links()}
        | entries(root)
        | sockets(root)
        | inside
    )


def slow_runc(folder: Path) -> Path:
    """An OCI runtime that is runc, but for its ``create``: while a file ``hang`` lies beside it, it never ends; with ``die`` it
    kills itself before it begins, with ``die-after`` once the container is made. It writes ``create`` when asked to create."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "runc"
    program.write_text(
        textwrap.dedent(f"""\
            #!/bin/sh
            case " $* " in *" create "*)
              echo "$*" >> {folder}/create
              [ -e {folder}/hang ] && sleep 1000
              [ -e {folder}/die ] && kill -9 $$
              if [ -e {folder}/die-after ]; then /usr/sbin/runc "$@"; kill -9 $$; fi
            esac
            exec /usr/sbin/runc "$@"
            """)
    )
    program.chmod(0o755)
    return program
