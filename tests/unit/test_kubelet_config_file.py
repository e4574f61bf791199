"""A KubeletConfiguration file: what it changes, what it may say without effect, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaa.api import quantity
from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import Taint
from kaa.cluster.config import ClusterConfig
from kaa.cluster.node import kubelet_config
from kaa.kubelet.config import KubeletConfig, Period, Serving
from kaa.kubelet.config_file import ConfigFileError, configured

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def test_what_a_file_says_is_so() -> None:
    made, without_effect = configured(
        KubeletConfig("n1"),
        HEAD
        + """
maxPods: 20
podPidsLimit: -1
clusterDNS: [10.0.0.10]
clusterDomain: example.org
containerLogMaxSize: 1Mi
containerLogMaxFiles: 3
evictionHard: {memory.available: 200Mi, nodefs.available: 5%}
evictionSoft: {memory.available: 1Gi}
evictionSoftGracePeriod: {memory.available: 1m30s}
evictionPressureTransitionPeriod: 10s
evictionMaxPodGracePeriod: 30
imageGCHighThresholdPercent: 90
imageMinimumGCAge: 5m
imageMaximumGCAge: 240h
registryPullQPS: 2
registryBurst: 4
imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages
preloadedImagesVerificationAllowlist: [docker.io/library/*, reg.io/a]
systemReserved: {cpu: 500m, memory: 1Gi}
kubeReserved: {cpu: 250m}
registerWithTaints: [{key: a, value: b, effect: NoSchedule}]
staticPodPath: /etc/kubernetes/manifests
featureGates: {SomeGate: true}
cgroupDriver: systemd
""",
    )
    assert (made.max_pods, made.pids_limit, made.cluster_dns) == (20, None, ("10.0.0.10",))
    assert (made.log_max_bytes, made.log_max_files, made.cluster_domain) == (1 << 20, 3, "example.org")
    assert made.eviction is not None
    assert made.eviction.hard == {"memory.available": "200Mi", "nodefs.available": "5%"}
    assert made.eviction.soft_grace_s == {"memory.available": 90.0}
    assert (made.eviction.transition_s, made.eviction.max_grace_s) == (10.0, 30.0)
    assert (made.images.policy.high, made.images.policy.low, made.images.policy.min_age_s) == (90, 80, 300.0)
    assert made.images.policy.max_age_s == 864_000
    assert (made.pulls.per_second, made.pulls.burst, made.pulls.verification) == (2, 4, "NeverVerifyAllowlistedImages")
    assert made.pulls.allowlist == ("docker.io/library/*", "reg.io/a")
    assert {name: quantity.parse(amount) for name, amount in made.reserved.items()} == {
        "cpu": quantity.parse("750m"),
        "memory": quantity.parse("1Gi"),
    }
    assert made.taints == (Taint(key="a", value="b", effect="NoSchedule"),)
    assert made.static_pod_path == Path("/etc/kubernetes/manifests")
    assert without_effect == ["cgroupDriver", "featureGates"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "maxPod: 1\n", 'strict decoding error: unknown field "maxPod"'),
        (HEAD + "maxPods: many\n", "invalid configuration: 'many' is no integer"),
        (HEAD + "evictionHard: {memory.free: 1Gi}\n", "unknown eviction signals: memory.free"),
        (HEAD + "evictionSoft: {memory.available: 1Gi}\n", "without a grace period"),
        (
            HEAD + "imageGCLowThresholdPercent: 90\n",
            "imageGCLowThresholdPercent (--image-gc-low-threshold) 90 must be less than imageGCHighThresholdPercent "
            "(--image-gc-high-threshold) 85",
        ),
        (
            HEAD + "imageGCHighThresholdPercent: 101\n",
            "imageGCHighThresholdPercent (--image-gc-high-threshold) 101 must be between 0 and 100, inclusive",
        ),
        (HEAD + "imageMaximumGCAge: -1s\n", "imageMaximumGCAge -1s must not be negative"),
        (HEAD + "imageMaximumGCAge: 1m\n", "imageMaximumGCAge 1m0s must be greater than imageMinimumGCAge 2m0s"),
        (HEAD + "maxParallelImagePulls: 0\n", "maxParallelImagePulls 0 must be a positive number"),
        (
            HEAD + "maxParallelImagePulls: 2\nserializeImagePulls: true\n",
            "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) set to false",
        ),
        (HEAD + "registryPullQPS: -1\n", "RegistryPullQPS (--registry-qps) -1 must not be a negative number"),
        (HEAD + "registryBurst: -1\n", "RegistryBurst (--registry-burst) -1 must not be a negative number"),
        (HEAD + "imagePullCredentialsVerificationPolicy: Perhaps\n", 'option "Perhaps" specified for imagePull'),
        (
            HEAD + "preloadedImagesVerificationAllowlist: [a.io/b]\n",
            "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVerificationPolicy` is not "
            '"NeverVerifyAllowlistedImages"',
        ),
        (
            HEAD
            + "imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\n"
            + 'preloadedImagesVerificationAllowlist: ["a.io/*/b"]\n',
            "not a valid wildcard pattern, only patterns ending with '/*' are allowed: a.io/*/b",
        ),
        (HEAD + "imageMinimumGCAge: soon\n", 'time: invalid duration "soon"'),
        (HEAD + "registerWithTaints: [1]\n", "invalid configuration"),
        (
            "kind: KubeletConfiguration\napiVersion: v1\n",
            'no kind "KubeletConfiguration" is registered for version "v1"',
        ),
        ("- a\n", "the file holds no object"),
        ("a: [", "line"),
    ],
)
def test_what_cannot_be_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        configured(KubeletConfig("n1"), text)
    assert words in str(caught.value)


def test_a_clusters_file_stands_on_upstreams_defaults(tmp_path: Path) -> None:
    """Without a file the disk is left to its owner; with one, what it leaves out is as upstream has it."""
    config = ClusterConfig(name="x", data_dir=str(tmp_path), node_name="n1", node_ip="192.0.2.1")
    plain = kubelet_config(config, VirtualClock())
    assert plain.eviction is not None
    assert plain.eviction.hard == {"memory.available": "100Mi"}
    config.kubelet_file.write_text(HEAD + "maxPods: 7\n")
    told = kubelet_config(config, VirtualClock())
    assert (told.max_pods, told.node_name) == (7, "n1")
    assert told.eviction is not None
    assert told.eviction.hard["nodefs.available"] == "10%"
    assert (told.images.policy.high, told.images.policy.low) == (85, 80)


def test_servers_logs_and_shutdown() -> None:
    made, without_effect = configured(
        KubeletConfig("n1"),
        HEAD
        + """
address: 10.1.2.3
port: 10350
readOnlyPort: 10355
healthzPort: 0
healthzBindAddress: 127.0.0.2
enableDebuggingHandlers: false
enableSystemLogQuery: true
streamingConnectionIdleTimeout: 5m
tlsCertFile: /etc/a.crt
tlsPrivateKeyFile: /etc/a.key
tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]
tlsMinVersion: VersionTLS13
authentication: {anonymous: {enabled: true}, webhook: {cacheTTL: 10s}, x509: {clientCAFile: /etc/ca.crt}}
authorization: {mode: AlwaysAllow, webhook: {cacheAuthorizedTTL: 1m, cacheUnauthorizedTTL: 2s}}
containerLogMaxWorkers: 3
containerLogMonitorInterval: 3s
podLogsDir: /var/log/mine
eventRecordQPS: 0
eventBurst: 7
volumeStatsAggPeriod: 30s
shutdownGracePeriod: 30s
shutdownGracePeriodCriticalPods: 10s
showHiddenMetricsForVersion: "1.35"
""",
    )
    assert made.serving == Serving(
        address="10.1.2.3",
        read_only_port=10355,
        healthz_port=0,
        healthz_address="127.0.0.2",
        debugging=False,
        system_log_query=True,
        idle_s=300.0,
        cert_file="/etc/a.crt",
        key_file="/etc/a.key",
        cipher_suites=("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        min_tls="VersionTLS13",
        client_ca_file="/etc/ca.crt",
        anonymous=True,
        token_s=10.0,
        authorization="AlwaysAllow",
        allowed_s=60.0,
        denied_s=2.0,
    )
    assert (made.port, made.log_workers, made.log_period_s, made.pod_log_root) == (10350, 3, 3.0, Path("/var/log/mine"))
    assert (made.event_qps, made.event_burst, made.volume_stats_s) == (0, 7, 30.0)
    assert made.shutdown == (Period(0, 20), Period(2_000_000_000, 10))
    assert without_effect == ["showHiddenMetricsForVersion"]


def test_periods_of_a_shutdown_by_priority() -> None:
    by = "shutdownGracePeriodByPodPriority: [{priority: 100, shutdownGracePeriodSeconds: 9}, {shutdownGracePeriodSeconds: 5}]"
    assert configured(KubeletConfig("n1"), HEAD + by)[0].shutdown == (Period(0, 5), Period(100, 9))
    assert configured(KubeletConfig("n1"), HEAD + "maxPods: 3")[0].shutdown == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("eventBurst: -1", "eventBurst (--event-burst) -1 must not be a negative number"),
        ("port: 0", "port (--port) 0 must be between 1 and 65535, inclusive"),
        ("readOnlyPort: 65536", "readOnlyPort (--read-only-port) 65536 must be between 0 and 65535, inclusive"),
        ("healthzPort: -1", "healthzPort (--healthz-port) -1 must be between 1 and 65535, inclusive"),
        ("shutdownGracePeriod: 500ms", "shutdownGracePeriod {500ms} must be either zero or otherwise >= 1 sec"),
        (
            "shutdownGracePeriodCriticalPods: 20s",
            "shutdownGracePeriodCriticalPods {20s} must be <= shutdownGracePeriod {0s}",
        ),
        (
            "shutdownGracePeriod: 5s\nshutdownGracePeriodByPodPriority: [{priority: 1, shutdownGracePeriodSeconds: 9}]",
            "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time",
        ),
        ("containerLogMaxWorkers: 0", "containerLogMaxWorkers must be greater than or equal to 1"),
        (
            "containerLogMonitorInterval: 1s",
            "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s",
        ),
        ("containerLogMaxFiles: 1", "containerLogMaxFiles must be greater than 1"),
        ("podLogsDir: logs", 'pod logs path "logs" must be absolute path'),
        ("podLogsDir: /a/../b", 'pod logs path "/a/../b" must be normalized'),
        ("tlsMinVersion: TLS1", 'unknown tls version "TLS1"'),
        ("tlsCipherSuites: [NONE]", "Cipher suite NONE not supported or doesn't exist"),
        (
            "enableSystemLogHandler: false\nenableSystemLogQuery: true",
            "enableSystemLogHandler is required for enableSystemLogQuery",
        ),
        (
            "eventBurst: -1\nport: 0",
            "eventBurst (--event-burst) -1 must not be a negative number, invalid configuration: port ",
        ),
    ],
)
def test_what_servers_and_shutdown_may_not_be_told(text: str, says: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        configured(KubeletConfig("n1"), HEAD + text)
    assert f"invalid configuration: {says}" in str(caught.value)


def test_a_node_says_how_long_a_crashing_container_waits() -> None:
    made, without_effect = configured(
        KubeletConfig("n1"), HEAD + "crashLoopBackOff: {maxContainerRestartPeriod: 30s}\n"
    )
    assert (made.longest_backoff_s, without_effect) == (30.0, [])
    with pytest.raises(ConfigFileError, match="must be set between 1s and 300s"):
        configured(KubeletConfig("n1"), HEAD + "crashLoopBackOff: {maxContainerRestartPeriod: 301s}\n")
