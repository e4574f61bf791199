"""What a cluster on this machine is: its name, folders, addresses and ports, kept in one file.

``kaa up`` decides once and writes ``config.json``; every later command reads it. Several clusters stand side by side, so
each takes its own ports and address ranges: the first free slot.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Literal

import msgspec

from kaa.apiserver.options import ApiServerOptions

DEFAULT_NAME = "kaa"
#: Our own runtime, any that serves the CRI, or one that only pretends.
RuntimeKind = Literal["oci", "cri", "simulated"]
API_PORT, KUBELET_PORT = 6443, 10250
DOMAIN = "cluster.local"


class ConfigError(Exception):
    """The cluster cannot be what was asked; the message says what to do."""


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster. ``slot`` numbers the clusters of this machine and gives each its address ranges."""

    name: str
    data_dir: str
    slot: int = 0
    api_port: int = API_PORT
    kubelet_port: int = KUBELET_PORT
    node_name: str = ""
    node_ip: str = ""
    runtime: RuntimeKind = "oci"
    container_runtime_endpoint: str = ""  #: of runtime ``cri``: ``unix:///run/containerd/containerd.sock``
    credential_providers: tuple[str, str] | None = None  #: their configuration, and the folder of their programs
    listen: tuple[str, ...] = ("127.0.0.1",)
    domain: str = DOMAIN
    node_mask: int = 24  #: how long the prefix of a node's pods is
    api_server: ApiServerOptions = ApiServerOptions()

    @property
    def root(self) -> Path:
        return Path(self.data_dir)

    @property
    def pki_dir(self) -> Path:
        return self.root / "pki"

    @property
    def log_dir(self) -> Path:
        return self.root / "logs"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.root / "admin.kubeconfig"

    @property
    def service_cidr(self) -> str:
        return f"10.{96 + self.slot}.0.0/16"

    @property
    def pod_cidr(self) -> str:
        """The range of this cluster's pods, of which each node gets a part."""
        return f"10.{244 - self.slot}.0.0/16"

    @property
    def node_pod_cidr(self) -> str:
        return str(next(ipaddress.ip_network(self.pod_cidr).subnets(new_prefix=self.node_mask)))

    @property
    def api_service_ip(self) -> str:
        return f"10.{96 + self.slot}.0.1"

    @property
    def dns_service_ip(self) -> str:
        return f"10.{96 + self.slot}.0.10"

    @property
    def gateway_ip(self) -> str:
        """The node's own address on the pods' bridge."""
        return str(next(ipaddress.ip_network(self.node_pod_cidr).hosts()))

    @property
    def bridge(self) -> str:
        """An interface name has 15 characters at most, so the slot stands for the cluster."""
        return f"kaa{self.slot}"

    @property
    def cgroup_root(self) -> str:
        return f"/kaa-{self.name}"

    @property
    def table(self) -> str:
        """The name of this cluster's nftables tables."""
        return f"kaa-{self.name}"

    @property
    def kubelet_file(self) -> Path:
        """The KubeletConfiguration that ``kaa up --kubelet-config`` gave, if it gave one; read when the agent starts."""
        return self.root / "kubelet.yaml"

    @property
    def server_url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def advertised_url(self) -> str:
        """Where pods and others who are not on this machine reach the API server."""
        host = self.node_ip or "127.0.0.1"
        return f"https://{f'[{host}]' if ':' in host else host}:{self.api_port}"


def endpoint_socket(endpoint: str) -> Path:
    """The socket of ``unix:///run/containerd/containerd.sock``, or of its bare path. Raises ConfigError."""
    path = Path(endpoint.removeprefix("unix://"))
    if not path.is_absolute():
        raise ConfigError(f"{endpoint!r} is no endpoint: give unix:// and the path of the runtime's socket")
    return path


def clusters_home() -> Path:
    """Where clusters live unless ``--data-dir`` says otherwise."""
    given = os.environ.get("KAA_HOME")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/kaa")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "kaa"


def data_dir_of(name: str, data_dir: str = "") -> Path:
    return Path(data_dir).absolute() if data_dir else clusters_home() / name


def read_config(data_dir: Path) -> ClusterConfig | None:
    """The cluster in a folder; None when there is none."""
    try:
        return msgspec.json.decode((data_dir / "config.json").read_bytes(), type=ClusterConfig)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as err:
        raise ConfigError(f"{data_dir}/config.json is damaged ({err}); `kaa reset` removes the cluster") from None


def write_config(config: ClusterConfig) -> None:
    config.root.mkdir(parents=True, exist_ok=True)
    pending = config.root / "config.json.new"
    pending.write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")
    pending.replace(config.root / "config.json")


def known_clusters() -> list[ClusterConfig]:
    """Every cluster in the usual place, by slot."""
    home = clusters_home()
    found = [read_config(path) for path in sorted(home.iterdir()) if path.is_dir()] if home.is_dir() else []
    return sorted((config for config in found if config is not None), key=lambda config: config.slot)


def new_config(
    name: str,
    data_dir: Path,
    *,
    port: int = 0,
    runtime: RuntimeKind = "oci",
    container_runtime_endpoint: str = "",
    listen: tuple[str, ...] = (),
) -> ClusterConfig:
    """Decide a new cluster: the first free slot, the first free ports.

    Raises: ConfigError: the port that was asked for is taken, or sixteen clusters stand already.
    """
    others = known_clusters()
    taken = {config.slot for config in others}
    slot = next((n for n in range(16) if n not in taken), None)
    if slot is None:
        raise ConfigError("sixteen clusters stand already; `kaa reset --name NAME` removes one")
    reserved = {config.api_port for config in others} | {config.kubelet_port for config in others}
    node_ip = primary_address()
    if port and not _is_free(port):
        raise ConfigError(f"port {port} is taken; give another one with --port")
    return ClusterConfig(
        name=name,
        data_dir=str(data_dir),
        slot=slot,
        api_port=port or _free_port(API_PORT, reserved),
        kubelet_port=_free_port(KUBELET_PORT, reserved),
        node_name=socket.gethostname().lower().split(".")[0] or "node",
        node_ip=node_ip,
        runtime=runtime,
        container_runtime_endpoint=container_runtime_endpoint,
        listen=listen or tuple(dict.fromkeys(("127.0.0.1", node_ip))),
    )


def _free_port(first: int, reserved: set[int]) -> int:
    return next(port for port in range(first, first + 1000) if port not in reserved and _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def primary_address() -> str:
    """The address that this machine shows to others: the source of its default route, else loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: a datagram socket sends nothing by this
            found: str = probe.getsockname()[0]
            return found
        except OSError:
            return "127.0.0.1"
