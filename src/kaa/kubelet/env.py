"""A container's environment, command and arguments: references resolved and ``$(VAR)`` expanded, as upstream does it.

Pure: the shell fetches the ConfigMaps, Secrets and Services; here they are looked up.
Source: kubelet_pods.go makeEnvironmentVariables, pkg/kubelet/envvars, third_party/forked/golang/expansion.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path

import structlog

from kaa.api import quantity
from kaa.api.types.core_v1 import (
    ConfigMap,
    Container,
    EnvVarSource,
    FileKeySelector,
    Pod,
    ResourceFieldSelector,
    Secret,
    Service,
)

log = structlog.get_logger(__name__)

#: Services of the default namespace that every pod sees.
MASTER_SERVICES = ("kubernetes",)


class ConfigError(Exception):
    """A container cannot be made as its spec asks: CreateContainerConfigError, with these words."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What references lead to. {(namespace is the pod's own) name: object}; absent means it does not exist."""

    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    services: tuple[Service, ...] = ()
    host_ips: tuple[str, ...] = ()
    pod_ips: tuple[str, ...] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, Path] = field(default_factory=dict)  #: where files of variables may be


def expand(text: str, known: Mapping[str, str], missing: set[str] | None = None) -> str:
    """Replace ``$(NAME)`` by what is known; unknown names stay as they are and ``$$`` is a dollar sign.

    ``$(A)-$$(A)-$(B)`` with A=1 -> ``1-$(A)-$(B)``. Names that are unknown or empty are put into ``missing``.
    """
    made: list[str] = []
    at = 0
    while (dollar := text.find("$", at)) != -1 and dollar + 1 < len(text):
        made.append(text[at:dollar])
        after = text[dollar + 1]
        closing = text.find(")", dollar + 2) if after == "(" else -1
        if after == "$":
            made.append("$")
            at = dollar + 2
        elif closing != -1:
            name = text[dollar + 2 : closing]
            made.append(known.get(name, f"$({name})"))
            if missing is not None and not known.get(name):
                missing.add(name)
            at = closing + 1
        elif after == "(":
            made.append("$(")
            at = dollar + 2
        else:
            made.append("$" + after)
            at = dollar + 2
    made.append(text[at:])
    return "".join(made)


def environment(pod: Pod, container: Container, sources: Sources) -> tuple[tuple[str, str], ...]:
    """Every variable of a container, sorted by name. Raises ConfigError when a required reference leads nowhere."""
    result: dict[str, str] = {}
    for source in container.env_from:
        prefix = source.prefix or ""
        if source.config_map_ref is not None:
            ref = source.config_map_ref
            data = _config_map(ref.name or "", bool(ref.optional), pod, sources)
            result.update({prefix + key: value for key, value in data.items()})
        if source.secret_ref is not None:
            secret_ref = source.secret_ref
            data = _secret(secret_ref.name or "", bool(secret_ref.optional), pod, sources)
            result.update({prefix + key: value for key, value in data.items()})
    services = service_variables(visible_services(pod, sources.services))
    known: dict[str, str] = dict(result)
    for variable in container.env:
        if variable.value_from is not None:
            value = _referenced(variable.value_from, pod, container, sources)
            if value is None:
                continue
        else:
            value = expand(variable.value or "", {**services, **known})
        result[variable.name] = known[variable.name] = value
    for name, value in services.items():
        result.setdefault(name, value)
    return tuple(sorted(result.items()))


def command_line(
    container: Container, known: Mapping[str, str]
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """(command, args) expanded; None where the image's own stand."""
    command = tuple(expand(word, known) for word in container.command)
    args = tuple(expand(word, known) for word in container.args)
    return command or None, args or None


def _referenced(source: EnvVarSource, pod: Pod, container: Container, sources: Sources) -> str | None:
    if source.field_ref is not None:
        return field_value(pod, source.field_ref.field_path, sources)
    if source.resource_field_ref is not None:
        return resource_value(pod, container, source.resource_field_ref, sources.allocatable)
    if source.config_map_key_ref is not None:
        ref = source.config_map_key_ref
        data = _config_map(ref.name or "", bool(ref.optional), pod, sources)
        if ref.key in data:
            return data[ref.key]
        if ref.optional:
            return None
        raise ConfigError(f"couldn't find key {ref.key} in ConfigMap {pod.metadata.namespace}/{ref.name}")
    if source.secret_key_ref is not None:
        key_ref = source.secret_key_ref
        data = _secret(key_ref.name or "", bool(key_ref.optional), pod, sources)
        if key_ref.key in data:
            return data[key_ref.key]
        if key_ref.optional:
            return None
        raise ConfigError(f"couldn't find key {key_ref.key} in Secret {pod.metadata.namespace}/{key_ref.name}")
    if source.file_key_ref is not None:
        return _from_file(source.file_key_ref, sources)
    raise ConfigError("this source of an environment variable is not supported")


def _from_file(ref: FileKeySelector, sources: Sources) -> str | None:
    """A variable that another container of the pod wrote into a file of a volume."""
    from . import env_file

    folder = sources.volumes.get(ref.volume_name)
    if folder is None:
        raise ConfigError(f'cannot find the volume "{ref.volume_name}" referenced by FileKeyRef')
    try:
        value = env_file.read(folder, ref.path, ref.key)
    except env_file.EnvFileError as err:
        log.info("environment file refused", volume=ref.volume_name, path=ref.path, error=str(err))
        raise ConfigError("couldn't parse env file") from err
    if value or ref.optional:
        return value or None
    raise ConfigError(f'environment variable key "{ref.key}" not found in file "{folder / ref.path}"')


def _config_map(name: str, optional: bool, pod: Pod, sources: Sources) -> dict[str, str]:
    found = sources.config_maps.get(name)
    if found is not None:
        return found.data
    if optional:
        return {}
    raise ConfigError(f'configmap "{name}" not found')


def _secret(name: str, optional: bool, pod: Pod, sources: Sources) -> dict[str, str]:
    found = sources.secrets.get(name)
    if found is not None:
        return {key: base64.b64decode(value).decode("utf-8", "surrogateescape") for key, value in found.data.items()}
    if optional:
        return {}
    raise ConfigError(f'secret "{name}" not found')


# -------------------------------------------------------------------------------------------------------- downward API


def field_value(pod: Pod, path: str, sources: Sources) -> str:
    """What ``fieldRef.fieldPath`` says of a pod. Raises ConfigError for a path that is not served."""
    meta = pod.metadata
    for prefix, values in (("metadata.labels", meta.labels), ("metadata.annotations", meta.annotations)):
        if path == prefix:
            return format_map(values)
        if path.startswith(prefix + "['") and path.endswith("']"):
            return values.get(path[len(prefix) + 2 : -2], "")
    plain = {
        "metadata.name": meta.name or "",
        "metadata.namespace": meta.namespace or "",
        "metadata.uid": meta.uid or "",
        "spec.nodeName": pod.spec.node_name or "",
        "spec.serviceAccountName": pod.spec.service_account_name or "",
        "status.hostIP": sources.host_ips[0] if sources.host_ips else "",
        "status.hostIPs": ",".join(sources.host_ips),
        "status.podIP": sources.pod_ips[0] if sources.pod_ips else "",
        "status.podIPs": ",".join(sources.pod_ips),
    }
    if path not in plain:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return plain[path]


def format_map(values: Mapping[str, str]) -> str:
    """Labels or annotations as downward API files hold them: ``key="value"`` a line, sorted, Go-quoted."""
    return "\n".join(f"{key}={_go_quoted(values[key])}" for key in sorted(values))


def _go_quoted(text: str) -> str:
    named = {
        "\n": "\\n",
        "\t": "\\t",
        "\r": "\\r",
        '"': '\\"',
        "\\": "\\\\",
        "\a": "\\a",
        "\b": "\\b",
        "\f": "\\f",
        "\v": "\\v",
    }
    shown = (named.get(c) or (c if c.isprintable() else f"\\u{ord(c):04x}") for c in text)
    return '"' + "".join(shown) + '"'


def resource_value(
    pod: Pod, container: Container, ref: ResourceFieldSelector, allocatable: Mapping[str, str] | None = None
) -> str:
    """``resourceFieldRef`` in units of its divisor, rounded up. A limit that is not set is the pod's, else the
    node's allocatable.
    """
    named = {c.name: c for c in (*pod.spec.init_containers, *pod.spec.containers)}
    target = named.get(ref.container_name or container.name, container)
    side, _, resource = ref.resource.partition(".")
    if side not in ("limits", "requests"):
        raise ConfigError(f"unsupported container resource : {ref.resource}")
    held = target.resources.limits if side == "limits" else target.resources.requests
    text = held.get(resource) or (target.resources.limits.get(resource) if side == "requests" else None)
    if text is None and side == "limits" and allocatable:
        whole = pod.spec.resources.limits if pod.spec.resources is not None else {}
        own = whole.get(resource) if resource in ("cpu", "memory") and resource in allocatable else None
        text = own or allocatable.get(resource)  # type: ignore[assignment]  # a Quantity is a text
    amount = quantity.parse(text) if text else Fraction(0)
    divisor = quantity.parse(ref.divisor) if ref.divisor and quantity.parse(ref.divisor) != 0 else Fraction(1)
    return str(ceil(amount / divisor))


# -------------------------------------------------------------------------------------------------------- services


def visible_services(pod: Pod, services: Iterable[Service]) -> list[Service]:
    """The services whose variables a pod gets: its namespace's (unless switched off) and ``kubernetes``."""
    links = pod.spec.enable_service_links is not False
    found: dict[str, Service] = {}
    for service in services:
        ip = service.spec.cluster_ip
        if not ip or ip == "None":
            continue
        name, namespace = service.metadata.name or "", service.metadata.namespace
        if namespace == pod.metadata.namespace and (links or (namespace == "default" and name in MASTER_SERVICES)):
            found[name] = service
        elif namespace == "default" and name in MASTER_SERVICES:
            found.setdefault(name, service)
    return [found[name] for name in sorted(found)]


def service_variables(services: Iterable[Service]) -> dict[str, str]:
    """``FOO_SERVICE_HOST`` and the docker-links family (``FOO_PORT_80_TCP_ADDR`` …) of services."""
    made: dict[str, str] = {}
    for service in services:
        name = (service.metadata.name or "").replace("-", "_").upper()
        ip, ports = service.spec.cluster_ip or "", service.spec.ports
        if not ports:
            continue
        made[f"{name}_SERVICE_HOST"] = ip
        made[f"{name}_SERVICE_PORT"] = str(ports[0].port)
        for port in ports:
            if port.name:
                made[f"{name}_SERVICE_PORT_{port.name.replace('-', '_').upper()}"] = str(port.port)
        host = f"[{ip}]" if ":" in ip else ip
        for n, port in enumerate(ports):
            protocol = port.protocol or "TCP"
            url = f"{protocol.lower()}://{host}:{port.port}"
            if n == 0:
                made[f"{name}_PORT"] = url
            prefix = f"{name}_PORT_{port.port}_{protocol.upper()}"
            made[prefix] = url
            made[f"{prefix}_PROTO"] = protocol.lower()
            made[f"{prefix}_PORT"] = str(port.port)
            made[f"{prefix}_ADDR"] = ip
    return made
