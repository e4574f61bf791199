"""Numbers of definitions and of custom objects, as Go would write them."""

from __future__ import annotations

import json
from typing import Any

from api_lab import Lab, run
from custom_lab import DEFINITIONS, NAME, WIDGETS, definition, established

MERGE = "application/merge-patch+json"
YAML = "application/yaml"


def loose() -> dict[str, Any]:
    """A definition whose objects may hold anything in ``spec``."""
    made = definition()
    version = made["spec"]["versions"][0]
    spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec
    del version["selectableFields"], version["additionalPrinterColumns"], version["subresources"]
    return made


def test_whole_numbers_of_a_schema_have_no_point() -> None:
    async def use(lab: Lab) -> None:
        made = definition()
        size = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]
        size |= {"minimum": 1.0, "multipleOf": 0.5}
        await established(lab, made)
        text = (await lab.ask("GET", f"{DEFINITIONS}/{NAME}")).body
        assert b'"maximum":9,' in text
        assert b'"minimum":1,' in text
        assert b'"multipleOf":0.5' in text

    run(use, http=True)


def test_whole_numbers_of_an_object_have_no_point() -> None:
    async def use(lab: Lab) -> None:
        await established(lab, loose())
        head = b'"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"}'
        made = await lab.ask("POST", WIDGETS, b'{%s,"spec":{"a":2.0,"b":1e3,"c":1.5}}' % head)
        assert b'"spec":{"a":2,"b":1000,"c":1.5}' in made.body
        patched = await lab.ask("PATCH", f"{WIDGETS}/a", b'{"spec":{"d":[7.0]}}', content_type=MERGE)
        assert b'"d":[7]' in patched.body
        document = b"apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: b}\nspec: {a: 3.0, b: .5}\n"
        made = await lab.ask("POST", WIDGETS, document, content_type=YAML)
        assert b'"spec":{"a":3,"b":0.5}' in made.body

    run(use, http=True)


def test_formats_that_do_not_count_are_told_of_once() -> None:
    async def use(lab: Lab) -> None:
        made = definition()
        spec = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        spec["properties"] |= {
            "odd": {"type": "string", "format": "giubs"},
            "list": {"type": "array", "items": {"type": "string", "format": "giubs"}},
            "number": {"type": "integer", "format": "int64"},
            "good": {"type": "string", "format": "date-time"},
        }
        answer = await lab.ask("POST", DEFINITIONS, made)
        assert answer.headers["warning"] == '299 - "unrecognized format \\"giubs\\""'
        found = json.loads((await lab.ask("GET", f"{DEFINITIONS}/{NAME}")).body)
        again = {**found, "metadata": {**found["metadata"], "labels": {"a": "b"}}}
        assert "warning" not in (await lab.ask("PUT", f"{DEFINITIONS}/{NAME}", again)).headers

    run(use, http=True)
