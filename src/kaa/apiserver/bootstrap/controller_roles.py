"""What each controller may do: ``system:controller:<name>``, bound to its service account in kube-system.

Source: plugin/pkg/auth/authorizer/rbac/bootstrappolicy controller_policy.go.
"""

from __future__ import annotations

from collections.abc import Iterable

from kaa.api.types.rbac_v1 import ClusterRole, ClusterRoleBinding

from .rules import cluster_binding, cluster_role

#: {controller: its rules, in the notation of ``rules``}
CONTROLLERS = {
    "attachdetach-controller": """
        list watch | persistentvolumeclaims persistentvolumes
        read | nodes
        patch update | nodes/status
        list watch | pods
        events
        read create delete | volumeattachments | storage.k8s.io
        read | csidrivers | storage.k8s.io
        read | csinodes | storage.k8s.io
    """,
    "certificate-controller": """
        read delete | certificatesigningrequests | certificates.k8s.io
        update | certificatesigningrequests/approval certificatesigningrequests/status | certificates.k8s.io
        approve | signers=kubernetes.io/kube-apiserver-client-kubelet | certificates.k8s.io
        sign | signers=kubernetes.io/kube-apiserver-client+kubernetes.io/kube-apiserver-client-kubelet+kubernetes.io/kubelet-serving+kubernetes.io/legacy-unknown | certificates.k8s.io
        create | subjectaccessreviews | authorization.k8s.io
        events
    """,
    "clusterrole-aggregation-controller": """
        read escalate patch update | clusterroles | rbac.authorization.k8s.io
    """,
    "cronjob-controller": """
        read update | cronjobs | batch
        read create delete patch update | jobs | batch
        update | cronjobs/status | batch
        update | cronjobs/finalizers | batch
        list watch delete | pods
        events
    """,
    "daemon-set-controller": """
        read | daemonsets | apps extensions
        update | daemonsets/status | apps extensions
        update | daemonsets/finalizers | apps extensions
        list watch | nodes
        list watch create delete patch | pods
        create | pods/binding
        read create delete patch update | controllerrevisions | apps
        events
    """,
    "deployment-controller": """
        read update | deployments | apps extensions
        update | deployments/status | apps extensions
        update | deployments/finalizers | apps extensions
        read create delete patch update | replicasets | apps extensions
        read update | pods
        events
    """,
    "device-taint-eviction-controller": """
        read delete | pods
        patch update | pods/status
        read | resourceclaims | resource.k8s.io
        read | resourceslices | resource.k8s.io
        read | deviceclasses | resource.k8s.io
        events
    """,
    "disruption-controller": """
        read | deployments | apps extensions
        read | replicasets | apps extensions
        read | replicationcontrollers
        read | poddisruptionbudgets | policy
        read | statefulsets | apps
        update | poddisruptionbudgets/status | policy
        patch update | pods/status
        get | */scale | *
        events
    """,
    "endpoint-controller": """
        read | pods services
        read create delete update | endpoints
        create | endpoints/restricted
        events
    """,
    "endpointslice-controller": """
        read | nodes pods services
        update | services/finalizers
        read create delete update | endpointslices | discovery.k8s.io
        create | endpointslices/restricted | discovery.k8s.io
        events
    """,
    "endpointslicemirroring-controller": """
        read | endpoints services
        update | services/finalizers
        update | endpoints/finalizers
        read create delete update | endpointslices | discovery.k8s.io
        create | endpointslices/restricted | discovery.k8s.io
        events
    """,
    "ephemeral-volume-controller": """
        read | pods
        update | pods/finalizers
        read create | persistentvolumeclaims
        events
    """,
    "expand-controller": """
        read patch update | persistentvolumes
        patch update | persistentvolumeclaims/status
        read | persistentvolumeclaims
        events
    """,
    "generic-garbage-collector": """
        read delete patch update | * | *
        events
    """,
    "horizontal-pod-autoscaler": """
        read | horizontalpodautoscalers | autoscaling
        update | horizontalpodautoscalers/status | autoscaling
        get update | */scale | *
        list watch | pods
        list watch | pods | metrics.k8s.io
        read | * | custom.metrics.k8s.io
        read | * | external.metrics.k8s.io
        events
    """,
    "job-controller": """
        read patch update | jobs | batch
        update | jobs/status | batch
        update | jobs/finalizers | batch
        list watch create delete patch | pods
        events
    """,
    "legacy-service-account-token-cleaner": """
        get | configmaps=kube-apiserver-legacy-service-account-token-tracking
        delete patch | secrets
    """,
    "namespace-controller": """
        read delete | namespaces
        update | namespaces/finalize namespaces/status
        read delete deletecollection | * | *
    """,
    "node-controller": """
        read delete patch update | nodes
        patch update | nodes/status
        patch update | pods/status
        read delete | pods
        events
    """,
    "persistent-volume-binder": """
        read create delete update | persistentvolumes
        update | persistentvolumes/status
        read update | persistentvolumeclaims
        update | persistentvolumeclaims/status
        read create delete | pods
        read | storageclasses | storage.k8s.io
        list watch | nodes
        events
        watch | events
    """,
    "pod-garbage-collector": """
        list watch delete | pods
        read | nodes
        patch | pods/status
    """,
    "pv-protection-controller": """
        read update | persistentvolumes
        events
    """,
    "pvc-protection-controller": """
        read update | persistentvolumeclaims
        update | persistentvolumeclaims/status
        read | pods
        events
    """,
    "replicaset-controller": """
        read update | replicasets | apps extensions
        update | replicasets/status | apps extensions
        update | replicasets/finalizers | apps extensions
        list watch create delete patch | pods
        events
    """,
    "replication-controller": """
        read update | replicationcontrollers
        update | replicationcontrollers/status
        update | replicationcontrollers/finalizers
        list watch create delete patch | pods
        events
    """,
    "resource-claim-controller": """
        read | pods
        update | pods/finalizers
        read create delete | resourceclaims | resource.k8s.io
        patch update | resourceclaims resourceclaims/status | resource.k8s.io
        patch update | pods/status
        events
        patch update | resourceclaims/binding | resource.k8s.io
    """,
    "resourcequota-controller": """
        list watch | * | *
        update | resourcequotas/status
        events
    """,
    "root-ca-cert-publisher": """
        create update | configmaps
        events
    """,
    "route-controller": """
        list watch | nodes
        patch | nodes/status
        events
    """,
    "selinux-warning-controller": """
        events
        read | persistentvolumes
        read | persistentvolumeclaims
        read | pods
        read | csidrivers | storage.k8s.io
    """,
    "service-account-controller": """
        create | serviceaccounts
        events
    """,
    "service-cidrs-controller": """
        read patch update | servicecidrs | networking.k8s.io
        patch update | servicecidrs/finalizers | networking.k8s.io
        patch update | servicecidrs/status | networking.k8s.io
        read | ipaddresses | networking.k8s.io
        events
    """,
    "service-controller": """
        read | services
        patch update | services/status
        list watch | nodes
        events
    """,
    "statefulset-controller": """
        list watch | pods
        read | statefulsets | apps
        update | statefulsets/status | apps
        update | statefulsets/finalizers | apps
        get create delete patch update | pods
        read create delete patch update | controllerrevisions | apps
        read create | persistentvolumeclaims
        delete update | persistentvolumeclaims
        update | pods/finalizers
        events
    """,
    "ttl-after-finished-controller": """
        read delete | jobs | batch
        events
    """,
    "ttl-controller": """
        list watch patch update | nodes
        events
    """,
    "validatingadmissionpolicy-status-controller": """
        read | validatingadmissionpolicies | admissionregistration.k8s.io
        get patch update | validatingadmissionpolicies/status | admissionregistration.k8s.io
        events
    """,
    "volumeattributesclass-protection-controller": """
        read | persistentvolumeclaims
        read | persistentvolumes
        read update | volumeattributesclasses | storage.k8s.io
        events
    """,
}


#: Of controllers that act only where an API is served that is off by default: {its group version: {controller: rules}}
OPTIONAL_CONTROLLERS = {
    ("certificates.k8s.io", "v1beta1"): {
        "podcertificaterequestcleaner": """
            read delete | podcertificaterequests | certificates.k8s.io
            events
        """,
    },
    ("internal.apiserver.k8s.io", "v1alpha1"): {
        "storage-version-garbage-collector": """
            read | leases | coordination.k8s.io
            read delete patch update | storageversions | internal.apiserver.k8s.io
            get patch update | storageversions/status | internal.apiserver.k8s.io
        """,
    },
    ("storagemigration.k8s.io", "v1beta1"): {
        "storage-version-migrator-controller": """
            create list patch | * | *
            update | storageversionmigrations/status | storagemigration.k8s.io
        """,
    },
}


def controllers(versions: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """{controller: its rules} of a server that serves these group-versions."""
    more = [OPTIONAL_CONTROLLERS[one] for one in OPTIONAL_CONTROLLERS if one in set(versions)]
    return {**CONTROLLERS, **{name: text for rules in more for name, text in rules.items()}}


def controller_roles(versions: Iterable[tuple[str, str]] = ()) -> list[ClusterRole]:
    return [cluster_role(f"system:controller:{name}", text) for name, text in controllers(versions).items()]


def controller_bindings(versions: Iterable[tuple[str, str]] = ()) -> list[ClusterRoleBinding]:
    return [cluster_binding(f"system:controller:{name}", (f"kube-system/{name}",)) for name in controllers(versions)]
