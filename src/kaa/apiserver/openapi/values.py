"""Defaults and closed sets of values: what Go's types say by ``+default``, ``+enum`` and by writing zero values.

Neither stands in the definitions that the Structs are generated from. Source: API reference; the Go types' markers.
"""

from __future__ import annotations

from typing import Any

_PROTOCOL = ("SCTP", "TCP", "UDP")
_PULL = ("Always", "IfNotPresent", "Never")
_TERMINATION = ("FallbackToLogsOnError", "File")
_ACCESS = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_VOLUME_MODE = ("Block", "Filesystem")
_RECLAIM = ("Delete", "Recycle", "Retain")
_TAINT = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_DEVICE_TAINT = ("NoExecute", "NoSchedule", "None")
_ALLOCATION = ("All", "ExactCount")
_CONFINED = ("Localhost", "RuntimeDefault", "Unconfined")
_TRAFFIC = ("Cluster", "Local")
_HONOR = ("Honor", "Ignore")
_PREEMPTION = ("Never", "PreemptLowerPriority")
_FAILURE = ("Fail", "Ignore")
_MATCH = ("Equivalent", "Exact")
_SIDE_EFFECTS = ("None", "NoneOnDryRun", "Some", "Unknown")
_REINVOCATION = ("IfNeeded", "Never")
_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_RULE_SCOPE = ("*", "Cluster", "Namespaced")
_QUOTA_SCOPE = (
    "BestEffort CrossNamespacePodAffinity NotBestEffort NotTerminating PriorityClass Terminating VolumeAttributesClass"
).split()
_RESIZE = (
    "ControllerResizeInProgress ControllerResizeInfeasible NodeResizeInProgress NodeResizeInfeasible NodeResizePending"
).split()
_NAMED_SIGNALS = (
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP"
    " TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX"
).split()
_SIGNALS = sorted(
    [f"SIG{name}" for name in _NAMED_SIGNALS]
    + [f"SIGRTMIN+{n}" for n in range(1, 16)]
    + [f"SIGRTMAX-{n}" for n in range(1, 15)]
)
_KEY_USAGES = (
    *("any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment"),
    *("decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel"),
    *("ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime"),
    *("server auth", "signing", "timestamping"),
)
_WEBHOOK = {"failurePolicy": _FAILURE, "matchPolicy": _MATCH, "sideEffects": _SIDE_EFFECTS}
_CONTAINER = {"imagePullPolicy": _PULL, "terminationMessagePolicy": _TERMINATION}

#: {module.Type: {wire name: the values it may have}}; of a list or a map, the values of its items
ENUMS: dict[str, dict[str, Any]] = {
    "admissionregistration_v1.MatchResources": {"matchPolicy": _MATCH},
    "admissionregistration_v1.MutatingAdmissionPolicySpec": {
        "failurePolicy": _FAILURE,
        "reinvocationPolicy": _REINVOCATION,
    },
    "admissionregistration_v1.MutatingWebhook": {**_WEBHOOK, "reinvocationPolicy": _REINVOCATION},
    "admissionregistration_v1.Mutation": {"patchType": ("ApplyConfiguration", "JSONPatch")},
    "admissionregistration_v1.NamedRuleWithOperations": {"operations": _OPERATIONS, "scope": _RULE_SCOPE},
    "admissionregistration_v1.RuleWithOperations": {"operations": _OPERATIONS, "scope": _RULE_SCOPE},
    "admissionregistration_v1.ValidatingAdmissionPolicyBindingSpec": {"validationActions": ("Audit", "Deny", "Warn")},
    "admissionregistration_v1.ValidatingAdmissionPolicySpec": {"failurePolicy": _FAILURE},
    "admissionregistration_v1.ValidatingWebhook": _WEBHOOK,
    "apiextensions_v1.ValidationRule": {
        "reason": ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
    },
    "apps_v1.DaemonSetUpdateStrategy": {"type": ("OnDelete", "RollingUpdate")},
    "apps_v1.DeploymentStrategy": {"type": ("Recreate", "RollingUpdate")},
    "apps_v1.StatefulSetSpec": {"podManagementPolicy": ("OrderedReady", "Parallel")},
    "apps_v1.StatefulSetUpdateStrategy": {"type": ("OnDelete", "RollingUpdate")},
    "batch_v1.CronJobSpec": {"concurrencyPolicy": ("Allow", "Forbid", "Replace")},
    "batch_v1.JobSpec": {
        "completionMode": ("Indexed", "NonIndexed"),
        "podReplacementPolicy": ("Failed", "TerminatingOrFailed"),
    },
    "batch_v1.PodFailurePolicyOnExitCodesRequirement": {"operator": ("In", "NotIn")},
    "batch_v1.PodFailurePolicyRule": {"action": ("Count", "FailIndex", "FailJob", "Ignore")},
    "certificates_v1.CertificateSigningRequestSpec": {"usages": _KEY_USAGES},
    "core_v1.AppArmorProfile": {"type": _CONFINED},
    "core_v1.AzureDiskVolumeSource": {
        "cachingMode": ("None", "ReadOnly", "ReadWrite"),
        "kind": ("Dedicated", "Managed", "Shared"),
    },
    "core_v1.Container": _CONTAINER,
    "core_v1.ContainerPort": {"protocol": _PROTOCOL},
    "core_v1.ContainerStatus": {"stopSignal": _SIGNALS},
    "core_v1.EndpointPort": {"protocol": _PROTOCOL},
    "core_v1.EphemeralContainer": _CONTAINER,
    "core_v1.HTTPGetAction": {"scheme": ("HTTP", "HTTPS")},
    "core_v1.HostPathVolumeSource": {
        "type": ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
    },
    "core_v1.ImageVolumeSource": {"pullPolicy": _PULL},
    "core_v1.Lifecycle": {"stopSignal": _SIGNALS},
    "core_v1.ModifyVolumeStatus": {"status": ("InProgress", "Infeasible", "Pending")},
    "core_v1.NamespaceStatus": {"phase": ("Active", "Terminating")},
    "core_v1.NodeSelectorRequirement": {"operator": ("DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn")},
    "core_v1.NodeStatus": {"phase": ("Pending", "Running", "Terminated")},
    "core_v1.PersistentVolumeClaimSpec": {"accessModes": _ACCESS, "volumeMode": _VOLUME_MODE},
    "core_v1.PersistentVolumeClaimStatus": {
        "accessModes": _ACCESS,
        "allocatedResourceStatuses": _RESIZE,
        "phase": ("Bound", "Lost", "Pending"),
    },
    "core_v1.PersistentVolumeSpec": {
        "accessModes": _ACCESS,
        "persistentVolumeReclaimPolicy": _RECLAIM,
        "volumeMode": _VOLUME_MODE,
    },
    "core_v1.PersistentVolumeStatus": {"phase": ("Available", "Bound", "Failed", "Pending", "Released")},
    "core_v1.PodSecurityContext": {
        "fsGroupChangePolicy": ("Always", "OnRootMismatch"),
        "supplementalGroupsPolicy": ("Merge", "Strict"),
    },
    "core_v1.PodSpec": {
        "dnsPolicy": ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
        "preemptionPolicy": _PREEMPTION,
        "restartPolicy": ("Always", "Never", "OnFailure"),
    },
    "core_v1.PodStatus": {
        "phase": ("Failed", "Pending", "Running", "Succeeded", "Unknown"),
        "qosClass": ("BestEffort", "Burstable", "Guaranteed"),
    },
    "core_v1.PortStatus": {"protocol": _PROTOCOL},
    "core_v1.ResourceQuotaSpec": {"scopes": _QUOTA_SCOPE},
    "core_v1.ScopedResourceSelectorRequirement": {
        "operator": ("DoesNotExist", "Exists", "In", "NotIn"),
        "scopeName": _QUOTA_SCOPE,
    },
    "core_v1.SeccompProfile": {"type": _CONFINED},
    "core_v1.SecurityContext": {"procMount": ("Default", "Unmasked")},
    "core_v1.ServicePort": {"protocol": _PROTOCOL},
    "core_v1.ServiceSpec": {
        "externalTrafficPolicy": _TRAFFIC,
        "internalTrafficPolicy": _TRAFFIC,
        "ipFamilies": ("", "IPv4", "IPv6"),
        "ipFamilyPolicy": ("PreferDualStack", "RequireDualStack", "SingleStack"),
        "sessionAffinity": ("ClientIP", "None"),
        "type": ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"),
    },
    "core_v1.Taint": {"effect": _TAINT},
    "core_v1.Toleration": {"effect": _TAINT, "operator": ("Equal", "Exists", "Gt", "Lt")},
    "core_v1.TopologySpreadConstraint": {
        "nodeAffinityPolicy": _HONOR,
        "nodeTaintsPolicy": _HONOR,
        "whenUnsatisfiable": ("DoNotSchedule", "ScheduleAnyway"),
    },
    "core_v1.VolumeMount": {"mountPropagation": ("Bidirectional", "HostToContainer", "None")},
    "discovery_v1.EndpointPort": {"protocol": _PROTOCOL},
    "discovery_v1.EndpointSlice": {"addressType": ("FQDN", "IPv4", "IPv6")},
    "networking_v1.HTTPIngressPath": {"pathType": ("Exact", "ImplementationSpecific", "Prefix")},
    "networking_v1.IngressPortStatus": {"protocol": _PROTOCOL},
    "networking_v1.NetworkPolicyPort": {"protocol": _PROTOCOL},
    "networking_v1.NetworkPolicySpec": {"policyTypes": ("Egress", "Ingress")},
    "policy_v1.PodDisruptionBudgetSpec": {"unhealthyPodEvictionPolicy": ("AlwaysAllow", "IfHealthyBudget")},
    "resource_v1.DeviceAllocationConfiguration": {"source": ("FromClaim", "FromClass")},
    "resource_v1.DeviceSubRequest": {"allocationMode": _ALLOCATION},
    "resource_v1.DeviceTaint": {"effect": _DEVICE_TAINT},
    "resource_v1.DeviceToleration": {"effect": _DEVICE_TAINT, "operator": ("Equal", "Exists")},
    "resource_v1.ExactDeviceRequest": {"allocationMode": _ALLOCATION},
    "scheduling_v1.PriorityClass": {"preemptionPolicy": _PREEMPTION},
    "storage_v1.StorageClass": {
        "reclaimPolicy": _RECLAIM,
        "volumeBindingMode": ("Immediate", "WaitForFirstConsumer"),
    },
}

_NO_NAME = {"name": ""}
_RBD = {"keyring": "/etc/ceph/keyring", "pool": "rbd", "user": "admin"}
_SCALE_IO = {"fsType": "xfs", "storageMode": "ThinProvisioned"}

#: {module.Type: {wire name: default}} of fields that are not required
DEFAULTS: dict[str, dict[str, Any]] = {
    "apps_v1.StatefulSetOrdinals": {"start": 0},
    "apps_v1.StatefulSetSpec": {"serviceName": ""},
    "apps_v1.StatefulSetStatus": {"availableReplicas": 0},
    "authentication_v1.TokenRequestStatus": {"token": ""},
    "autoscaling_v1.ScaleSpec": {"replicas": 0},
    "batch_v1.PodFailurePolicyOnPodConditionsPattern": {"status": ""},
    "core_v1.AzureDiskVolumeSource": {
        "cachingMode": "ReadWrite",
        "fsType": "ext4",
        "kind": "Shared",
        "readOnly": False,
    },
    "core_v1.ConfigMapEnvSource": _NO_NAME,
    "core_v1.ConfigMapKeySelector": _NO_NAME,
    "core_v1.ConfigMapProjection": _NO_NAME,
    "core_v1.ConfigMapVolumeSource": _NO_NAME,
    "core_v1.ContainerPort": {"protocol": "TCP"},
    "core_v1.Event": {"reportingComponent": "", "reportingInstance": ""},
    "core_v1.FileKeySelector": {"optional": False},
    "core_v1.GRPCAction": {"service": ""},
    "core_v1.ISCSIPersistentVolumeSource": {"iscsiInterface": "default"},
    "core_v1.ISCSIVolumeSource": {"iscsiInterface": "default"},
    "core_v1.LocalObjectReference": _NO_NAME,
    "core_v1.NodeRuntimeHandler": _NO_NAME,
    "core_v1.RBDPersistentVolumeSource": _RBD,
    "core_v1.RBDVolumeSource": _RBD,
    "core_v1.ReplicationControllerSpec": {"minReadySeconds": 0, "replicas": 1},
    "core_v1.ScaleIOPersistentVolumeSource": _SCALE_IO,
    "core_v1.ScaleIOVolumeSource": _SCALE_IO,
    "core_v1.SecretEnvSource": _NO_NAME,
    "core_v1.SecretKeySelector": _NO_NAME,
    "core_v1.SecretProjection": _NO_NAME,
    "core_v1.ServicePort": {"protocol": "TCP"},
    "flowcontrol_v1.FlowSchemaSpec": {"matchingPrecedence": 0},
    "flowcontrol_v1.QueuingConfiguration": {"handSize": 0, "queueLengthLimit": 0, "queues": 0},
    "policy_v1.PodDisruptionBudgetStatus": {
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "disruptionsAllowed": 0,
        "expectedPods": 0,
    },
    "rbac_v1.RoleRef": {"apiGroup": ""},
    "resource_v1.DeviceToleration": {"operator": "Equal"},
    "scheduling_v1.PriorityClass": {"value": 0},
}

#: {module.Type: wire names of required scalars that are pointers in Go, or not written when zero: they have no default}
WITHOUT_DEFAULT: dict[str, tuple[str, ...]] = {
    "admissionregistration_v1.MutatingWebhook": ("sideEffects",),
    "admissionregistration_v1.ValidatingAdmissionPolicyBindingSpec": ("policyName",),
    "admissionregistration_v1.ValidatingWebhook": ("sideEffects",),
    "authentication_v1.TokenReviewSpec": ("token",),
    "core_v1.ContainerRestartRule": ("action",),
    "core_v1.ContainerRestartRuleOnExitCodes": ("operator",),
    "core_v1.ImageVolumeStatus": ("imageRef",),
    "core_v1.PodCertificateProjection": ("keyType", "signerName"),
    "networking_v1.HTTPIngressPath": ("pathType",),
    "networking_v1.ParentReference": ("name", "resource"),
}
