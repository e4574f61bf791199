"""The plugins of a cluster, in upstream's order. Webhooks and policies stand before ResourceQuota: it counts last."""

from __future__ import annotations

from ..authz.base import Authorizer
from ..authz.rbac import RbacAuthorizer
from ..webhooks.plugin import DynamicAdmission
from .base import Chain, Plugin
from .certificates import (
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
    ClusterTrustBundleAttest,
    PodCertificateSigning,
)
from .default_tolerations import DefaultTolerationSeconds
from .ingress_class import DefaultIngressClass
from .limit_ranger import LimitRanger
from .namespace_lifecycle import NamespaceLifecycle
from .node_restriction import NodeRestriction
from .pod_security import PodSecurity
from .policy_params import PolicyParams
from .priority import Priority
from .rbac_escalation import RbacEscalation
from .resource_quota import ResourceQuota
from .runtime_class import RuntimeClass
from .service_account import ServiceAccountAdmission
from .storage import DefaultStorageClass, PersistentVolumeClaimResize, StorageObjectInUseProtection
from .taint_nodes import TaintNodesByCondition


def default_plugins(
    authorizer: Authorizer, dynamic: DynamicAdmission | None = None, *, rbac: RbacAuthorizer | None = None
) -> list[Plugin]:
    """``rbac``: with it, writes of roles and bindings are held against what the writer may do. ``dynamic``: webhooks and policies, which see what the built-in plugins made of the object."""
    built_in: list[Plugin] = [
        NamespaceLifecycle(),
        LimitRanger(),
        ServiceAccountAdmission(),
        NodeRestriction(),
        TaintNodesByCondition(),
        PodSecurity(),
        Priority(),
        DefaultTolerationSeconds(),
        DefaultStorageClass(),
        StorageObjectInUseProtection(),
        PersistentVolumeClaimResize(),
        RuntimeClass(),
        CertificateApproval(authorizer),
        CertificateSigning(authorizer),
        PodCertificateSigning(authorizer),
        ClusterTrustBundleAttest(authorizer),
        CertificateSubjectRestriction(),
        DefaultIngressClass(),
    ]
    if dynamic is not None:
        dynamic.before = Chain(built_in)
    return [
        *built_in,
        *((dynamic, PolicyParams(authorizer, dynamic.versions.find_kind)) if dynamic is not None else ()),
        *((RbacEscalation(authorizer, rbac),) if rbac is not None else ()),
        ResourceQuota(),
    ]


def default_chain(
    authorizer: Authorizer, dynamic: DynamicAdmission | None = None, *, rbac: RbacAuthorizer | None = None
) -> Chain:
    return Chain(default_plugins(authorizer, dynamic, rbac=rbac))
