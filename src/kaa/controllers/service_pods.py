"""Which pods stand behind a Service, on which ports, and in what state: what both endpoints controllers know. No I/O.

Source: kubernetes pkg/controller/util/endpoint, pkg/api/v1/pod (FindPort).
"""

from __future__ import annotations

from collections.abc import Iterator

from kaa.api import names, selectors
from kaa.api.types.core_v1 import Container, ObjectReference, Pod, Service, ServicePort
from kaa.client.informer import Informer

from .pods import is_finished

BY_LABEL = "namespace and label"
BY_SELECTOR = "namespace and selector"
HEADLESS_LABEL = "service.kubernetes.io/headless"


def _word(namespace: str | None, key: str, value: str) -> str:
    return f"{namespace}/{key}={value}"


def label_words(pod: Pod) -> list[str]:
    """``default/app=web`` for every label of a pod."""
    return [_word(pod.metadata.namespace, key, value) for key, value in pod.metadata.labels.items()]


def selector_words(service: Service) -> list[str]:
    """One word of a service's selector: a pod that it selects has that label too."""
    first = min(service.spec.selector.items(), default=None)
    return [] if first is None else [_word(service.metadata.namespace, *first)]


def selects(service: Service, pod: Pod) -> bool:
    wanted, labels = service.spec.selector, pod.metadata.labels
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())


def services_of(pod: Pod, services: Informer[Service]) -> Iterator[Service]:
    """The services that select a pod: found through its labels, not by asking every service."""
    for word in label_words(pod):
        for service in services.by_index(BY_SELECTOR, word):
            if selects(service, pod):
                yield service


def pods_of(service: Service, pods: Informer[Pod]) -> list[Pod]:
    """The pods that a service selects, by name."""
    words = [_word(service.metadata.namespace, *item) for item in service.spec.selector.items()]
    rarest = min(words, key=lambda word: pods.count(BY_LABEL, word))
    fits = selectors.from_labels(service.spec.selector).matcher()
    found = [pod for pod in pods.by_index(BY_LABEL, rarest) if fits(pod.metadata.labels)]
    return sorted(found, key=lambda pod: pod.metadata.name or "")


def count_of(service: Service | None, pods: Informer[Pod]) -> int:
    """About how many pods a service selects: what a look at it costs is proportional to them."""
    words = selector_words(service) if service is not None else []
    return pods.count(BY_LABEL, words[0]) if words else 0


def matters(old: Pod, new: Pod) -> bool:
    """Whether a change of a pod can change an endpoint made of it."""
    return (
        old.metadata.labels != new.metadata.labels
        or old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        or old.spec.node_name != new.spec.node_name
        or old.spec.hostname != new.spec.hostname
        or old.spec.subdomain != new.spec.subdomain
        or old.status.pod_ips != new.status.pod_ips
        or old.status.pod_ip != new.status.pod_ip
        or is_finished(old) != is_finished(new)
        or _readiness(old) != _readiness(new)
    )


def _readiness(pod: Pod) -> str:
    return next((c.status for c in pod.status.conditions if c.type == "Ready"), "")


def is_served(service: Service) -> bool:
    """Whether endpoints of a service are ours to make: it selects pods, and is no mere name."""
    return bool(service.spec.selector) and service.spec.type != "ExternalName"


def is_headless(service: Service) -> bool:
    return service.spec.cluster_ip in (None, "", "None")


def addresses_of(pod: Pod) -> list[str]:
    ips = [each.ip for each in pod.status.pod_ips]
    return ips or ([pod.status.pod_ip] if pod.status.pod_ip else [])


def address_of(pod: Pod, family: str) -> str | None:
    """The pod's first address of a family: ``IPv4`` or ``IPv6``."""
    version = 6 if family == "IPv6" else 4
    return next((ip for ip in addresses_of(pod) if names.ip_version(ip) == version), None)


def hostname_of(pod: Pod, service: Service) -> str | None:
    """The name under which DNS knows a pod in its service's domain."""
    named = bool(pod.spec.hostname) and pod.spec.subdomain == service.metadata.name
    return pod.spec.hostname if named else None


def reference_to(pod: Pod) -> ObjectReference:
    meta = pod.metadata
    return ObjectReference(kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid)


def target_port(port: ServicePort, pod: Pod) -> int | None:
    """The pod's port that a service's port leads to; None when the pod names no such port."""
    wanted = port.target_port
    if wanted is None or wanted in (0, ""):
        return port.port
    if isinstance(wanted, int):
        return wanted
    protocol = port.protocol or "TCP"
    for container in _serving(pod):
        for each in container.ports:
            if each.name == wanted and (each.protocol or "TCP") == protocol:
                return each.container_port
    return None


def _serving(pod: Pod) -> Iterator[Container]:
    yield from pod.spec.containers
    yield from (each for each in pod.spec.init_containers if each.restart_policy == "Always")
