"""What an object counts for in a quota, and which quotas look at it. Pure.

Source: pkg/quota/v1/evaluator/core; apiserver pkg/quota/v1/generic.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from kaa.api import quantity
from kaa.api.types.core_v1 import PersistentVolumeClaim, Pod, ResourceQuota, Service

from .pod_resources import Amounts, pod_amounts

ONE = Fraction(1)
#: Kinds that may also be counted by their bare plural.
_BARE = frozenset(
    {"configmaps", "secrets", "replicationcontrollers", "resourcequotas", "services", "persistentvolumeclaims"}
)
#: Asked for in a quota, these must be named by every container of a new pod.
COMPULSORY = ("cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory")
_SHORT = frozenset({"cpu", "memory", "ephemeral-storage"})


def usage(obj: Any, plural: str, group: str) -> Amounts:
    """{what a quota may count: how much} of one object. A finished pod counts only as an object."""
    count = {f"count/{plural}.{group}" if group else f"count/{plural}": ONE}
    if isinstance(obj, Pod):
        return count | (_pod(obj) if _counts(obj) else {})
    if isinstance(obj, PersistentVolumeClaim):
        return count | _claim(obj)
    if isinstance(obj, Service):
        return count | _service(obj)
    if not group and plural in _BARE:
        count[plural] = ONE
    return count


def _counts(pod: Pod) -> bool:
    return pod.status.phase not in ("Failed", "Succeeded")


def _pod(pod: Pod) -> Amounts:
    requests, limits = pod_amounts(pod)
    found: Amounts = {"pods": ONE}
    for name, amount in requests.items():
        found[f"requests.{name}"] = amount
        if name in _SHORT or name.startswith("hugepages-"):
            found[name] = amount
    for name, amount in limits.items():
        found[f"limits.{name}"] = amount
    return found


def _claim(claim: PersistentVolumeClaim) -> Amounts:
    found: Amounts = {"persistentvolumeclaims": ONE}
    text = claim.spec.resources.requests.get("storage")
    size = quantity.parse(text) if text else Fraction(0)
    found["requests.storage"] = size
    storage_class = claim.spec.storage_class_name
    if storage_class:
        prefix = f"{storage_class}.storageclass.storage.k8s.io"
        found[f"{prefix}/persistentvolumeclaims"] = ONE
        found[f"{prefix}/requests.storage"] = size
    return found


def _service(service: Service) -> Amounts:
    found: Amounts = {"services": ONE}
    ports, kind = len(service.spec.ports), service.spec.type
    if kind == "NodePort":
        found["services.nodeports"] = Fraction(ports)
    elif kind == "LoadBalancer":
        found["services.loadbalancers"] = ONE
        allocated = service.spec.allocate_load_balancer_node_ports is not False
        count = ports if allocated else sum(1 for p in service.spec.ports if p.node_port)
        found["services.nodeports"] = Fraction(count)
    return found


def matches(quota: ResourceQuota, obj: Any) -> bool:
    """Whether the object is in all of the quota's scopes. Scopes speak of pods alone, but for none at all."""
    spec = quota.spec
    expressions = spec.scope_selector.match_expressions if spec.scope_selector else ()
    if not spec.scopes and not expressions:
        return True
    if not isinstance(obj, Pod):
        return False
    if not all(_in_scope(scope, "Exists", (), obj) for scope in spec.scopes):
        return False
    return all(_in_scope(e.scope_name, e.operator, e.values, obj) for e in expressions)


def _in_scope(scope: str, operator: str, values: Iterable[str], pod: Pod) -> bool:
    match scope:
        case "Terminating":
            return pod.spec.active_deadline_seconds is not None
        case "NotTerminating":
            return pod.spec.active_deadline_seconds is None
        case "BestEffort":
            return best_effort(pod)
        case "NotBestEffort":
            return not best_effort(pod)
        case "CrossNamespacePodAffinity":
            return _crosses_namespaces(pod)
        case "PriorityClass":
            return _of_class(pod.spec.priority_class_name or "", operator, values)
    return False


def _of_class(name: str, operator: str, values: Iterable[str]) -> bool:
    match operator:
        case "Exists":
            return bool(name)
        case "DoesNotExist":
            return not name
        case "In":
            return name in values
    return name not in values


def best_effort(pod: Pod) -> bool:
    """Whether no container asks for or limits processor or memory."""
    held = [c.resources for c in (*pod.spec.containers, *pod.spec.init_containers)]
    return not any(name in r.requests or name in r.limits for r in held for name in ("cpu", "memory"))


def _crosses_namespaces(pod: Pod) -> bool:
    affinity = pod.spec.affinity
    if affinity is None:
        return False
    for side in (affinity.pod_affinity, affinity.pod_anti_affinity):
        if side is None:
            continue
        terms = list(side.required_during_scheduling_ignored_during_execution)
        terms += [w.pod_affinity_term for w in side.preferred_during_scheduling_ignored_during_execution]
        if any(term.namespaces or term.namespace_selector is not None for term in terms):
            return True
    return False


def unnamed(pod: Pod, hard: Iterable[str]) -> str:
    """What a quota demands of each container and which do not name it: ``must specify requests.cpu for: a,b``."""
    lacking = []
    for name in sorted(set(hard).intersection(COMPULSORY)):
        resource, limit = name.rpartition(".")[2], name.startswith("limits.")
        if pod.spec.resources is not None and resource in getattr(
            pod.spec.resources, "limits" if limit else "requests"
        ):
            continue
        without = [
            c.name
            for c in (*pod.spec.containers, *pod.spec.init_containers)
            if resource not in (c.resources.limits if limit else c.resources.requests)
        ]
        if without:
            lacking.append(f"{name} for: {','.join(sorted(set(without)))}")
    return "must specify " + "; ".join(lacking) if lacking else ""
