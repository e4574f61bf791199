"""What objects count for in a quota, and which quotas look at them. No I/O.

The admission plugin refuses by these rules, the controller tells by them: one count, wherever it is made.

Source: kubernetes pkg/quota/v1/evaluator/core; apiserver pkg/quota/v1/generic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import ceil
from typing import Any

from . import quantity
from .clock import parse_time
from .types.core_v1 import Container, PersistentVolumeClaim, Pod, ResourceQuota, Service
from .values import Quantity

#: {what a quota may count: how much, in base units}
Amounts = dict[str, Fraction]
ONE, NONE = Fraction(1), Fraction(0)
SHORT = frozenset({"cpu", "memory", "ephemeral-storage"})
#: Kinds of the core group that may also be counted by their bare plural.
BARE = frozenset(
    (
        "configmaps",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "services",
    )
)
STORAGE_CLASS = ".storageclass.storage.k8s.io/"
#: Asked for in a quota, these must be named by every container of a new pod.
COMPULSORY = ("cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory")
_OF_SERVICES = frozenset({"services", "services.nodeports", "services.loadbalancers"})


def counted_kind(name: str) -> str:
    """The ``plural[.group]`` of the objects behind a quota's resource: ``requests.cpu`` is of ``pods``."""
    if name.startswith("count/"):
        return name.removeprefix("count/")
    if name in _OF_SERVICES:
        return "services"
    if name == "requests.storage" or STORAGE_CLASS in name:
        return "persistentvolumeclaims"
    return name if name in BARE else "pods"


def usage(obj: Any, kind: str, now: float) -> Amounts:
    """What one object of ``kind`` (``plural[.group]``) counts for. A finished pod, or one that outstayed its end, counts
    only as an object."""
    amounts = {f"count/{kind}": ONE}
    if isinstance(obj, Pod):
        return amounts | (_pod(obj) if charged(obj, now) else {})
    if isinstance(obj, PersistentVolumeClaim):
        return amounts | _claim(obj)
    if isinstance(obj, Service):
        return amounts | _service(obj)
    if kind in BARE:
        amounts[kind] = ONE
    return amounts


def charged(pod: Pod, now: float) -> bool:
    meta = pod.metadata
    if pod.status.phase in ("Failed", "Succeeded"):
        return False
    if meta.deletion_timestamp is None or meta.deletion_grace_period_seconds is None:
        return True
    return now <= parse_time(meta.deletion_timestamp) + meta.deletion_grace_period_seconds


def _pod(pod: Pod) -> Amounts:
    found: Amounts = {"pods": ONE}
    for name, amount in pod_total(pod, "requests").items():
        found[f"requests.{name}"] = amount
        if name in SHORT or name.startswith("hugepages-"):
            found[name] = amount
    for name, amount in pod_total(pod, "limits").items():
        found[f"limits.{name}"] = amount
    return found


def pod_total(pod: Pod, which: str) -> Amounts:
    """Requests or limits of a whole pod: containers together, init containers in turn, sidecars throughout, overhead."""
    spec = pod.spec
    total: Amounts = {}
    for container in spec.containers:
        _add(total, _of(container, which))
    started: Amounts = {}
    peak: Amounts = {}
    for container in spec.init_containers:
        own = _of(container, which)
        if container.restart_policy == "Always":
            _add(total, own)
            _add(started, own)
            own = dict(started)
        else:
            _add(own, started)
        _raise(peak, own)
    _raise(total, peak)
    if spec.resources is not None:
        total |= _parsed(getattr(spec.resources, which))
    for name, amount in _parsed(spec.overhead).items():
        if which == "requests" or name in total:
            total[name] = total.get(name, NONE) + amount
    return total


def _of(container: Container, which: str) -> Amounts:
    return _parsed(getattr(container.resources, which))


def _parsed(texts: Mapping[str, Quantity]) -> Amounts:
    return {name: quantity.parse(text) for name, text in texts.items()}


def _add(total: Amounts, more: Mapping[str, Fraction]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, NONE) + amount


def _raise(total: Amounts, other: Mapping[str, Fraction]) -> None:
    for name, amount in other.items():
        total[name] = max(total.get(name, amount), amount)


def _claim(claim: PersistentVolumeClaim) -> Amounts:
    asked = _parsed(claim.spec.resources.requests).get("storage", NONE)
    size = max(asked, _parsed(claim.status.allocated_resources).get("storage", NONE))
    found = {"persistentvolumeclaims": ONE, "requests.storage": size}
    storage_class = claim.spec.storage_class_name
    if storage_class:
        found[f"{storage_class}{STORAGE_CLASS}persistentvolumeclaims"] = ONE
        found[f"{storage_class}{STORAGE_CLASS}requests.storage"] = size
    return found


def _service(service: Service) -> Amounts:
    ports, type = service.spec.ports, service.spec.type
    found = {"services": ONE}
    if type == "NodePort":
        found["services.nodeports"] = Fraction(len(ports))
    elif type == "LoadBalancer":
        everyone = service.spec.allocate_load_balancer_node_ports is not False
        found["services.loadbalancers"] = ONE
        found["services.nodeports"] = Fraction(sum(1 for port in ports if everyone or port.node_port))
    return found


# ------------------------------------------------------------------------------------------------ scopes


def matches(quota: ResourceQuota, obj: Any) -> bool:
    """Whether an object is in all of a quota's scopes. A quota with scopes sees pods (and classed claims) alone."""
    selector = quota.spec.scope_selector
    wishes = [(scope, "Exists", ()) for scope in quota.spec.scopes]
    wishes += [(e.scope_name, e.operator, e.values) for e in selector.match_expressions] if selector else []  # type: ignore[misc]  # values is longer
    return all(_in_scope(scope, operator, values, obj) for scope, operator, values in wishes)


def _in_scope(scope: str, operator: str, values: Iterable[str], obj: Any) -> bool:
    if isinstance(obj, PersistentVolumeClaim) and scope == "VolumeAttributesClass":
        return any(_named(name, operator, values) for name in classes(obj) or ("",))
    if not isinstance(obj, Pod):
        return False
    match scope:
        case "Terminating":
            return obj.spec.active_deadline_seconds is not None
        case "NotTerminating":
            return obj.spec.active_deadline_seconds is None
        case "BestEffort":
            return best_effort(obj)
        case "NotBestEffort":
            return not best_effort(obj)
        case "CrossNamespacePodAffinity":
            return _crosses_namespaces(obj)
        case "PriorityClass":
            return _named(obj.spec.priority_class_name or "", operator, values)
    return False


def classes(claim: PersistentVolumeClaim) -> set[str]:
    """The VolumeAttributesClasses of a claim: the one it wants, the one it has, the one it is on its way to."""
    status = claim.status
    target = status.modify_volume_status.target_volume_attributes_class_name if status.modify_volume_status else None
    named = (claim.spec.volume_attributes_class_name, status.current_volume_attributes_class_name, target)
    return {name for name in named if name}


def _named(name: str, operator: str, values: Iterable[str]) -> bool:
    match operator:
        case "Exists":
            return bool(name)
        case "DoesNotExist":
            return not name
        case "In":
            return name in values
    return name not in values


def best_effort(pod: Pod) -> bool:
    """Whether neither the pod nor a container asks for or limits processor or memory."""
    held = [each.resources for each in (*pod.spec.containers, *pod.spec.init_containers)]
    held += [pod.spec.resources] if pod.spec.resources is not None else []
    return not any(name in r.requests or name in r.limits for r in held for name in ("cpu", "memory"))


def _crosses_namespaces(pod: Pod) -> bool:
    affinity = pod.spec.affinity
    for side in (affinity.pod_affinity, affinity.pod_anti_affinity) if affinity is not None else ():
        if side is None:
            continue
        terms = list(side.required_during_scheduling_ignored_during_execution)
        terms += [each.pod_affinity_term for each in side.preferred_during_scheduling_ignored_during_execution]
        if any(term.namespaces or term.namespace_selector is not None for term in terms):
            return True
    return False


def unnamed(pod: Pod, hard: Iterable[str]) -> str:
    """What a quota demands of each container and which do not name it: ``must specify requests.cpu for: a,b``."""
    lacking = []
    for name in sorted(set(hard).intersection(COMPULSORY)):
        resource, which = name.rpartition(".")[2], "limits" if name.startswith("limits.") else "requests"
        if pod.spec.resources is not None and resource in getattr(pod.spec.resources, which):
            continue
        containers = (*pod.spec.containers, *pod.spec.init_containers)
        without = {c.name for c in containers if resource not in getattr(c.resources, which)}
        if without:
            lacking.append(f"{name} for: {','.join(sorted(without))}")
    return "must specify " + "; ".join(lacking) if lacking else ""


# ------------------------------------------------------------------------------------------------ totals


def shown(name: str, amount: Fraction) -> Quantity:
    """A total as a status shows it: bytes in binary units, all else decimal."""
    if amount and any(word in name for word in ("memory", "storage", "hugepages-")) and "persistentvol" not in name:
        return quantity.format_bytes(ceil(amount))
    return quantity.format_millis(ceil(amount * 1000))


def used(quota: ResourceQuota, objects: Mapping[str, Iterable[Any]], now: float) -> dict[str, Quantity]:
    """Usage of everything a quota limits. ``objects``: {plural[.group]: the namespace's objects of it}."""
    total = dict.fromkeys(quota.spec.hard, NONE)
    for kind, found in objects.items():
        for obj in found:
            if matches(quota, obj):
                for name, amount in usage(obj, kind, now).items():
                    if name in total:
                        total[name] += amount
    return {name: shown(name, amount) for name, amount in total.items()}
