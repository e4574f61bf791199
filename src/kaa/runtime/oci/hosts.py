"""Where an image's registry is asked for: mirrors, insecure registries, own authorities, from containerd's hosts files.

``FOLDER/<registry>/hosts.toml`` speaks of one registry, ``FOLDER/_default/hosts.toml`` of those without a folder of
their own. It is read as a pull begins, so a change needs no restart::

    server = "https://registry.example"          # asked last; left out: the registry itself

    [host."https://mirror.example:5000"]         # asked first; hosts are tried as they stand in the file
    capabilities = ["pull", "resolve"]           # left out: everything
    ca = "mirror.crt"                            # beside the file; added to the system's authorities

Source: containerd docs/hosts.md; core/remotes/docker/config/hosts.go.
"""

from __future__ import annotations

import contextlib
import ipaddress
import posixpath
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

_HUB = "registry-1.docker.io"
T = TypeVar("T")
_CAPABILITIES = ("pull", "resolve", "push")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place to ask. ``url`` has the path that stands before a repository's (``/v2``) and no slash at its end."""

    url: str
    proxy: bool = False  #: not the registry itself: it is told whose image is meant
    resolve: bool = True  #: may say which image a tag names
    pull: bool = True  #: may give what a digest names
    headers: tuple[tuple[str, str], ...] = ()  #: sent with every request, names may repeat
    tls: ssl.SSLContext | bool = field(default=True, compare=False)  #: True: the system's authorities

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


class _Host(msgspec.Struct, frozen=True, kw_only=True):
    """What a hosts file says of one host; at its top level, of ``server``."""

    capabilities: tuple[str, ...] = ()
    skip_verify: bool = False
    ca: str | tuple[str, ...] = ()
    client: str | tuple[str | tuple[str, ...], ...] = ()
    header: Mapping[str, str | tuple[str, ...]] = {}
    override_path: bool = False


class _HostsFile(_Host, frozen=True, kw_only=True):
    server: str = ""
    host: Mapping[str, _Host] = {}


def endpoints(folder: Path | None, registry: str) -> list[Endpoint]:
    """Where to ask for images of ``registry``, in order. Blocks, shortly.

    Raises: ValueError, with the path, on a hosts file or certificate that cannot be used.
    """
    path = _hosts_path(folder, registry) if folder else None
    if path is None:
        return [Endpoint(_own_url(registry, _Host()))]
    import tomllib  # only nodes with such files

    try:
        content = msgspec.convert(tomllib.loads(path.read_text()), _HostsFile)
        return list(_read(content, registry, path.parent))
    except (ValueError, OSError) as err:
        raise ValueError(f"invalid hosts file {path}: {err}") from err


def _hosts_path(folder: Path, registry: str) -> Path | None:
    """The file of the first folder that is there; one without a file says that nothing is to be changed."""
    for name in (*_folder_names(registry), "_default"):
        if (folder / name).is_dir():
            path = folder / name / "hosts.toml"
            return path if path.exists() else None
    return None


def _folder_names(registry: str) -> Iterator[str]:
    """``host_port_`` stands for ``host:port`` where a colon is awkward."""
    host, colon, port = registry.rpartition(":")
    if colon and port.isdigit():
        yield f"{host}_{port}_"
    yield registry


def _read(content: _HostsFile, registry: str, beside: Path) -> Iterator[Endpoint]:
    own = _own_url(registry, content)
    for url, host in content.host.items():
        yield _endpoint(_with_path(url, host), host, own, beside)
    yield _endpoint(_with_path(content.server, content) if content.server else own, content, own, beside)


def _endpoint(url: str, host: _Host, own: str, beside: Path) -> Endpoint:
    for name in host.capabilities:
        if name not in _CAPABILITIES:
            raise ValueError(f"unknown capability {name}")
    able = host.capabilities or _CAPABILITIES
    headers = tuple((name, text) for name, given in host.header.items() for text in _several(given))
    proxy = urlsplit(url).netloc != urlsplit(own).netloc
    return Endpoint(url, proxy, "resolve" in able, "pull" in able, headers, _tls(host, beside))


def _with_path(url: str, host: _Host) -> str:
    """``mirror:5000`` -> ``https://mirror:5000/v2``; a path given with ``override_path`` is left as it is."""
    parts = urlsplit(url if url.startswith(("http://", "https://")) else f"https://{url}")
    if not parts.hostname:
        raise ValueError(f"host {url!r} has no name")
    path = posixpath.normpath(parts.path).rstrip("/") if parts.path else ""
    if not host.override_path and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _own_url(registry: str, host: _Host) -> str:
    """The registry itself. Loopback speaks http, unless the file says how its TLS is to be done."""
    secure = not is_loopback(registry) or host.skip_verify or host.ca or host.client
    name = _HUB if registry == "docker.io" else registry
    return f"{'https' if secure else 'http'}://{name}/v2"


def _tls(host: _Host, beside: Path) -> ssl.SSLContext | bool:
    if not (host.skip_verify or host.ca or host.client):
        return True
    context = ssl.create_default_context()
    for name in _several(host.ca):
        context.load_verify_locations(beside / name)
    for certificate, key in _client_pairs(host.client):
        context.load_cert_chain(beside / certificate, beside / key if key else None)
    if host.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _client_pairs(client: str | tuple[str | tuple[str, ...], ...]) -> Iterator[tuple[str, str]]:
    """(certificate, key); no key when one file holds both."""
    for entry in _several(client):
        pair = (entry,) if isinstance(entry, str) else entry
        if not 1 <= len(pair) <= 2:
            raise ValueError(f"client is a certificate, or a certificate and its key: {list(pair)}")
        yield pair[0], pair[1] if len(pair) == 2 else ""


def _several(given: str | tuple[T, ...]) -> tuple[str | T, ...]:
    return (given,) if isinstance(given, str) else given


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine: ``localhost``, ``127.0.0.0/8``, ``[::1]``."""
    match = re.fullmatch(r"\[([0-9a-fA-F:]+)\](?::\d+)?|([^:]+)(?::\d+)?", host)
    if not match:
        return False
    name = match[1] or match[2]
    if name == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return False
