"""Which ids of the node are the users of a pod with a user namespace of its own (``hostUsers: false``).

Every such pod has a range to itself, noted in its folder, so that the next life of this process gives it to nobody else.
Source: pkg/kubelet/userns/userns_manager.go.
"""

from __future__ import annotations

import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kaa.api.types.core_v1 import Pod
from kaa.runtime.base import IdMap

from .env import ConfigError

UNIT = 65536
_IDS = 1 << 32
_USER = "kubelet"


class _Mapping(msgspec.Struct, rename={"host_id": "hostId", "container_id": "containerId"}):
    host_id: int
    container_id: int
    length: int


class _Record(msgspec.Struct, rename="camel"):
    """The file ``userns`` in a pod's folder."""

    uid_mappings: list[_Mapping]
    gid_mappings: list[_Mapping]


class UserNamespaces:
    """Ranges of ids below ``root``, a kubelet's folder. Call it from one thread."""

    def __init__(self, root: Path, ids_per_pod: int = UNIT) -> None:
        self._pods, self._length = root / "pods", ids_per_pod
        self._taken: dict[str, int] | None = None  #: {pod uid: its first id on the node}

    def of(self, pod: Pod) -> tuple[IdMap, ...]:
        """The range of a pod, its own from now on. Raises ConfigError when all are taken."""
        if self._taken is None:
            self._taken = dict(self._noted())
        uid = pod.metadata.uid or ""
        if uid not in self._taken:
            first = self._free(self._taken)
            self._note(uid, first)
            self._taken[uid] = first
        return (IdMap(0, self._taken[uid], self._length),)

    def release(self, uid: str) -> None:
        """The pod's folder is gone, and with it the note."""
        if self._taken is not None:
            self._taken.pop(uid, None)

    def _free(self, taken: dict[str, int]) -> int:
        begin, length = allowed_ids(self._length)
        held = set(taken.values())
        first = -(-begin // self._length) * self._length
        while first + self._length <= begin + length:
            if first not in held:
                return first
            first += self._length
        raise ConfigError("could not find an empty slot to allocate a user namespace")

    def _noted(self) -> Iterator[tuple[str, int]]:
        for file in self._pods.glob("*/userns"):
            try:
                record = msgspec.json.decode(file.read_bytes(), type=_Record)
                yield file.parent.name, record.uid_mappings[0].host_id
            except (msgspec.DecodeError, IndexError, FileNotFoundError):  # of a crash: its pod never ran
                continue

    def _note(self, uid: str, first: int) -> None:
        folder = self._pods / uid
        folder.mkdir(parents=True, exist_ok=True)
        ids = [_Mapping(host_id=first, container_id=0, length=self._length)]
        part = folder / ".userns.part"
        part.write_bytes(msgspec.json.encode(_Record(ids, ids)))
        part.rename(folder / "userns")


def allowed_ids(ids_per_pod: int) -> tuple[int, int]:
    """(first, how many) of the node's ids that pods may be: what ``getsubids`` says of the user kubelet, else nearly all.

    Raises ConfigError when it says something that cannot be used.
    """
    program = shutil.which("getsubids")
    if program is None or not _is_user(_USER):
        return ids_per_pod, _IDS - ids_per_pod
    said = [_subids(program, *option) for option in ((), ("-g",))]
    if said[0] != said[1]:
        raise ConfigError(f'mismatched subuids and subgids for user "{_USER}"')
    return parse_subids(said[0])


def parse_subids(text: str) -> tuple[int, int]:
    """Read ``0: kubelet 65536 2147483648``. Raises ConfigError."""
    lines = text.strip("\n").split("\n")
    if len(lines) != 1:
        raise ConfigError(f'error parsing line "{text}": it must contain only one line')
    parts = lines[0].split()
    if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        raise ConfigError(f'invalid line "{text}"')
    return int(parts[2]), int(parts[3])


def _subids(program: str, *option: str) -> str:
    done = subprocess.run([program, *option, _USER], capture_output=True, text=True, check=False, timeout=10)
    if done.returncode:
        kind = "gids" if option else "uids"
        raise ConfigError(f'error retrieving additional {kind} for user "{_USER}": exit status {done.returncode}')
    return done.stdout


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
