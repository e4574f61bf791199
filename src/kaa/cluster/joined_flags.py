"""A node that joins, as the command's flags describe it; refusals say what to give instead."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kaa.api import names
from kaa.api.types.core_v1 import Taint

from .config import ConfigError, endpoint_socket
from .joined_config import JoinConfig, source_address
from .joined_credentials import lives_by, read_access


def asked(name: str, folder: Path, flags: Mapping[str, Any]) -> JoinConfig:
    """The node that the command's flags describe. Raises ConfigError."""
    if names.dns_subdomain(name):
        raise ConfigError(
            f"{name!r} cannot name a node: lower-case letters, digits, '-' and '.' only; give --node-name"
        )
    config = JoinConfig(
        name=f"node-{name}",
        data_dir=str(folder),
        node_name=name,
        kubelet_port=flags["port"],
        runtime="cri" if flags["container_runtime_endpoint"] else flags["runtime"],
        container_runtime_endpoint=flags["container_runtime_endpoint"],
        kubeconfig=_absolute(flags["kubeconfig"]),
        bootstrap_kubeconfig=_absolute(flags["bootstrap_kubeconfig"]),
        kubelet_config=_absolute(flags["kubelet_config"]),
        pod_cidrs=_ranges("--pod-cidr", flags["pod_cidr"]),
        cluster_cidrs=_ranges("--cluster-cidr", flags["cluster_cidr"]),
        cgroups=flags["cgroup_root"],
        labels=node_labels(flags["node_labels"]),
        taints=node_taints(flags["register_with_taints"]),
        register_node=flags["register_node"],
        provider_id=flags["provider_id"],
        external_cloud=flags["cloud_provider"] == "external",
        proxy_kubeconfig=_proxy_file(flags),
        credential_providers=_providers(flags),
    )
    if config.container_runtime_endpoint:
        endpoint_socket(config.container_runtime_endpoint)
    access = lives_by(config) or read_access(Path(config.bootstrap_kubeconfig), "bootstrap kubeconfig")
    ips = tuple(_address(text) for text in flags["node_ip"].split(",") if text) or (source_address(access.server),)
    return msgspec.structs.replace(config, node_ips=ips, node_ip=ips[0], server=access.server)


def _providers(flags: Mapping[str, Any]) -> tuple[str, str] | None:
    """The programs that know credentials for images, looked at before anything begins."""
    file, programs = flags["image_credential_provider_config"], flags["image_credential_provider_bin_dir"]
    if not (file or programs):
        return None
    from .lifecycle import credential_programs

    return credential_programs(file, programs)


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def _proxy_file(flags: Mapping[str, Any]) -> str:
    if not flags["proxy"]:
        return ""
    if not flags["proxy_kubeconfig"]:
        raise ConfigError(
            "--proxy needs --proxy-kubeconfig FILE: credentials that may list services and endpoint slices, as the user"
            " system:kube-proxy may; those of a kubelet may not"
        )
    return _absolute(flags["proxy_kubeconfig"])


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError as err:
        raise ConfigError(f"--node-ip: {err}") from None


def _ranges(flag: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(one.strip())) for one in text.split(",") if one)
    except ValueError as err:
        raise ConfigError(f"{flag}: {err}") from None


#: Labels of Kubernetes' own that a node may give itself. Source: kubelet apis/well_known_labels.go.
_OWN_LABELS = frozenset(
    """beta.kubernetes.io/arch beta.kubernetes.io/instance-type beta.kubernetes.io/os
    failure-domain.beta.kubernetes.io/region failure-domain.beta.kubernetes.io/zone kubernetes.io/arch
    kubernetes.io/hostname kubernetes.io/os node.kubernetes.io/instance-type topology.kubernetes.io/region
    topology.kubernetes.io/zone""".split()
)
_OWN_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")


def node_labels(text: str) -> dict[str, str]:
    """``a=b,c=d`` as labels. Raises ConfigError, as upstream's kubelet does, for those that only others may give a node."""
    found: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--node-labels: {pair!r} is no KEY=VALUE")
        found[key.strip()] = value.strip()
    unknown = sorted(key for key in found if not _may_label(key))
    if unknown:
        raise ConfigError(
            f"unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{' '.join(unknown)}]\n"
            f"--node-labels in the 'kubernetes.io' namespace must begin with an allowed prefix ({', '.join(_OWN_PREFIXES)})"
            f" or be in the specifically allowed set ({', '.join(sorted(_OWN_LABELS))})"
        )
    return found


def _may_label(key: str) -> bool:
    domain = key.rpartition("/")[0]
    if not any(domain == end or domain.endswith(f".{end}") for end in ("kubernetes.io", "k8s.io")):
        return True
    return key in _OWN_LABELS or any(domain == one or domain.endswith(f".{one}") for one in _OWN_PREFIXES)


def node_taints(text: str) -> tuple[Taint, ...]:
    """``key=value:Effect,…`` as taints. Raises ConfigError."""
    found = []
    for one in filter(None, text.split(",")):
        pair, colon, effect = one.rpartition(":")
        key, _, value = pair.partition("=")
        if not colon or not key or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            raise ConfigError(
                f"invalid taint spec: {one}: it is KEY=VALUE:EFFECT, with NoSchedule, PreferNoSchedule or NoExecute"
            )
        found.append(Taint(key=key, value=value or None, effect=effect))
    return tuple(found)
