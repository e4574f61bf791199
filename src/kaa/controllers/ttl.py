"""How long kubelets may believe what they have read of Secrets and ConfigMaps: the longer the larger the cluster.

Source: kubernetes pkg/controller/ttl.
"""

from __future__ import annotations

from kaa.api.errors import NotFound
from kaa.api.types.core_v1 import Node
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller

ANNOTATION = "node.alpha.kubernetes.io/ttl"
#: (fewest nodes, most nodes, seconds); the ranges overlap, so that a node more or less does not turn everything over.
STEPS = ((0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, 2**31, 300))


def step_for(nodes: int, step: int) -> int:
    """The step of a cluster of so many nodes that has been on another one."""
    while nodes > STEPS[step][1]:
        step += 1
    while nodes < STEPS[step][0]:
        step -= 1
    return step


class TTL(Controller[Key]):
    """Keys are nodes."""

    name = "ttl-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.step = 0
        self.nodes = self.watch(Node, self._on_node)

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        step = step_for(len(self.nodes), self.step)
        if step != self.step:
            self.step = step
            for node in self.nodes:
                self.queue.add(key_of(node))
        if new is not None and new.metadata.annotations.get(ANNOTATION) != self._seconds():
            self.queue.add(key_of(new))

    def _seconds(self) -> str:
        return str(STEPS[self.step][2])

    async def reconcile(self, key: Key) -> None:
        node = self.nodes.by_key(key)
        if node is None or node.metadata.annotations.get(ANNOTATION) == self._seconds():
            return
        try:
            await self.client.patch(Node, key.name, {"metadata": {"annotations": {ANNOTATION: self._seconds()}}})
        except NotFound:
            return
