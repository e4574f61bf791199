"""DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or cannot be reached.

Source: plugin/pkg/admission/defaulttolerationseconds.
"""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api.types.core_v1 import Pod, PodSpec, Toleration

from ..memo import Memo
from ..view import View
from .base import Attributes
from .plugin import Passive

SECONDS = 300
_KEYS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_TOLERATIONS = {
    key: Toleration(key=key, operator="Exists", effect="NoExecute", toleration_seconds=SECONDS) for key in _KEYS
}


class DefaultTolerationSeconds(Passive):
    name = "DefaultTolerationSeconds"
    kinds = frozenset({"pods"})

    async def admit(self, attributes: Attributes, view: View) -> None:
        if attributes.operation not in ("CREATE", "UPDATE") or not attributes.on("pods"):
            return
        pod: Pod = attributes.object
        spec = _tolerating(pod.spec)
        if spec is not pod.spec:
            attributes.object = replace(pod, spec=spec)


@Memo
def _tolerating(spec: PodSpec) -> PodSpec:
    held = spec.tolerations
    missing = tuple(wanted for key, wanted in _TOLERATIONS.items() if not any(_covers(t, key) for t in held))
    return replace(spec, tolerations=held + missing) if missing else spec


def _covers(toleration: Toleration, key: str) -> bool:
    """Whether the toleration speaks of the taint; without a key it speaks of all."""
    return toleration.key in (key, None, "") and toleration.effect in ("NoExecute", None, "")
