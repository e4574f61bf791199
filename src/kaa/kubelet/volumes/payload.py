"""What files a ConfigMap, Secret, downward API or projected volume holds. Pure: {path: File}.

Source: pkg/volume/{configmap,secret,downwardapi,projected}.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from kaa.api.types.core_v1 import ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret

from ..env import Sources, field_value, resource_value

DEFAULT_MODE = 0o644


class PayloadError(Exception):
    """A volume cannot be filled as its spec asks; the message is for the user."""


@dataclass(frozen=True, slots=True)
class File:
    """``owner``: the uid that it belongs to; None leaves it with root."""

    data: bytes
    mode: int
    owner: int | None = None


def config_map_files(
    found: ConfigMap | None, name: str, items: tuple[KeyToPath, ...], mode: int, optional: bool
) -> dict[str, File]:
    if found is None:
        if optional:
            return {}
        raise PayloadError(f'configmap "{name}" not found')
    data = {key: text.encode() for key, text in found.data.items()}
    data.update({key: base64.b64decode(text) for key, text in found.binary_data.items()})
    return _pick(data, items, mode, optional, "config")


def secret_files(
    found: Secret | None, name: str, items: tuple[KeyToPath, ...], mode: int, optional: bool
) -> dict[str, File]:
    if found is None:
        if optional:
            return {}
        raise PayloadError(f'secret "{name}" not found')
    return _pick({key: base64.b64decode(text) for key, text in found.data.items()}, items, mode, optional, "secret")


def _pick(
    data: Mapping[str, bytes], items: tuple[KeyToPath, ...], mode: int, optional: bool, kind: str
) -> dict[str, File]:
    if not items:
        return {key: File(content, mode) for key, content in data.items()}
    made: dict[str, File] = {}
    for item in items:
        if item.key in data:
            made[item.path] = File(data[item.key], mode if item.mode is None else item.mode)
        elif not optional:
            raise PayloadError(f"references non-existent {kind} key: {item.key}")
    return made


def downward_files(pod: Pod, items: tuple[DownwardAPIVolumeFile, ...], mode: int, sources: Sources) -> dict[str, File]:
    made: dict[str, File] = {}
    for item in items:
        if item.field_ref is not None:
            text = field_value(pod, item.field_ref.field_path, sources)
        elif item.resource_field_ref is not None:
            anyone = pod.spec.containers[0] if pod.spec.containers else Container(name="")
            text = resource_value(pod, anyone, item.resource_field_ref, sources.allocatable)
        else:
            continue
        made[item.path] = File(text.encode(), mode if item.mode is None else item.mode)
    return made
