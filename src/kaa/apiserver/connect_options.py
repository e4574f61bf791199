"""What a CONNECT request asks for, as an object that admission can look at: ``PodExecOptions`` and its kin.

They stand in no OpenAPI document; clients write them as query parameters.
Source: k8s.io/api/core/v1 types.go.
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import parse_qsl

from msgspec import Struct


class _Options(Struct, frozen=True, kw_only=True, omit_defaults=True):
    KIND: ClassVar[str] = ""
    API_VERSION: ClassVar[str] = "v1"


class PodAttachOptions(_Options, frozen=True, kw_only=True, omit_defaults=True):
    KIND: ClassVar[str] = "PodAttachOptions"
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
    container: str = ""


class PodExecOptions(_Options, frozen=True, kw_only=True, omit_defaults=True):
    KIND: ClassVar[str] = "PodExecOptions"
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
    container: str = ""
    command: tuple[str, ...] = ()


class PodPortForwardOptions(_Options, frozen=True, kw_only=True, omit_defaults=True):
    KIND: ClassVar[str] = "PodPortForwardOptions"
    ports: tuple[int, ...] = ()


class PodProxyOptions(_Options, frozen=True, kw_only=True, omit_defaults=True):
    KIND: ClassVar[str] = "PodProxyOptions"
    path: str = ""


class ServiceProxyOptions(_Options, frozen=True, kw_only=True, omit_defaults=True):
    KIND: ClassVar[str] = "ServiceProxyOptions"
    path: str = ""


class NodeProxyOptions(_Options, frozen=True, kw_only=True, omit_defaults=True):
    KIND: ClassVar[str] = "NodeProxyOptions"
    path: str = ""


_PROXIES: dict[str, type[Any]] = {
    "pods": PodProxyOptions,
    "services": ServiceProxyOptions,
    "nodes": NodeProxyOptions,
}


def options_of(plural: str, subresource: str, query: str, rest: str) -> Any:
    """The options in a query string. ``rest`` is what of the path comes after ``proxy``."""
    if subresource == "proxy":
        return _PROXIES[plural](path=f"/{rest}" if rest else "")
    pairs = parse_qsl(query, keep_blank_values=True)
    if subresource == "portforward":
        asked = (text for key, value in pairs if key == "ports" for text in value.split(","))
        return PodPortForwardOptions(ports=tuple(int(text) for text in asked if text.isdigit()))
    given = dict(pairs)
    flags = {name: given.get(name) in ("true", "1") for name in ("stdin", "stdout", "stderr", "tty")}
    container = given.get("container", "")
    if subresource == "attach":
        return PodAttachOptions(**flags, container=container)
    command = tuple(value for key, value in pairs if key == "command")
    return PodExecOptions(**flags, container=container, command=command)
