"""A pod's quality of service: how it stands when its node runs out of something.

Source: pkg/apis/core/v1/helper/qos.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaa.api import quantity
from kaa.api.types.core_v1 import PodSpec, ResourceRequirements

from ...memo import Memo

COMPUTE = ("cpu", "memory")


@Memo
def qos_class(spec: PodSpec) -> str:
    """Guaranteed: limits of cpu and memory everywhere, equal to the requests; BestEffort: none of either anywhere."""
    if spec.resources is not None and (spec.resources.limits or spec.resources.requests):
        listed: Sequence[ResourceRequirements] = (spec.resources,)
    else:
        listed = [one.resources for one in spec.containers]
        listed += [one.resources for one in spec.init_containers]
    guaranteed, nothing = True, True
    for given in listed:
        if not given.limits and not given.requests:
            guaranteed = False
            continue
        for name in COMPUTE:
            request, limit = _amount(given.requests.get(name)), _amount(given.limits.get(name))
            if request or limit:
                nothing = False
            if not limit or request != limit:
                guaranteed = False
    if nothing:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _amount(text: str | None) -> Any:
    return quantity.parse(text) if text is not None else 0
