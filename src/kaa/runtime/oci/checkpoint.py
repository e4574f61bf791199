"""A running container frozen into a tar file by CRIU, as containerd and CRI-O lay it out: it goes on running.

    checkpoint/         CRIU's images of the processes
    rootfs-diff.tar     what the container wrote to its root
    config.dump         whose it is: image, name, times      spec.dump   its OCI configuration
    dump.log            what CRIU said

Source: KEP-2008, checkpoint-restore/checkpointctl lib/metadata.go.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from ...api.clock import format_time
from ..base import RuntimeFailure
from ..files import remove_tree
from .engines import Engine
from .state import ContainerRecord
from .work import run_command


def take(
    engine: Engine,
    record: ContainerRecord,
    bundle: Path,
    upper: Path,
    target: Path,
    timeout_s: float,
    now: float,
) -> None:
    """Write the tar file. Blocks. Raises RuntimeFailure, and leaves no half file."""
    if shutil.which("criu") is None:
        raise RuntimeFailure(
            f'CRIU binary not found or too old (<31600). Failed to checkpoint container "{record.id}": '
            'exec: "criu": executable file not found in $PATH'
        )
    work = Path(tempfile.mkdtemp(prefix=".checkpoint-", dir=target.parent))
    try:
        words = ("checkpoint", "--image-path", str(work / "checkpoint"), "--work-path", str(work), "--leave-running")
        _run(engine.command(*words, "--file-locks", record.id), timeout_s, work / "dump.log")
        (work / "config.dump").write_text(json.dumps(_description(record, now)))
        (work / "spec.dump").write_bytes((bundle / "config.json").read_bytes())
        _pack(upper, work / "rootfs-diff.tar")
        _pack(work, target)
    except OSError as err:
        raise RuntimeFailure(f'failed to checkpoint container "{record.id}": {err}') from err
    finally:
        remove_tree(work, root=target.parent)


def _run(command: list[str], timeout_s: float, said: Path) -> None:
    """The log is gone when this fails, so its last word goes with the failure."""
    try:
        run_command(command, timeout_s)
    except RuntimeFailure as err:
        lines = said.read_text(errors="replace").splitlines() if said.exists() else []
        last = next((line for line in reversed(lines) if "Error" in line), "")
        raise RuntimeFailure(f"{err}: {last}" if last else str(err)) from err


def _pack(folder: Path, target: Path) -> None:
    """A folder's content as a tar file of mode 0600, there whole or not at all."""
    part = target.with_name(f".{target.name}.part")
    try:
        with tarfile.open(part, "x", dereference=False) as archive:
            for entry in sorted(folder.iterdir()):
                archive.add(entry, entry.name)
        part.chmod(0o600)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _description(record: ContainerRecord, now: float) -> dict[str, str]:
    return {
        "id": record.id,
        "name": record.config.name,
        "rootfsImage": record.config.image,
        "rootfsImageRef": record.image_ref,
        "rootfsImageName": record.config.image,
        "runtime": "runc",
        "createdTime": format_time(record.created_at),
        "checkpointedTime": format_time(now),
    }
