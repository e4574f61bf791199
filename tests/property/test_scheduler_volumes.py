"""Delayed claims: rows judged together are what asking node by node gives, and what is then assumed never collides."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kaa.api import quantity
from kaa.api.clock import VirtualClock
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim
from kaa.api.types.storage_v1 import StorageClass
from kaa.client.informer import Informers
from kaa.scheduler.plugins.volume_binding import Claims, choose, judge
from kaa.scheduler.snapshot import Snapshot
from kaa.scheduler.volumes import Volumes

INFO = (
    "architecture bootID containerRuntimeVersion kernelVersion kubeProxyVersion kubeletVersion machineID operatingSystem"
    " osImage systemUUID"
)


def make_node(name: str) -> Node:
    status = {"allocatable": {"pods": "9"}, "daemonEndpoints": {}, "nodeInfo": dict.fromkeys(INFO.split(), "")}
    return convert(Node, {"metadata": {"name": name, "labels": {"host": name}}, "status": status})


def make_claim(name: str, size: int) -> PersistentVolumeClaim:
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": str(size)}}}
    return convert(PersistentVolumeClaim, {"metadata": {"name": name}, "spec": {**asked, "storageClassName": "c"}})


def make_volume(name: str, size: int, nodes: list[str]) -> PersistentVolume:
    wish = {"matchExpressions": [{"key": "host", "operator": "In", "values": nodes}]}
    spec = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": str(size)}, "storageClassName": "c"}
    reach = {"nodeAffinity": {"required": {"nodeSelectorTerms": [wish]}}} if nodes else {}
    status = {"phase": "Available"}
    return convert(PersistentVolume, {"metadata": {"name": name}, "spec": {**spec, **reach}, "status": status})


def naive(claims: list[PersistentVolumeClaim], volumes: list[PersistentVolume], node: str) -> bool:
    """Upstream's loop for one node: the smallest claim first, the smallest volume that is left."""
    left = {v.metadata.name: quantity.parse(v.spec.capacity["storage"]) for v in volumes if reaches(v, node)}
    for asked in sorted(quantity.parse(c.spec.resources.requests["storage"]) for c in claims):
        fitting = [name for name, size in left.items() if size >= asked]
        if not fitting:
            return False
        del left[min(fitting, key=lambda name: (left[name], name or ""))]
    return True


def reaches(volume: PersistentVolume, node: str) -> bool:
    affinity = volume.spec.node_affinity
    if affinity is None or affinity.required is None:
        return True
    return node in affinity.required.node_selector_terms[0].match_expressions[0].values


NODES = ["a", "b", "c"]
volumes_of = st.lists(st.tuples(st.integers(1, 5), st.lists(st.sampled_from(NODES), max_size=3)), max_size=6)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), pool=volumes_of)
def test_rows_judged_together_are_nodes_asked_one_by_one(sizes: list[int], pool: list[tuple[int, list[str]]]) -> None:
    nodes = Snapshot()
    for name in NODES:
        nodes.set_node(make_node(name))
    claims = [make_claim(f"c{n}", size) for n, size in enumerate(sizes)]
    made = [make_volume(f"v{n}", size, where) for n, (size, where) in enumerate(pool)]
    api: Any = None
    volumes = Volumes(Informers(api, VirtualClock()), lambda concerned: None)
    volumes.classes._put(
        convert(StorageClass, {"metadata": {"name": "c"}, "provisioner": "kubernetes.io/no-provisioner"})
    )
    for volume in made:
        volumes._volumes._put(volume)
    mask = judge(Claims(delayed=claims), volumes, nodes).mask
    assert {n for n in NODES if mask[nodes.rows[n]]} == {n for n in NODES if naive(claims, made, n)}


@given(sizes=st.lists(st.integers(1, 5), max_size=5), pool=st.lists(st.integers(1, 5), max_size=5))
def test_no_volume_is_chosen_twice_and_none_is_too_small(sizes: list[int], pool: list[int]) -> None:
    claims = [make_claim(f"c{n}", size) for n, size in enumerate(sizes)]
    made = [make_volume(f"v{n}", size, []) for n, size in enumerate(pool)]
    fitting = {f"c{n}": [v for v, room in zip(made, pool, strict=True) if room >= size] for n, size in enumerate(sizes)}
    choice = choose(claims, fitting, {v.metadata.name or "" for v in made})
    names = [volume.metadata.name for volume in choice.static.values()]
    assert len(names) == len(set(names))
    assert all(volume in fitting[claim] for claim, volume in choice.static.items())
    assert len(choice.static) + len(choice.make) == len(claims)
