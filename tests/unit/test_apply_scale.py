"""Applying a scale: replicas are owned through it as through the object itself."""

from __future__ import annotations

from typing import Any

from api_lab import Lab, run

WEB = "/apis/apps/v1/namespaces/default/deployments"
APPLY = "application/apply-patch+yaml"
POD = {"containers": [{"name": "c", "image": "busybox"}]}
LABELS = {"app": "web"}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": POD},
    },
}


def scale(replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas},
    }


async def applied(lab: Lab, manager: str, replicas: int, **query: str) -> Any:
    asked = "".join(f"&{name}={value}" for name, value in query.items())
    path = f"{WEB}/web/scale?fieldManager={manager}{asked}"
    return await lab.ask("PATCH", path, scale(replicas), content_type=APPLY)


async def owners(lab: Lab) -> dict[tuple[str, str, str], bool]:
    """{(manager, operation, subresource): whether it owns the replicas}"""
    found = (await lab.ask("GET", f"{WEB}/web")).json()["metadata"]["managedFields"]
    return {
        (one["manager"], one["operation"], one.get("subresource", "")): "f:replicas"
        in one["fieldsV1"].get("f:spec", {})
        for one in found
    }


def test_replicas_are_owned_through_the_scale() -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("PATCH", f"{WEB}/web?fieldManager=maker", DEPLOYMENT, content_type=APPLY)
        answer = await applied(lab, "scaler", 3)
        assert answer.status == 409
        words = 'Apply failed with 1 conflict: conflict with "maker": .spec.replicas'
        assert answer.json()["message"] == words
        assert (await applied(lab, "scaler", 1)).status == 200  # the same number: both own it
        assert await owners(lab) == {("maker", "Apply", ""): True, ("scaler", "Apply", "scale"): True}
        answer = await applied(lab, "scaler", 5, force="true")
        assert (answer.status, answer.json()["kind"], answer.json()["spec"]) == (200, "Scale", {"replicas": 5})
        assert await owners(lab) == {("maker", "Apply", ""): False, ("scaler", "Apply", "scale"): True}
        await lab.ask("PATCH", f"{WEB}/web/scale", {"spec": {"replicas": 6}}, content_type="application/merge-patch+json",
                      User_Agent="hand")  # fmt: skip
        answer = await applied(lab, "scaler", 7)
        words = 'conflict with "hand" with subresource "scale" using autoscaling/v1: .spec.replicas'
        assert words in answer.json()["message"]

    run(use, http=True)


def test_what_is_no_scale_is_refused() -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("PATCH", f"{WEB}/web?fieldManager=maker", DEPLOYMENT, content_type=APPLY)
        answer = await lab.ask("PATCH", f"{WEB}/web/scale?fieldManager=m", DEPLOYMENT, content_type=APPLY)
        assert answer.status == 400
        assert "expected: autoscaling/v1" in answer.json()["message"]
        answer = await applied(lab, "m", -1, force="true")
        assert answer.status == 422
        answer = await lab.ask(
            "PATCH", f"{WEB}/none/scale?fieldManager=m", {**scale(1), "metadata": {}}, content_type=APPLY
        )
        assert answer.status == 404

    run(use, http=True)
