"""Containers: names, images, ports, environment, mounts, probes, life cycle, security.

Source: pkg/apis/core/validation/validation.go (validateContainers and what it calls).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import (
    Container,
    ContainerPort,
    EnvFromSource,
    EnvVar,
    EnvVarSource,
    EphemeralContainer,
    SecurityContext,
    Volume,
    VolumeDevice,
    VolumeMount,
)

from . import probes, resources, security
from .common import faults_of, one_of

AnyContainer = Container | EphemeralContainer

PROTOCOLS = ("SCTP", "TCP", "UDP")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What a container's validity depends on beside itself."""

    #: {name: volume}
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    #: Names of the pod's resource claims.
    claims: frozenset[str] = frozenset()
    grace_period_s: int = 30
    host_users: bool = True


def container(given: AnyContainer, facts: PodFacts, path: Path) -> Iterator[FieldError]:
    """What holds for containers of every sort."""
    if not given.name:
        yield fields.required(path.child("name"))
    else:
        faults = names.dns_label(given.name)
        if faults:
            yield from faults_of(path.child("name"), given.name, faults)
    image = given.image
    if not image:
        yield fields.required(path.child("image"))
    elif image != image.strip():
        yield fields.invalid(path.child("image"), image, "must not have leading or trailing whitespace")
    if given.termination_message_policy not in ("File", "FallbackToLogsOnError"):
        yield from _message_policy(given.termination_message_policy, path)
    if given.ports:
        yield from _ports(given.ports, path.child("ports"))
    if given.env:
        yield from env(given.env, path.child("env"), facts)
    if given.env_from:
        yield from _env_from(given.env_from, path.child("envFrom"))
    if given.volume_mounts:
        yield from _mounts(given.volume_mounts, given.volume_devices, facts, path.child("volumeMounts"))
    if given.volume_devices:
        yield from _devices(given.volume_devices, given.volume_mounts, facts, path.child("volumeDevices"))
    if given.image_pull_policy not in PULL_POLICIES:
        yield from one_of(path, "imagePullPolicy", given.image_pull_policy, PULL_POLICIES, needed=True)
    if given.resources.limits or given.resources.requests or given.resources.claims:
        yield from resources.requirements(given.resources, path.child("resources"), facts.claims)
    if given.resize_policy:
        yield from _resize_policies(given, path.child("resizePolicy"))
    if given.security_context is not None:
        yield from container_security(given.security_context, path.child("securityContext"), facts.host_users)


def _message_policy(policy: str | None, path: Path) -> Iterator[FieldError]:
    if policy:
        choices = ("FallbackToLogsOnError", "File")
        yield fields.not_supported(path.child("terminationMessagePolicy"), policy, choices)
    else:
        yield fields.required(path.child("terminationMessagePolicy"))


def _resize_policies(given: AnyContainer, path: Path) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, policy in enumerate(given.resize_policy):
        at = path.index(n)
        if policy.resource_name in seen:
            yield fields.duplicate(at, policy.resource_name)
        seen.add(policy.resource_name)
        yield from one_of(at, "resourceName", policy.resource_name, ("cpu", "memory"), needed=True)
        yield from one_of(at, "restartPolicy", policy.restart_policy, ("NotRequired", "RestartContainer"), needed=True)


def containers(given: Sequence[Container], facts: PodFacts, seen: set[str], path: Path) -> Iterator[FieldError]:
    """The pod's regular containers. Adds their names to ``seen``."""
    if not given:
        yield fields.required(path)
    for n, one in enumerate(given):
        at = path.index(n)
        yield from container(one, facts, at)
        if one.name in seen:
            yield fields.duplicate(at.child("name"), one.name)
        elif one.name:
            seen.add(one.name)
        yield from probes.hooks_and_probes(one, facts.grace_period_s, at)
        yield from _restart_policy(one, at)
    yield from host_port_conflicts(given, path)


def _restart_policy(given: AnyContainer, path: Path) -> Iterator[FieldError]:
    """A container's own policy, which goes before its pod's, and the rules that go before both. Source: KEP-5307, KEP-5532."""
    if not given.restart_policy and given.restart_policy_rules:
        yield fields.required(path.child("restartPolicy"), "must specify restartPolicy when restart rules are used")
    yield from one_of(path, "restartPolicy", given.restart_policy, ("Always", "Never", "OnFailure"))
    if len(given.restart_policy_rules) > 20:
        yield fields.too_many(path.child("restartPolicyRules"), len(given.restart_policy_rules), 20)
    for n, rule in enumerate(given.restart_policy_rules):
        at = path.child("restartPolicyRules").index(n)
        yield from one_of(at, "action", rule.action, ("Restart", "RestartAllContainers"), needed=True)
        if rule.exit_codes is None:
            yield fields.required(at.child("exitCodes"), "must be specified")
            continue
        codes = at.child("exitCodes")
        yield from one_of(codes, "operator", rule.exit_codes.operator, ("In", "NotIn"), needed=True)
        if len(rule.exit_codes.values) > 255:
            yield fields.too_many(codes.child("values"), len(rule.exit_codes.values), 255)


def init_containers(
    given: Sequence[Container], facts: PodFacts, regular: Set[str], seen: set[str], path: Path
) -> Iterator[FieldError]:
    """Init containers; only those that restart always (sidecars) may have hooks and probes."""
    for n, one in enumerate(given):
        at = path.index(n)
        yield from container(one, facts, at)
        if one.name in seen:
            yield fields.duplicate(at.child("name"), one.name)
        elif one.name:
            seen.add(one.name)
        if one.restart_policy == "Always":
            yield from probes.hooks_and_probes(one, facts.grace_period_s, at)
        else:
            for wire, value in (
                ("lifecycle", one.lifecycle),
                ("livenessProbe", one.liveness_probe),
                ("readinessProbe", one.readiness_probe),
                ("startupProbe", one.startup_probe),
            ):
                if value is not None:
                    yield fields.forbidden(
                        at.child(wire), "may not be set for init containers without restartPolicy=Always"
                    )
        yield from _restart_policy(one, at)
        yield from host_port_conflicts((one,), path)


_EPHEMERAL_FORBIDDEN = (
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "ports",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
)


def ephemeral_containers(
    given: Sequence[EphemeralContainer], facts: PodFacts, taken: set[str], regular: Set[str], path: Path
) -> Iterator[FieldError]:
    """Ephemeral containers: no ports, probes, hooks or resources; a target must be a regular container."""
    for n, one in enumerate(given):
        at = path.index(n)
        yield from container(one, facts, at)
        if one.name in taken:
            yield fields.duplicate(at.child("name"), one.name)
        taken.add(one.name)
        if one.target_container_name and one.target_container_name not in regular:
            yield fields.not_found(at.child("targetContainerName"), one.target_container_name)
        set_fields = (
            one.lifecycle,
            one.liveness_probe,
            one.readiness_probe,
            one.startup_probe,
            one.ports,
            one.resize_policy,
            one.restart_policy,
            one.restart_policy_rules,
        )
        for wire, value in zip(_EPHEMERAL_FORBIDDEN, set_fields, strict=True):
            if value:
                yield fields.forbidden(at.child(wire), "cannot be set for an Ephemeral Container")
        if one.resources.limits or one.resources.requests:
            yield fields.forbidden(at.child("resources"), "cannot be set for an Ephemeral Container")
        for m, mount in enumerate(one.volume_mounts):
            for wire, text in (("subPath", mount.sub_path), ("subPathExpr", mount.sub_path_expr)):
                if text:
                    here = at.child("volumeMounts").index(m).child(wire)
                    yield fields.forbidden(here, "cannot be set for an Ephemeral Container")


# ------------------------------------------------------------------------------------------------ ports


def _ports(given: Sequence[ContainerPort], path: Path) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, port in enumerate(given):
        if port.name:
            faults = names.port_name(port.name)
            yield from faults_of(path.index(n).child("name"), port.name, faults)
            if not faults:
                if port.name in seen:
                    yield fields.duplicate(path.index(n).child("name"), port.name)
                seen.add(port.name)
        if port.container_port == 0:
            yield fields.required(path.index(n).child("containerPort"))
        elif not 1 <= port.container_port <= 65535:
            faults = names.port_number(port.container_port)
            yield from faults_of(path.index(n).child("containerPort"), port.container_port, faults)
        if port.host_port and not 1 <= port.host_port <= 65535:
            yield from faults_of(path.index(n).child("hostPort"), port.host_port, names.port_number(port.host_port))
        if port.protocol not in PROTOCOLS:
            yield from one_of(path.index(n), "protocol", port.protocol, PROTOCOLS, needed=True)
        if port.host_ip:
            yield from faults_of(path.index(n).child("hostIP"), port.host_ip, names.ip_address(port.host_ip))


def host_port_conflicts(given: Sequence[Container], path: Path) -> Iterator[FieldError]:
    seen: set[tuple[str, str, int]] = set()
    for n, one in enumerate(given):
        for m, port in enumerate(one.ports):
            if not port.host_port:
                continue
            key = (port.protocol or "", port.host_ip or "", port.host_port)
            if key in seen:
                text = "/".join((key[0], key[1], str(key[2]))) if key[1] else f"{key[0]}//{key[2]}"
                yield fields.duplicate(path.index(n).child("ports").index(m).child("hostPort"), text)
            seen.add(key)


# ------------------------------------------------------------------------------------------------ environment

_ENV_FIELDS = frozenset(
    [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ]
)
_POD_FIELDS = _ENV_FIELDS | frozenset(
    [
        "metadata.annotations",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
        "status.nominatedNodeName",
    ]
)
_SUBSCRIPT = re.compile(r"(metadata\.(?:annotations|labels))\['(.+)'\]")
_ENV_RESOURCES = (
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
)


def env(given: Sequence[EnvVar], path: Path, facts: PodFacts) -> Iterator[FieldError]:
    for n, one in enumerate(given):
        if not one.name:
            yield fields.required(path.index(n).child("name"))
        else:
            faults = names.env_var_name(one.name)
            if faults:
                yield from faults_of(path.index(n).child("name"), one.name, faults)
        if one.value_from is not None:
            yield from _env_source(one, one.value_from, path.index(n).child("valueFrom"), facts)


def _env_source(var: EnvVar, given: EnvVarSource, path: Path, facts: PodFacts) -> Iterator[FieldError]:
    sources = 0
    if given.field_ref is not None:
        sources += 1
        yield from field_ref(
            given.field_ref.field_path, given.field_ref.api_version, _ENV_FIELDS, path.child("fieldRef")
        )
    if given.resource_field_ref is not None:
        sources += 1
        at, name = path.child("resourceFieldRef"), given.resource_field_ref.resource
        if not name:
            yield fields.required(at.child("resource"))
        elif name not in _ENV_RESOURCES and not name.startswith(("limits.hugepages-", "requests.hugepages-")):
            yield fields.not_supported(at.child("resource"), name, _ENV_RESOURCES)
    for wire, ref in (("configMapKeyRef", given.config_map_key_ref), ("secretKeyRef", given.secret_key_ref)):
        if ref is None:
            continue
        sources += 1
        at = path.child(wire)
        if not ref.name:
            yield fields.required(at.child("name"))
        if not ref.key:
            yield fields.required(at.child("key"))
        else:
            yield from faults_of(at.child("key"), ref.key, names.config_key(ref.key))
    if given.file_key_ref is not None:
        sources += 1
        yield from _file_key(given, path.child("fileKeyRef"), facts)
    if var.value:
        if sources:
            yield fields.invalid(path, "", "may not be specified when `value` is not empty")
    elif sources > 1:
        yield fields.invalid(path, "", "may not have more than one field specified at a time")
    if not sources:
        detail = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        )
        yield fields.invalid(path, "", detail)


def _file_key(given: EnvVarSource, path: Path, facts: PodFacts) -> Iterator[FieldError]:
    ref = given.file_key_ref
    assert ref is not None
    if not ref.key:
        yield fields.required(path.child("key"))
    if not ref.volume_name:
        yield fields.required(path.child("volumeName"))
    elif ref.volume_name not in facts.volumes:
        yield fields.not_found(path.child("volumeName"), ref.volume_name)
    if not ref.path:
        yield fields.required(path.child("path"))
    elif ref.path.startswith("/"):
        yield fields.invalid(path.child("path"), ref.path, "must be a relative path")
    elif ".." in ref.path.split("/"):
        yield fields.invalid(path.child("path"), ref.path, "must not contain '..'")


def field_ref(text: str, version: str | None, allowed: Set[str], path: Path) -> Iterator[FieldError]:
    """A downward API field of the pod, maybe one label or annotation: ``metadata.labels['app']``."""
    if not version:
        yield fields.required(path.child("apiVersion"))
        return
    if not text:
        yield fields.required(path.child("fieldPath"))
        return
    at = path.child("fieldPath")
    subscript = _SUBSCRIPT.fullmatch(text)
    if subscript is not None:
        check = names.qualified_name
        key = subscript[2].lower() if subscript[1].endswith("annotations") else subscript[2]
        yield from faults_of(at, subscript[2], check(key))
    elif text not in _POD_FIELDS:
        yield fields.invalid(at, text, f"error converting fieldPath: field label not supported: {text}")
    elif text not in allowed:
        yield fields.not_supported(at, text, sorted(allowed))


def _env_from(given: Sequence[EnvFromSource], path: Path) -> Iterator[FieldError]:
    for n, one in enumerate(given):
        at = path.index(n)
        if one.prefix:
            yield from faults_of(at.child("prefix"), one.prefix, names.env_var_name(one.prefix))
        sources = [
            (wire, ref)
            for wire, ref in (("configMapRef", one.config_map_ref), ("secretRef", one.secret_ref))
            if ref is not None
        ]
        for wire, ref in sources:
            if not ref.name:
                yield fields.required(at.child(wire, "name"))
            else:
                yield from faults_of(at.child(wire, "name"), ref.name, names.dns_subdomain(ref.name))
        if not sources:
            yield fields.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(sources) > 1:
            yield fields.invalid(path, "", "may not have more than one field specified at a time")


# ------------------------------------------------------------------------------------------------ mounts


def _mounts(
    given: Sequence[VolumeMount], devices: Sequence[VolumeDevice], facts: PodFacts, path: Path
) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, mount in enumerate(given):
        if not mount.name:
            yield fields.required(path.index(n).child("name"))
        elif mount.name not in facts.volumes:
            yield fields.not_found(path.index(n).child("name"), mount.name)
        if not mount.mount_path:
            yield fields.required(path.index(n).child("mountPath"))
        elif mount.mount_path in seen:
            yield fields.invalid(path.index(n).child("mountPath"), mount.mount_path, "must be unique")
        seen.add(mount.mount_path)
        if any(device.name == mount.name for device in devices):
            detail = "must not already exist in volumeDevices"
            yield fields.invalid(path.index(n).child("name"), mount.name, detail)
        if mount.sub_path:
            yield from local_descending_path(mount.sub_path, path.index(n).child("subPath"))
        if mount.sub_path_expr:
            if mount.sub_path:
                at = path.index(n).child("subPathExpr")
                yield fields.invalid(at, mount.sub_path_expr, "subPathExpr and subPath are mutually exclusive")
            yield from local_descending_path(mount.sub_path_expr, path.index(n).child("subPathExpr"))
        if mount.mount_propagation is not None:
            choices = ("Bidirectional", "HostToContainer", "None")
            yield from one_of(path.index(n), "mountPropagation", mount.mount_propagation, choices)
        if mount.recursive_read_only is not None:
            yield from _recursive(mount, path.index(n).child("recursiveReadOnly"))


def _recursive(mount: VolumeMount, path: Path) -> Iterator[FieldError]:
    choices = ("Disabled", "Enabled", "IfPossible")
    if mount.recursive_read_only not in choices:
        yield fields.not_supported(path, mount.recursive_read_only, choices)
    elif mount.recursive_read_only != "Disabled":
        if not mount.read_only:
            yield fields.forbidden(path, "may only be specified when readOnly is true")
        if mount.mount_propagation not in (None, "None"):
            yield fields.forbidden(path, "may only be specified when mountPropagation is None or not specified")


def _devices(
    given: Sequence[VolumeDevice], mounts: Sequence[VolumeMount], facts: PodFacts, path: Path
) -> Iterator[FieldError]:
    paths: set[str] = set()
    seen: set[str] = set()
    for n, device in enumerate(given):
        at = path.index(n)
        if not device.name:
            yield fields.required(at.child("name"))
        if device.name in seen:
            yield fields.invalid(at.child("name"), device.name, "must be unique")
        seen.add(device.name)
        if device.name not in facts.volumes:
            yield fields.not_found(at.child("name"), device.name)
        if not device.device_path:
            yield fields.required(at.child("devicePath"))
        if device.device_path in paths:
            yield fields.invalid(at.child("devicePath"), device.device_path, "must be unique")
        paths.add(device.device_path)
        if ".." in device.device_path.split("/"):
            yield fields.invalid(at.child("devicePath"), device.device_path, "can not contain backsteps ('..')")
        if any(mount.name == device.name for mount in mounts):
            yield fields.invalid(at.child("name"), device.name, "must not already exist in volumeMounts")


def local_descending_path(text: str, path: Path) -> Iterator[FieldError]:
    if text.startswith("/"):
        yield fields.invalid(path, text, "must be a relative path")
    if ".." in text.split("/"):
        yield fields.invalid(path, text, "must not contain '..'")


def container_security(given: SecurityContext, path: Path, host_users: bool) -> Iterator[FieldError]:
    yield from security.context(given, path)
    if given.proc_mount is not None and given.proc_mount not in ("Default", "Unmasked"):
        yield fields.not_supported(path.child("procMount"), given.proc_mount, ("Default", "Unmasked"))
    if given.proc_mount == "Unmasked" and host_users:
        yield fields.invalid(path.child("procMount"), given.proc_mount, "`hostUsers` must be false to use `Unmasked`")
    if given.allow_privilege_escalation is False:
        if given.privileged:
            detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            yield fields.invalid(path, _shown(given), detail)
        if given.capabilities is not None and "CAP_SYS_ADMIN" in given.capabilities.add:
            detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            yield fields.invalid(path, _shown(given), detail)


def _shown(given: SecurityContext) -> object:
    from .internal import raw

    return raw(given)
