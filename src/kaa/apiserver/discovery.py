"""What is served, as clients ask for it: ``/api``, ``/apis``, resource lists, plain and aggregated; ``/version``.

Documents are made once for what is served now and kept with their ETag; a custom resource that comes or goes makes them
anew. Source: API concepts "Discovery API".
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kaa.api.resources import OPTIONAL, RESOURCES, Resource, Subresource

from . import keys
from .aggregation.discovered import RemoteVersion
from .bootstrap.objects import priorities

Json = dict[str, Any]

VERSION: Json = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.2+kaa",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "cpython",
    "platform": "linux/amd64",
}
#: {(group, kind): the group-version upstream stores it in, where it is not the one served}
STORED_IN = {
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"): "admissionregistration.k8s.io/v1beta1",
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"): "admissionregistration.k8s.io/v1beta1",
    ("apiextensions.k8s.io", "CustomResourceDefinition"): "apiextensions.k8s.io/v1beta1",
    ("autoscaling", "HorizontalPodAutoscaler"): "autoscaling/v2",
    ("events.k8s.io", "Event"): "/v1",
}
#: The order in which groups are listed; others follow by name.
GROUP_ORDER = tuple(dict.fromkeys(resource.group for resource in (*RESOURCES, *OPTIONAL)))


class Discovery:
    """Documents by path. ``custom`` are the resources served beside the built-in ones."""

    def __init__(self, server_address: str = "", built_in: Sequence[Resource[Any]] = RESOURCES) -> None:
        self.server_address = server_address
        self._built_in = built_in
        self._custom: tuple[Resource[Any], ...] = ()
        self._preferred: dict[str, tuple[str, ...]] = {}
        self._remote: dict[tuple[str, str], RemoteVersion] = {}
        self._made: dict[tuple[str, str], tuple[bytes, str]] = {}

    def serve(self, custom: Iterable[Resource[Any]], versions: dict[str, tuple[str, ...]]) -> None:
        """Take note of the custom resources that are served now; ``versions`` orders each group's versions."""
        self._custom = tuple(custom)
        self._preferred = versions
        self._made.clear()

    def serve_remote(self, remote: Iterable[RemoteVersion]) -> None:
        """Take note of the group-versions that other servers serve now."""
        self._remote = {(one.group, one.version): one for one in remote}
        self._made.clear()

    def document(self, path: str, accept: str) -> tuple[bytes, str, str] | None:
        """(body, content type, ETag) of a discovery path; None when it is none."""
        aggregated = "as=APIGroupDiscoveryList" in accept and path in ("/api", "/apis")
        version = "v2" if "v=v2;" in accept + ";" or "v=v2beta1" not in accept else "v2beta1"
        shape = f"aggregated/{version}" if aggregated else ""
        found = self._made.get((path, shape))
        if found is None:
            value = self._aggregated(path, version) if aggregated else self._plain(path)
            if value is None:
                return None
            body = msgspec.json.encode(value)
            found = self._made[path, shape] = (body, '"' + hashlib.sha256(body).hexdigest().upper() + '"')
        if aggregated:
            kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            return found[0], kind, found[1]
        return found[0], "application/json", ""

    # ------------------------------------------------------------------------------------------------ plain

    def resources(self) -> Sequence[Resource[Any]]:
        return (*self._built_in, *self._custom)

    def groups(self) -> dict[str, tuple[str, ...]]:
        """{group: its versions, the preferred one first}, without the core group."""
        found: dict[str, tuple[str, ...]] = {}
        for resource in self.resources():
            versions = found.get(resource.group, ())
            if resource.group and resource.version not in versions:
                found[resource.group] = (*versions, resource.version)
        for group, versions in self._preferred.items():
            found[group] = versions
        local = {group: _priority(group) for group in found}
        for one in sorted(self._remote.values(), key=lambda one: -one.version_priority):
            versions = found.setdefault(one.group, ())
            if one.version not in versions:
                found[one.group] = (*versions, one.version)
            local[one.group] = max(local.get(one.group, 0), one.group_priority)
        rank = {group: n for n, group in enumerate(GROUP_ORDER)}
        order = sorted(found, key=lambda group: (-local[group], rank.get(group, len(rank)), group))
        return {group: found[group] for group in order}

    def _plain(self, path: str) -> Json | None:
        parts = path.strip("/").split("/")
        match parts:
            case ["api"]:
                address = {"clientCIDR": "0.0.0.0/0", "serverAddress": self.server_address}
                return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [address]}
            case ["apis"]:
                groups = [_group(group, versions) for group, versions in self.groups().items()]
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
            case ["apis", group]:
                versions = self.groups().get(group)
                return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, versions)} if versions else None
            case ["api", "v1"]:
                return self._resource_list("", "v1")
            case ["apis", group, version]:
                return self._resource_list(group, version)
        return None

    def _resource_list(self, group: str, version: str) -> Json | None:
        found = [r for r in self.resources() if (r.group, r.version) == (group, version)]
        if not found and version not in self.groups().get(group, ()):
            return None
        resources = [entry for r in sorted(found, key=lambda r: r.plural) for entry in _entries(r)]
        api_version = f"{group}/{version}" if group else version
        head: Json = {"kind": "APIResourceList"}
        if group:
            head["apiVersion"] = "v1"
        return {**head, "groupVersion": api_version, "resources": resources}

    # ------------------------------------------------------------------------------------------------ aggregated

    def _aggregated(self, path: str, version: str) -> Json:
        groups = {"": ("v1",)} if path == "/api" else self.groups()
        items = [
            {
                "metadata": {"name": group} if group else {},
                "versions": [self._aggregated_version(group, name) for name in versions],
            }
            for group, versions in groups.items()
        ]
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{version}",
            "metadata": {},
            "items": items,
        }

    def _aggregated_version(self, group: str, version: str) -> Json:
        found = sorted(
            (r for r in self.resources() if (r.group, r.version) == (group, version)), key=lambda r: r.plural
        )
        remote = self._remote.get((group, version))
        if remote is not None and not found:
            return remote.document()
        resources = [_aggregated_resource(r) for r in found]
        return {"version": version, "resources": resources, "freshness": "Current"}


def _priority(group: str) -> int:
    """The higher, the earlier a group is listed. Custom resources come last, the aggregator's own group first."""
    if group == "apiregistration.k8s.io":
        return 20_001
    return max((most for (name, _), (most, _) in priorities().items() if name == group), default=1000)


def _group(name: str, versions: Sequence[str]) -> Json:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _storage_version_hash(resource: Resource[Any]) -> str:
    """Clients compare it only; its value is upstream's, which hashes the group-version that objects are stored in."""
    stored = STORED_IN.get((resource.group, resource.kind))
    if stored is None:
        return (resource if resource.custom else keys.storage_resource(resource)).storage_version_hash
    digest = hashlib.sha256(f"{stored}/{resource.kind}".encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def _entries(resource: Resource[Any]) -> list[Json]:
    """A resource and its subresources as a resource list has them."""
    entry: Json = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if "list" in resource.verbs and resource.plural != "componentstatuses":
        entry["storageVersionHash"] = _storage_version_hash(resource)
    entries = [entry]
    for sub in resource.subresources:
        made: Json = {
            "name": f"{resource.plural}/{sub.name}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": sub.kind,
            "verbs": list(sub.verbs),
        }
        if sub.version:
            made["group"], made["version"] = sub.group, sub.version
        entries.append(made)
    return entries


def _kind(group: str, version: str, kind: str) -> Json:
    return {"group": group, "version": version, "kind": kind}


def _sub_kind(resource: Resource[Any], sub: Subresource) -> Json:
    """Built-in resources leave their own group-version out, custom ones write it."""
    if resource.custom and not sub.version:
        return _kind(resource.group, resource.version, sub.kind)
    return _kind(sub.group, sub.version, sub.kind)


def _aggregated_resource(resource: Resource[Any]) -> Json:
    made: Json = {
        "resource": resource.plural,
        "responseKind": _kind("", "", resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.custom:
        made["responseKind"] = _kind(resource.group, resource.version, resource.kind)
    if resource.short_names:
        made["shortNames"] = list(resource.short_names)
    if resource.categories:
        made["categories"] = list(resource.categories)
    if resource.subresources:
        made["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": _sub_kind(resource, sub),
                "verbs": list(sub.verbs),
            }
            for sub in resource.subresources
        ]
    return made
