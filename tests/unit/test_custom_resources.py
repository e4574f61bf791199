"""Custom resources over HTTP: from a definition to objects and back to nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from api_lab import Lab, run
from custom_lab import DEFINITIONS, GROUP, NAME, TABLE, WIDGETS, definition, established, status, until, widget

from kaa.api.errors import NotFound
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.apiserver.custom import definitions
from kaa.controllers.served import rows_of


def test_a_definition_says_how_it_stands() -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        found = json.loads((await lab.ask("GET", f"{DEFINITIONS}/{NAME}")).body)["status"]
        assert [(c["type"], c["status"], c["reason"]) for c in found["conditions"]] == [
            ("NamesAccepted", "True", "NoConflicts"),
            ("Established", "True", "InitialNamesAccepted"),
        ]
        assert found["acceptedNames"]["listKind"] == "WidgetList"
        assert found["storedVersions"] == ["v1"]
        listed = json.loads((await lab.ask("GET", f"{GROUP}/v1")).body)["resources"]
        assert [(one["name"], one.get("shortNames")) for one in listed] == [
            ("widgets", ["wd"]),
            ("widgets/scale", None),
            ("widgets/status", None),
        ]
        paths = json.loads((await lab.ask("GET", "/openapi/v3/apis/example.com/v1")).body)["paths"]
        assert f"{GROUP}/v1/namespaces/{{namespace}}/widgets/{{name}}/status" in paths

    run(use, http=True)


def test_objects_are_pruned_filled_and_checked() -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        made = await lab.ask("POST", WIDGETS, widget("a", size=3, unknown=1))
        assert made.headers["warning"] == '299 - "unknown field \\"spec.unknown\\""'
        assert json.loads(made.body)["spec"] == {"size": 3, "colour": "red"}
        strict = await lab.ask("POST", f"{WIDGETS}?fieldValidation=Strict", widget("b", size=3, unknown=1))
        assert strict.status == 400
        assert 'strict decoding error: unknown field "spec.unknown"' in json.loads(strict.body)["message"]
        wrong = json.loads((await lab.ask("POST", WIDGETS, widget("b", size=99))).body)
        assert wrong["message"].startswith(
            'Widget.example.com "b" is invalid: [spec.size: Invalid value: 99: spec.size in body should be less than or equal to 9'
        )
        ruled = json.loads((await lab.ask("POST", WIDGETS, widget("b", size=8))).body)
        assert ruled["message"] == 'Widget.example.com "b" is invalid: spec: Invalid value: big ones are blue'

    run(use, http=True)


def test_status_generation_and_scale() -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        await lab.ask("POST", WIDGETS, {**widget("a", size=3), "status": {"size": 7}})
        merge = "application/merge-patch+json"
        one = f"{WIDGETS}/a"
        assert "status" not in json.loads((await lab.ask("GET", one)).body)
        patched = await lab.ask(
            "PATCH", f"{one}/status", {"spec": {"size": 5}, "status": {"size": 2}}, content_type=merge
        )
        found = json.loads(patched.body)
        assert (found["spec"]["size"], found["status"], found["metadata"]["generation"]) == (3, {"size": 2}, 1)
        changed = json.loads(
            (await lab.ask("PATCH", one, {"spec": {"size": 4}, "status": {"size": 9}}, content_type=merge)).body
        )
        assert (changed["spec"]["size"], changed["status"], changed["metadata"]["generation"]) == (4, {"size": 2}, 2)
        scale = json.loads((await lab.ask("GET", f"{one}/scale")).body)
        assert (scale["kind"], scale["spec"], scale["status"]) == ("Scale", {"replicas": 4}, {"replicas": 2})
        scaled = await lab.ask("PATCH", f"{one}/scale", {"spec": {"replicas": 6}}, content_type=merge)
        assert json.loads(scaled.body)["spec"] == {"replicas": 6}
        assert json.loads((await lab.ask("GET", one)).body)["spec"]["size"] == 6

    run(use, http=True)


def test_columns_selection_and_apply() -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        await lab.ask("POST", WIDGETS, widget("a", size=3))
        await lab.ask("POST", WIDGETS, widget("b", size=4, colour="blue"))
        table = json.loads((await lab.ask("GET", WIDGETS, accept=TABLE)).body)
        assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Size"]
        assert [row["cells"] for row in table["rows"]] == [["a", 3], ["b", 4]]
        chosen = json.loads((await lab.ask("GET", f"{WIDGETS}?fieldSelector=spec.colour%3Dblue")).body)
        assert [one["metadata"]["name"] for one in chosen["items"]] == ["b"]
        assert (await lab.ask("GET", f"{WIDGETS}?fieldSelector=spec.size%3D3")).status == 400
        kind = "application/apply-patch+yaml"
        mine = await lab.ask("PATCH", f"{WIDGETS}/c?fieldManager=me", widget("c", size=1), content_type=kind)
        assert mine.status == 201, mine.body
        other = await lab.ask("PATCH", f"{WIDGETS}/c?fieldManager=you", widget("c", size=2), content_type=kind)
        assert other.status == 409
        assert ".spec.size" in json.loads(other.body)["message"]

    run(use, http=True)


def test_an_old_fault_does_not_stop_an_update_of_something_else() -> None:
    async def use(lab: Lab) -> None:
        loose = definition()
        schema = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        tight = schema["properties"]["size"]
        schema["properties"]["size"] = {"type": "integer"}
        await established(lab, loose)
        await lab.ask("POST", WIDGETS, widget("a", size=50, colour="blue"))
        current = json.loads((await lab.ask("GET", f"{DEFINITIONS}/{NAME}")).body)
        current["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"] = tight
        assert (await lab.ask("PUT", f"{DEFINITIONS}/{NAME}", current)).status == 200
        merge = "application/merge-patch+json"
        trial = f"{WIDGETS}?dryRun=All"
        await until(lab, trial, status(422), "POST", widget("b", size=50, colour="blue"))
        labelled = {"metadata": {"labels": {"a": "b"}}}
        kept = await lab.ask("PATCH", f"{WIDGETS}/a", labelled, content_type=merge)
        assert kept.status == 200, kept.body
        assert (await lab.ask("PATCH", f"{WIDGETS}/a", {"spec": {"size": 51}}, content_type=merge)).status == 422

    run(use, http=True)


def test_two_versions_show_one_object() -> None:
    async def use(lab: Lab) -> None:
        body = definition()
        second = {**body["spec"]["versions"][0], "name": "v1beta1", "storage": False, "deprecated": True}
        body["spec"]["versions"].append(second)
        await established(lab, body)
        old = f"{GROUP}/v1beta1/namespaces/default/widgets"
        made = await lab.ask("POST", old, {**widget("a", size=3), "apiVersion": "example.com/v1beta1"})
        assert made.status == 201, made.body
        assert json.loads(made.body)["apiVersion"] == "example.com/v1beta1"
        merge = "application/merge-patch+json"
        changed = await lab.ask("PATCH", f"{WIDGETS}/a", {"spec": {"colour": "blue"}}, content_type=merge)
        entries = json.loads(changed.body)["metadata"]["managedFields"]
        found = {one["apiVersion"]: sorted(one["fieldsV1"]["f:spec"]) for one in entries}  # in order of their seconds
        assert found == {"example.com/v1": ["f:colour"], "example.com/v1beta1": [".", "f:size"]}
        assert len(entries) == 2
        assert "deprecated" in made.headers["warning"]
        assert json.loads((await lab.ask("GET", f"{WIDGETS}/a")).body)["apiVersion"] == "example.com/v1"
        groups = json.loads((await lab.ask("GET", "/apis/example.com")).body)
        assert groups["preferredVersion"]["version"] == "v1"

    run(use, http=True)


def test_a_name_that_is_taken_is_not_accepted() -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        body = definition(names={"kind": "Gadget", "plural": "gadgets", "shortNames": ["wd"]})
        body["metadata"]["name"] = "gadgets.example.com"
        await lab.ask("POST", DEFINITIONS, body)
        path = f"{DEFINITIONS}/gadgets.example.com"
        named = await until(lab, path, lambda answer: json.loads(answer.body)["status"].get("conditions"))
        found = json.loads(named.body)["status"]["conditions"]
        assert [(c["type"], c["status"], c["reason"]) for c in found] == [
            ("NamesAccepted", "False", "ShortNamesConflict"),
            ("Established", "False", "NotAccepted"),
        ]
        await lab.ask("DELETE", f"{DEFINITIONS}/{NAME}")
        await until(lab, f"{GROUP}/v1/namespaces/default/gadgets", status(200))

    run(use, http=True)


def test_a_definition_goes_after_its_objects() -> None:
    async def use(lab: Lab) -> None:
        await established(lab)
        held = widget("held", size=1)
        held["metadata"]["finalizers"] = ["example.com/wait"]
        await lab.ask("POST", WIDGETS, held)
        await lab.ask("POST", WIDGETS, widget("free", size=1))
        await lab.ask("DELETE", f"{DEFINITIONS}/{NAME}")
        await until(lab, f"{WIDGETS}/free", status(404))
        found = json.loads((await lab.ask("GET", f"{DEFINITIONS}/{NAME}")).body)
        assert found["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
        assert "Terminating" in [c["type"] for c in found["status"]["conditions"]]
        refused = await lab.ask("POST", WIDGETS, widget("late", size=1))
        assert refused.status == 405
        free = {"metadata": {"finalizers": None}}
        await lab.ask("PATCH", f"{WIDGETS}/held", free, content_type="application/merge-patch+json")
        await until(lab, f"{DEFINITIONS}/{NAME}", status(404))
        assert (await lab.ask("GET", WIDGETS)).status == 404

    run(use, http=True)


def test_what_was_served_is_served_after_a_restart() -> None:
    """``start`` alone, before anything runs, serves what the store holds."""

    async def use(lab: Lab) -> None:
        await established(lab)
        await lab.ask("POST", WIDGETS, widget("a", size=3))
        plane = lab.plane
        plane.definitions._stop(NAME)
        assert (await lab.ask("GET", WIDGETS)).status == 404
        await plane.definitions.start()
        assert [one["metadata"]["name"] for one in json.loads((await lab.ask("GET", WIDGETS)).body)["items"]] == ["a"]

    run(use, http=True)


def test_columns_whose_paths_are_none_stop_nothing() -> None:
    async def use(lab: Lab) -> None:
        body = definition()
        body["spec"]["versions"][0]["additionalPrinterColumns"] = [
            {"name": "A", "type": "string", "jsonPath": ".spec["}
        ]
        await established(lab, body)
        table = json.loads((await lab.ask("GET", WIDGETS, accept=TABLE)).body)
        assert [one["name"] for one in table["columnDefinitions"]] == ["Name", "Age"]

    run(use, http=True)


def test_a_definition_that_cannot_be_served_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    served = definitions.CustomStrategy

    def failing(row: Any, definition: Any, version: Any) -> Any:
        if row.plural == "gadgets":
            raise ValueError("no")
        return served(row, definition, version)

    monkeypatch.setattr(definitions, "CustomStrategy", failing)

    async def use(lab: Lab) -> None:
        broken = definition(names={"kind": "Gadget", "plural": "gadgets"})
        broken["metadata"]["name"] = "gadgets.example.com"
        assert (await lab.ask("POST", DEFINITIONS, broken)).status == 201
        await established(lab)
        assert (await lab.ask("GET", f"{GROUP}/v1/namespaces/default/gadgets")).status == 404

    run(use, http=True)


def test_a_scale_without_replicas() -> None:
    async def use(lab: Lab) -> None:
        body = definition()
        body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].pop("required")
        body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].pop("x-kubernetes-validations")
        await established(lab, body)
        await lab.ask("POST", WIDGETS, widget("a"))
        answer = await lab.ask("GET", f"{WIDGETS}/a/scale")
        assert answer.status == 500
        assert (
            answer.json()["message"] == 'Internal error occurred: the spec replicas field ".spec.size" does not exist'
        )

    run(use, http=True)


def test_rules_run_beside_plain_faults_and_not_on_what_stood() -> None:
    async def use(lab: Lab) -> None:
        body = definition()
        await established(lab, body)
        wrong = (await lab.ask("POST", WIDGETS, widget("a", size=0))).json()["message"]
        assert "not checked" not in wrong
        assert (await lab.ask("POST", WIDGETS, widget("a", size=8, colour="blue"))).status == 201
        current = (await lab.ask("GET", f"{DEFINITIONS}/{NAME}")).json()
        spec = current["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        spec["x-kubernetes-validations"] = [{"rule": "self.size < 5", "fieldPath": ".size"}]
        assert (await lab.ask("PUT", f"{DEFINITIONS}/{NAME}", current)).status == 200
        await until(lab, f"{WIDGETS}?dryRun=All", status(422), "POST", widget("b", size=6))
        merge = "application/merge-patch+json"
        kept = await lab.ask("PATCH", f"{WIDGETS}/a", {"metadata": {"labels": {"a": "b"}}}, content_type=merge)
        assert kept.status == 200, kept.body
        touched = await lab.ask("PATCH", f"{WIDGETS}/a", {"spec": {"colour": "red"}}, content_type=merge)
        assert "spec.size: Invalid value: failed rule: self.size < 5" in touched.json()["message"]

    run(use, http=True)


def test_components_in_this_process_ask_by_rows_of_their_own() -> None:
    """The garbage collector made its rows of the definitions; with names, verbs and subresources that were not the served
    row's, they were found nowhere, and no custom resource was ever collected."""

    async def use(lab: Lab) -> None:
        await established(lab)
        await lab.ask("POST", WIDGETS, widget("a", size=3))
        found = lab.plane.api.cacher.get(CustomResourceDefinition, NAME)
        row: Any = rows_of(found)
        assert [one.metadata.name for one in (await lab.client.list(row)).items] == ["a"]
        async with asyncio.timeout(2):
            async for event in lab.client.watch(row):
                assert event.object.metadata.name == "a"
                break
        absent = msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, group="example.org"))
        with pytest.raises(NotFound):
            await lab.client.list(rows_of(absent))

    run(use, http=True)
