"""TaintNodesByCondition: a new node takes no pods until its controller has seen it ready.

Source: plugin/pkg/admission/nodetaint.
"""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api.types.core_v1 import Node, Taint

from ..view import View
from .base import Attributes
from .plugin import Passive

_NOT_READY = Taint(key="node.kubernetes.io/not-ready", effect="NoSchedule")


class TaintNodesByCondition(Passive):
    name = "TaintNodesByCondition"
    kinds = frozenset({"nodes"})

    async def admit(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "CREATE" or not attributes.on("nodes"):
            return
        node: Node = attributes.object
        if any(t.key == _NOT_READY.key and t.effect == _NOT_READY.effect for t in node.spec.taints):
            return
        attributes.object = replace(node, spec=replace(node.spec, taints=(*node.spec.taints, _NOT_READY)))
