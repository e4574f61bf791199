"""Make an image out of files, with no daemon and no registry: an OCI archive, as ``kaa image import`` reads it.

Equal content gives equal digests: times and owners are zero, entries are sorted.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}
_ACCOUNTS = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    "etc/group": b"root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
}
_FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "var/log")


def architecture() -> str:
    """This machine's architecture as images spell it: ``amd64``, ``arm64``."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def image_archive(
    path: Path,
    names: Sequence[str],
    *,
    files: Mapping[str, tuple[bytes, int]] | None = None,
    links: Mapping[str, str] | None = None,
    folders: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    user: str = "",
    working_dir: str = "",
    ports: Sequence[int] = (),
    stop_signal: str = "",
) -> Path:
    """Write an archive (OCI layout and docker manifest in one tar) that holds one image of one layer.

    Args: names: full references, ``docker.io/library/hello:latest``.
          files: {path: (content, mode)};  links: {path: symlink target}.
    """
    plain = _layer(files or {}, links or {}, folders)
    packed = gzip.compress(plain, compresslevel=6, mtime=0)
    settings: dict[str, object] = {
        "Env": [f"{key}={value}" for key, value in {"PATH": DEFAULT_PATH, **(env or {})}.items()],
        "Entrypoint": list(entrypoint),
        "Cmd": list(command),
        "User": user,
        "WorkingDir": working_dir,
        "StopSignal": stop_signal,
        "ExposedPorts": {f"{port}/tcp": {} for port in ports},
    }
    config = {
        "architecture": architecture(),
        "os": "linux",
        "config": {key: value for key, value in settings.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "kaa"}],
    }
    return _write(path, names, json.dumps(config).encode(), packed)


def busybox_archive(
    path: Path,
    names: Sequence[str] = ("docker.io/library/busybox:latest",),
    *,
    files: Mapping[str, tuple[bytes, int]] | None = None,
    env: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = ("sh",),
    user: str = "",
    working_dir: str = "",
    ports: Sequence[int] = (),
    stop_signal: str = "",
    busybox: Path = Path("/bin/busybox"),
) -> Path:
    """An image of a static busybox with its applets, and ``files`` on top. Raises FileNotFoundError without busybox."""
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    content = {"bin/busybox": (busybox.read_bytes(), 0o755)}
    content |= {name: (text, 0o644) for name, text in _ACCOUNTS.items()}
    content |= {name.lstrip("/"): entry for name, entry in (files or {}).items()}
    links = {f"bin/{applet}": "/bin/busybox" for applet in applets if f"bin/{applet}" not in content}
    return image_archive(
        path,
        names,
        files=content,
        links=links,
        folders=_FOLDERS,
        env=env,
        entrypoint=entrypoint,
        command=command,
        user=user,
        working_dir=working_dir,
        ports=ports,
        stop_signal=stop_signal,
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _layer(files: Mapping[str, tuple[bytes, int]], links: Mapping[str, str], folders: Sequence[str]) -> bytes:
    wanted = set(folders)
    for name in [*files, *links, *folders]:
        wanted.update(str(parent) for parent in PurePosixPath(name.lstrip("/")).parents if str(parent) != ".")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(wanted):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for name, (content, mode) in sorted(files.items()):
            _add(archive, name.lstrip("/"), content, mode)
        for name, target in sorted(links.items()):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(entry)
    return buffer.getvalue()


def _write(path: Path, names: Sequence[str], config: bytes, layer: bytes) -> Path:
    def descriptor(content: bytes, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
        }
    ).encode()
    entries = [
        {
            **descriptor(manifest, MANIFEST_TYPE),
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            },
        }
        for name in names
    ]
    docker = [{"Config": _blob(config), "RepoTags": list(names), "Layers": [_blob(layer)]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
        _add(archive, "manifest.json", json.dumps(docker).encode())
        for content in (manifest, config, layer):
            _add(archive, _blob(content), content)
    return path


def _blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
