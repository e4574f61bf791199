"""A container of a pod as the runtime is told to make it: mounts, environment, limits, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from kaa.api.types.core_v1 import Pod, VolumeMount
from kaa.runtime.base import ContainerConfig, Device, HandlerFeatures, IdMap, Image, Mount, SandboxConfig

from . import security
from .cgroups import container_resources
from .config import KubeletConfig
from .env import ConfigError, Sources, command_line, environment, expand
from .memory_rules import Rules
from .pod_plan import BACKOFF_ANNOTATION, HASH_ANNOTATION, LIFE_ANNOTATION, StartContainer, container_hash, grace_of
from .resolv import Resolved
from .volumes import subpath
from .volumes.manager import Prepared
from .volumes.mounts import Mounter

log = structlog.get_logger(__name__)
POD_NAME, POD_NAMESPACE, POD_UID = "io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
MESSAGE_PATH, MESSAGE_POLICY = (
    "io.kubernetes.container.terminationMessagePath",
    "io.kubernetes.container.terminationMessagePolicy",
)
EMPTY: Mapping[str, str] = {}
_PROPAGATION = {"HostToContainer": "host_to_container", "Bidirectional": "bidirectional"}


def pod_labels(pod: Pod) -> dict[str, str]:
    return {
        **pod.metadata.labels,
        POD_NAME: pod.metadata.name or "",
        POD_NAMESPACE: pod.metadata.namespace or "",
        POD_UID: pod.metadata.uid or "",
    }


def log_directory(config: KubeletConfig, pod: Pod) -> Path:
    return config.pod_log_root / f"{pod.metadata.namespace}_{pod.metadata.name}_{pod.metadata.uid}"


def sandbox_config(
    pod: Pod,
    config: KubeletConfig,
    attempt: int,
    cgroup_parent: str,
    handler: str = "",
    users: tuple[IdMap, ...] = (),
) -> SandboxConfig:
    """A pod's shell. ``users``: its range of the node's ids, if it is to have a user namespace."""
    name, _ = security.hostname(pod, config.cluster_domain, config.hostname or config.node_name)
    return SandboxConfig(
        name=pod.metadata.name or "",
        namespace=pod.metadata.namespace or "",
        uid=pod.metadata.uid or "",
        attempt=attempt,
        hostname=name,
        log_directory=str(log_directory(config, pod)),
        dns=pod_dns(pod, config).dns,
        ports=security.port_mappings(pod),
        namespaces=security.namespaces(pod, users),
        sysctls=security.sysctls(pod),
        cgroup_parent=cgroup_parent,
        runtime_handler=handler,
        privileged=security.holds_privileged(pod),
        labels=pod_labels(pod),
        annotations=dict(pod.metadata.annotations),
    )


def pod_dns(pod: Pod, config: KubeletConfig) -> Resolved:
    """A pod's resolv.conf, and the events that say what did not fit in."""
    if config.pod_dns is None:
        return Resolved(config.host_dns)
    return config.pod_dns(
        pod, cluster_dns=config.cluster_dns, cluster_domain=config.cluster_domain, host=config.host_dns
    )


def container_config(
    pod: Pod,
    spec: Any,
    action: StartContainer,
    config: KubeletConfig,
    *,
    image: Image,
    sources: Sources,
    volumes: Prepared,
    pod_dir: Path,
    memory_capacity_bytes: int,
    features: HandlerFeatures,
    memory: Rules,
    pid_target: str = "",
    image_volumes: Mapping[str, str] = EMPTY,
) -> ContainerConfig:
    """Put a container together. Makes the files it mounts (hosts, termination log). Raises ConfigError.

    Args:   image_volumes: {volume: id of the image that it is}.
    """
    confined = security.security(
        pod, spec, seccomp_root=str(config.root / "seccomp"), seccomp_default=config.seccomp_default
    )
    security.check_non_root(pod, spec, confined, image.user)
    env = environment(pod, spec, replace(sources, volumes=volumes.paths))
    command, args = command_line(spec, dict(env))
    annotations = {
        HASH_ANNOTATION: container_hash(spec),
        "io.kubernetes.container.restartCount": str(action.attempt),
        MESSAGE_PATH: spec.termination_message_path or "/dev/termination-log",
        MESSAGE_POLICY: spec.termination_message_policy or "File",
        "io.kubernetes.pod.terminationGracePeriod": f"{grace_of(pod):g}",
    }
    if action.backoff is not None:
        annotations[BACKOFF_ANNOTATION] = str(action.backoff)
    if action.life:
        annotations[LIFE_ANNOTATION] = str(action.life)
    return ContainerConfig(
        name=spec.name,
        image=image.id,
        attempt=action.attempt,
        command=command,
        args=args,
        working_dir=spec.working_dir or "",
        env=env,
        mounts=_mounts(
            pod, spec, action.attempt, config, dict(env), volumes, pod_dir, sources, features, image_volumes
        ),
        devices=_block_devices(spec, volumes),
        resources=memory.apply(
            pod,
            spec,
            container_resources(pod, spec, memory_capacity_bytes=memory_capacity_bytes, pids_limit=config.pids_limit),
        ),
        security=confined,
        stdin=bool(spec.stdin),
        stdin_once=bool(spec.stdin_once),
        tty=bool(spec.tty),
        stop_signal=(spec.lifecycle.stop_signal or "") if spec.lifecycle is not None else "",
        pid_target=pid_target,
        log_path=f"{spec.name}/{action.attempt}.log",
        labels={**pod_labels(pod), CONTAINER_NAME: spec.name},
        annotations=annotations,
    )


def message_file(pod_dir: Path, name: str, attempt: int) -> Path:
    return pod_dir / "containers" / name / f"termination-{attempt}"


def _mounts(
    pod: Pod,
    spec: Any,
    attempt: int,
    config: KubeletConfig,
    env: Mapping[str, str],
    volumes: Prepared,
    pod_dir: Path,
    sources: Sources,
    features: HandlerFeatures,
    image_volumes: Mapping[str, str],
) -> tuple[Mount, ...]:
    made = []
    for index, mount in enumerate(spec.volume_mounts):
        if mount.name in image_volumes:
            made.append(_image_mount(mount, env, image_volumes[mount.name]))
            continue
        if mount.name not in volumes.paths:
            raise ConfigError(f'cannot find volume "{mount.name}" to mount into container "{spec.name}"')
        path = volumes.paths[mount.name]
        inner = _inner(mount, env)
        if inner:
            target = pod_dir / "volume-subpaths" / mount.name / spec.name / str(index)
            path = sub_path(path, inner, target, spec.name, mount.name, config.mounter)
        made.append(
            Mount(
                host_path=str(path),
                container_path=mount.mount_path if mount.mount_path.startswith("/") else "/" + mount.mount_path,
                read_only=bool(mount.read_only) or mount.name in volumes.read_only,
                recursive_read_only=recursive_read_only(mount, features),
                propagation=_PROPAGATION.get(mount.mount_propagation or "", "private"),  # type: ignore[arg-type]  # closed set
            )
        )
    taken = {m.container_path for m in made}
    if "/etc/hosts" not in taken and (sources.pod_ips or pod.spec.host_network):
        made.append(Mount(str(_hosts(pod, config, pod_dir, sources)), "/etc/hosts"))
    message_path = spec.termination_message_path or "/dev/termination-log"
    file = message_file(pod_dir, spec.name, attempt)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    file.chmod(0o666)
    made.append(Mount(str(file), message_path))
    return tuple(made)


def _image_mount(mount: VolumeMount, env: Mapping[str, str], image_id: str) -> Mount:
    """An image's files, which the runtime finds: the kubelet has no path to look at."""
    path = mount.mount_path if mount.mount_path.startswith("/") else "/" + mount.mount_path
    return Mount("", path, read_only=True, image=image_id, image_sub_path=_inner(mount, env))


def recursive_read_only(mount: VolumeMount, features: HandlerFeatures) -> bool:
    """Whether what is mounted inside a volume is read-only, too. Raises ConfigError. Source: resolveRecursiveReadOnly."""
    wanted = mount.recursive_read_only or "Disabled"
    if wanted == "Disabled":
        return False
    fault = ""
    if not mount.read_only:
        fault = "it is not read-only"
    elif mount.mount_propagation not in (None, "None"):
        fault = f'it is not compatible with propagation "{mount.mount_propagation}"'
    elif wanted == "Enabled" and not features.recursive_read_only:
        fault = "it is not supported by the runtime"
    if fault:
        raise ConfigError(
            f'failed to resolve recursive read-only mode: volume "{mount.name}" requested recursive read-only mode,'
            f" but {fault}"
        )
    return features.recursive_read_only


def _block_devices(spec: Any, volumes: Prepared) -> tuple[Device, ...]:
    """The devices of a container's block volumes. Source: kubelet_pods.go makeBlockVolumes."""
    made = []
    for device in spec.volume_devices:
        if not device.device_path.startswith("/"):
            raise ConfigError(f"error DevicePath `{device.device_path}` must be an absolute path")
        path = volumes.devices.get(device.name)
        if path is None:
            raise ConfigError(f'cannot find volume "{device.name}" to pass into container "{spec.name}"')
        made.append(Device(str(path), device.device_path, "r" if device.name in volumes.read_only else "mrw"))
    return tuple(made)


def _inner(mount: VolumeMount, env: Mapping[str, str]) -> str:
    """The path inside the volume. Source: pkg/kubelet/container ExpandContainerVolumeMounts."""
    if not mount.sub_path_expr:
        return mount.sub_path or ""
    missing: set[str] = set()
    expanded = expand(mount.sub_path_expr, env, missing)
    if missing:
        raise ConfigError(f"missing value for {', '.join(sorted(missing))}")
    return expanded


def _hosts(pod: Pod, config: KubeletConfig, pod_dir: Path, sources: Sources) -> Path:
    node_hosts = None
    if pod.spec.host_network:
        own = Path("/etc/hosts")
        node_hosts = own.read_text(encoding="utf-8") if own.exists() else ""
    name, full = security.hostname(pod, config.cluster_domain, config.hostname or config.node_name)
    text = security.hosts_file(sources.pod_ips, name, full, pod.spec.host_aliases, node_hosts=node_hosts)
    path = pod_dir / "etc-hosts"
    pod_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return path


def sub_path(volume: Path, inner: str, target: Path, container: str, name: str, mounter: Mounter) -> Path:
    """A file or folder inside a volume, to be had at ``target``; a folder is made of what is not there.

    Links that lead out of the volume are refused, without a word about the node's files.
    """
    if inner.startswith("/"):
        raise ConfigError(f"error SubPath `{inner}` must not be an absolute path")
    if ".." in inner.split("/"):
        raise ConfigError(f"unable to provision SubPath `{inner}`: must not contain '..'")
    try:
        with subpath.opened(volume, inner) as found:
            return mounter.bind(found, target)
    except OSError as err:
        log.info("sub path refused", volume=name, container=container, error=str(err))
        raise ConfigError(f'failed to prepare subPath for volumeMount "{name}" of container "{container}"') from err
