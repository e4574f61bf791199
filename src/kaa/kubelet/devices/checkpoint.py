"""``kubelet_internal_checkpoint``: which devices there are and whose they are, on disk as upstream's kubelet writes it.

Its checksum is FNV-1a over Go's dump of the data (``%#v`` of go-spew), which names Go's types.
Source: pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go, pod_devices.go; pkg/kubelet/checkpointmanager/checksum.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

FILE = "kubelet_internal_checkpoint"


class Entry(msgspec.Struct, frozen=True, rename="pascal"):
    """The devices of one resource that a container has."""

    pod_uid: str = msgspec.field(name="PodUID")
    container_name: str
    resource_name: str
    device_ids: Mapping[int, tuple[str, ...] | None] | None = msgspec.field(
        name="DeviceIDs"
    )  #: by NUMA node, -1: of none
    alloc_resp: str | None = ""  #: what the plugin answered, base64


class Data(msgspec.Struct, frozen=True, rename="pascal"):
    """``registered_devices``: {resource: its healthy devices}."""

    pod_device_entries: tuple[Entry, ...] | None = None
    registered_devices: Mapping[str, tuple[str, ...] | None] | None = None


class _File(msgspec.Struct, frozen=True, rename="pascal"):
    data: Data
    checksum: int


def load(path: Path) -> Data | None:
    """What was written last; None without a file. Raises ValueError when it is damaged, OSError."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    found = msgspec.json.decode(text, type=_File)
    try:
        if checksum(found.data) != found.checksum:
            raise ValueError("checkpoint is corrupted")
    except binascii.Error as err:
        raise ValueError(f"checkpoint is corrupted: {err}") from err
    return found.data


def save(path: Path, data: Data) -> None:
    """Write it so that a crash leaves the old file or the new one. Raises OSError."""
    write(path, msgspec.json.encode(_File(data, checksum(data))))


def write(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def checksum(data: Data) -> int:
    """FNV-1a, 32 bits, over ``dump``."""
    made = 0x811C9DC5
    for byte in dump(data).encode():
        made = (made ^ byte) * 0x01000193 & 0xFFFFFFFF
    return made


def dump(data: Data) -> str:
    """The data as Go shows it: maps sorted by key, elements without their types."""
    entries = data.pod_device_entries
    shown = "<nil>" if entries is None else f"[{' '.join(_entry(one) for one in entries)}]"
    registered = _map(data.registered_devices)
    return (
        f"(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){shown}"
        f" RegisteredDevices:(map[string][]string){registered}}}"
    )


def _entry(one: Entry) -> str:
    answer = "<nil>"
    if one.alloc_resp is not None:
        answer = f"[{' '.join(map(str, base64.b64decode(one.alloc_resp, validate=True)))}]"
    return (
        f"{{PodUID:(string){one.pod_uid} ContainerName:(string){one.container_name}"
        f" ResourceName:(string){one.resource_name} DeviceIDs:(checkpoint.DevicesPerNUMA){_map(one.device_ids)}"
        f" AllocResp:([]uint8){answer}}}"
    )


def _map(values: Mapping[str, tuple[str, ...] | None] | Mapping[int, tuple[str, ...] | None] | None) -> str:
    if values is None:
        return "<nil>"
    pairs = sorted(values.items())
    return f"map[{' '.join(f'{key}:{_list(each)}' for key, each in pairs)}]"


def _list(values: tuple[str, ...] | None) -> str:
    return "<nil>" if values is None else f"[{' '.join(values)}]"
