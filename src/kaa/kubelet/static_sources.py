"""Where static pods come from: a folder or a file on the node, and a URL.

A source is read whole and compared with what it held before; a file is read again only when its place, size or time says so.
The folder is watched by inotify, and looked at every ``fileCheckFrequency`` besides. What is no pod is told once, until it
changes; a URL that does not answer leaves the pods that it last named.
Source: pkg/kubelet/config/{file,file_linux,http,common}.go.
"""

from __future__ import annotations

import asyncio
import hashlib
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog
from msgspec.structs import replace

from kaa.api import names, yaml
from kaa.api.clock import Clock, format_micro_time
from kaa.api.scheme import DecodeError, convert, encode_inner
from kaa.api.types.core_v1 import Pod, Toleration

from . import inotify

log = structlog.get_logger(__name__)
SOURCE, HASH = "kubernetes.io/config.source", "kubernetes.io/config.hash"
SEEN, MIRROR = "kubernetes.io/config.seen", "kubernetes.io/config.mirror"
TOLERATE_ALL = Toleration(operator="Exists", effect="NoExecute")
_URL_TIMEOUT_S, _URL_MAX = 10.0, 10 << 20


class InvalidPod(ValueError):
    """The manifest is no pod that a node may run by itself."""


def static_pod(text: bytes, node_name: str, now: float, *, where: str = "", source: str = "file") -> Pod:
    """A manifest as the pod of this node: the node's name behind its own, a hash of it and its place for uid.

    Raises InvalidPod.
    """
    try:
        return _pod_of(yaml.load(text.decode()), node_name, now, where=where, source=source)
    except (yaml.YAMLError, DecodeError, msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise InvalidPod(str(err)) from err


def _pod_of(value: Any, node_name: str, now: float, *, where: str, source: str) -> Pod:
    if not isinstance(value, dict) or (value.get("apiVersion"), value.get("kind")) != ("v1", "Pod"):
        raise InvalidPod("it holds no Pod of v1")
    pod = convert(Pod, {k: v for k, v in value.items() if k not in ("kind", "apiVersion")})
    _check(pod, value)
    meta = pod.metadata
    place = f"host:{node_name}file:{where}" if source == "file" else f"url:{where}"
    digest = hashlib.md5(encode_inner(pod) + place.encode(), usedforsecurity=False).hexdigest()
    uid = meta.uid or digest
    tolerations = pod.spec.tolerations
    if source == "file" and TOLERATE_ALL not in tolerations:
        tolerations = (*tolerations, TOLERATE_ALL)
    annotations = {**meta.annotations, HASH: uid, SEEN: format_micro_time(now), SOURCE: source}
    name = f"{meta.name}-{node_name.lower()}"
    return replace(
        pod,
        metadata=replace(meta, name=name, namespace=meta.namespace or "default", uid=uid, annotations=annotations),
        spec=replace(pod.spec, node_name=node_name, tolerations=tolerations),
    )


def _check(pod: Pod, value: Mapping[str, Any]) -> None:
    """What the API server would refuse, as far as a node would stumble over it. Raises InvalidPod."""
    name = pod.metadata.name or ""
    if not name:
        raise InvalidPod("metadata.name: Required value: name or generateName is required")
    for fault in names.dns_subdomain(name):
        raise InvalidPod(f'metadata.name: Invalid value: "{name}": {fault}')
    if not pod.spec.containers:
        raise InvalidPod("spec.containers: Required value")
    seen: set[str] = set()
    for place, container in (
        *((f"spec.initContainers[{n}]", one) for n, one in enumerate(pod.spec.init_containers)),
        *((f"spec.containers[{n}]", one) for n, one in enumerate(pod.spec.containers)),
    ):
        if not container.name:
            raise InvalidPod(f"{place}.name: Required value")
        if container.name in seen:
            raise InvalidPod(f'{place}.name: Duplicate value: "{container.name}"')
        if not container.image:
            raise InvalidPod(f"{place}.image: Required value")
        seen.add(container.name)
    if pod.spec.ephemeral_containers:
        raise InvalidPod("spec.ephemeralContainers: Forbidden: a static pod has none")
    reference = api_reference(value.get("spec") or {})
    if reference:
        raise InvalidPod(f"static pods may not reference {reference}")


#: {field: the API objects that it names}, wherever it stands in a pod's spec
_REFERENCES = {
    "configMapKeyRef": "configmaps",
    "configMapRef": "configmaps",
    "secretKeyRef": "secrets",
    "secretRef": "secrets",
    "nodePublishSecretRef": "secrets",
    "imagePullSecrets": "secrets",
    "serviceAccountName": "serviceaccounts",
    "serviceAccount": "serviceaccounts",
    "resourceClaims": "resourceclaims",
    "serviceAccountToken": "serviceaccounts",
    "clusterTrustBundle": "clustertrustbundles",
    "persistentVolumeClaim": "persistentvolumeclaims",
}
_VOLUMES = {"configMap": "configmaps", "secret": "secrets", "ephemeral": "persistentvolumeclaims"}


def api_reference(spec: Mapping[str, Any]) -> str:
    """The API objects that a pod cannot do without and a static pod may not ask for: ``secrets``; empty when there are none.

    Source: pkg/api/v1/pod HasAPIObjectReference (PreventStaticPodAPIReferences).
    """
    for volume in spec.get("volumes") or ():
        sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        for wire, resource in _VOLUMES.items():
            if any(isinstance(one, dict) and one.get(wire) for one in sources):
                return resource
    return _reference_in(spec)


def _reference_in(value: Any) -> str:
    if isinstance(value, dict):
        found = next((_REFERENCES[key] for key, held in value.items() if key in _REFERENCES and held), "")
        return found or next(filter(None, map(_reference_in, value.values())), "")
    if isinstance(value, list):
        return next(filter(None, map(_reference_in, value)), "")
    return ""


# ------------------------------------------------------------------------------------------------ a path


class PathSource:
    """The pods of a folder's files, or of one file. Names that begin with a dot are left alone, as are folders in it."""

    def __init__(self, path: Path, node_name: str) -> None:
        self._path, self._node = path, node_name
        self._known: dict[Path, tuple[tuple[int, ...], Pod | None]] = {}  #: {file: (what stat says, its pod)}

    def read(self, now: float) -> list[Pod]:
        """The pods that are there. Raises OSError when the path cannot be looked at."""
        found: dict[Path, tuple[tuple[int, ...], Pod | None]] = {}
        for path in self._files():
            try:
                told = path.stat()
                if not stat.S_ISREG(told.st_mode):
                    continue
                mark = (told.st_ino, told.st_size, told.st_mtime_ns)
                held = self._known.get(path)
                found[path] = held if held is not None and held[0] == mark else (mark, self._load(path, now))
            except OSError as err:
                log.warning("could not process manifest file", path=str(path), error=str(err))
        self._known = found
        return [pod for _, pod in found.values() if pod is not None]

    def _files(self) -> Iterable[Path]:
        try:
            if not self._path.is_dir():
                return [self._path] if self._path.exists() else []
            return sorted(one for one in self._path.iterdir() if not one.name.startswith("."))
        except FileNotFoundError:
            return []

    def _load(self, path: Path, now: float) -> Pod | None:
        try:
            return static_pod(path.read_bytes(), self._node, now, where=str(path))
        except InvalidPod as err:
            log.warning("could not process manifest file", path=str(path), error=str(err))
            return None


def watch(path: Path, changed: Callable[[], None]) -> inotify.Watch:
    """Calls ``changed`` when something in a folder (or beside a file) changes."""
    made = inotify.Watch(
        changed, inotify.CLOSE_WRITE | inotify.MOVED | inotify.CREATE | inotify.DELETE | inotify.SELF_GONE
    )
    made.add(path if path.is_dir() else path.parent)
    return made


# ------------------------------------------------------------------------------------------------ a URL


class UrlSource:
    """The pod, or the list of pods, that a URL answers with. ``headers`` are sent with each request."""

    def __init__(self, url: str, headers: Mapping[str, tuple[str, ...]], node_name: str, clock: Clock) -> None:
        self._url, self._node, self._clock = url, node_name, clock
        self._headers = [(name, value) for name, values in headers.items() for value in values]
        self._text = b""
        self._failures = 0
        self.pods: list[Pod] = []  #: as it last said

    async def read(self) -> bool:
        """Ask; whether the pods are others now. Failures are told three times, then no more until it answers."""
        try:
            text = await self._get()
            if text == self._text:
                self._failures = 0
                return False
            self.pods = self._read(text)
        except (InvalidPod, OSError) as err:
            self._failures += 1
            if self._failures <= 3:
                log.warning("failed to read pods from URL", url=self._url, error=str(err))
            return False
        self._text, self._failures = text, 0
        return True

    async def _get(self) -> bytes:
        from kaa.client.connection import Pool

        parts = urlsplit(self._url)
        pool = Pool(f"{parts.scheme}://{parts.netloc}", None, {"User-Agent": "kubelet", "Accept": "*/*"})
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            async with asyncio.timeout(_URL_TIMEOUT_S), pool.ask("GET", path, self._headers) as answer:
                text = b""
                async for chunk in answer.chunks():
                    text += chunk
                    if len(text) > _URL_MAX:
                        raise InvalidPod(f"{self._url}: more than {_URL_MAX} bytes")
                if answer.status != 200:
                    raise InvalidPod(f"{self._url}: {answer.status}")
        finally:
            pool.close()
        if not text:
            raise InvalidPod(f"zero-length data received from {self._url}")
        return text

    def _read(self, text: bytes) -> list[Pod]:
        try:
            value = yaml.load(text.decode())
            listed = value.get("items") or [] if isinstance(value, dict) and value.get("kind") == "PodList" else [value]
            whole = [{"apiVersion": "v1", "kind": "Pod", **one} if isinstance(one, dict) else one for one in listed]
            if not isinstance(value, dict) or value.get("kind") not in ("Pod", "PodList"):
                raise InvalidPod(
                    f"{self._url}: received '{text[:100].decode(errors='replace')}', but couldn't parse as pod"
                )
            return [_pod_of(one, self._node, self._clock.now(), where=self._url, source="http") for one in whole]
        except (yaml.YAMLError, DecodeError, msgspec.MsgspecError, UnicodeDecodeError) as err:
            raise InvalidPod(f"{self._url}: {err}") from err
