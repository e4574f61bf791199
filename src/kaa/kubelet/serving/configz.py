"""``/configz``: the KubeletConfiguration that holds, every default of upstream's in it. Pure.

Source: pkg/kubelet/apis/config/v1beta1/defaults.go.
"""

from __future__ import annotations

from typing import Any

from kaa.api.scheme import to_builtins

from ..config import KubeletConfig
from ..images.names import go_seconds

Json = dict[str, Any]

#: What upstream's kubelet takes for what its file leaves out, as its configz shows it.
DEFAULTS: Json = {
    "enableServer": True,
    "syncFrequency": "1m0s",
    "fileCheckFrequency": "20s",
    "httpCheckFrequency": "20s",
    "address": "0.0.0.0",
    "port": 10250,
    "tlsMinVersion": "VersionTLS12",
    "authentication": {
        "x509": {},
        "webhook": {"enabled": True, "cacheTTL": "2m0s"},
        "anonymous": {"enabled": False},
    },
    "authorization": {
        "mode": "Webhook",
        "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
    },
    "registryPullQPS": 5,
    "registryBurst": 10,
    "imagePullCredentialsVerificationPolicy": "NeverVerifyPreloadedImages",
    "eventRecordQPS": 50,
    "eventBurst": 100,
    "enableDebuggingHandlers": True,
    "healthzPort": 10248,
    "healthzBindAddress": "127.0.0.1",
    "oomScoreAdj": -999,
    "streamingConnectionIdleTimeout": "4h0m0s",
    "nodeStatusUpdateFrequency": "10s",
    "nodeStatusReportFrequency": "5m0s",
    "nodeLeaseDurationSeconds": 40,
    "imageMinimumGCAge": "2m0s",
    "imageMaximumGCAge": "0s",
    "imageGCHighThresholdPercent": 85,
    "imageGCLowThresholdPercent": 80,
    "volumeStatsAggPeriod": "1m0s",
    "cgroupsPerQOS": True,
    "cgroupDriver": "cgroupfs",
    "cpuManagerPolicy": "none",
    "cpuManagerReconcilePeriod": "10s",
    "memoryManagerPolicy": "None",
    "topologyManagerPolicy": "none",
    "topologyManagerScope": "container",
    "runtimeRequestTimeout": "2m0s",
    "hairpinMode": "promiscuous-bridge",
    "maxPods": 110,
    "podPidsLimit": -1,
    "resolvConf": "/etc/resolv.conf",
    "cpuCFSQuota": True,
    "cpuCFSQuotaPeriod": "100ms",
    "nodeStatusMaxImages": 50,
    "maxOpenFiles": 1000000,
    "contentType": "application/vnd.kubernetes.protobuf",
    "kubeAPIQPS": 50,
    "kubeAPIBurst": 100,
    "serializeImagePulls": True,
    "evictionHard": {
        "imagefs.available": "15%",
        "imagefs.inodesFree": "5%",
        "memory.available": "100Mi",
        "nodefs.available": "10%",
        "nodefs.inodesFree": "5%",
    },
    "evictionPressureTransitionPeriod": "5m0s",
    "mergeDefaultEvictionSettings": False,
    "enableControllerAttachDetach": True,
    "makeIPTablesUtilChains": True,
    "iptablesMasqueradeBit": 14,
    "iptablesDropBit": 15,
    "failSwapOn": True,
    "memorySwap": {},
    "containerLogMaxSize": "10Mi",
    "containerLogMaxFiles": 5,
    "containerLogMaxWorkers": 1,
    "containerLogMonitorInterval": "10s",
    "configMapAndSecretChangeDetectionStrategy": "Watch",
    "enforceNodeAllocatable": ["pods"],
    "volumePluginDir": "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/",
    "logging": {
        "format": "text",
        "flushFrequency": "5s",
        "verbosity": 0,
        "options": {"text": {"infoBufferSize": "0"}, "json": {"infoBufferSize": "0"}},
    },
    "enableSystemLogHandler": True,
    "enableSystemLogQuery": False,
    "shutdownGracePeriod": "0s",
    "shutdownGracePeriodCriticalPods": "0s",
    "crashLoopBackOff": {},
    "enableProfilingHandler": True,
    "enableDebugFlagsHandler": True,
    "seccompDefault": False,
    "memoryThrottlingFactor": 0.9,
    "registerNode": True,
    "localStorageCapacityIsolation": True,
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "failCgroupV1": True,
    "userNamespaces": None,
}


def configz(config: KubeletConfig) -> Json:
    """``{"kubeletconfig": …}``: defaults, under what the file says, under what this node was told by other means."""
    given = {name: value for name, value in config.given.items() if name not in ("kind", "apiVersion")}
    told = _merged(_merged(DEFAULTS, given), _in_effect(config))
    return {"kubeletconfig": {name: told[name] for name in sorted(told) if told[name] is not None}}


def _in_effect(config: KubeletConfig) -> Json:
    """What holds whatever a file says."""
    serving, eviction = config.serving, config.eviction
    held: Json = {
        "address": serving.address or config.node_ips[0],
        "port": config.port,
        "healthzPort": serving.healthz_port,
        "healthzBindAddress": serving.healthz_address,
        "clusterDomain": config.cluster_domain,
        "clusterDNS": list(config.cluster_dns) or None,
        "maxPods": config.max_pods,
        "staticPodPath": str(config.static_pod_path) if config.static_pod_path is not None else None,
        "podLogsDir": str(config.pod_log_root),
        "registerWithTaints": [to_builtins(one) for one in config.taints] or None,
        "providerID": config.provider_id or None,
        "serializeImagePulls": config.serialize_image_pulls,
        "imageGCHighThresholdPercent": config.images.policy.high,
        "imageGCLowThresholdPercent": config.images.policy.low,
        "imageMinimumGCAge": go_seconds(config.images.policy.min_age_s),
        "evictionHard": dict(eviction.hard) if eviction is not None else None,
        "nodeStatusReportFrequency": go_seconds(config.status_period_s),
        "failCgroupV1": None if config.given.get("failCgroupV1") is None else config.given["failCgroupV1"],
        "containerRuntimeEndpoint": config.given.get("containerRuntimeEndpoint"),
    }
    return held


def _merged(under: Json, over: Json) -> Json:
    """Objects of both go together; anything else of ``over`` stands for what is under it."""
    made = dict(under)
    for name, value in over.items():
        below = made.get(name)
        deep = isinstance(value, dict) and isinstance(below, dict) and name in _OBJECTS
        made[name] = _merged(below, value) if deep and isinstance(below, dict) else value
    return made


#: Structs, whose fields have defaults each; maps like evictionHard are taken or left whole.
_OBJECTS = frozenset(
    {"authentication", "x509", "webhook", "anonymous", "authorization", "logging", "options", "text", "json"}
)
