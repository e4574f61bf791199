"""Which name servers a pod is given. Pure: policy, pod and the node's resolv.conf in, ``resolv.conf`` out.

Source: k8s:pkg/kubelet/network/dns (limits: 3 servers, 32 search paths, 2048 characters of them).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kaa.api.types.core_v1 import Pod, PodDNSConfig
from kaa.runtime.base import DNS

MAX_SERVERS = 3
MAX_SEARCHES = 32
MAX_SEARCH_CHARS = 2048
MAX_SEARCH_PATH_CHARS = 253
CLUSTER_OPTIONS = ("ndots:5",)
LOCAL = DNS(servers=("127.0.0.1",), searches=(".",))

NO_CLUSTER_DNS = (
    'kubelet does not have ClusterDNS IP configured and cannot create Pod using "{policy}" policy. '
    'Falling back to "Default" policy.'
)


@dataclass(frozen=True, slots=True)
class Resolved:
    """``warnings`` are (reason, message) of events about the pod."""

    dns: DNS
    warnings: tuple[tuple[str, str], ...] = ()


def parse_resolv_conf(text: str) -> DNS:
    """Read a resolv.conf: the last ``search`` line counts, options add up. Raises ValueError for a bare ``nameserver``."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            if len(words) < 2:
                raise ValueError("nameserver list is empty")
            servers.append(words[1])
        elif words[0] == "search":
            searches = [word if word == "." else word.removesuffix(".") for word in words[1:]]
        elif words[0] == "options":
            options = list(merge_options(options, words[1:]))
    return DNS(tuple(servers), tuple(searches), tuple(options))


def pod_dns(pod: Pod, host: DNS | None, *, cluster_dns: tuple[str, ...], cluster_domain: str) -> Resolved:
    """A pod's ``resolv.conf``. ``host`` None is a node told to have none (``--resolv-conf=``)."""
    assert pod.spec is not None
    policy = pod.spec.dns_policy or "ClusterFirst"
    warnings: list[tuple[str, str]] = []
    within = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.spec.host_network)
    if policy == "None":
        dns = DNS()
    elif within and cluster_dns:
        searches = cluster_searches(pod.metadata.namespace or "", cluster_domain, host.searches if host else ())
        dns = DNS(cluster_dns, searches, CLUSTER_OPTIONS)
    else:
        if within:
            warnings.append(("MissingClusterDNS", NO_CLUSTER_DNS.format(policy=policy)))
        dns = host if host is not None else LOCAL
    if pod.spec.dns_config is not None:
        dns = append_config(dns, pod.spec.dns_config)
    dns, cut = fit(dns)
    return Resolved(dns, (*warnings, *cut))


def cluster_searches(namespace: str, domain: str, host: Iterable[str]) -> tuple[str, ...]:
    own = (f"{namespace}.svc.{domain}", f"svc.{domain}", domain) if domain else ()
    return tuple(dict.fromkeys((*own, *host)))


def append_config(dns: DNS, config: PodDNSConfig) -> DNS:
    """A pod's own ``dnsConfig`` after what its policy gave; an option of the same name replaces."""
    options = [f"{each.name}:{each.value}" if each.value else each.name or "" for each in config.options]
    return DNS(
        tuple(dict.fromkeys((*dns.servers, *config.nameservers))),
        tuple(dict.fromkeys((*dns.searches, *config.searches))),
        merge_options(dns.options, options),
    )


def merge_options(old: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """Options by name: a later one takes the place of an earlier."""
    return tuple({option.partition(":")[0]: option for option in (*old, *new)}.values())


def fit(dns: DNS) -> tuple[DNS, tuple[tuple[str, str], ...]]:
    """Cut what resolvers would not read, with the events that say so."""
    servers = dns.servers[:MAX_SERVERS]
    searches = [path for path in dns.searches if len(path.removesuffix(".")) <= MAX_SEARCH_PATH_CHARS][:MAX_SEARCHES]
    while len(" ".join(searches)) > MAX_SEARCH_CHARS:
        searches.pop()
    warnings = []
    if len(servers) < len(dns.servers):
        warnings.append(
            (
                "DNSConfigForming",
                "Nameserver limits were exceeded, some nameservers have been omitted, "
                f"the applied nameserver line is: {' '.join(servers)}",
            )
        )
    if len(searches) < len(dns.searches):
        warnings.append(
            (
                "DNSConfigForming",
                "Search Line limits were exceeded, some search paths have been omitted, "
                f"the applied search line is: {' '.join(searches)}",
            )
        )
    return DNS(servers, tuple(searches), dns.options), tuple(warnings)
