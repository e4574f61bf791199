"""What the runtime remembers on disk: a file a sandbox or container.

A record is evidence, not truth: a pid counts only while the boot id and the process's start time agree with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import structlog

from ..base import Container, ContainerConfig, ContainerState, Identity, Sandbox, SandboxConfig, SandboxState

log = structlog.get_logger(__name__)


class ProcessRecord(msgspec.Struct, frozen=True):
    """A process that outlives us. ``started`` is in clock ticks since the boot called ``boot``."""

    pid: int = 0
    started: int = 0
    boot: str = ""


NO_PROCESS = ProcessRecord()


class SandboxRecord(msgspec.Struct):
    """``made`` turns true once everything stands; a record without it is rubbish of a crash."""

    id: str
    config: SandboxConfig
    created_at: float
    made: bool = False
    ready: bool = False
    ips: tuple[str, ...] = ()
    pause: ProcessRecord = NO_PROCESS

    def public(self) -> Sandbox:
        config = self.config
        return Sandbox(
            id=self.id,
            name=config.name,
            namespace=config.namespace,
            uid=config.uid,
            attempt=config.attempt,
            state=SandboxState.READY if self.ready else SandboxState.NOT_READY,
            created_at=self.created_at,
            ips=self.ips,
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=config.runtime_handler,
        )


class ContainerRecord(msgspec.Struct):
    """``launched`` is set before conmon is started, so that a crash in between is noticed."""

    id: str
    sandbox_id: str
    config: ContainerConfig
    created_at: float
    engine: str = ""  #: the OCI runtime that makes it
    image_id: str = ""
    image_ref: str = ""
    chain: tuple[str, ...] = ()
    volumes: dict[str, tuple[str, ...]] = {}  #: {id of an image that it mounts: chain}
    stop_signal: str = ""
    cgroup_path: str = ""
    log_path: str = ""
    made: bool = False
    launched: bool = False
    state: ContainerState = ContainerState.CREATED
    started_at: float = 0
    finished_at: float = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    process: ProcessRecord = NO_PROCESS
    conmon: ProcessRecord = NO_PROCESS
    user: Identity | None = None
    stdio_owner: int | None = None  #: the host's number of ``user``, if that is of a user namespace

    def public(self) -> Container:
        config = self.config
        return Container(
            id=self.id,
            sandbox_id=self.sandbox_id,
            name=config.name,
            attempt=config.attempt,
            state=self.state,
            image=config.image,
            image_id=self.image_id,
            image_ref=self.image_ref,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            exit_code=self.exit_code,
            reason=self.reason,
            message=self.message,
            log_path=self.log_path,
            pid=self.process.pid if self.state is ContainerState.RUNNING else 0,
            resources=config.resources,
            volume_images=tuple(self.volumes),
            user=self.user,
            labels=config.labels,
            annotations=config.annotations,
        )


Record = TypeVar("Record", SandboxRecord, ContainerRecord)


class Folder(Generic[Record]):
    """Records of one kind: a file each, to which every version of the record is added as a line. The last whole line counts.

    Adding makes no new file, as replacing one would: file systems are slow at that once many were removed.
    """

    def __init__(self, path: Path, kind: type[Record]) -> None:
        self.path = path
        self._decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(kind)

    def save(self, record: Record) -> None:
        """Raises OSError; what was saved before still counts then."""
        line = b"\n" + msgspec.json.encode(record)  # what comes first ends a line that a full disk cut off
        fd = os.open(
            self.path / record.id, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            if os.write(fd, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / record.id))
        finally:
            os.close(fd)

    def load(self) -> Iterator[Record]:
        """All that can be read; what a crash of the machine garbled is removed. Makes the folder."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in sorted(self.path.iterdir()):
            record = self._last(file)
            if record is not None:
                yield record
            else:
                log.warning("state is unreadable and dropped", file=str(file))
                file.unlink()

    def _last(self, file: Path) -> Record | None:
        for line in reversed(file.read_bytes().split(b"\n")):
            with contextlib.suppress(msgspec.DecodeError):
                return self._decoder.decode(line)
        return None

    def forget(self, record_id: str) -> None:
        (self.path / record_id).unlink(missing_ok=True)
