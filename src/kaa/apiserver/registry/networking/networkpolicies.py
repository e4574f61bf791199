"""NetworkPolicies.

Source: pkg/registry/networking/networkpolicy/strategy.go; ValidateNetworkPolicySpec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError, Path
from kaa.api.types.networking_v1 import IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec

from ...validation.common import NO_CIDR, SPEC, network_of
from ...validation.containers import PROTOCOLS
from ...validation.probes import port_number_or_name
from ...validation.selectors import label_selector
from ..fill import each
from ..strategy import Strategy
from ..tables import age, shape
from ..tables import label_selector as shown_selector


def _cells(obj: NetworkPolicy, now: float) -> Sequence[Any]:
    return obj.metadata.name, shown_selector(obj.spec.pod_selector), age(obj.metadata, now)


class NetworkPolicyStrategy(Strategy[NetworkPolicy]):
    kind = NetworkPolicy
    counts_generation = True
    table = shape("networking/networkpolicies", "Pod-Selector|Age", _cells)

    def default(self, obj: NetworkPolicy) -> NetworkPolicy:
        spec = obj.spec
        types = spec.policy_types
        if not types:
            types = ("Ingress", "Egress") if spec.egress else ("Ingress",)
        ingress = each(spec.ingress, _rule)
        egress = each(spec.egress, _rule)
        return replace(obj, spec=replace(spec, policy_types=types, ingress=ingress, egress=egress))

    def validate(self, obj: NetworkPolicy) -> list[FieldError]:
        return list(_faults(obj.spec))


def _rule(rule: Any) -> Any:
    ports = each(rule.ports, lambda port: port if port.protocol else replace(port, protocol="TCP"))
    return rule if ports is rule.ports else replace(rule, ports=ports)


def _faults(spec: NetworkPolicySpec) -> Iterator[FieldError]:
    yield from label_selector(spec.pod_selector, SPEC.child("podSelector"))
    for n, rule in enumerate(spec.ingress):
        at = SPEC.child("ingress").index(n)
        yield from _rule_faults(rule.ports, rule.from_, at, "from")
    for n, out in enumerate(spec.egress):
        at = SPEC.child("egress").index(n)
        yield from _rule_faults(out.ports, out.to, at, "to")
    at = SPEC.child("policyTypes")
    if len(spec.policy_types) > 2:
        yield fields.invalid(at, list(spec.policy_types), "may not specify more than two policyTypes")
        return
    for n, kind in enumerate(spec.policy_types):
        if kind not in ("Ingress", "Egress"):
            yield fields.not_supported(at.index(n), kind, ("Egress", "Ingress"))


def _rule_faults(
    ports: Sequence[NetworkPolicyPort], peers: Sequence[NetworkPolicyPeer], path: Path, side: str
) -> Iterator[FieldError]:
    for n, port in enumerate(ports):
        yield from _port(port, path.child("ports").index(n))
    for n, peer in enumerate(peers):
        yield from _peer(peer, path.child(side).index(n))


def _port(port: NetworkPolicyPort, path: Path) -> Iterator[FieldError]:
    if port.protocol is not None and port.protocol not in PROTOCOLS:
        yield fields.not_supported(path.child("protocol"), port.protocol, PROTOCOLS)
    if port.port is None:
        if port.end_port is not None:
            detail = "may not be specified when `port` is not specified"
            yield fields.invalid(path.child("endPort"), port.end_port, detail)
        return
    faults = list(port_number_or_name(port.port, path.child("port")))
    yield from faults
    if port.end_port is None:
        return
    if isinstance(port.port, str):
        detail = "may not be specified when `port` is non-numeric"
        yield fields.invalid(path.child("endPort"), port.end_port, detail)
        return
    if port.end_port < port.port:
        yield fields.invalid(path.child("endPort"), port.end_port, "must be greater than or equal to `port`")
    yield from port_number_or_name(port.end_port, path.child("endPort"))


def _peer(peer: NetworkPolicyPeer, path: Path) -> Iterator[FieldError]:
    given = 0
    for wire, selector in (("podSelector", peer.pod_selector), ("namespaceSelector", peer.namespace_selector)):
        if selector is not None:
            given += 1
            yield from label_selector(selector, path.child(wire))
    if peer.ip_block is not None:
        given += 1
        yield from _block(peer.ip_block, path.child("ipBlock"))
    if not given:
        yield fields.required(path, "must specify a peer")
    elif given > 1 and peer.ip_block is not None:
        yield fields.forbidden(path, "may not specify both ipBlock and another peer")


def _block(block: IPBlock, path: Path) -> Iterator[FieldError]:
    if not block.cidr:
        yield fields.required(path.child("cidr"))
        return
    network = network_of(block.cidr)
    if network is None:
        yield fields.invalid(path.child("cidr"), block.cidr, NO_CIDR)
        return
    for n, text in enumerate(block.except_):
        at = path.child("except").index(n)
        inner = network_of(text)
        if inner is None:
            yield fields.invalid(at, text, NO_CIDR)
        elif inner.version != network.version or inner == network or not inner.subnet_of(network):  # type: ignore[arg-type]  # one version
            yield fields.invalid(at, text, "must be a strict subset of `cidr`")


STRATEGY = NetworkPolicyStrategy()
