"""Paths of the wrong scope: what no namespace holds has none below one, and what namespaces hold is made in one."""

from __future__ import annotations

import json

import pytest
from api_lab import Lab, run
from custom_lab import DEFINITIONS, WIDGETS, definition, established, status, until, widget


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("POST", "/api/v1/namespaces/default/nodes", 404),
        ("GET", "/api/v1/namespaces/default/nodes/n", 404),
        ("GET", "/api/v1/pods/a", 404),
        ("GET", "/api/v1/pods", 200),
        ("POST", "/api/v1/pods", 405),
        ("DELETE", "/api/v1/pods", 405),
        ("GET", "/api/v1/namespaces/default", 200),
        ("GET", "/api/v1/namespaces/default/status", 200),
    ],
)
def test_built_in_resources(method: str, path: str, code: int) -> None:
    async def use(lab: Lab) -> None:
        await lab.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "default"}})
        assert (await lab.ask(method, path, {} if method == "POST" else b"")).status == code

    run(use, http=True)


def test_custom_resources_change_their_scope_with_their_definition() -> None:
    """A client that still believes in the old scope is told that there is no such thing, and looks again."""

    async def use(lab: Lab) -> None:
        await established(lab)
        assert (await lab.ask("POST", "/apis/example.com/v1/widgets", widget("a", size=1))).status == 404
        assert (await lab.ask("GET", "/apis/example.com/v1/widgets")).status == 200
        await lab.ask("DELETE", f"{DEFINITIONS}/widgets.example.com")
        await until(lab, f"{DEFINITIONS}/widgets.example.com", status(404))
        await lab.ask("POST", DEFINITIONS, definition(scope="Cluster"))
        await until(lab, "/apis/example.com/v1/widgets", status(200))
        refused = await lab.ask("POST", WIDGETS, widget("a", size=1))
        assert (refused.status, json.loads(refused.body)["reason"]) == (404, "NotFound")
        assert (await lab.ask("POST", "/apis/example.com/v1/widgets", widget("a", size=1))).status == 201

    run(use, http=True)
