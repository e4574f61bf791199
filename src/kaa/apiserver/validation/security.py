"""Security contexts of pods and containers.

Source: pkg/apis/core/validation/validation.go (ValidateSecurityContext, ValidatePodSecurityContext).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import (
    AppArmorProfile,
    PodSecurityContext,
    PodSpec,
    SeccompProfile,
    SecurityContext,
    WindowsSecurityContextOptions,
)

_MOST = 2**31 - 1
_ID = "must be between 0 and 2147483647, inclusive"


def _id(value: int | None, path: Path) -> Iterator[FieldError]:
    if value is not None and not 0 <= value <= _MOST:
        yield fields.invalid(path, value, _ID)


def context(given: SecurityContext, path: Path) -> Iterator[FieldError]:
    """What containers' contexts have in common with pods'."""
    yield from _id(given.run_as_user, path.child("runAsUser"))
    yield from _id(given.run_as_group, path.child("runAsGroup"))
    if given.seccomp_profile is not None:
        yield from _seccomp(given.seccomp_profile, path.child("seccompProfile"))
    if given.app_armor_profile is not None:
        yield from _app_armor(given.app_armor_profile, path.child("appArmorProfile"))
    if given.windows_options is not None:
        yield from _windows(given.windows_options, path.child("windowsOptions"))


def pod_context(spec: PodSpec, given: PodSecurityContext, path: Path) -> Iterator[FieldError]:
    at = path.child("securityContext")
    for wire, value in (
        ("fsGroup", given.fs_group),
        ("runAsUser", given.run_as_user),
        ("runAsGroup", given.run_as_group),
    ):
        yield from _id(value, at.child(wire))
    for n, group in enumerate(given.supplemental_groups):
        yield from _id(group, at.child("supplementalGroups").index(n))
    if spec.share_process_namespace and spec.host_pid:
        detail = "ShareProcessNamespace and HostPID cannot both be enabled"
        yield fields.invalid(at.child("shareProcessNamespace"), True, detail)
    if given.sysctls:
        yield from _sysctls(spec, given, at.child("sysctls"))
    if given.fs_group_change_policy is not None and given.fs_group_change_policy not in ("Always", "OnRootMismatch"):
        choices = ("Always", "OnRootMismatch")
        yield fields.not_supported(at.child("fsGroupChangePolicy"), given.fs_group_change_policy, choices)
    if given.seccomp_profile is not None:
        yield from _seccomp(given.seccomp_profile, at.child("seccompProfile"))
    if given.windows_options is not None:
        yield from _windows(given.windows_options, at.child("windowsOptions"))
    if given.app_armor_profile is not None:
        yield from _app_armor(given.app_armor_profile, at.child("appArmorProfile"))
    policy = given.supplemental_groups_policy
    if policy is not None and policy not in ("Merge", "Strict"):
        yield fields.not_supported(at.child("supplementalGroupsPolicy"), policy, ("Merge", "Strict"))
    change = given.se_linux_change_policy
    if change is not None and change not in ("MountOption", "Recursive"):
        yield fields.not_supported(at.child("seLinuxChangePolicy"), change, ("MountOption", "Recursive"))


def _seccomp(given: SeccompProfile, path: Path) -> Iterator[FieldError]:
    yield from _profile(given.type, given.localhost_profile, path, "seccomp")


def _app_armor(given: AppArmorProfile, path: Path) -> Iterator[FieldError]:
    yield from _profile(given.type, given.localhost_profile, path, "AppArmor")


def _profile(kind: str, local: str | None, path: Path, what: str) -> Iterator[FieldError]:
    at = path.child("localhostProfile")
    if not kind:
        yield fields.required(
            path.child("type"),
            "type is required when seccompProfile is set"
            if what == "seccomp"
            else "type is required when appArmorProfile is set",
        )
        return
    match kind:
        case "Localhost":
            if local is None:
                yield fields.required(
                    at,
                    "must be set when "
                    + ("seccomp type is Localhost" if what == "seccomp" else "AppArmor type is Localhost"),
                )
            elif what == "seccomp":
                if local.startswith("/"):
                    yield fields.invalid(at, local, "must be a relative path")
                if ".." in local.split("/"):
                    yield fields.invalid(at, local, "must not contain '..'")
            elif not local.strip():
                yield fields.required(at, "must be set when AppArmor type is Localhost")
            elif len(local) > 4095:
                yield fields.too_long(at, 4095)
        case "RuntimeDefault" | "Unconfined":
            if local is not None:
                detail = "can only be set when " + (
                    "seccomp type is Localhost" if what == "seccomp" else "AppArmor type is Localhost"
                )
                yield fields.invalid(at, local, detail)
        case _:
            yield fields.not_supported(path.child("type"), kind, ("Localhost", "RuntimeDefault", "Unconfined"))


def _windows(given: WindowsSecurityContextOptions, path: Path) -> Iterator[FieldError]:
    if given.gmsa_credential_spec_name is not None:
        for fault in names.dns_subdomain(given.gmsa_credential_spec_name):
            yield fields.invalid(path.child("gmsaCredentialSpecName"), given.gmsa_credential_spec_name, fault)
    if given.gmsa_credential_spec is not None and not given.gmsa_credential_spec:
        detail = "gmsaCredentialSpec cannot be an empty string"
        yield fields.invalid(path.child("gmsaCredentialSpec"), given.gmsa_credential_spec, detail)
    if given.run_as_user_name is not None and not given.run_as_user_name:
        yield fields.invalid(
            path.child("runAsUserName"), given.run_as_user_name, "runAsUserName cannot be an empty string"
        )


_SYSCTL = r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?"


def _sysctls(spec: PodSpec, given: PodSecurityContext, path: Path) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, sysctl in enumerate(given.sysctls):
        at = path.index(n).child("name")
        if not sysctl.name:
            yield fields.required(at)
        elif len(sysctl.name) > 253 or not re.fullmatch(_SYSCTL, sysctl.name):
            yield fields.invalid(at, sysctl.name, f"must have at most 253 characters and match regex ^{_SYSCTL}$")
        elif sysctl.name in seen:
            yield fields.duplicate(at, sysctl.name)
        seen.add(sysctl.name)
        dotted = sysctl.name.replace("/", ".")
        if spec.host_network and dotted.startswith("net."):
            yield fields.invalid(at, sysctl.name, "may not be specified when 'hostNetwork' is true")
        if spec.host_ipc and dotted.startswith(("kernel.shm", "fs.mqueue.")):
            yield fields.invalid(at, sysctl.name, "may not be specified when 'hostIPC' is true")
