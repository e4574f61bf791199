"""Extended resources that a class of devices stands for: pods ask for them as ever, and get a claim of their own."""

from __future__ import annotations

from typing import Any

from claims_lab import Bench, play
from device_lab import device, make_class, make_node, make_slice
from msgspec.structs import replace

from kaa.api.errors import InternalError
from kaa.api.scheme import convert, to_builtins
from kaa.api.types.core_v1 import Node, Pod
from kaa.api.types.resource_v1 import DeviceClass, ResourceClaim
from kaa.scheduler.extended import by_resource, special_claim

GPU = "example.com/gpu"


def container(name: str, count: int = 0, **more: Any) -> dict[str, Any]:
    amounts = {"cpu": "1", GPU: str(count)} if count else {"cpu": "1"}
    return {"name": name, "resources": {"requests": amounts, "limits": amounts}, **more}


def make_pod(name: str, *containers: dict[str, Any], inits: tuple[dict[str, Any], ...] = ()) -> Pod:
    meta = {"name": name, "namespace": "d", "uid": f"uid-{name}"}
    spec = {"containers": list(containers) or [container("c", 1)], "initContainers": list(inits)}
    return convert(Pod, {"metadata": meta, "spec": spec})


def with_plugin(node: Node, count: int) -> Node:
    """A node whose device plugin has some of the resource."""
    assert node.status is not None
    return replace(node, status=replace(node.status, allocatable={**node.status.allocatable, GPU: str(count)}))


def asked(pod: Pod) -> tuple[list[tuple[str, int | None]], list[tuple[str, str]]]:
    special = special_claim(pod, [GPU], {GPU: "gpu"})
    requests = [(r.name, r.exactly.count) for r in special.claim.spec.devices.requests if r.exactly is not None]
    return requests, [(m.container_name, m.request_name) for m in special.mappings]


def test_each_container_has_its_request() -> None:
    pod = make_pod("p", container("a", 2), container("b"), container("c", 1))
    assert asked(pod) == (
        [("container-0-request-1", 2), ("container-2-request-1", 1)],
        [("a", "container-0-request-1"), ("c", "container-2-request-1")],
    )


def test_init_containers_use_what_later_ones_have_and_share_the_rest() -> None:
    inits = (container("i", 1), container("side", 1, restartPolicy="Always"), container("j", 5), container("k", 3))
    requests, mappings = asked(make_pod("p", container("a", 2), inits=inits))
    assert requests == [("container-1-request-1", 1), ("container-2-request-1", 3), ("container-4-request-1", 2)]
    assert mappings == [
        ("side", "container-1-request-1"),
        ("a", "container-4-request-1"),
        ("i", "container-1-request-1"),
        ("j", "container-4-request-1"),
        ("j", "container-2-request-1"),
        ("k", "container-4-request-1"),
        ("k", "container-2-request-1"),
    ]


def test_the_newest_class_stands_for_a_resource_then_the_first_by_name() -> None:
    def dated(name: str, when: str) -> DeviceClass:
        made = make_class(name, extendedResourceName=GPU)
        return replace(made, metadata=replace(made.metadata, creation_timestamp=when))

    old, new, other = (dated("a", "2026-01-01T00:00:00Z"), *(dated(n, "2026-02-01T00:00:00Z") for n in ("b", "bb")))
    assert by_resource([old, other, new])[GPU] == "b"
    assert by_resource([old])["deviceclass.resource.kubernetes.io/a"] == "a"


def special(bench: Bench) -> ResourceClaim:
    (claim,) = bench.api.all(ResourceClaim)
    found: ResourceClaim = claim
    return found


def test_a_pod_gets_a_claim_for_what_its_node_has_none_of() -> None:
    async def story(bench: Bench) -> None:
        nodes = (make_node("n1"), make_node("n2"), make_slice("s", device("a"), nodeName="n1"))
        await bench.put(make_class("gpu", extendedResourceName=GPU), *nodes)
        await bench.put(make_pod("p"))
        claim = special(bench)
        assert bench.node_of("p") == "n1"
        assert (claim.metadata.name or "").startswith("p-extended-resources-")
        assert claim.metadata.annotations == {"resource.kubernetes.io/extended-resource-claim": "true"}
        assert [user.name for user in claim.status.reserved_for] == ["p"]
        assert claim.status.allocation is not None
        told = bench.pod("p").status.extended_resource_claim_status
        assert told is not None
        assert to_builtins(told) == {
            "resourceClaimName": claim.metadata.name,
            "requestMappings": [
                {"containerName": "c", "resourceName": GPU, "requestName": "container-0-request-1"},
            ],
        }
        await bench.put(make_pod("q"))
        assert bench.why("q").startswith("Unschedulable: 0/2 nodes are available: 2 cannot allocate all claims.")
        assert len(bench.api.all(ResourceClaim)) == 1
        await bench.end("p")
        assert bench.devices(claim.metadata.name or "") is None
        await bench.clock.advance(15)
        assert bench.node_of("q") == "n1"

    play(story)


def test_what_a_device_plugin_has_is_taken_from_it() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class("gpu", extendedResourceName=GPU), with_plugin(make_node("n1"), 1))
        await bench.put(make_pod("p"))
        assert bench.node_of("p") == "n1"
        assert bench.api.all(ResourceClaim) == []
        await bench.put(make_pod("q"))
        assert bench.why("q").startswith(f"Unschedulable: 0/1 nodes are available: 1 Insufficient {GPU}.")
        await bench.put(make_node("n2"), make_slice("s", device("a"), nodeName="n2"), seconds=12)
        assert bench.node_of("q") == "n2"

    play(story)


def test_without_a_class_it_is_a_resource_like_others() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_node("n1"), make_slice("s", device("a")), make_pod("p"))
        assert f"1 Insufficient {GPU}" in bench.why("p")
        await bench.put(make_class("gpu", extendedResourceName=GPU), seconds=12)
        assert bench.node_of("p") == "n1"

    play(story)


def test_a_binding_that_fails_leaves_no_claim() -> None:
    async def story(bench: Bench) -> None:
        await bench.put(make_class("gpu", extendedResourceName=GPU), make_node("n1"), make_slice("s", device("a")))
        left = [1]

        def refuse(verb: str, obj: Any) -> None:
            if verb == "bind" and left[0]:
                left[0] -= 1
                raise InternalError("no")

        bench.api.refuse = refuse
        await bench.put(make_pod("p"), seconds=0.5)
        assert bench.why("p").startswith("SchedulerError: binding rejected")
        assert bench.api.all(ResourceClaim) == []
        await bench.clock.advance(5)
        assert bench.node_of("p") == "n1"
        assert len(special(bench).status.reserved_for) == 1

    play(story)
