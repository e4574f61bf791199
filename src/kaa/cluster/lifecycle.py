"""From nothing to a cluster and back: what ``kaa up``, ``down``, ``status`` and ``reset`` do.

Each is idempotent: it looks at what is there and does the rest. The control plane and the node are processes of their own
that outlive the command; they are found by pid files.
"""

from __future__ import annotations

import base64
import fcntl
import http.client
import os
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from kaa.api.clock import SystemClock
from kaa.client import kubeconfig as kubeconfigs

from . import processes
from .config import (
    ClusterConfig,
    ConfigError,
    RuntimeKind,
    data_dir_of,
    endpoint_socket,
    new_config,
    read_config,
    write_config,
)
from .pki import Pki, api_server_hosts, control_plane_profiles, node_profiles, write_private

Progress = Callable[[str], None]
PARTS = ("server", "agent")
ADDRESSES_NOT_FOR_PODS = 3  #: of a range: its own, the bridge's, the broadcast
#: What real containers need on the machine: {command: Debian package}
NEEDED = {"runc": "runc", "conmon": "conmon", "nft": "nftables"}


@dataclass(frozen=True, slots=True)
class Up:
    """What ``up`` came to."""

    config: ClusterConfig
    context: str
    kubeconfig: Path
    started: bool


def up(
    name: str,
    data_dir: str,
    *,
    kubeconfig: str = "",
    port: int = 0,
    runtime: str | None = None,
    container_runtime_endpoint: str = "",
    kubelet_config: str = "",
    credential_providers: tuple[str, str] = ("", ""),
    listen: tuple[str, ...] = (),
    runtime_config: str | None = None,
    timeout_s: float = 60.0,
    progress: Progress = lambda text: None,
) -> Up:
    """Start what does not run and wait until the node is Ready. Raises ConfigError with what to do about it."""
    folder = data_dir_of(name, data_dir)
    with _locked(folder):
        config = _decide(name, folder, port, runtime, container_runtime_endpoint, listen)
        if kubelet_config:
            config = _take_kubelet_config(config, Path(kubelet_config))
        config = with_credential_providers(config, *credential_providers)
        if runtime_config is not None:
            config = _with_runtime_config(config, runtime_config)
        progress("certificates")
        with processes.Gate() as gate:  # they load their code while we make what they will read
            started = [part for part in PARTS if _start(config, part, gate)]
            _prepare(config)
        progress("control plane")
        _wait(lambda: _answers(config), config, "server", timeout_s)
        progress(f"node {config.node_name}")
        _wait(lambda: _node_is_ready(config), config, "agent", timeout_s)
        _mark_control_plane(config)
        path = _merge_kubeconfig(config, kubeconfig)
        return Up(config, context_of(config), path, bool(started))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One command at a time on a cluster. The lock's file goes when there is no cluster (any more) to lock."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                raise BlockingIOError  # its holder removed it between our opening and our locking
        except BlockingIOError:
            raise ConfigError("another kaa command is at work on this cluster; try again when it is done") from None
        try:
            yield
        finally:
            if not folder.exists():
                path.unlink(missing_ok=True)


def _decide(
    name: str, folder: Path, port: int, runtime: str | None, endpoint: str, listen: tuple[str, ...]
) -> ClusterConfig:
    if endpoint and runtime:
        raise ConfigError("--container-runtime-endpoint names the runtime already: leave --runtime out")
    runtime = "cri" if endpoint else runtime
    config = read_config(folder)
    if config is None:
        kind = cast(RuntimeKind, runtime or "oci")
        check_machine(kind, endpoint)
        config = new_config(name, folder, port=port, runtime=kind, container_runtime_endpoint=endpoint, listen=listen)
        write_config(config)
    if endpoint:
        return with_endpoint(config, endpoint)
    wanted = {"--port": (port, config.api_port), "--runtime": (runtime, config.runtime)}
    for option, (asked, standing) in wanted.items():
        if asked and asked != standing:
            raise ConfigError(f"the cluster stands with {option} {standing}; `kaa reset` first to change it")
    return config


def _take_kubelet_config(config: ClusterConfig, file: Path) -> ClusterConfig:
    """Keep a KubeletConfiguration for the agent, and room for as many pods. Raises ConfigError for one that it could not use."""
    from kaa.kubelet.config import KubeletConfig
    from kaa.kubelet.config_file import ConfigFileError, configured

    try:
        text = file.read_text()
        wanted, _ = configured(KubeletConfig(config.node_name), text)
    except (OSError, ConfigFileError) as err:
        raise ConfigError(f"--kubelet-config {file}: {err}") from err
    if processes.running_pid(pid_file(config, "agent")) and (
        not config.kubelet_file.exists() or config.kubelet_file.read_text() != text
    ):
        raise ConfigError("the node runs with another configuration; `kaa down` first, then `kaa up --kubelet-config`")
    config.kubelet_file.write_text(text)
    return _with_room(config, wanted.max_pods)


def _with_runtime_config(config: ClusterConfig, text: str) -> ClusterConfig:
    """Keep which APIs are served. Raises ConfigError for keys that are none, and while the server serves others."""
    from kaa.apiserver.options import OptionError
    from kaa.apiserver.serving import serving_of

    try:
        serving_of(text)
    except OptionError as err:
        raise ConfigError(f"--runtime-config: {err}") from err
    if text == config.api_server.runtime_config:
        return config
    if processes.running_pid(pid_file(config, "server")):
        raise ConfigError(
            "the server runs with another --runtime-config; `kaa down` first, then `kaa up` with this one"
        )
    options = msgspec.structs.replace(config.api_server, runtime_config=text)
    config = msgspec.structs.replace(config, api_server=options)
    write_config(config)
    return config


def _with_room(config: ClusterConfig, pods: int) -> ClusterConfig:
    """A cluster whose nodes have addresses for so many pods: a /24, or as much more as that takes."""
    mask = min(24, 32 - (pods + ADDRESSES_NOT_FOR_PODS).bit_length())
    if mask >= config.node_mask:
        return config
    if (config.root / "store.db").exists():
        raise ConfigError(
            f"the node has a /{config.node_mask} of addresses, too few for {pods} pods; `kaa reset` first"
        )
    config = msgspec.structs.replace(config, node_mask=mask)
    write_config(config)
    return config


def with_credential_providers(config: ClusterConfig, file: str, programs: str) -> ClusterConfig:
    """The cluster with the programs that know credentials for images, kept. Raises ConfigError for what it could not use."""
    if not (file or programs):
        return config
    wanted = credential_programs(file, programs)
    if wanted != config.credential_providers:
        config = msgspec.structs.replace(config, credential_providers=wanted)
        write_config(config)
    return config


def credential_programs(file: str, programs: str) -> tuple[str, str]:
    """A CredentialProviderConfig and the folder of its programs. Raises ConfigError for what it could not use."""
    if not (file and programs):
        raise ConfigError(
            "--image-credential-provider-config and --image-credential-provider-bin-dir must be set together"
        )
    from kaa.kubelet.images.provider_config import read_providers

    try:
        read_providers(Path(file).absolute(), Path(programs).absolute())
    except ValueError as err:
        raise ConfigError(f"--image-credential-provider-config {file}: {err}") from err
    return str(Path(file).absolute()), str(Path(programs).absolute())


def with_endpoint(config: ClusterConfig, endpoint: str) -> ClusterConfig:
    """A cluster whose CRI runtime is reached at ``endpoint`` from now on. Raises ConfigError when it has another kind."""
    endpoint_socket(endpoint)
    if config.runtime != "cri":
        raise ConfigError(
            f"the cluster stands with runtime {config.runtime}, not with one at an endpoint; `kaa reset` first to change it"
        )
    if endpoint != config.container_runtime_endpoint:
        config = msgspec.structs.replace(config, container_runtime_endpoint=endpoint)
        write_config(config)
    return config


def check_machine(runtime: str, endpoint: str = "") -> None:
    """Raise ConfigError, in one sentence, when this machine cannot run containers."""
    if runtime == "simulated":
        return
    if os.geteuid() != 0:
        raise ConfigError(
            "real containers need root: run it with sudo, or take `kaa up --runtime simulated` for a control plane and"
            " a node that only pretends"
        )
    if endpoint and not endpoint_socket(endpoint).is_socket():
        raise ConfigError(f"no container runtime listens at {endpoint}; start it first")
    needed = {"nft": NEEDED["nft"]} if endpoint else NEEDED
    missing = [package for command, package in needed.items() if _which(command) is None]
    if missing:
        raise ConfigError(
            f"missing on this machine: {', '.join(missing)}; `apt-get install {' '.join(missing)}` brings them"
        )


def _which(command: str) -> str | None:
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")


def _prepare(config: ClusterConfig) -> None:
    """Folders, certificates and the administrator's kubeconfig."""
    for folder in (config.root, config.log_dir, config.run_dir):
        folder.mkdir(parents=True, exist_ok=True)
    pki = Pki(config.pki_dir, SystemClock())
    hosts = api_server_hosts(config.api_service_ip, (config.node_name, config.node_ip, *config.listen))
    made = pki.ensure((*control_plane_profiles(hosts), *node_profiles(config.node_name, (config.node_ip,))))
    if made or not config.admin_kubeconfig.exists():
        write_private(config.admin_kubeconfig, _kubeconfig_text(config, pki))


def _kubeconfig_text(config: ClusterConfig, pki: Pki) -> bytes:
    import yaml

    def data(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    name = context_of(config)
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": config.server_url, "certificate-authority-data": data(pki.ca)}}
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": data(pki.cert("admin")),
                    "client-key-data": data(pki.key("admin")),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
        "preferences": {},
    }
    return yaml.safe_dump(document, sort_keys=False).encode()


def context_of(config: ClusterConfig) -> str:
    """The context's name: ``kaa``, or ``kaa-NAME`` for a cluster of another name."""
    return config.name if config.name == "kaa" else f"kaa-{config.name}"


def _merge_kubeconfig(config: ClusterConfig, kubeconfig: str) -> Path:
    path = Path(kubeconfig) if kubeconfig else kubeconfigs.paths()[0]
    kubeconfigs.add(path, kubeconfigs.load([config.admin_kubeconfig]))
    return path


# -------------------------------------------------------------------------------------------------------- processes


def pid_file(config: ClusterConfig, part: str) -> Path:
    return config.run_dir / f"{part}.pid"


def _start(config: ClusterConfig, part: str, gate: processes.Gate) -> bool:
    """Start a part unless it runs; True if it was started."""
    if processes.running_pid(pid_file(config, part)):
        return False
    arguments = [part, "--name", config.name, "--data-dir", config.data_dir, "--log-files", "--hold"]
    processes.spawn(arguments, pid_file(config, part), config.log_dir / f"{part}.out", gate=gate)
    return True


def _wait(done: Callable[[], bool], config: ClusterConfig, part: str, timeout_s: float) -> None:
    """Wait until ``done``; a part that died or took too long is an error that shows its last words."""
    deadline = time.monotonic() + timeout_s
    while not done():
        alive = processes.running_pid(pid_file(config, part))
        if not alive or time.monotonic() > deadline:
            logs = {"server": "kube-apiserver", "agent": "kubelet"}
            from .logs import tail  # with all that a log needs, which `up` does not

            words = tail(config.log_dir / f"{part}.out", 15) or tail(config.log_dir / f"{logs[part]}.log", 15)
            what = "ended" if not alive else f"was not ready within {timeout_s:.0f} s"
            again = f" --name {config.name}" if config.name != "kaa" else ""
            raise ConfigError(
                f"the {part} {what}; `kaa logs{again} {logs[part]}` tells more\n" + "\n".join(f"  {w}" for w in words)
            )
        time.sleep(0.02)


class Api:
    """A few plain requests as the administrator, without a client library: ``kaa up`` is to be fast."""

    def __init__(self, config: ClusterConfig, timeout_s: float = 5.0) -> None:
        pki = Pki(config.pki_dir, SystemClock())
        context = ssl.create_default_context(cafile=str(pki.ca))
        context.load_cert_chain(pki.cert("admin"), pki.key("admin"))
        self._connection = http.client.HTTPSConnection("127.0.0.1", config.api_port, timeout=timeout_s, context=context)

    def get(self, path: str) -> tuple[int, bytes]:
        """(status, body). Raises OSError when nobody answers."""
        return self.ask("GET", path)

    def ask(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        self._connection.request(method, path, body=body or None, headers=headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        self._connection.close()


def _answers(config: ClusterConfig) -> bool:
    api = Api(config)
    try:
        return api.get("/readyz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        api.close()


def node_state(config: ClusterConfig) -> dict[str, Any] | None:
    """The node's object; None when it is not registered or nobody answers."""
    api = Api(config)
    try:
        status, body = api.get(f"/api/v1/nodes/{config.node_name}")
        return msgspec.json.decode(body) if status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        api.close()


def _mark_control_plane(config: ClusterConfig) -> None:
    """Give the node its role. A kubelet may not say this of itself (NodeRestriction), so the administrator does."""
    api = Api(config)
    try:
        patch = b'{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}'
        api.ask("PATCH", f"/api/v1/nodes/{config.node_name}", patch, "application/merge-patch+json")
    finally:
        api.close()


def _is_ready(node: dict[str, Any] | None) -> bool:
    conditions = (node or {}).get("status", {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _node_is_ready(config: ClusterConfig) -> bool:
    """Ready, and said so by the agent that runs now: an older life's word does not count."""
    node = node_state(config)
    if not _is_ready(node):
        return False
    assert node is not None
    return bool((config.run_dir / "agent.sock").exists())


# -------------------------------------------------------------------------------------------------------- down, status


def down(config: ClusterConfig, progress: Progress = lambda text: None) -> bool:
    """Stop the containers, the agent and the server. True if anything ran."""
    with _locked(config.root):
        ran = [processes.stop(pid_file(config, part)) for part in reversed(PARTS)]
        if config.runtime != "simulated" and os.geteuid() == 0:
            from .teardown import stop_containers

            stop_containers(config, progress)
        return any(ran)


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    state: str
    pid: int = 0
    rss_bytes: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    parts: tuple[Part, ...]
    healthy: bool


def status(config: ClusterConfig) -> Status:
    """What runs, and how it is."""
    parts = []
    for part in PARTS:
        pid = processes.running_pid(pid_file(config, part))
        detail = f"API at {config.server_url}" if part == "server" else _runtime_shown(config)
        parts.append(Part(part, "running" if pid else "stopped", pid, processes.resident_bytes(pid), detail))
    node = node_state(config) if parts[0].pid else None
    ready = _is_ready(node)
    if node is not None:
        version = node["status"].get("nodeInfo", {}).get("kubeletVersion", "")
        parts.append(Part(f"node {config.node_name}", "Ready" if ready else "NotReady", detail=version))
    return Status(tuple(parts), bool(ready and all(part.pid for part in parts[:2])))


def _runtime_shown(config: ClusterConfig) -> str:
    return f"runtime {config.runtime} {config.container_runtime_endpoint}".rstrip()


def reset(name: str, data_dir: str, *, kubeconfig: str = "", progress: Progress = lambda text: None) -> bool:
    """Remove a cluster and everything it made; True if there was one."""
    folder = data_dir_of(name, data_dir)
    config = read_config(folder)
    if config is None:
        return False
    with _locked(folder):
        for part in reversed(PARTS):
            processes.stop(pid_file(config, part))
        from .teardown import remove_everything

        remove_everything(config, progress)
        path = Path(kubeconfig) if kubeconfig else kubeconfigs.paths()[0]
        if path.exists():
            kubeconfigs.remove(path, context_of(config))
    return True
