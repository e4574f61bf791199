"""``dra_manager_state``: claims that drivers were asked to prepare, and for which pods, as upstream's kubelet writes it.

Source: pkg/kubelet/cm/dra/state, pkg/kubelet/cm/dra/checkpoint.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec

from ..devices.checkpoint import write

FILE = "dra_manager_state"
_KIND, _VERSION = "DRACheckpoint", "checkpoint.dra.kubelet.k8s.io/v1"


class Device(msgspec.Struct, frozen=True, rename="pascal"):
    """A device of a claim; without request names it is for all requests."""

    pool_name: str = ""
    device_name: str = ""
    share_id: str | None = msgspec.field(default=None, name="ShareID")
    request_names: tuple[str, ...] | None = None
    cdi_device_ids: tuple[str, ...] | None = msgspec.field(default=None, name="CDIDeviceIDs")


class DriverState(msgspec.Struct, frozen=True, rename="pascal"):
    devices: tuple[Device, ...] | None = None


class ClaimState(msgspec.Struct, frozen=True, rename="pascal"):
    """A claim; ``driver_state`` has a key for each driver of its allocation."""

    claim_uid: str = msgspec.field(name="ClaimUID")
    claim_name: str = ""
    namespace: str = ""
    pod_uids: dict[str, dict[str, str]] = msgspec.field(default={}, name="PodUIDs")  #: a set, as Go writes one
    driver_state: dict[str, DriverState] = {}


class _Data(msgspec.Struct, frozen=True):
    kind: str = ""
    version: str = msgspec.field(default="", name="apiVersion")
    entries: tuple[ClaimState, ...] | None = msgspec.field(default=None, name="Entries")


class _File(msgspec.Struct, frozen=True, rename="pascal"):
    data: str
    checksum: int


def load(path: Path) -> tuple[ClaimState, ...]:
    """What was written last; nothing without a file. Raises ValueError when it is damaged, OSError."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return ()
    found = msgspec.json.decode(text, type=_File)
    if zlib.crc32(found.data.encode()) != found.checksum:
        raise ValueError("checkpoint is corrupted")
    return msgspec.json.decode(found.data, type=_Data).entries or ()


def save(path: Path, entries: tuple[ClaimState, ...]) -> None:
    """Write it so that a crash leaves the old file or the new one. Raises OSError."""
    data = msgspec.json.encode(_Data(_KIND, _VERSION, entries))
    write(path, msgspec.json.encode(_File(data.decode(), zlib.crc32(data))))
