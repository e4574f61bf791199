"""A definition of widgets, and asking until it is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from api_lab import Answer, Lab

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAME = "widgets.example.com"
GROUP = "/apis/example.com"
WIDGETS = f"{GROUP}/v1/namespaces/default/widgets"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def definition(**more: Any) -> dict[str, Any]:
    size = {"type": "integer", "minimum": 1, "maximum": 9}
    colour = {"type": "string", "enum": ["red", "blue"], "default": "red"}
    rule = {"rule": "self.size < 8 || self.colour == 'blue'", "message": "big ones are blue"}
    spec = {
        "type": "object",
        "required": ["size"],
        "properties": {"size": size, "colour": colour},
        "x-kubernetes-validations": [rule],
    }
    status = {"type": "object", "properties": {"size": {"type": "integer"}}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}},
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
        },
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
        "selectableFields": [{"jsonPath": ".spec.colour"}],
    }
    names = {"kind": "Widget", "plural": "widgets", "shortNames": ["wd"], "categories": ["all"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version], **more},
    }


def widget(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}


async def until(lab: Lab, path: str, good: Callable[[Answer], Any], method: str = "GET", body: Any = b"") -> Answer:
    """Ask until the answer is good."""
    for _ in range(2000):
        answer = await lab.ask(method, path, body)
        if good(answer):
            return answer
        await asyncio.sleep(0.005)
    raise AssertionError(f"{method} {path}: {answer}")


def status(wanted: int) -> Callable[[Answer], bool]:
    return lambda answer: answer.status == wanted


async def established(lab: Lab, body: dict[str, Any] | None = None) -> None:
    answer = await lab.ask("POST", DEFINITIONS, body or definition())
    assert answer.status == 201, answer.body
    await until(lab, WIDGETS, status(200))
