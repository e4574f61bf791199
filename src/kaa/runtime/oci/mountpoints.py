"""The lowest layer of a container's root: an empty file or folder for each thing that will be mounted there.

The OCI runtime makes what is missing, in the writable layer, where a dozen new files and copied folders cost more than the
mounts do. Here they are made once for all containers that mount at the same places. What an image has lies above and counts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import msgspec

from ..base import Mount

#: {place: whether it is a folder}
Places = dict[str, bool]
_ALWAYS = ("proc", "sys", "dev")
_LONGEST_NAME = 255


def places(mounts: Iterable[Mount]) -> Places:
    """Where ``mounts`` will be, relative to the root. What lies inside another mount is not ours to make."""
    found: Places = dict.fromkeys(_ALWAYS, True)
    asked = {os.path.normpath("/" + mount.container_path).lstrip("/"): mount for mount in mounts}
    for place in sorted(asked, key=len):
        above = [str(parent) for parent in PurePosixPath(place).parents]
        if not place or any(parent in found for parent in above) or _too_long(place):
            continue
        if asked[place].image_sub_path:  # nobody knows yet what it is
            continue
        found.setdefault(place, _shows_folder(asked[place]))
    return found


def _shows_folder(mount: Mount) -> bool:
    path = mount.host_path  # one that is missing will be made a folder
    return bool(mount.image) or path == "tmpfs" or os.path.isdir(path) or not os.path.lexists(path)


def _too_long(place: str) -> bool:
    return any(len(os.fsencode(name)) > _LONGEST_NAME for name in place.split("/"))


def identity(wanted: Places) -> str:
    """The layer's chain id."""
    return f"sha256:{hashlib.sha256(b'mountpoints' + msgspec.json.encode(sorted(wanted.items()))).hexdigest()}"


def fill(layer: Path, wanted: Places) -> None:
    """Make them, as the OCI runtime would, in an empty folder."""
    for place, is_folder in wanted.items():
        (layer / place if is_folder else (layer / place).parent).mkdir(parents=True, exist_ok=True)
        if not is_folder:
            (layer / place).touch()
    for folder, _, files in os.walk(layer):
        os.chmod(folder, 0o755)
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)
