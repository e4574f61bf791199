"""What the server behind an APIService serves, as discovery tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kaa.api.types.apiregistration_v1 import APIService
from kaa.api.types.meta_v1 import APIResource, APIResourceList

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RemoteVersion:
    """A group-version of another server. ``resources`` are entries of aggregated discovery; ``stale`` says that they are
    what the server said before it ceased to answer."""

    group: str
    version: str
    group_priority: int
    version_priority: int
    resources: Sequence[Json] = field(default=())
    stale: bool = True

    @classmethod
    def of(
        cls, service: APIService, answer: APIResourceList | None, before: RemoteVersion | None = None
    ) -> RemoteVersion:
        """After a check that found ``answer``; None: the server had none."""
        spec = service.spec
        made = cls(spec.group or "", spec.version or "", spec.group_priority_minimum, spec.version_priority)
        if answer is not None:
            return replace(made, resources=aggregated(answer), stale=False)
        return replace(made, resources=before.resources if before is not None else ())

    def document(self) -> Json:
        shown: Json = {"version": self.version}
        if self.resources:
            shown["resources"] = list(self.resources)
        return {**shown, "freshness": "Stale" if self.stale else "Current"}


def aggregated(answer: APIResourceList) -> list[Json]:
    """A plain resource list as the entries of aggregated discovery: subresources move under their resource.

    Source: apiserver pkg/endpoints ConvertGroupVersionIntoToDiscovery.
    """
    group, _, version = answer.group_version.rpartition("/")
    entries: dict[str, Json] = {}
    for resource in answer.resources:
        name, _, subresource = resource.name.partition("/")
        kind = {"group": resource.group or group, "version": resource.version or version, "kind": resource.kind}
        if not subresource:
            entries[name] = {**_entry(resource, kind), **_subresources(entries.get(name, {}))}
            continue
        shown = {"subresource": subresource, "responseKind": kind, "verbs": list(resource.verbs)}
        parent = entries.setdefault(name, _bare(name, resource))
        parent.setdefault("subresources", []).append(shown)
    return list(entries.values())


def _subresources(entry: Mapping[str, Any]) -> Json:
    return {"subresources": entry["subresources"]} if "subresources" in entry else {}


def _scope(resource: APIResource) -> str:
    return "Namespaced" if resource.namespaced else "Cluster"


def _bare(name: str, resource: APIResource) -> Json:
    """The parent of a subresource that is served alone."""
    empty = {"group": "", "version": "", "kind": ""}
    return {"resource": name, "responseKind": empty, "scope": _scope(resource), "singularResource": "", "verbs": []}


def _entry(resource: APIResource, kind: Json) -> Json:
    entry: Json = {
        "resource": resource.name,
        "responseKind": kind,
        "scope": _scope(resource),
        "singularResource": resource.singular_name or "",
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return entry
