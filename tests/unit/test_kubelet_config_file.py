"""A KubeletConfiguration file: what it changes, what it may say without effect, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaa.api import quantity
from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import Taint
from kaa.cluster.config import ClusterConfig
from kaa.cluster.node import kubelet_config
from kaa.kubelet.config import KubeletConfig
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
