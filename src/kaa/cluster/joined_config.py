"""What a node that joins a cluster is: where its files, addresses and credentials are; kept for the day it leaves."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from kaa.api.types.core_v1 import Taint
from kaa.kubelet.bootstrap import write_private

from .config import ClusterConfig, ConfigError, clusters_home
from .processes import running_pid, start_time


class JoinConfig(ClusterConfig, frozen=True, kw_only=True):
    """A node by itself. What a cluster's slot gives its own nodes, the folder's name gives this one."""

    server: str = ""
    kubeconfig: str = ""
    bootstrap_kubeconfig: str = ""
    kubelet_config: str = ""
    node_ips: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()  #: empty: the node object's
    cluster_cidrs: tuple[str, ...] = ()  #: what pods reach under their own address; empty: the node's own range
    cgroups: str = ""
    labels: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()
    register_node: bool = True
    provider_id: str = ""
    external_cloud: bool = False
    proxy_kubeconfig: str = ""  #: empty: no service proxy

    @property
    def server_url(self) -> str:
        return self.server

    @property
    def bridge(self) -> str:
        """Unique on the machine: several nodes may stand on one."""
        return f"kaa-{hashlib.sha256(self.data_dir.encode()).hexdigest()[:8]}"

    @property
    def table(self) -> str:
        return f"kaa-node-{self.node_name}"

    @property
    def cgroup_root(self) -> str:
        return self.cgroups or f"/kaa-{self.node_name}"

    @property
    def node_pod_cidr(self) -> str:
        return self.pod_cidrs[0] if self.pod_cidrs else ""

    @property
    def pod_cidr(self) -> str:
        return self.cluster_cidrs[0] if self.cluster_cidrs else self.node_pod_cidr

    @property
    def kubelet_file(self) -> Path:
        return Path(self.kubelet_config) if self.kubelet_config else self.root / "no-kubelet.yaml"

    @property
    def client_config(self) -> Path:
        """The kubeconfig that the node lives by; TLS bootstrap writes it."""
        return Path(self.kubeconfig) if self.kubeconfig else self.root / "kubelet.conf"

    @property
    def join_file(self) -> Path:
        return self.root / "node.json"


def node_folder(name: str) -> Path:
    return clusters_home() / "nodes" / name


def default_name() -> str:
    return socket.gethostname().strip().lower()


def source_address(server: str) -> str:
    """The address of this machine that a server sees: a datagram socket asks the routes, and sends nothing."""
    parts = urlsplit(server)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)
    except OSError as err:
        raise ConfigError(
            f"the API server's host {parts.hostname!r} has no address here: {err.strerror or err}"
        ) from err
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(where)
            except OSError:
                continue
            address: str = probe.getsockname()[0]
            return address
    raise ConfigError(f"there is no route to {parts.hostname}; give this node's address with --node-ip")


def write_config(config: JoinConfig) -> None:
    """Keep what the node is, for ``--leave``: it has to know what was made."""
    write_private(config.join_file, msgspec.json.format(msgspec.json.encode(config)) + b"\n")


def read_config(folder: Path) -> JoinConfig | None:
    """The node of a folder; None when there is none. Raises ConfigError."""
    try:
        return msgspec.json.decode((folder / "node.json").read_bytes(), type=JoinConfig)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as err:
        raise ConfigError(f"{folder}/node.json is damaged: {err}") from None


def claim(config: JoinConfig) -> None:
    """Be the one agent of this folder. Raises ConfigError: another runs."""
    pid_file = config.run_dir / "agent.pid"
    pid = running_pid(pid_file)
    if pid and pid != os.getpid():
        raise ConfigError(f"the agent of {config.root} runs already, as process {pid}")
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    pid_file.write_text(f"{os.getpid()} {start_time(os.getpid())}\n")
