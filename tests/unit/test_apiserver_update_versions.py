"""The version that an update says it is made on: the newest, an older one, none, or zero, which is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from api_lab import Lab, run
from custom_lab import WIDGETS, established, widget

MAPS = "/api/v1/namespaces/default/configmaps"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"


def sent(name: str, version: str | None, **more: Any) -> dict[str, Any]:
    given = {} if version is None else {"resourceVersion": version}
    return {"metadata": {"name": name, **given}, **more}


@pytest.mark.parametrize(("version", "code"), [(None, 200), ("0", 200), ("00", 200), ("1", 409)])
def test_most_kinds_take_an_update_on_no_version(version: str | None, code: int) -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", MAPS, sent("a", None))
        body = sent("a", version, data={"b": "c"})
        assert (await lab.ask("PUT", f"{MAPS}/a", body)).status == code
        patch = {"metadata": {"resourceVersion": version or ""}, "data": {"d": "e"}}
        patched = await lab.ask("PATCH", f"{MAPS}/a", patch, content_type="application/merge-patch+json")
        assert patched.status == code

    run(use, http=True)


@pytest.mark.parametrize("version", [None, "0"])
def test_some_kinds_do_not(version: str | None) -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", BUDGETS, sent("a", None, spec={"minAvailable": 1}))
        refused = await lab.ask("PUT", f"{BUDGETS}/a", sent("a", version, spec={"minAvailable": 1}))
        assert refused.status == 422
        assert json.loads(refused.body)["message"] == (
            'poddisruptionbudgets.policy "a" is invalid:'
            " metadata.resourceVersion: Invalid value: 0: must be specified for an update"
        )

    run(use, http=True)


def test_custom_resources_do_not() -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        made = json.loads((await lab.ask("POST", WIDGETS, widget("a", size=1))).body)
        assert (await lab.ask("PUT", f"{WIDGETS}/a", widget("a", size=2))).status == 422
        changed = widget("a", size=2)
        changed["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
        assert (await lab.ask("PUT", f"{WIDGETS}/a", changed)).status == 200

    run(use, http=True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/namespaces/default/services/a", {"spec": {"ports": [{"port": 80}]}}),
        ("/api/v1/namespaces/default/limitranges/a", {"spec": {"limits": []}}),
        ("/apis/node.k8s.io/v1/runtimeclasses/a", {"handler": "h"}),
    ],
)
def test_some_kinds_are_created_by_an_update(path: str, body: dict[str, Any]) -> None:
    async def use(lab: Lab) -> None:
        assert (await lab.ask("PUT", path, {"metadata": {"name": "a"}, **body})).status == 201
        assert (await lab.ask("GET", path)).status == 200
        absent = await lab.ask("PUT", f"{MAPS}/a", {"metadata": {"name": "a"}})
        assert absent.status == 404

    run(use, http=True)
