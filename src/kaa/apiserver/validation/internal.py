"""Objects the way upstream prints them inside messages: its internal types, Go names, every field.

The internal types bear no JSON tags, so a message shows ``{"HostNetwork":false,"HostPID":false,…}``; and for a pod's
immutable spec it shows a unified diff of two such texts. ``_ORDER`` gives the order of fields where it is not ours.

Source: pkg/apis/core/types.go; k8s.io/utils/diff as of 1.36.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from kaa.api.types import core_v1, meta_v1
from kaa.api.values import Quantity

_POD_SPEC = """Volumes InitContainers Containers EphemeralContainers RestartPolicy TerminationGracePeriodSeconds
 ActiveDeadlineSeconds DNSPolicy NodeSelector ServiceAccountName AutomountServiceAccountToken NodeName SecurityContext
 ImagePullSecrets Hostname Subdomain SetHostnameAsFQDN Affinity SchedulerName Tolerations HostAliases PriorityClassName
 Priority PreemptionPolicy DNSConfig ReadinessGates RuntimeClassName Overhead EnableServiceLinks
 TopologySpreadConstraints OS SchedulingGates ResourceClaims Resources HostnameOverride SchedulingGroup"""
_CONTAINER = """Name Image Command Args WorkingDir Ports EnvFrom Env Resources ResizePolicy RestartPolicy
 RestartPolicyRules VolumeMounts VolumeDevices LivenessProbe ReadinessProbe StartupProbe Lifecycle
 TerminationMessagePath TerminationMessagePolicy ImagePullPolicy SecurityContext Stdin StdinOnce TTY"""
_POD_SECURITY = """HostNetwork HostPID HostIPC ShareProcessNamespace HostUsers SELinuxOptions WindowsOptions RunAsUser
 RunAsGroup RunAsNonRoot SupplementalGroups SupplementalGroupsPolicy FSGroup FSGroupChangePolicy Sysctls SeccompProfile
 AppArmorProfile SELinuxChangePolicy"""
_VOLUME = """Name HostPath EmptyDir GCEPersistentDisk AWSElasticBlockStore GitRepo Secret NFS ISCSI Glusterfs
 PersistentVolumeClaim RBD Quobyte FlexVolume Cinder CephFS Flocker DownwardAPI FC AzureFile ConfigMap VsphereVolume
 AzureDisk PhotonPersistentDisk Projected PortworxVolume ScaleIO StorageOS CSI Ephemeral Image"""
_PROBE = """Exec HTTPGet TCPSocket GRPC InitialDelaySeconds TimeoutSeconds TerminationGracePeriodSeconds PeriodSeconds
 SuccessThreshold FailureThreshold"""

#: {type: its fields in Go's order}
_ORDER: dict[str, list[str]] = {
    "PodSpec": _POD_SPEC.split(),
    "Container": _CONTAINER.split(),
    "EphemeralContainer": [*_CONTAINER.split(), "TargetContainerName"],
    "PodSecurityContext": _POD_SECURITY.split(),
    "Volume": _VOLUME.split(),
    "Probe": _PROBE.split(),
    "ResourceRequirements": ["Limits", "Requests", "Claims"],
    "ContainerPort": ["Name", "HostPort", "ContainerPort", "Protocol", "HostIP"],
    "EnvVar": ["Name", "Value", "ValueFrom"],
    "EnvVarSource": ["FieldRef", "ResourceFieldRef", "ConfigMapKeyRef", "SecretKeyRef", "FileKeyRef"],
    "VolumeMount": ["Name", "ReadOnly", "RecursiveReadOnly", "MountPath", "SubPath", "MountPropagation", "SubPathExpr"],
    "Toleration": ["Key", "Operator", "Value", "Effect", "TolerationSeconds"],
    "SecurityContext": [
        "Capabilities",
        "Privileged",
        "SELinuxOptions",
        "WindowsOptions",
        "RunAsUser",
        "RunAsGroup",
        "RunAsNonRoot",
        "ReadOnlyRootFilesystem",
        "AllowPrivilegeEscalation",
        "ProcMount",
        "SeccompProfile",
        "AppArmorProfile",
    ],
    "HTTPGetAction": ["Path", "Port", "Host", "Scheme", "HTTPHeaders"],
    "LifecycleHandler": ["Exec", "HTTPGet", "TCPSocket", "Sleep"],
    "Lifecycle": ["PreStop", "PostStart", "StopSignal"],
    "KeyToPath": ["Key", "Path", "Mode"],
    "SecretVolumeSource": ["SecretName", "Items", "DefaultMode", "Optional"],
    "ConfigMapVolumeSource": ["Name", "Items", "DefaultMode", "Optional"],
    "ProjectedVolumeSource": ["Sources", "DefaultMode"],
    "VolumeProjection": [
        "Secret",
        "DownwardAPI",
        "ConfigMap",
        "ServiceAccountToken",
        "ClusterTrustBundle",
        "PodCertificate",
    ],
    "ServiceAccountTokenProjection": ["Audience", "ExpirationSeconds", "Path"],
    "ConfigMapProjection": ["Name", "Items", "Optional"],
    "SecretProjection": ["Name", "Items", "Optional"],
    "DownwardAPIVolumeFile": ["Path", "FieldRef", "ResourceFieldRef", "Mode"],
    "PersistentVolumeClaimSpec": [
        "AccessModes",
        "Selector",
        "Resources",
        "VolumeName",
        "StorageClassName",
        "VolumeMode",
        "DataSource",
        "DataSourceRef",
        "VolumeAttributesClassName",
    ],
    "CSIPersistentVolumeSource": [
        "Driver",
        "VolumeHandle",
        "ReadOnly",
        "FSType",
        "VolumeAttributes",
        "ControllerPublishSecretRef",
        "NodeStageSecretRef",
        "NodePublishSecretRef",
        "ControllerExpandSecretRef",
        "NodeExpandSecretRef",
    ],
    "PodDisruptionBudgetSpec": ["MinAvailable", "Selector", "MaxUnavailable", "UnhealthyPodEvictionPolicy"],
    "RoleRef": ["APIGroup", "Kind", "Name"],
    "TypedLocalObjectReference": ["APIGroup", "Kind", "Name"],
    "TypedObjectReference": ["APIGroup", "Kind", "Name", "Namespace"],
    "ObjectReference": ["Kind", "Namespace", "Name", "UID", "APIVersion", "ResourceVersion", "FieldPath"],
    "NodeSelectorRequirement": ["Key", "Operator", "Values"],
    "NodeSelectorTerm": ["MatchExpressions", "MatchFields"],
    "PreferredSchedulingTerm": ["Weight", "Preference"],
    "WeightedPodAffinityTerm": ["Weight", "PodAffinityTerm"],
    "NodeAffinity": [
        "RequiredDuringSchedulingIgnoredDuringExecution",
        "PreferredDuringSchedulingIgnoredDuringExecution",
    ],
    "PodAffinity": [
        "RequiredDuringSchedulingIgnoredDuringExecution",
        "PreferredDuringSchedulingIgnoredDuringExecution",
    ],
    "PodAntiAffinity": [
        "RequiredDuringSchedulingIgnoredDuringExecution",
        "PreferredDuringSchedulingIgnoredDuringExecution",
    ],
    "PodAffinityTerm": [
        "LabelSelector",
        "Namespaces",
        "TopologyKey",
        "NamespaceSelector",
        "MatchLabelKeys",
        "MismatchLabelKeys",
    ],
    "TopologySpreadConstraint": [
        "MaxSkew",
        "TopologyKey",
        "WhenUnsatisfiable",
        "LabelSelector",
        "MinDomains",
        "NodeAffinityPolicy",
        "NodeTaintsPolicy",
        "MatchLabelKeys",
    ],
    "PodDNSConfig": ["Nameservers", "Searches", "Options"],
    "HostAlias": ["IP", "Hostnames"],
    "PodResourceClaim": ["Name", "ResourceClaimName", "ResourceClaimTemplateName"],
}
#: Fields that the internal PodSpec keeps in its security context.
_HOST_FIELDS = {
    "HostNetwork": "host_network", "HostPID": "host_pid", "HostIPC": "host_ipc",
    "ShareProcessNamespace": "share_process_namespace", "HostUsers": "host_users",
}  # fmt: skip
#: Fields that Go holds by value, and so writes as a zero rather than null.
_BY_VALUE = frozenset(
    [
        "Name",
        "Image",
        "WorkingDir",
        "TerminationMessagePath",
        "TerminationMessagePolicy",
        "ImagePullPolicy",
        "RestartPolicy",
        "DNSPolicy",
        "ServiceAccountName",
        "NodeName",
        "Hostname",
        "Subdomain",
        "SchedulerName",
        "PriorityClassName",
        "Stdin",
        "StdinOnce",
        "TTY",
        "HostNetwork",
        "HostPID",
        "HostIPC",
        "Value",
        "ReadOnly",
        "SubPath",
        "SubPathExpr",
        "HostPort",
        "HostIP",
        "Protocol",
        "Key",
        "Operator",
        "Effect",
        "Path",
        "Host",
        "Scheme",
        "InitialDelaySeconds",
        "TimeoutSeconds",
        "PeriodSeconds",
        "SuccessThreshold",
        "FailureThreshold",
        "FieldPath",
        "APIVersion",
        "SecretName",
        "Audience",
        "ExpirationSeconds",
        "TopologyKey",
        "VolumeName",
        "Namespace",
        "UID",
        "ResourceVersion",
        "Kind",
        "MountPath",
        "Medium",
        "FSType",
        "TargetContainerName",
    ]
)
#: Pointers all the same: (type, field).
_POINTERS = frozenset(
    {
        ("Container", "RestartPolicy"),
        ("EphemeralContainer", "RestartPolicy"),
        ("TypedObjectReference", "Namespace"),
        ("GRPCAction", "Service"),
        ("AzureDiskVolumeSource", "FSType"),
        ("CSIVolumeSource", "FSType"),
        ("LocalVolumeSource", "FSType"),
    }
)
_GO_WORDS = {
    "Id": "ID", "Ip": "IP", "Dns": "DNS", "Uid": "UID", "Api": "API", "Os": "OS", "Http": "HTTP", "Tcp": "TCP",
    "Grpc": "GRPC", "Csi": "CSI", "Tty": "TTY", "Nfs": "NFS", "Fc": "FC", "Rbd": "RBD", "Io": "IO", "Tls": "TLS",
}  # fmt: skip
_GO_NAMES = {
    "iscsi": "ISCSI", "cephfs": "CephFS", "storageos": "StorageOS", "fs_group": "FSGroup", "tty": "TTY",
    "fs_group_change_policy": "FSGroupChangePolicy", "se_linux_options": "SELinuxOptions", "fs_type": "FSType",
    "se_linux_change_policy": "SELinuxChangePolicy", "aws_elastic_block_store": "AWSElasticBlockStore",
    "gce_persistent_disk": "GCEPersistentDisk", "set_hostname_as_fqdn": "SetHostnameAsFQDN",
}  # fmt: skip


@lru_cache(maxsize=None)
def go_name(attribute: str) -> str:
    """``dns_policy`` -> ``DNSPolicy``."""
    if attribute in _GO_NAMES:
        return _GO_NAMES[attribute]
    words = [word.capitalize() for word in attribute.rstrip("_").split("_")]
    return "".join(_GO_WORDS.get(word, word) for word in words)


def plain(value: Any) -> Any:
    """The JSON value of the internal form of ``value``."""
    if isinstance(value, (meta_v1.LabelSelector, meta_v1.ObjectMeta, meta_v1.LabelSelectorRequirement)):
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))  # these keep their JSON names inside, too
    if isinstance(value, core_v1.PodTemplateSpec):
        return {**plain(value.metadata), "Spec": plain(value.spec)}
    if isinstance(value, msgspec.Struct):
        return _struct(value)
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value] or None
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value)} or None
    return str.__str__(value) if isinstance(value, Quantity) else value


def _struct(value: msgspec.Struct) -> dict[str, Any]:
    kind = type(value).__name__
    made = {
        go_name(f.name): _field(kind, go_name(f.name), getattr(value, f.name)) for f in msgspec.structs.fields(value)
    }
    if isinstance(value, core_v1.PodSpec):
        context = plain(value.security_context or core_v1.PodSecurityContext())
        for name, attribute in _HOST_FIELDS.items():
            context[name] = _field(kind, name, getattr(value, attribute))
        made["SecurityContext"] = {name: context[name] for name in _ORDER["PodSecurityContext"]}
    order = _ORDER.get(kind)
    if order is None:
        return made
    return {name: made[name] for name in order if name in made}


def _field(kind: str, name: str, value: Any) -> Any:
    if value is None and name in _BY_VALUE and (kind, name) not in _POINTERS:
        return _zero(kind, name)
    return plain(value)


_NUMBERS = re.compile("Seconds$|Threshold$|Port$")
_FLAGS = frozenset(["Stdin", "StdinOnce", "TTY", "HostNetwork", "HostPID", "HostIPC", "ReadOnly"])


def _zero(kind: str, name: str) -> Any:
    if name in _FLAGS:
        return False
    return 0 if _NUMBERS.search(name) else ""


def raw(value: Any) -> Any:
    """The internal form for a message, its fields in Go's order."""
    return msgspec.Raw(msgspec.json.encode(plain(value)))


def diff(old: Any, new: Any) -> str:
    """A unified diff of the indented internal forms, three lines around each change."""
    before, after = (json.dumps(plain(value), indent=1, ensure_ascii=False).split("\n") for value in (old, new))
    lines = list(difflib.unified_diff(before, after, lineterm="", n=3))[2:]
    return "\n".join(lines) + "\n"
