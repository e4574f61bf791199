"""Whether a pod may be on a node: names, labels, affinity, taints. No I/O.

Source: component-helpers scheduling/corev1 (nodeaffinity, helpers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .types.core_v1 import (
    Node,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    Pod,
    Taint,
    Toleration,
)

NAME_FIELD = "metadata.name"


def _holds(wish: NodeSelectorRequirement, value: str | None) -> bool:
    match wish.operator:
        case "In":
            return value is not None and value in wish.values
        case "NotIn":
            return value is None or value not in wish.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return _compares(wish, value)
    return False


def _compares(wish: NodeSelectorRequirement, value: str | None) -> bool:
    try:
        left, right = int(value or ""), int(wish.values[0])
    except (ValueError, IndexError):
        return False
    return left > right if wish.operator == "Gt" else left < right


def _term(term: NodeSelectorTerm, labels: Mapping[str, str], name: str) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False  # an empty term selects nothing
    by_field = {NAME_FIELD: name}
    return all(_holds(each, labels.get(each.key)) for each in term.match_expressions) and all(
        _holds(each, by_field.get(each.key)) for each in term.match_fields
    )


def selects(selector: NodeSelector, node: Node) -> bool:
    """Whether one of a selector's terms matches a node."""
    name = node.metadata.name or ""
    return any(_term(term, node.metadata.labels, name) for term in selector.node_selector_terms)


def attracts(pod: Pod, node: Node) -> bool:
    """Whether the pod's node selector and required node affinity allow the node."""
    wanted = pod.spec.node_selector
    if any(node.metadata.labels.get(key) != value for key, value in wanted.items()):
        return False
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    return required is None or selects(required, node)


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether a toleration covers a taint. An empty key with Exists covers every key, an empty effect every effect."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    operator = toleration.operator or "Equal"
    if operator == "Exists":
        return True
    if operator == "Equal":
        return bool(toleration.key) and (toleration.value or "") == (taint.value or "")
    return _passes(operator, toleration.value or "", taint.value or "")


def _passes(operator: str, bound: str, value: str) -> bool:
    """``Lt`` and ``Gt``: the taint's number is below, or above, the toleration's."""
    try:
        return int(value) < int(bound) if operator == "Lt" else operator == "Gt" and int(value) > int(bound)
    except ValueError:
        return False


def untolerated(pod: Pod, taints: Iterable[Taint], *effects: str) -> bool:
    """Whether a taint of one of these effects keeps the pod off."""
    return any(
        taint.effect in effects and not any(tolerates(each, taint) for each in pod.spec.tolerations) for taint in taints
    )


def target_of(pod: Pod) -> str:
    """The node that a pod is on, or that its affinity ties it to; empty for neither."""
    if pod.spec.node_name:
        return pod.spec.node_name
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    for term in required.node_selector_terms if required else ():
        for field in term.match_fields:
            if field.key == NAME_FIELD and field.operator == "In" and len(field.values) == 1:
                return field.values[0]
    return ""
