"""Pods that no API server asked for: from files on the node, and host processes shown as if they were pods.

A static pod runs from its file; a mirror pod shows it in the API. The mirror's annotation ``kubernetes.io/config.mirror``
holds the file's hash: a mirror of another hash is deleted and made anew. A host process is a mirror pod without a pod.
Source: pkg/kubelet/config/{file,common}.go, pkg/kubelet/pod/mirror_client.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
import yaml
from msgspec.structs import replace

from kaa.api.clock import format_time
from kaa.api.errors import AlreadyExists, NotFound
from kaa.api.scheme import DecodeError, convert
from kaa.api.types.core_v1 import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStatus,
    HostIP,
    Node,
    Pod,
    PodCondition,
    PodIP,
    PodSpec,
    PodStatus,
    Toleration,
)
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta, OwnerReference, Preconditions
from kaa.client.client import Client

from .config import HostProcess

log = structlog.get_logger(__name__)
SOURCE, HASH = "kubernetes.io/config.source", "kubernetes.io/config.hash"
SEEN, MIRROR = "kubernetes.io/config.seen", "kubernetes.io/config.mirror"
HOST_PROCESS = "kaa.dev/host-process"
_TOLERATE_ALL = Toleration(operator="Exists", effect="NoExecute")


def read_folder(folder: Path, node_name: str, now: float) -> dict[str, Pod]:
    """{uid: static pod} of every manifest in a folder; a file that is no pod is logged and left out."""
    found: dict[str, Pod] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix not in (".yaml", ".yml", ".json") or path.name.startswith(".") or not path.is_file():
            continue
        try:
            pod = static_pod(path.read_bytes(), node_name, now)
        except (yaml.YAMLError, DecodeError, msgspec.DecodeError, ValueError) as err:
            log.warning("static pod not read", path=str(path), error=str(err))
            continue
        found[pod.metadata.uid or ""] = pod
    return found


def static_pod(text: bytes, node_name: str, now: float) -> Pod:
    """A manifest as the pod of this node: name with the node's behind it, a hash for uid. Raises ValueError."""
    value = yaml.safe_load(text)
    if not isinstance(value, dict) or value.get("kind") != "Pod":
        raise ValueError("the file holds no Pod")
    pod = convert(Pod, {k: v for k, v in value.items() if k not in ("kind", "apiVersion")})
    digest = hashlib.md5(node_name.encode() + text, usedforsecurity=False).hexdigest()
    meta = pod.metadata
    annotations = {**meta.annotations, HASH: digest, SEEN: format_time(now), SOURCE: "file"}
    spec = replace(pod.spec, node_name=node_name, tolerations=(*pod.spec.tolerations, _TOLERATE_ALL))
    name, namespace = f"{meta.name}-{node_name}", meta.namespace or "default"
    return replace(
        pod,
        metadata=replace(meta, name=name, namespace=namespace, uid=digest, annotations=annotations),
        spec=spec,
    )


def host_process_pod(process: HostProcess, node_name: str) -> Pod:
    """The pod that stands for a component running on the node itself."""
    labels = {
        "component": process.component,
        "tier": "control-plane",
        "kaa.dev/runs-as": "host-process",
        **process.labels,
    }
    text = f"{node_name}/{process.name}/{process.image}/{process.command}/{sorted(labels.items())}"
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    annotations = {HASH: digest, SEEN: format_time(process.started_at), SOURCE: "file", HOST_PROCESS: process.component}
    return Pod(
        metadata=ObjectMeta(
            name=f"{process.name}-{node_name}",
            namespace="kube-system",
            uid=digest,
            labels=labels,
            annotations=annotations,
        ),
        spec=PodSpec(
            containers=(
                Container(
                    name=process.name, image=process.image, image_pull_policy="IfNotPresent", command=process.command
                ),
            ),
            host_network=True,
            node_name=node_name,
            priority_class_name="system-node-critical",
            restart_policy="Always",
            termination_grace_period_seconds=30,
            dns_policy="ClusterFirst",
            enable_service_links=True,
            tolerations=(_TOLERATE_ALL,),
        ),
    )


def host_process_status(mirror: Pod, process: HostProcess, host_ips: tuple[str, ...]) -> PodStatus:
    """Running and ready since the process began."""
    since = format_time(process.started_at)
    types = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return replace(
        mirror.status,
        phase="Running",
        conditions=tuple(
            PodCondition(
                type=t, status="True", last_transition_time=since, observed_generation=mirror.metadata.generation
            )
            for t in types
        ),
        host_ip=host_ips[0] if host_ips else None,
        host_ips=tuple(HostIP(ip=ip) for ip in host_ips),
        pod_ip=host_ips[0] if host_ips else None,
        pod_ips=tuple(PodIP(ip=ip) for ip in host_ips),
        start_time=since,
        qos_class=mirror.status.qos_class or "BestEffort",
        observed_generation=mirror.metadata.generation,
        container_statuses=(
            ContainerStatus(
                name=process.name,
                image=process.image,
                image_id=process.image,
                container_id=f"kaa://{mirror.metadata.annotations.get(HASH, '')}",
                ready=True,
                started=True,
                restart_count=0,
                state=ContainerState(running=ContainerStateRunning(started_at=since)),
            ),
        ),
    )


def is_mirror(pod: Pod) -> bool:
    return MIRROR in pod.metadata.annotations


class Mirrors:
    """Keeps one mirror pod a static pod at the API server."""

    def __init__(self, client: Client, node_name: str, existing: Callable[[str, str], Pod | None]) -> None:
        self._client, self._node, self._existing = client, node_name, existing

    async def ensure(self, pod: Pod) -> Pod:
        """The mirror of a static pod, made (or made anew) if need be."""
        meta = pod.metadata
        mirror = self._existing(meta.namespace or "", meta.name or "")
        if mirror is not None:
            same = mirror.metadata.annotations.get(MIRROR) == meta.annotations[HASH]
            if same and not mirror.metadata.deletion_timestamp:
                return mirror
            await self.delete(mirror)
        node = await self._client.get(Node, self._node)
        owner = OwnerReference(
            api_version="v1", kind="Node", name=self._node, uid=node.metadata.uid or "", controller=True
        )
        annotations = {**meta.annotations, MIRROR: meta.annotations[HASH]}
        fresh = replace(
            pod,
            metadata=replace(meta, uid=None, annotations=annotations, owner_references=(owner,)),
            status=PodStatus(),
        )
        try:
            return await self._client.create(fresh)
        except AlreadyExists:
            return await self._client.get(Pod, meta.name or "", meta.namespace)

    async def delete(self, mirror: Pod) -> None:
        options = DeleteOptions(grace_period_seconds=0, preconditions=Preconditions(uid=mirror.metadata.uid))
        try:
            await self._client.delete(Pod, mirror.metadata.name or "", mirror.metadata.namespace, options=options)
        except NotFound:
            return
