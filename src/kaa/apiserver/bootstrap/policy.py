"""The roles and bindings that are not a controller's: administrators, users, nodes, the scheduler, discovery.

Source: plugin/pkg/auth/authorizer/rbac/bootstrappolicy policy.go and namespace_policy.go; cmd/kubeadm for the binding of
``kubeadm:cluster-admins``.
"""

from __future__ import annotations

from kaa.api.types.rbac_v1 import ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding

from .rules import aggregated, binding, cluster_binding, cluster_role, role

_SCALABLE = "deployments deployments/scale replicasets replicasets/scale"
_APPS_STATUS = "daemonsets/status deployments/status replicasets/status"

AGGREGATE_TO_ADMIN = """
    create | localsubjectaccessreviews | authorization.k8s.io
    all | rolebindings roles | rbac.authorization.k8s.io
"""
AGGREGATE_TO_EDIT = f"""
    read | pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy
    impersonate | serviceaccounts
    write | pods pods/attach pods/exec pods/portforward pods/proxy
    create | pods/eviction
    write | configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy
    create | serviceaccounts/token
    write | events | core events.k8s.io
    write | daemonsets deployments/rollback {_SCALABLE} statefulsets statefulsets/scale | apps
    write | horizontalpodautoscalers | autoscaling
    write | cronjobs jobs | batch
    write | daemonsets deployments/rollback {_SCALABLE} ingresses networkpolicies replicationcontrollers/scale | extensions
    write | poddisruptionbudgets | policy
    write | ingresses networkpolicies | networking.k8s.io
    all | leases | coordination.k8s.io
    write | resourceclaims resourceclaimtemplates | resource.k8s.io
"""
AGGREGATE_TO_VIEW = f"""
    read | configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status
    read | bindings limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status
    read | namespaces
    read | events | core events.k8s.io
    read | endpointslices | discovery.k8s.io
    read | controllerrevisions daemonsets {_APPS_STATUS} {_SCALABLE} statefulsets statefulsets/scale statefulsets/status | apps
    read | horizontalpodautoscalers horizontalpodautoscalers/status | autoscaling
    read | cronjobs cronjobs/status jobs jobs/status | batch
    read | daemonsets {_APPS_STATUS} {_SCALABLE} ingresses ingresses/status networkpolicies replicationcontrollers/scale | extensions
    read | poddisruptionbudgets poddisruptionbudgets/status | policy
    read | ingresses ingresses/status networkpolicies | networking.k8s.io
    read | resourceclaims resourceclaims/status resourceclaimtemplates | resource.k8s.io
"""
NODE = """
    create | tokenreviews | authentication.k8s.io
    create | localsubjectaccessreviews subjectaccessreviews | authorization.k8s.io
    read | services
    read create | nodes
    patch update | nodes/status
    patch update | nodes
    events
    read | pods
    create delete | pods
    patch update | pods/status
    create | pods/eviction
    read | configmaps secrets
    get | persistentvolumeclaims persistentvolumes
    get | endpoints
    read create | certificatesigningrequests | certificates.k8s.io
    get create delete patch update | leases | coordination.k8s.io
    get | volumeattachments | storage.k8s.io
    create | serviceaccounts/token
    get patch update | persistentvolumeclaims/status
    read | csidrivers | storage.k8s.io
    get create delete patch update | csinodes | storage.k8s.io
    read | runtimeclasses | node.k8s.io
    get | resourceclaims | resource.k8s.io
    deletecollection | resourceslices | resource.k8s.io
    get | serviceaccounts
"""
SCHEDULER = """
    events
    create | leases | coordination.k8s.io
    read update | leases=kube-scheduler | coordination.k8s.io
    all | leasecandidates | coordination.k8s.io
    read | nodes
    read delete | pods
    create | bindings pods/binding
    patch update | pods/status
    read | replicationcontrollers services
    read | replicasets | apps extensions
    read | statefulsets | apps
    read | poddisruptionbudgets | policy
    read | persistentvolumeclaims persistentvolumes
    create | tokenreviews | authentication.k8s.io
    create | subjectaccessreviews | authorization.k8s.io
    read | csinodes | storage.k8s.io
    read | volumeattachments | storage.k8s.io
    read | namespaces
    read | csidrivers | storage.k8s.io
    read | csistoragecapacities | storage.k8s.io
    read | deviceclasses | resource.k8s.io
    read patch update | resourceclaims | resource.k8s.io
    read patch update | resourceclaims/status | resource.k8s.io
    update | pods/finalizers
    read | resourceslices | resource.k8s.io
    create delete | resourceclaims | resource.k8s.io
    patch update | resourceclaims/binding | resource.k8s.io
"""
CONTROLLER_MANAGER = """
    events
    create | leases | coordination.k8s.io
    get update | leases=kube-controller-manager | coordination.k8s.io
    create | secrets serviceaccounts
    delete | secrets
    get | configmaps namespaces secrets serviceaccounts
    update | secrets serviceaccounts
    create | tokenreviews | authentication.k8s.io
    create | subjectaccessreviews | authorization.k8s.io
    list watch | * | *
    create | serviceaccounts/token
"""
#: {cluster role without the prefix ``system:``: its rules}
SYSTEM_ROLES = {
    "auth-delegator": """
        create | tokenreviews | authentication.k8s.io
        create | subjectaccessreviews | authorization.k8s.io
    """,
    "basic-user": """
        create | selfsubjectaccessreviews selfsubjectrulesreviews | authorization.k8s.io
        create | selfsubjectreviews | authentication.k8s.io
    """,
    "certificates.k8s.io:certificatesigningrequests:nodeclient": """
        create | certificatesigningrequests/nodeclient | certificates.k8s.io
    """,
    "certificates.k8s.io:certificatesigningrequests:selfnodeclient": """
        create | certificatesigningrequests/selfnodeclient | certificates.k8s.io
    """,
    "discovery": "url | /api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
    "heapster": """
        read | events namespaces nodes pods
        read | deployments | extensions
    """,
    "kube-aggregator": "read | endpoints services",
    "kube-controller-manager": CONTROLLER_MANAGER,
    "kube-dns": "list watch | endpoints services",
    "kube-scheduler": SCHEDULER,
    "kubelet-api-admin": """
        read | nodes
        proxy | nodes
        * | nodes/log nodes/metrics nodes/proxy nodes/stats
        * | nodes/configz nodes/healthz nodes/pods
    """,
    "monitoring": """
        url | /flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* /statusz
        get | nodes/metrics
    """,
    "node": NODE,
    "node-bootstrapper": "read create | certificatesigningrequests | certificates.k8s.io",
    "node-problem-detector": """
        get | nodes
        patch | nodes/status
        events
    """,
    "node-proxier": """
        list watch | endpoints services
        read | nodes
        events
        list watch | servicecidrs | networking.k8s.io
        list watch | endpointslices | discovery.k8s.io
    """,
    "persistent-volume-provisioner": """
        read create delete | persistentvolumes
        read update | persistentvolumeclaims
        read | storageclasses | storage.k8s.io
        watch | events
        events
    """,
    "public-info-viewer": "url | /healthz /livez /readyz /version /version/",
    "service-account-issuer-discovery": """
        url | /.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/
    """,
    "volume-scheduler": """
        read patch update | persistentvolumes
        read | storageclasses | storage.k8s.io
        read patch update | persistentvolumeclaims
    """,
}
_SIGNERS = {
    "kube-apiserver-client-approver": "kube-apiserver-client",
    "kube-apiserver-client-kubelet-approver": "kube-apiserver-client-kubelet",
    "kubelet-serving-approver": "kubelet-serving",
    "legacy-unknown-approver": "legacy-unknown",
}
#: {cluster role binding: its subjects}; each binds the role of its own name, unless ``_BOUND`` says another
BINDINGS: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("group:system:masters",),
    "kubeadm:cluster-admins": ("group:kubeadm:cluster-admins",),
    "system:basic-user": ("group:system:authenticated",),
    "system:discovery": ("group:system:authenticated",),
    "system:kube-controller-manager": ("user:system:kube-controller-manager",),
    "system:kube-dns": ("kube-system/kube-dns",),
    "system:kube-scheduler": ("user:system:kube-scheduler",),
    "system:monitoring": ("group:system:monitoring",),
    "system:node": (),
    "system:node-proxier": ("user:system:kube-proxy",),
    "system:public-info-viewer": ("group:system:authenticated", "group:system:unauthenticated"),
    "system:service-account-issuer-discovery": ("group:system:serviceaccounts",),
    "system:volume-scheduler": ("user:system:kube-scheduler",),
}
_BOUND = {"kubeadm:cluster-admins": "cluster-admin"}

_READER = "extension-apiserver-authentication-reader"
_LEADER_RULES = """
    read create update | leases | coordination.k8s.io
    read create update | leasecandidates | coordination.k8s.io
"""


def cluster_roles() -> list[ClusterRole]:
    admin = ClusterRole(metadata=cluster_role("cluster-admin", "* | * | *").metadata, rules=_everything())
    return [
        admin,
        aggregated("admin"),
        aggregated("edit", aggregate_to_admin="true"),
        aggregated("view", aggregate_to_edit="true"),
        cluster_role("system:aggregate-to-admin", AGGREGATE_TO_ADMIN, aggregate_to_admin="true"),
        cluster_role("system:aggregate-to-edit", AGGREGATE_TO_EDIT, aggregate_to_edit="true"),
        cluster_role("system:aggregate-to-view", AGGREGATE_TO_VIEW, aggregate_to_view="true"),
        *(cluster_role(f"system:{name}", text) for name, text in SYSTEM_ROLES.items()),
        *(
            cluster_role(
                f"system:certificates.k8s.io:{name}",
                f"approve | signers=kubernetes.io/{signer} | certificates.k8s.io",
            )
            for name, signer in _SIGNERS.items()
        ),
    ]


def _everything() -> tuple[PolicyRule, ...]:
    star = ("*",)
    return PolicyRule(verbs=star, api_groups=star, resources=star), PolicyRule(verbs=star, non_resource_urls=star)


def cluster_role_bindings() -> list[ClusterRoleBinding]:
    return [cluster_binding(name, subjects, _BOUND.get(name, "")) for name, subjects in BINDINGS.items()]


def roles() -> list[Role]:
    signer = "system:controller:bootstrap-signer"
    return [
        role("kube-public", signer, "read | configmaps\nupdate | configmaps=cluster-info\nevents"),
        role("kube-system", _READER, "read | configmaps=extension-apiserver-authentication"),
        role("kube-system", signer, "read | secrets"),
        role("kube-system", "system:controller:cloud-provider", "read create | configmaps"),
        role("kube-system", "system:controller:token-cleaner", "read delete | secrets\nevents"),
        *(role("kube-system", f"system::leader-locking-{name}", _LEADER_RULES) for name in _LEADERS),
    ]


_LEADERS: dict[str, tuple[str, ...]] = {
    "kube-controller-manager": (
        "user:system:kube-controller-manager",
        "kube-system/kube-controller-manager",
        "kube-system/leader-election-controller",
    ),
    "kube-scheduler": ("user:system:kube-scheduler", "kube-system/kube-scheduler"),
}


def role_bindings() -> list[RoleBinding]:
    def controller(namespace: str, name: str) -> RoleBinding:
        return binding(namespace, f"system:controller:{name}", (f"kube-system/{name}",))

    readers = ("user:system:kube-controller-manager", "user:system:kube-scheduler")
    return [
        controller("kube-public", "bootstrap-signer"),
        binding("kube-system", f"system::{_READER}", readers, _READER),
        *(controller("kube-system", name) for name in ("bootstrap-signer", "cloud-provider", "token-cleaner")),
        *(binding("kube-system", f"system::leader-locking-{name}", who) for name, who in _LEADERS.items()),
    ]
