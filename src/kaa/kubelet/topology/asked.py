"""What a pod asks of the hardware that is given out whole: pure readings of specs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kaa.api import quantity
from kaa.api.types.core_v1 import Container, Pod, ResourceRequirements
from kaa.api.values import Quantity

from ..cgroups import qos_class

WHOLE_POD = ""  #: the name of the container that asks for what its pod asks for as a whole


def containers(pod: Pod) -> Iterator[Container]:
    """In the order in which they get what they ask."""
    yield from pod.spec.init_containers
    yield from pod.spec.containers


def plain_inits(pod: Pod) -> frozenset[str]:
    """The containers that have ended before the pod's own begin: what they had is theirs then. Sidecars go on."""
    return frozenset(one.name for one in pod.spec.init_containers if one.restart_policy != "Always")


def may_own(pod: Pod) -> bool:
    """Whether a pod's containers may have CPUs and memory of their own: Guaranteed, and each by what it asks itself."""
    whole = pod.spec.resources
    return not (whole is not None and (whole.limits or whole.requests)) and qos_class(pod) == "Guaranteed"


def own_cpus(pod: Pod, container: Container) -> int:
    """How many CPUs are to be a container's alone: those of a Guaranteed pod that asks for whole ones."""
    text = requested(container).get("cpu")
    if text is None or not may_own(pod):
        return 0
    millis = quantity.millis(text)
    return 0 if millis % 1000 else millis // 1000


def requested(container: Container) -> Mapping[str, str]:
    """Requests; a limit stands for a request that is not there, as the API defaults it."""
    return {**container.resources.limits, **container.resources.requests}


def largest(pod: Pod, of: Mapping[str, int]) -> int:
    """What a pod takes at its most, of {container: what it takes}: init containers overlap, sidecars stay."""
    sidecars = most = 0
    for one in pod.spec.init_containers:
        amount = of.get(one.name, 0)
        if one.restart_policy == "Always":
            sidecars += amount
        else:
            most = max(most, sidecars + amount)
    return max(most, sidecars + sum(of.get(one.name, 0) for one in pod.spec.containers))


def as_one(pod: Pod) -> Container:
    """A container without a name that asks for what the pod as a whole does: for hints when pods are kept together."""
    asked = {one.name: requested(one) for one in containers(pod)}
    names = {name: quantity.millis if name == "cpu" else quantity.whole for of in asked.values() for name in of}
    total = {
        name: largest(pod, {one: read(of[name]) for one, of in asked.items() if name in of})
        for name, read in names.items()
    }
    shown = {name: Quantity(f"{amount}m" if name == "cpu" else str(amount)) for name, amount in total.items()}
    return Container(name=WHOLE_POD, resources=ResourceRequirements(limits=shown, requests=shown))
