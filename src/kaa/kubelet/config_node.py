"""The fields of a KubeletConfiguration that say how a node stands in its cluster: its certificates, its object, its own pods.

Source: API reference "Kubelet Configuration (v1beta1)"; kubelet/apis/config/validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kaa.api.durations import parse_seconds

from .config import Certificates, KubeletConfig

Json = Mapping[str, Any]

FIELDS = frozenset(
    """crashLoopBackOff fileCheckFrequency httpCheckFrequency nodeStatusMaxImages
    nodeStatusUpdateFrequency podsPerCore rotateCertificates serverTLSBootstrap staticPodURL
    staticPodURLHeader""".split()
)


def changes(given: Json, config: KubeletConfig) -> dict[str, Any]:
    """{field of the config: its value} of what is given. Raises ValueError."""
    return {"certificates": _certificates(given, config), **_node(given), **_static_pods(given), **_backoff(given)}


def _certificates(given: Json, config: KubeletConfig) -> Certificates:
    told: dict[str, bool] = {
        name: bool(given[wire])
        for wire, name in (("serverTLSBootstrap", "server_bootstrap"), ("rotateCertificates", "rotate"))
        if wire in given
    }
    return msgspec.structs.replace(config.certificates, **told)


def _node(given: Json) -> dict[str, Any]:
    """How the node is shown, and what its pods may have together."""
    told: dict[str, Any] = {}
    if "nodeStatusUpdateFrequency" in given:
        told["status_check_s"] = parse_seconds(given["nodeStatusUpdateFrequency"])
        if "nodeStatusReportFrequency" not in given:
            told["status_period_s"] = told["status_check_s"]
    for wire, name in (("nodeStatusMaxImages", "max_images"), ("podsPerCore", "pods_per_core")):
        if wire in given:
            if isinstance(given[wire], bool) or not isinstance(given[wire], int):
                raise ValueError(f"{given[wire]!r} is no integer")
            told[name] = given[wire]
    if told.get("pods_per_core", 0) < 0:
        raise ValueError(f"podsPerCore (--pods-per-core) {told['pods_per_core']} must not be a negative number")
    return told


def _backoff(given: Json) -> dict[str, Any]:
    """How long a container that crashes waits at most. Source: KEP-4603."""
    text = (given.get("crashLoopBackOff") or {}).get("maxContainerRestartPeriod")
    if text is None:
        return {}
    seconds = parse_seconds(text)
    if not 1 <= seconds <= 300:
        raise ValueError(
            f"CrashLoopBackOff.MaxContainerRestartPeriod (got: {seconds:g} seconds) must be set between 1s and 300s"
        )
    return {"longest_backoff_s": seconds}


def _static_pods(given: Json) -> dict[str, Any]:
    """Where the node's own pods are looked for, and how often."""
    told: dict[str, Any] = {
        name: parse_seconds(given[wire])
        for wire, name in (("fileCheckFrequency", "file_check_s"), ("httpCheckFrequency", "http_check_s"))
        if wire in given
    }
    if "staticPodPath" in given:
        told["static_pod_path"] = Path(given["staticPodPath"]) if given["staticPodPath"] else None
    if "staticPodURL" in given:
        told["static_pod_url"] = str(given["staticPodURL"])
    if "staticPodURLHeader" in given:
        told["static_pod_headers"] = {name: tuple(values) for name, values in given["staticPodURLHeader"].items()}
    return told
