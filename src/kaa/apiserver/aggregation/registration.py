"""APIServices that this server keeps by itself: one for each group-version that custom resources are served in.

Built-in group-versions have theirs from the bootstrap (``automanaged: onstart``); these come and go with definitions
(``automanaged: "true"``). What somebody else made under such a name is left alone.

Source: pkg/controlplane/controller/crdregistration; kube-aggregator pkg/controllers/autoregister.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.api.types.apiregistration_v1 import APIService, APIServiceSpec
from kaa.api.types.meta_v1 import ObjectMeta

MANAGED = "kube-aggregator.kubernetes.io/automanaged"
GROUP_PRIORITY, VERSION_PRIORITY = 1000, 100


@dataclass(frozen=True, slots=True)
class Plan:
    create: tuple[APIService, ...] = ()
    update: tuple[APIService, ...] = ()
    delete: tuple[APIService, ...] = ()


def served_versions(definitions: Iterable[CustomResourceDefinition]) -> set[tuple[str, str]]:
    """Every (group, version) that an established definition serves."""
    return {
        (one.spec.group, version.name)
        for one in definitions
        if one.status is not None
        and any(c.type == "Established" and c.status == "True" for c in one.status.conditions or ())
        for version in one.spec.versions
        if version.served
    }


def plan(definitions: Iterable[CustomResourceDefinition], existing: Iterable[APIService]) -> Plan:
    """What to change so that each served group-version has its APIService, and no other kept one stays."""
    wanted = {service.metadata.name: service for service in map(_service, sorted(served_versions(definitions)))}
    held = {service.metadata.name: service for service in existing}
    ours = {name: one for name, one in held.items() if one.metadata.labels.get(MANAGED) == "true"}
    return Plan(
        create=tuple(one for name, one in wanted.items() if name not in held),
        update=tuple(
            replace(ours[name], spec=one.spec)
            for name, one in wanted.items()
            if name in ours and _moved(ours[name], one)
        ),
        delete=tuple(one for name, one in ours.items() if name not in wanted),
    )


def _moved(held: APIService, wanted: APIService) -> bool:
    return held.spec != wanted.spec


def _service(group_version: tuple[str, str]) -> APIService:
    group, version = group_version
    return APIService(
        metadata=ObjectMeta(name=f"{version}.{group}", labels={MANAGED: "true"}),
        spec=APIServiceSpec(
            group=group,
            version=version,
            group_priority_minimum=GROUP_PRIORITY,
            version_priority=VERSION_PRIORITY,
        ),
    )
