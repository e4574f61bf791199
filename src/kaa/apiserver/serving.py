"""Which built-in resources a server serves: those that are on by default, as ``--runtime-config`` changes them.

Source: apiserver pkg/server/resourceconfig/helpers.go; pkg/server/options/api_enablement.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from kaa.api.resources import OPTIONAL, RESOURCES, Resource

from . import keys
from .options import OptionError

Path = tuple[str, str, str]  #: group, version, plural
GroupVersion = tuple[str, str]

#: Keys that stand for many versions, in the order in which they are heeded.
_MATCHERS = {
    "api/all": re.compile(".*"),
    "api/ga": re.compile(r"v\d+"),
    "api/beta": re.compile(r"v\d+beta\d+"),
    "api/alpha": re.compile(r"v\d+alpha\d+"),
}
#: What Go reads as a truth value; nothing at all is true.
_WORDS = {
    **dict.fromkeys(("", "1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


class Serving:
    """The built-in resources of one server. Custom ones come and go beside them."""

    def __init__(self, resources: tuple[Resource[Any], ...] = RESOURCES) -> None:
        self.resources = resources
        self.by_path: Mapping[Path, Resource[Any]] = {(r.group, r.version, r.plural): r for r in resources}
        self.versions: frozenset[GroupVersion] = frozenset((r.group, r.version) for r in resources)

    @cached_property
    def _by_kind(self) -> Mapping[tuple[str, str], Resource[Any]]:
        return {(r.api_version, r.kind): r for r in self.resources}

    @cached_property
    def _views(self) -> Mapping[Resource[Any], tuple[Resource[Any], ...]]:
        """{stored resource: all that show its objects}"""
        found: dict[Resource[Any], tuple[Resource[Any], ...]] = {}
        for resource in self.resources:
            stored = keys.storage_resource(resource)
            found[stored] = (*found.get(stored, ()), resource)
        return found

    def by_kind(self, api_version: str, kind: str) -> Resource[Any] | None:
        return self._by_kind.get((api_version, kind))

    def others(self, resource: Resource[Any]) -> list[Resource[Any]]:
        """The other resources that show the same objects, in another version or group."""
        return [one for one in self._views.get(keys.storage_resource(resource), ()) if one is not resource]

    def kept(self) -> tuple[Resource[Any], ...]:
        """The resources whose objects the server knows: all that are on by default, since it decides by them, and those
        behind what else is served."""
        stored = (keys.storage_resource(resource) for resource in (*RESOURCES, *self.resources))
        return tuple(dict.fromkeys(one for one in stored if "list" in one.verbs and keys.is_stored(one)))


def serving_of(text: str) -> Serving:
    """What ``--runtime-config`` asks for: ``api/beta=true,batch/v1=false,coordination.k8s.io/v1beta1/leasecandidates=true``.

    Raises: OptionError: a key or a value that is none, in upstream's words.
    """
    if not text:
        return Serving()
    config = _parsed(text)
    _check(config)
    versions = _versions(config)
    explicit = {tuple(key.split("/")): _truth(config, key) for key in config if key.count("/") == 2}
    known = (*RESOURCES, *OPTIONAL)
    on = [r for r in known if explicit.get((r.group, r.version, r.plural), versions[r.group, r.version])]
    return Serving(tuple(on))


def _parsed(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _check(config: Mapping[str, str]) -> None:
    if config.get("api/all") == "false" and len(config) == 1:
        raise OptionError("invalid key with only api/all=false")
    groups = {r.group for r in (*RESOURCES, *OPTIONAL)}
    unknown: list[str] = []
    for key in config:
        parts = key.split("/")
        if key in _MATCHERS:
            continue
        if len(parts) not in (2, 3):
            raise OptionError(f"runtime-config invalid key {key}")
        if parts[0] not in groups:
            unknown.append(parts[0])
    if unknown:
        raise OptionError(f"unknown api groups {','.join(unknown)}")


def _versions(config: Mapping[str, str]) -> dict[GroupVersion, bool]:
    """{group version: whether it is served}: first what the wide keys say, then what is said of one version."""
    found = dict.fromkeys(((r.group, r.version) for r in OPTIONAL), False)
    found |= dict.fromkeys(((r.group, r.version) for r in RESOURCES), True)
    for key, pattern in _MATCHERS.items():
        value = config.get(key)
        if value not in (None, "true", "false"):
            raise OptionError(f"invalid value {key}={value}")
        if value is not None:
            found |= {one: value == "true" for one in found if pattern.fullmatch(one[1])}
    for key in config:
        group, version, *plural = key.split("/")
        if key in _MATCHERS:
            continue
        if (group, version) not in found:
            raise OptionError(f"group version {group}/{version} that has not been registered")
        on = _truth(config, key)
        if not plural:
            found[group, version] = on
        elif plural[0] != plural[0].lower():
            why = f'group/version/resource and resource is always lowercase plural, not "{plural[0]}"'
            raise OptionError(f"invalid key {key}: {why}")
    return found


def _truth(config: Mapping[str, str], key: str) -> bool:
    found = _WORDS.get(config[key])
    if found is None:
        why = f'strconv.ParseBool: parsing "{config[key]}": invalid syntax'
        raise OptionError(f"invalid value of {key}: {config[key]}, err: {why}")
    return found
