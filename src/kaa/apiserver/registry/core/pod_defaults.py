"""What a pod spec holds when its author left fields out, wherever it stands: in a Pod or in a template.

Each function answers with its argument when there is nothing to fill, so a complete object costs no copy.

Source: pkg/apis/core/v1/defaults.go; API reference "PodSpec".
"""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec.structs import replace

from kaa.api.types.core_v1 import (
    Container,
    ContainerPort,
    EnvVar,
    EphemeralContainer,
    GRPCAction,
    HTTPGetAction,
    Lifecycle,
    LifecycleHandler,
    PersistentVolumeClaimSpec,
    Pod,
    PodSecurityContext,
    PodSpec,
    PodTemplateSpec,
    Probe,
    ResourceRequirements,
)
from kaa.api.values import Quantity

from ...memo import Memo
from ...validation.resources import is_pod_level_resource, together
from ..fill import each
from .volume_defaults import pull_policy, volume

T = TypeVar("T")
C = TypeVar("C", Container, EphemeralContainer)

_NO_SECURITY = PodSecurityContext()


def pod(obj: Pod) -> Pod:
    made = _pod_spec(obj.spec)
    return obj if made is obj.spec else replace(obj, spec=made)


@Memo
def _pod_spec(given: PodSpec) -> PodSpec:
    """A Pod also gets service links, requests from its limits, host ports when it uses the host's network, and a second
    where its grace period is negative."""
    changes: dict[str, Any] = {}
    if given.enable_service_links is None:
        changes["enable_service_links"] = True
    if (given.termination_grace_period_seconds or 0) < 0:
        changes["termination_grace_period_seconds"] = 1
    _spec_changes(given, changes)
    containers = each(changes.get("containers", given.containers), _requests_from_limits)
    inits = each(changes.get("init_containers", given.init_containers), _requests_from_limits)
    if given.host_network:
        containers, inits = each(containers, _host_ports), each(inits, _host_ports)
    if containers is not given.containers:
        changes["containers"] = containers
    if inits is not given.init_containers:
        changes["init_containers"] = inits
    if given.resources is not None:
        changes["resources"] = _pod_requests(given.resources, containers, inits)
    return replace(given, **changes) if changes else given


def template(given: PodTemplateSpec) -> PodTemplateSpec:
    made = spec(given.spec)
    return given if made is given.spec else replace(given, spec=made)


def spec(given: PodSpec) -> PodSpec:
    changes: dict[str, Any] = {}
    _spec_changes(given, changes)
    return replace(given, **changes) if changes else given


def _spec_changes(given: PodSpec, changes: dict[str, Any]) -> None:
    if not given.dns_policy:
        changes["dns_policy"] = "ClusterFirst"
    if not given.restart_policy:
        changes["restart_policy"] = "Always"
    if not given.scheduler_name:
        changes["scheduler_name"] = "default-scheduler"
    if given.security_context is None:
        changes["security_context"] = _NO_SECURITY
    if given.termination_grace_period_seconds is None:
        changes["termination_grace_period_seconds"] = 30
    if given.service_account_name != given.service_account:  # the older name says the same
        account = given.service_account_name or given.service_account
        changes["service_account_name"] = changes["service_account"] = account
    containers = each(given.containers, container)
    if containers is not given.containers:
        changes["containers"] = containers
    if given.init_containers:
        inits = each(given.init_containers, container)
        if inits is not given.init_containers:
            changes["init_containers"] = inits
    if given.ephemeral_containers:
        changes["ephemeral_containers"] = each(given.ephemeral_containers, container)
    if given.volumes:
        volumes = each(given.volumes, volume)
        if volumes is not given.volumes:
            changes["volumes"] = volumes


# ------------------------------------------------------------------------------------------------ containers


def container(given: C) -> C:
    changes: dict[str, Any] = {}
    if not given.image_pull_policy:
        changes["image_pull_policy"] = pull_policy(given.image or "")
    if not given.termination_message_path:
        changes["termination_message_path"] = "/dev/termination-log"
    if not given.termination_message_policy:
        changes["termination_message_policy"] = "File"
    if given.ports:
        ports = each(given.ports, _port)
        if ports is not given.ports:
            changes["ports"] = ports
    if any(var.value_from is not None for var in given.env):
        env = each(given.env, _env)
        if env is not given.env:
            changes["env"] = env
    for name in ("liveness_probe", "readiness_probe", "startup_probe"):
        given_probe = getattr(given, name)
        if given_probe is not None:
            changes[name] = probe(given_probe)
    if given.lifecycle is not None:
        changes["lifecycle"] = _lifecycle(given.lifecycle)
    return replace(given, **changes) if changes else given


def _port(given: ContainerPort) -> ContainerPort:
    return given if given.protocol else replace(given, protocol="TCP")


def _env(given: EnvVar) -> EnvVar:
    source = given.value_from
    if source is None:
        return given
    if source.field_ref is not None and not source.field_ref.api_version:
        return replace(given, value_from=replace(source, field_ref=replace(source.field_ref, api_version="v1")))
    if source.resource_field_ref is not None and source.resource_field_ref.divisor is None:
        filled = replace(source.resource_field_ref, divisor=Quantity("0"))
        return replace(given, value_from=replace(source, resource_field_ref=filled))
    if source.file_key_ref is not None and source.file_key_ref.optional is None:
        return replace(given, value_from=replace(source, file_key_ref=replace(source.file_key_ref, optional=False)))
    return given


def probe(given: Probe) -> Probe:
    changes: dict[str, Any] = {}
    for name, value in (
        ("timeout_seconds", 1),
        ("period_seconds", 10),
        ("success_threshold", 1),
        ("failure_threshold", 3),
    ):
        if not getattr(given, name):
            changes[name] = value
    if given.http_get is not None:
        changes["http_get"] = _http_get(given.http_get)
    if given.grpc is not None and given.grpc.service is None:
        changes["grpc"] = GRPCAction(port=given.grpc.port, service="")
    return replace(given, **changes) if changes else given


def _http_get(given: HTTPGetAction) -> HTTPGetAction:
    if given.path and given.scheme:
        return given
    return replace(given, path=given.path or "/", scheme=given.scheme or "HTTP")


def _lifecycle(given: Lifecycle) -> Lifecycle:
    return replace(given, post_start=_handler(given.post_start), pre_stop=_handler(given.pre_stop))


def _handler(given: LifecycleHandler | None) -> LifecycleHandler | None:
    if given is None or given.http_get is None:
        return given
    return replace(given, http_get=_http_get(given.http_get))


# ------------------------------------------------------------------------------------------------ pods alone


def _requests_from_limits(given: Container) -> Container:
    limits, requests = given.resources.limits, given.resources.requests
    if not limits or limits.keys() <= requests.keys():
        return given
    return replace(given, resources=replace(given.resources, requests={**limits, **requests}))


def _host_ports(given: Container) -> Container:
    ports = each(given.ports, lambda port: port if port.host_port else replace(port, host_port=port.container_port))
    return given if ports is given.ports else replace(given, ports=ports)


def _pod_requests(
    given: ResourceRequirements, containers: tuple[Container, ...], inits: tuple[Container, ...]
) -> ResourceRequirements:
    """Pod-level requests: what the containers ask for together, else the pod's own limits."""
    requests = dict(given.requests)
    for name, value in together(containers, inits).items():
        if is_pod_level_resource(name):
            requests.setdefault(name, value)
    for name, limit in given.limits.items():
        if is_pod_level_resource(name):
            requests.setdefault(name, limit)
    return replace(given, requests=requests)


def claim_spec(given: PersistentVolumeClaimSpec) -> PersistentVolumeClaimSpec:
    return given if given.volume_mode else replace(given, volume_mode="Filesystem")
