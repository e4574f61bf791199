"""A StatefulSet's claim templates are whole objects: they say what kind they are, to whoever asks and however."""

from __future__ import annotations

from typing import Any

import pytest
from api_lab import Lab, run

from kaa.api import protobuf
from kaa.api.types.apps_v1 import StatefulSet

KIND = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
PATH = "/apis/apps/v1/namespaces/default/statefulsets"


def make_set(**template: Any) -> dict[str, Any]:
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {**template, "metadata": {"name": "data"}, "spec": asked}
    pod = {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "db"}]}}
    spec = {"selector": {"matchLabels": {"app": "db"}}, "serviceName": "db", "template": pod}
    whole = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}}
    return {**whole, "spec": {**spec, "volumeClaimTemplates": [claim]}}


@pytest.mark.parametrize("template", [{}, KIND], ids=["not said", "said"])
def test_claim_templates_say_their_kind(template: dict[str, Any]) -> None:
    async def use(lab: Lab) -> None:
        made = await lab.ask("POST", f"{PATH}?fieldValidation=Strict", make_set(**template))
        assert made.status == 201, made.body
        (claim,) = made.json()["spec"]["volumeClaimTemplates"]
        assert {key: claim[key] for key in KIND} == KIND
        assert claim["status"] == {"phase": "Pending"}
        changed = make_set(**template)
        changed["spec"]["replicas"] = 3
        again = await lab.ask("PUT", f"{PATH}/db?fieldValidation=Strict", changed)
        assert again.status == 200, again.body
        other = make_set(**template)
        other["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] = "other"
        refused = await lab.ask("PUT", f"{PATH}/db", other)
        assert refused.status == 422
        patch = {"spec": {"replicas": 2}}
        patched = await lab.ask("PATCH", f"{PATH}/db", patch, content_type="application/strategic-merge-patch+json")
        assert patched.status == 200, patched.body
        assert patched.json()["metadata"]["generation"] == 3

    run(use, http=True)


def test_protobuf_carries_claim_templates() -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", PATH, make_set(**KIND))
        obj = await lab.client.get(StatefulSet, "db", "default")
        read = protobuf.decode_object(StatefulSet, protobuf.encode_raw(obj))
        assert read.spec.volume_claim_templates[0].metadata.name == "data"

    run(use, http=True)
