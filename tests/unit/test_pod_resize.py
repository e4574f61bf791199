"""What the resize subresource of a pod changes, and what it refuses, as upstream's pod_resize tests have it."""

from __future__ import annotations

from typing import Any

import pytest
from api_lab import Lab, run

PODS = "/api/v1/namespaces/default/pods"
SPACE: dict[str, Any] = {"metadata": {"name": "default"}}
STRATEGIC = "application/strategic-merge-patch+json"


def sized(name: str, requests: Any, limits: Any = None) -> dict[str, Any]:
    return {"name": name, "image": "busybox", "resources": {"requests": requests, "limits": limits or {}}}


def pod(*containers: Any, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers), **spec}}


BURSTABLE = pod(
    sized("a", {"cpu": "100m", "memory": "64Mi"}, {"cpu": "200m", "memory": "128Mi"}),
    sized("b", {"cpu": "1", "ephemeral-storage": "1Gi"}),
    initContainers=[sized("once", {"cpu": "1"}), {**sized("side", {"cpu": "1"}), "restartPolicy": "Always"}],
)


async def made(lab: Lab, body: dict[str, Any]) -> None:
    await lab.ask("POST", "/api/v1/namespaces", SPACE)
    await lab.ask("POST", "/api/v1/namespaces/default/serviceaccounts", SPACE)
    answer = await lab.ask("POST", PODS, body)
    assert answer.status == 201, answer.json()


def container(name: str, **resources: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": name, "resources": resources}]}}


def test_amounts_change_and_the_generation_counts() -> None:
    async def use(lab: Lab) -> None:
        await made(lab, BURSTABLE)
        patch = container("a", requests={"cpu": "150m"}, limits={"memory": "256Mi"})
        patch["spec"]["containers"][0]["image"] = "nginx"  # no business of a resize: left as it is
        patch["spec"]["initContainers"] = [{"name": "side", "resources": {"requests": {"cpu": "2"}}}]
        answer = await lab.ask("PATCH", f"{PODS}/p/resize", patch, content_type=STRATEGIC)
        assert answer.status == 200, answer.json()
        found = answer.json()
        first = found["spec"]["containers"][0]
        assert first["resources"] == {
            "requests": {"cpu": "150m", "memory": "64Mi"},
            "limits": {"cpu": "200m", "memory": "256Mi"},
        }
        assert first["image"] == "busybox"
        assert found["spec"]["initContainers"][1]["resources"] == {"requests": {"cpu": "2"}}
        assert found["metadata"]["generation"] == 2
        answer = await lab.ask("PATCH", f"{PODS}/p", container("a", requests={"cpu": "160m"}), content_type=STRATEGIC)
        assert answer.status == 422

    run(use, http=True)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (container("a", requests=None, limits=None), "Pod QOS Class may not change as a result of resizing"),
        (container("a", limits=None), "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"),
        (container("b", requests={"cpu": None}), "spec.containers[1].resources.requests: Forbidden: resource requests cannot be removed"),
        (container("b", requests={"ephemeral-storage": "2Gi"}), "spec: Forbidden: only cpu and memory resources are mutable"),
        ({"spec": {"initContainers": [{"name": "once", "resources": {"requests": {"cpu": "2"}}}]}}, "only cpu and memory resources are mutable"),
        (container("a", requests={"cpu": "300m"}), 'spec.containers[0].resources.requests: Invalid value: "300m": must be less than or equal to cpu limit of 200m'),
        ({"spec": {"containers": [{"name": "new", "image": "busybox"}]}}, "spec.containers: Forbidden: containers may not be added or removed on resize"),
    ],
)  # fmt: skip
def test_refusals(patch: Any, words: str) -> None:
    async def use(lab: Lab) -> None:
        body = pod(sized("a", {"cpu": "100m"}, {"cpu": "100m"})) if "QOS" in words else BURSTABLE
        await made(lab, body)
        answer = await lab.ask("PATCH", f"{PODS}/p/resize", patch, content_type=STRATEGIC)
        assert answer.status == 422
        assert words in answer.json()["message"]

    run(use, http=True)


def test_containers_keep_their_order() -> None:
    async def use(lab: Lab) -> None:
        await made(lab, BURSTABLE)
        found = (await lab.ask("GET", f"{PODS}/p")).json()
        found["spec"]["containers"].reverse()
        answer = await lab.ask("PUT", f"{PODS}/p/resize", found)
        assert answer.status == 422
        words = "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"
        assert words in answer.json()["message"]

    run(use, http=True)


WHOLE = pod(
    sized("a", {"cpu": "100m"}), resources={"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"cpu": "1"}}
)


def of_pod(**resources: Any) -> dict[str, Any]:
    return {"spec": {"resources": resources}}


def test_a_pod_is_resized_as_a_whole() -> None:
    async def use(lab: Lab) -> None:
        await made(lab, WHOLE)
        patch = of_pod(requests={"cpu": "700m"}, limits={"cpu": "2"})
        answer = await lab.ask("PATCH", f"{PODS}/p/resize", patch, content_type=STRATEGIC)
        assert answer.status == 200, answer.json()
        wanted = {"requests": {"cpu": "700m", "memory": "64Mi"}, "limits": {"cpu": "2"}}
        assert answer.json()["spec"]["resources"] == wanted

    run(use, http=True)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (of_pod(requests={"cpu": "50m"}), 'spec.resources.requests[cpu]: Invalid value: "50m": must be greater than or equal to aggregate container requests of 100m'),
        (of_pod(limits={"cpu": None}), "spec.resources.limits: Forbidden: resource limits cannot be removed"),
        (container("a", limits={"cpu": "2"}), 'spec.resources.containers[0][cpu].limits: Invalid value: "2": must be less than or equal to pod limits of 1'),
    ],
)  # fmt: skip
def test_refusals_of_a_whole(patch: Any, words: str) -> None:
    async def use(lab: Lab) -> None:
        await made(lab, WHOLE)
        answer = await lab.ask("PATCH", f"{PODS}/p/resize", patch, content_type=STRATEGIC)
        assert answer.status == 422
        assert words in answer.json()["message"]

    run(use, http=True)
