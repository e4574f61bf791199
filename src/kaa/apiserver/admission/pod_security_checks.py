"""The checks of the Pod Security Standards. Each answers a text that says what is wrong, or the empty text.

Source: pod-security-admission policy/check_*.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kaa.api.types.core_v1 import Container, EphemeralContainer, PodSpec, SecurityContext
from kaa.api.types.meta_v1 import ObjectMeta

AnyContainer = Container | EphemeralContainer
Check = Callable[[ObjectMeta, PodSpec], str]
_BASE_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
_SYSCTLS = frozenset(
    [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    ]
)
_SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_VOLUMES = frozenset(
    [
        "config_map",
        "csi",
        "downward_api",
        "empty_dir",
        "ephemeral",
        "image",
        "name",
        "persistent_volume_claim",
        "projected",
        "secret",
    ]
)
_EMPTY = SecurityContext()


def containers(spec: PodSpec) -> list[AnyContainer]:
    return [*spec.init_containers, *spec.containers, *spec.ephemeral_containers]


def _security(container: AnyContainer) -> SecurityContext:
    return container.security_context or _EMPTY


def _named(found: Sequence[AnyContainer] | Sequence[str]) -> str:
    """``container "a"`` or ``containers "a", "b"``"""
    names = [c if isinstance(c, str) else c.name for c in found]
    return f"container{'s' if len(names) > 1 else ''} {_quoted(names)}"


def _quoted(texts: Iterable[str]) -> str:
    return ", ".join(f'"{text}"' for text in texts)


def _plural(word: str, found: Sequence[object]) -> str:
    return word if len(found) == 1 else word + "s"


def _host_namespaces(meta: ObjectMeta, spec: PodSpec) -> str:
    rows = (("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc))
    found = [f"{name}=true" for name, value in rows if value]
    return f"host namespaces ({', '.join(found)})" if found else ""


def _host_path(meta: ObjectMeta, spec: PodSpec) -> str:
    found = [v.name for v in spec.volumes if v.host_path]
    return f"hostPath volumes ({_plural('volume', found)} {_quoted(found)})" if found else ""


def _host_ports(meta: ObjectMeta, spec: PodSpec) -> str:
    bad = [c for c in containers(spec) if any(p.host_port for p in c.ports)]
    ports = sorted({p.host_port for c in bad for p in c.ports if p.host_port})
    if not bad:
        return ""
    uses = "uses" if len(bad) == 1 else "use"
    return f"hostPort ({_named(bad)} {uses} {_plural('hostPort', ports)} {', '.join(map(str, ports))})"


def _privileged(meta: ObjectMeta, spec: PodSpec) -> str:
    bad = [c for c in containers(spec) if _security(c).privileged]
    return f"privileged ({_named(bad)} must not set securityContext.privileged=true)" if bad else ""


def _proc_mount(meta: ObjectMeta, spec: PodSpec) -> str:
    bad = [c for c in containers(spec) if _security(c).proc_mount not in (None, "Default")]
    values = sorted({_security(c).proc_mount or "" for c in bad})
    return f"procMount ({_named(bad)} must not set securityContext.procMount to {_quoted(values)})" if bad else ""


def _capabilities_baseline(meta: ObjectMeta, spec: PodSpec) -> str:
    bad, added = [], set()
    for container in containers(spec):
        held = _security(container).capabilities
        extra = [c for c in (held.add if held else ()) if c not in _BASE_CAPABILITIES]
        if extra:
            bad.append(container)
            added.update(extra)
    if not bad:
        return ""
    listed = _quoted(sorted(added))
    return f"non-default capabilities ({_named(bad)} must not include {listed} in securityContext.capabilities.add)"


def _capabilities_restricted(meta: ObjectMeta, spec: PodSpec) -> str:
    undropped, adding, added = [], [], set()
    for container in containers(spec):
        held = _security(container).capabilities
        if held is None or "ALL" not in held.drop:
            undropped.append(container)
        extra = [c for c in (held.add if held else ()) if c != "NET_BIND_SERVICE"]
        if extra:
            adding.append(container)
            added.update(extra)
    texts = []
    if undropped:
        texts.append(f'{_named(undropped)} must set securityContext.capabilities.drop=["ALL"]')
    if adding:
        listed = _quoted(sorted(added))
        texts.append(f"{_named(adding)} must not include {listed} in securityContext.capabilities.add")
    return f"unrestricted capabilities ({'; '.join(texts)})" if texts else ""


def _selinux(meta: ObjectMeta, spec: PodSpec) -> str:
    pod = spec.security_context.se_linux_options if spec.security_context else None
    rows = [("pod", pod), *((c.name, _security(c).se_linux_options) for c in containers(spec))]
    held = [(name, options) for name, options in rows if options is not None]
    setters: list[str] = []
    types = sorted({o.type or "" for _, o in held if (o.type or "") not in _SELINUX_TYPES})
    users = sorted({o.user for _, o in held if o.user})
    roles = sorted({o.role for _, o in held if o.role})
    for name, options in held:
        if (options.type or "") not in _SELINUX_TYPES or options.user or options.role:
            setters.append(name)
    texts = []
    if types:
        texts.append(f"type{'s' if len(types) > 1 else ''} {_quoted(types)}")
    if users:
        texts.append(f"user{'s' if len(users) > 1 else ''} {_quoted(users)}")
    if roles:
        texts.append(f"role{'s' if len(roles) > 1 else ''} {_quoted(roles)}")
    return (
        f"seLinuxOptions ({_who(setters)} set forbidden securityContext.seLinuxOptions: {'; '.join(texts)})"
        if texts
        else ""
    )


def _who(setters: Sequence[str]) -> str:
    """``pod`` and containers by name."""
    names = [name for name in setters if name != "pod"]
    parts = (["pod"] if "pod" in setters else []) + ([_named(names)] if names else [])
    return " and ".join(parts)


def _seccomp_baseline(meta: ObjectMeta, spec: PodSpec) -> str:
    pod = spec.security_context.seccomp_profile if spec.security_context else None
    rows = [("pod", pod), *((c.name, _security(c).seccomp_profile) for c in containers(spec))]
    bad = [name for name, profile in rows if profile is not None and profile.type == "Unconfined"]
    return (
        f'seccompProfile ({_who(bad)} must not set securityContext.seccompProfile.type to "Unconfined")' if bad else ""
    )


def _seccomp_restricted(meta: ObjectMeta, spec: PodSpec) -> str:
    good = ("RuntimeDefault", "Localhost")
    pod = spec.security_context.seccomp_profile if spec.security_context else None
    wrong, unset = [], []
    if pod is not None and pod.type not in good:
        wrong.append("pod")
    for container in containers(spec):
        profile = _security(container).seccomp_profile
        if profile is None and (pod is None or pod.type not in good):
            unset.append(container.name)
        elif profile is not None and profile.type not in good:
            wrong.append(container.name)
    if wrong:
        return f'seccompProfile ({_who(wrong)} must not set securityContext.seccompProfile.type to "Unconfined")'
    if unset:
        return f'seccompProfile (pod or {_named(unset)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
    return ""


def _sysctls(meta: ObjectMeta, spec: PodSpec) -> str:
    held = spec.security_context.sysctls if spec.security_context else ()
    bad = sorted({s.name for s in held if s.name not in _SYSCTLS})
    return f"forbidden sysctls ({', '.join(bad)})" if bad else ""


def _windows(meta: ObjectMeta, spec: PodSpec) -> str:
    options = spec.security_context.windows_options if spec.security_context else None
    bad = ["pod"] if options is not None and options.host_process else []
    for container in containers(spec):
        own = _security(container).windows_options
        if own is not None and own.host_process:
            bad.append(container.name)
    return f"hostProcess ({_who(bad)} must not set securityContext.windowsOptions.hostProcess=true)" if bad else ""


def _app_armor(meta: ObjectMeta, spec: PodSpec) -> str:
    pod = spec.security_context.app_armor_profile if spec.security_context else None
    rows = [("pod", pod), *((c.name, _security(c).app_armor_profile) for c in containers(spec))]
    bad = [name for name, profile in rows if profile is not None and profile.type == "Unconfined"]
    texts = [f'{_who(bad)} must not set AppArmor profile type to "Unconfined"'] if bad else []
    prefix = "container.apparmor.security.beta.kubernetes.io/"
    fine = ("", "runtime/default")
    wrong = [
        f'{key}="{value}"'
        for key, value in sorted(meta.annotations.items())
        if key.startswith(prefix) and value not in fine and not value.startswith("localhost/")
    ]
    if wrong:
        texts.append(f"{_plural('annotation', wrong)} {', '.join(wrong)}")
    return f"{_plural('forbidden AppArmor profile', texts)} ({'; '.join(texts)})" if texts else ""


def _host_probes(meta: ObjectMeta, spec: PodSpec) -> str:
    """Probes and hooks reach the pod itself, not a host that it names (since 1.34)."""
    bad, hosts = [], set()
    for container in containers(spec):
        actions = [container.liveness_probe, container.readiness_probe, container.startup_probe]
        if container.lifecycle is not None:
            hooks = (container.lifecycle.post_start, container.lifecycle.pre_stop)
            reached = [h for hook in hooks if hook for h in (hook.http_get, hook.tcp_socket) if h]
        else:
            reached = []
        reached += [h for probe in actions if probe for h in (probe.http_get, probe.tcp_socket) if h]
        named = {h.host for h in reached if h.host}
        if named:
            bad.append(container)
            hosts |= named
    if not bad:
        return ""
    uses = "uses" if len(bad) == 1 else "use"
    return f"probe or lifecycle host ({_named(bad)} {uses} probe or lifecycle {_plural('host', list(hosts))} {_quoted(sorted(hosts))})"


def _escalation(meta: ObjectMeta, spec: PodSpec) -> str:
    bad = [c for c in containers(spec) if _security(c).allow_privilege_escalation is not False]
    if not bad:
        return ""
    return f"allowPrivilegeEscalation != false ({_named(bad)} must set securityContext.allowPrivilegeEscalation=false)"


def _volume_types(meta: ObjectMeta, spec: PodSpec) -> str:
    bad, kinds = [], set()
    for volume in spec.volumes:
        for field, wire in zip(volume.__struct_fields__, volume.__struct_encode_fields__, strict=True):
            if field not in _VOLUMES and getattr(volume, field) is not None:
                bad.append(volume.name)
                kinds.add(wire)
    if not bad:
        return ""
    uses = "uses" if len(bad) == 1 else "use"
    what = "restricted volume type"
    return f"restricted volume types ({_plural('volume', bad)} {_quoted(bad)} {uses} {_plural(what, list(kinds))} {_quoted(sorted(kinds))})"


def _non_root(meta: ObjectMeta, spec: PodSpec) -> str:
    pod = spec.security_context.run_as_non_root if spec.security_context else None
    wrong = ["pod"] if pod is False else []
    unset = []
    for container in containers(spec):
        own = _security(container).run_as_non_root
        if own is False:
            wrong.append(container.name)
        elif own is None and not pod:
            unset.append(container.name)
    if wrong:
        return f"runAsNonRoot != true ({_who(wrong)} must not set securityContext.runAsNonRoot=false)"
    if unset:
        return f"runAsNonRoot != true (pod or {_named(unset)} must set securityContext.runAsNonRoot=true)"
    return ""


def _root_user(meta: ObjectMeta, spec: PodSpec) -> str:
    pod = spec.security_context.run_as_user if spec.security_context else None
    bad = ["pod"] if pod == 0 else []
    bad += [c.name for c in containers(spec) if _security(c).run_as_user == 0]
    return f"runAsUser=0 ({_who(bad)} must not set runAsUser=0)" if bad else ""


#: By upstream's identifiers, in alphabetical order.
_BASELINE: dict[str, Check] = {
    "appArmorProfile": _app_armor,
    "capabilities_baseline": _capabilities_baseline,
    "hostNamespaces": _host_namespaces,
    "hostPathVolumes": _host_path,
    "hostPorts": _host_ports,
    "hostProbesAndHostLifecycle": _host_probes,
    "privileged": _privileged,
    "procMount": _proc_mount,
    "seLinuxOptions": _selinux,
    "seccompProfile_baseline": _seccomp_baseline,
    "sysctls": _sysctls,
    "windowsHostProcess": _windows,
}
_RESTRICTED: dict[str, Check] = {
    "allowPrivilegeEscalation": _escalation,
    "capabilities_restricted": _capabilities_restricted,
    "restrictedVolumes": _volume_types,
    "runAsNonRoot": _non_root,
    "runAsUser": _root_user,
    "seccompProfile_restricted": _seccomp_restricted,
}
_OVERRIDDEN = frozenset({"capabilities_baseline", "hostPathVolumes", "seccompProfile_baseline"})
CHECKS: dict[str, tuple[Check, ...]] = {
    "privileged": (),
    "baseline": tuple(_BASELINE.values()),
    "restricted": (
        *(check for name, check in _BASELINE.items() if name not in _OVERRIDDEN),
        *_RESTRICTED.values(),
    ),
}


def violations(level: str, meta: ObjectMeta, spec: PodSpec) -> list[str]:
    """What keeps the pod from a level, a text a check."""
    return [text for check in CHECKS[level] if (text := check(meta, spec))]
