"""A KubeletConfiguration as upstream's kubelet reads it: ``kubelet.config.k8s.io/v1beta1``, in YAML or JSON.

What a field says goes into ``KubeletConfig``; fields of upstream's that mean nothing here are taken and told, so that a file
that serves a kubelet serves kaa; a field that upstream does not know is refused, as upstream refuses it.
Source: API reference "Kubelet Configuration (v1beta1)".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from kaa.api import quantity, yaml
from kaa.api.durations import parse_seconds
from kaa.api.scheme import DecodeError, convert
from kaa.api.types.core_v1 import Taint

from . import config_node, config_serving, memory_qos, pressure, reservations
from .config import Eviction, ImageCollection, KubeletConfig
from .image_gc import Policy
from .images.records import POLICIES, check_pattern
from .pod_plan import go_duration

NO_SWAP, LIMITED_SWAP = "NoSwap", "LimitedSwap"
UNIT = 65536  # ids of a pod come in whole ones of these
API_VERSION, KIND = "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration"

Json = Mapping[str, Any]


class ConfigFileError(ValueError):
    """The file cannot be used; the message says what to change."""


def configured(config: KubeletConfig, text: str) -> tuple[KubeletConfig, list[str]]:
    """``config`` with what the file says, and the fields that say nothing here. Raises ConfigFileError."""
    given = _document(text)
    elsewhere = config_serving.FIELDS | config_serving.CHECKED | _ELSEWHERE
    unknown = given.keys() - _TAKEN.keys() - _WITHOUT_EFFECT - _SPECIAL - elsewhere - {"kind", "apiVersion"}
    if unknown:
        raise ConfigFileError(
            f"strict decoding error: {', '.join(f'unknown field {_shown(one)}' for one in sorted(unknown))}"
        )
    try:
        changes = {name: read(given[wire]) for wire, (name, read) in _TAKEN.items() if wire in given}
        changes |= (
            reservations.changes(given)
            | memory_qos.changes(given)
            | _eviction(given, config)
            | _images(given, config)
            | _pulls(given, config)
        )
        changes |= _topology(given) | _users(given) | _swap(given, config)
        changes |= config_node.changes(given, config) | config_serving.changes(given, config)
        made = replace(config, **changes)
        if made.eviction is not None:
            pressure.thresholds(
                made.eviction.hard, made.eviction.soft, made.eviction.soft_grace_s, made.eviction.reclaim
            )
    except (ValueError, TypeError, AttributeError, DecodeError) as err:
        raise ConfigFileError(f"invalid configuration: {err}") from err
    return made, sorted(given.keys() & (_WITHOUT_EFFECT | config_serving.CHECKED) - _ELSEWHERE)


def said(text: str) -> Json:
    """The file as it stands. Raises ConfigFileError: it is no KubeletConfiguration."""
    return _document(text)


def _document(text: str) -> Json:
    try:
        found = yaml.load(text)
    except yaml.YAMLError as err:
        raise ConfigFileError(str(err)) from None
    if not isinstance(found, dict):
        raise ConfigFileError("couldn't get version/kind; json parse error: the file holds no object")
    kind, version = found.get("kind"), found.get("apiVersion")
    if (kind, version) != (KIND, API_VERSION):
        raise ConfigFileError(
            f'no kind "{kind}" is registered for version "{version}": {KIND} of {API_VERSION} is wanted'
        )
    return found


def _shown(name: str) -> str:
    return f'"{name}"'


# -------------------------------------------------------------------------------------------------------- values


def _same(value: Any) -> Any:
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no integer")
    return value


def _texts(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


def _seconds(value: str) -> float:
    return parse_seconds(value)


def _limit(value: Any) -> int | None:
    number = _number(value)
    return number if number > 0 else None


def _taints(value: Iterable[Json]) -> tuple[Taint, ...]:
    return tuple(convert(Taint, dict(one)) for one in value)


_TAKEN: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "allowedUnsafeSysctls": ("allowed_unsafe_sysctls", _texts),
    "clusterDNS": ("cluster_dns", _texts),
    "clusterDomain": ("cluster_domain", str),
    "containerLogMaxFiles": ("log_max_files", _number),
    "containerLogMaxSize": ("log_max_bytes", quantity.whole),
    "maxParallelImagePulls": ("max_parallel_image_pulls", _number),
    "maxPods": ("max_pods", _number),
    "nodeLeaseDurationSeconds": ("lease_duration_s", _number),
    "nodeStatusReportFrequency": ("status_period_s", _seconds),
    "podPidsLimit": ("pids_limit", _limit),
    "providerID": ("provider_id", str),
    "registerNode": ("register", bool),
    "registerWithTaints": ("taints", _taints),
    "seccompDefault": ("seccomp_default", bool),
    "serializeImagePulls": ("serialize_image_pulls", bool),
    "staticPodPath": ("static_pod_path", Path),
}


def _users(given: Json) -> dict[str, Any]:
    wanted = (given.get("userNamespaces") or {}).get("idsPerPod")
    if wanted is None:
        return {}
    ids = _number(wanted)
    if ids <= 0 or ids % UNIT:
        raise ValueError(f"userNamespaces.idsPerPod must be a multiple of {UNIT}")
    if ids >= 1 << 32:
        raise ValueError("userNamespaces.idsPerPod must not be more than maximum allowed 4294967295")
    return {"ids_per_pod": ids}


def _swap(given: Json, config: KubeletConfig) -> dict[str, Any]:
    """As upstream has it, a kubelet with a file does not run where there is swap, unless the file lets it."""
    behavior = (given.get("memorySwap") or {}).get("swapBehavior") or ""
    if behavior not in ("", NO_SWAP, LIMITED_SWAP):
        raise ValueError(f'memorySwap.swapBehavior "{behavior}" must be one of: "", "{LIMITED_SWAP}" or "{NO_SWAP}"')
    single = given.get("singleProcessOOMKill")
    if single is False and config.cgroups is not None and not config.cgroups.v2:
        raise ValueError("singleProcessOOMKill must not be explicitly set to false when using cgroup v1")
    return {
        "swap_behavior": behavior,
        "fail_swap_on": bool(given.get("failSwapOn", True)),
        "single_process_oom_kill": single,
    }


def _eviction(given: Json, config: KubeletConfig) -> dict[str, Any]:
    if config.eviction is None:
        return {}
    changes: dict[str, Any] = {}
    for wire, name in (("evictionHard", "hard"), ("evictionSoft", "soft"), ("evictionMinimumReclaim", "reclaim")):
        if wire in given:
            changes[name] = dict(given[wire])
    if "evictionSoftGracePeriod" in given:
        changes["soft_grace_s"] = {name: _seconds(text) for name, text in given["evictionSoftGracePeriod"].items()}
    if "evictionMaxPodGracePeriod" in given:
        changes["max_grace_s"] = float(_number(given["evictionMaxPodGracePeriod"]))
    if "evictionPressureTransitionPeriod" in given:
        changes["transition_s"] = _seconds(given["evictionPressureTransitionPeriod"])
    made: Eviction = replace(config.eviction, **changes)
    return {"eviction": made}


def _images(given: Json, config: KubeletConfig) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for wire, name in (("imageGCHighThresholdPercent", "high"), ("imageGCLowThresholdPercent", "low")):
        if wire in given:
            changes[name] = _number(given[wire])
    for wire, name in (("imageMinimumGCAge", "min_age_s"), ("imageMaximumGCAge", "max_age_s")):
        if wire in given:
            changes[name] = _seconds(given[wire])
    policy = msgspec.structs.replace(config.images.policy, **changes)
    _check_ages(policy)
    high, low = (
        "imageGCHighThresholdPercent (--image-gc-high-threshold)",
        "imageGCLowThresholdPercent (--image-gc-low-threshold)",
    )
    for name, percent in ((high, policy.high), (low, policy.low)):
        if not 0 <= percent <= 100:
            raise ValueError(f"{name} {percent} must be between 0 and 100, inclusive")
    if policy.low >= policy.high:
        raise ValueError(f"{low} {policy.low} must be less than {high} {policy.high}")
    made: ImageCollection = replace(config.images, policy=policy)
    return {"images": made}


def _check_ages(policy: Policy) -> None:
    """Source: pkg/kubelet/apis/config/validation."""
    if policy.max_age_s < 0:
        raise ValueError(f"imageMaximumGCAge -{go_duration(-policy.max_age_s)} must not be negative")
    youngest, oldest = (go_duration(age) for age in (policy.min_age_s, policy.max_age_s))
    if policy.max_age_s and policy.max_age_s <= policy.min_age_s:
        raise ValueError(f"imageMaximumGCAge {oldest} must be greater than imageMinimumGCAge {youngest}")


def _pulls(given: Json, config: KubeletConfig) -> dict[str, Any]:
    """How images are pulled, and who may have those that are there."""
    most = given.get("maxParallelImagePulls")
    if most is not None and _number(most) < 1:
        raise ValueError(f"maxParallelImagePulls {most} must be a positive number")
    if given.get("serializeImagePulls") and (most or 1) > 1:
        raise ValueError(
            "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) set to false"
        )
    changes: dict[str, Any] = {}
    for wire, option, name in (
        ("registryPullQPS", "--registry-qps", "per_second"),
        ("registryBurst", "--registry-burst", "burst"),
    ):
        if wire in given:
            if _number(given[wire]) < 0:
                shown = wire[0].upper() + wire[1:]
                raise ValueError(f"{shown} ({option}) {given[wire]} must not be a negative number")
            changes[name] = given[wire]
    changes |= _verification(given)
    return {"pulls": msgspec.structs.replace(config.pulls, **changes)} if changes else {}


def _verification(given: Json) -> dict[str, Any]:
    policy = given.get("imagePullCredentialsVerificationPolicy") or "NeverVerifyPreloadedImages"
    allowlist = _texts(given.get("preloadedImagesVerificationAllowlist") or ())
    if policy not in POLICIES:
        known = ", ".join(_shown(one) for one in POLICIES)
        raise ValueError(
            f'option "{policy}" specified for imagePullCredentialsVerificationPolicy; must be one of {known}'
        )
    if allowlist and policy != "NeverVerifyAllowlistedImages":
        raise ValueError(
            "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVerificationPolicy` is not "
            '"NeverVerifyAllowlistedImages"'
        )
    for pattern in allowlist:
        try:
            check_pattern(pattern)
        except ValueError as err:
            raise ValueError(f"preloadedImagesVerificationAllowlist: {err}") from None
    return {"verification": policy, "allowlist": allowlist}


def _topology(given: Json) -> dict[str, Any]:
    if not given.keys() & _OF_TOPOLOGY:
        return {}
    from .topology.settings import read_settings

    return {"topology": read_settings(given, cpu_count=os.cpu_count() or 1)}


_OF_TOPOLOGY = frozenset(
    """cpuManagerPolicy cpuManagerPolicyOptions cpuManagerReconcilePeriod memoryManagerPolicy reservedMemory
    reservedSystemCPUs topologyManagerPolicy topologyManagerPolicyOptions topologyManagerScope""".split()
)
_SPECIAL = _OF_TOPOLOGY | frozenset(
    """evictionHard evictionMaxPodGracePeriod evictionMinimumReclaim evictionPressureTransitionPeriod evictionSoft
    evictionSoftGracePeriod imageGCHighThresholdPercent imageGCLowThresholdPercent imageMaximumGCAge imageMinimumGCAge
    imagePullCredentialsVerificationPolicy preloadedImagesVerificationAllowlist registryBurst registryPullQPS
    userNamespaces memorySwap failSwapOn singleProcessOOMKill""".split()
)
_ELSEWHERE = config_node.FIELDS | reservations.FIELDS | memory_qos.FIELDS
_WITHOUT_EFFECT = frozenset(
    """cgroupDriver cgroupRoot configMapAndSecretChangeDetectionStrategy containerRuntimeEndpoint contentType cpuCFSQuota
    cpuCFSQuotaPeriod enableContentionProfiling enableControllerAttachDetach failCgroupV1 featureGates hairpinMode
    imageServiceEndpoint iptablesDropBit iptablesMasqueradeBit kernelMemcgNotification kubeAPIBurst kubeAPIQPS
    kubeletCgroups localStorageCapacityIsolation logging makeIPTablesUtilChains maxOpenFiles
    mergeDefaultEvictionSettings oomScoreAdj podCIDR protectKernelDefaults qosReserved resolvConf runOnce
    runtimeRequestTimeout syncFrequency systemCgroups tlsCurvePreferences tracing volumePluginDir""".split()
)
