"""Who a container's process is and what it may do: securityContext of pod and container as the runtime's ``Security``.

Source: pkg/securitycontext, kuberuntime security_context.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kaa.api.types.core_v1 import Container, HostAlias, Pod, SeccompProfile, SecurityContext
from kaa.runtime.base import IdMap, Namespaces, PortMapping, Security

from .env import ConfigError

HOSTS_HEADER = "# Kubernetes-managed hosts file.\n"
HOSTS_HEADER_NODE = "# Kubernetes-managed hosts file (host network).\n"
HOSTNAME_MAX = 63
FQDN_MAX = 64  # of Linux' own field for a host name


def security(
    pod: Pod, container: Container, *, seccomp_root: str = "/var/lib/kubelet/seccomp", seccomp_default: bool = False
) -> Security:
    """How a container is confined; what the container says goes before what its pod says.

    Args: seccomp_default: a container that says nothing gets the runtime's own profile.
    """
    of_pod = pod.spec.security_context
    own = container.security_context or SecurityContext()
    user = own.run_as_user if own.run_as_user is not None else (of_pod.run_as_user if of_pod else None)
    group = own.run_as_group if own.run_as_group is not None else (of_pod.run_as_group if of_pod else None)
    groups = list(of_pod.supplemental_groups) if of_pod else []
    if of_pod is not None and of_pod.fs_group is not None and of_pod.fs_group not in groups:
        groups.append(of_pod.fs_group)
    privileged = bool(own.privileged)
    apparmor = own.app_armor_profile or (of_pod.app_armor_profile if of_pod else None)
    profile = own.seccomp_profile or (of_pod.seccomp_profile if of_pod else None)
    if profile is None and seccomp_default:
        profile = SeccompProfile(type="RuntimeDefault")
    unmasked = own.proc_mount == "Unmasked" or privileged
    return Security(
        user=user,
        group=group,
        supplemental_groups=tuple(groups),
        strict_groups=of_pod is not None and of_pod.supplemental_groups_policy == "Strict",
        privileged=privileged,
        read_only_root=bool(own.read_only_root_filesystem),
        no_new_privileges=own.allow_privilege_escalation is False,
        add_capabilities=_capabilities(own.capabilities.add if own.capabilities else ()),
        drop_capabilities=_capabilities(own.capabilities.drop if own.capabilities else ()),
        seccomp=_seccomp(profile, privileged, seccomp_root),
        apparmor="" if apparmor is None else _apparmor(apparmor.type, apparmor.localhost_profile),
        masked_paths=() if unmasked else None,
        read_only_paths=() if unmasked else None,
    )


def holds_privileged(pod: Pod) -> bool:
    """Whether any container of a pod is privileged. Source: pkg/kubelet/util HasPrivilegedContainer."""
    contexts = [one.security_context for one in (*pod.spec.init_containers, *pod.spec.containers)]
    contexts += [one.security_context for one in pod.spec.ephemeral_containers]
    return any(context is not None and bool(context.privileged) for context in contexts)


def _capabilities(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.upper().removeprefix("CAP_") for name in names)


def _seccomp(profile: SeccompProfile | None, privileged: bool, root: str) -> str:
    if privileged or profile is None or profile.type == "Unconfined":
        return "unconfined"
    if profile.type == "RuntimeDefault":
        return "runtime/default"
    return f"{root}/{profile.localhost_profile}"


def _apparmor(kind: str, profile: str | None) -> str:
    return {"RuntimeDefault": "runtime/default", "Unconfined": "unconfined"}.get(kind, f"localhost/{profile}")


def check_non_root(pod: Pod, container: Container, confined: Security, image_user: str) -> None:
    """Raises ConfigError when ``runAsNonRoot`` forbids what would run. ``image_user`` is the image config's ``user``."""
    of_pod, own = pod.spec.security_context, container.security_context
    asked = own.run_as_non_root if own is not None and own.run_as_non_root is not None else None
    if asked is None:
        asked = of_pod.run_as_non_root if of_pod is not None else None
    if not asked:
        return
    who = f'pod: "{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})", container: {container.name}'
    if confined.user is not None:
        if confined.user == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy ({who})")
        return
    name = image_user.split(":")[0]
    if not name.strip("0"):
        raise ConfigError(f"container has runAsNonRoot and image will run as root ({who})")
    if not (name.isascii() and name.isdigit()):
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root ({who})"
        )


def namespaces(pod: Pod, users: tuple[IdMap, ...] = ()) -> Namespaces:
    spec = pod.spec
    return Namespaces(
        network="node" if spec.host_network else "pod",
        pid="node" if spec.host_pid else ("pod" if spec.share_process_namespace else "container"),
        ipc="node" if spec.host_ipc else "pod",
        users=users,
    )


def sysctls(pod: Pod) -> Mapping[str, str]:
    found = pod.spec.security_context.sysctls if pod.spec.security_context else ()
    return {s.name.replace("/", "."): s.value for s in found}


def port_mappings(pod: Pod) -> tuple[PortMapping, ...]:
    """Host ports of every container; none with the node's own network."""
    if pod.spec.host_network:
        return ()
    return tuple(
        PortMapping(p.host_port, p.container_port, p.protocol or "TCP", p.host_ip or "")  # type: ignore[arg-type]  # closed set
        for c in (*pod.spec.init_containers, *pod.spec.containers)
        for p in c.ports
        if p.host_port
    )


def hostname(pod: Pod, cluster_domain: str, node_hostname: str) -> tuple[str, str]:
    """(hostname, its fully qualified name or empty): the spec's, else the pod's name cut to 63. Raises ConfigError."""
    if pod.spec.host_network:
        return node_hostname, ""
    if pod.spec.hostname_override:
        return _cut(pod.spec.hostname_override), ""
    name = _cut(pod.spec.hostname or pod.metadata.name or "")
    if not pod.spec.subdomain:
        return name, ""
    full = f"{name}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"
    if not pod.spec.set_hostname_as_fqdn:
        return name, full
    if len(full) > FQDN_MAX:
        raise ConfigError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long"
            f" ({FQDN_MAX} characters is the max, {len(full)} characters requested)"
        )
    return full, full


def _cut(name: str) -> str:
    return name if len(name) <= HOSTNAME_MAX else name[:HOSTNAME_MAX].rstrip("-.")


def hosts_file(
    pod_ips: tuple[str, ...], name: str, full_name: str, aliases: Iterable[HostAlias], *, node_hosts: str | None = None
) -> str:
    """``/etc/hosts`` of a pod; with ``node_hosts`` (the node's own file) for pods on the node's network."""
    if node_hosts is not None:
        return HOSTS_HEADER_NODE + node_hosts + _aliases(aliases)
    lines = [
        HOSTS_HEADER.rstrip("\n"),
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
    ]
    short = name.split(".")[0] if name == full_name else name
    for ip in pod_ips:
        lines.append(f"{ip}\t{full_name}\t{short}" if full_name else f"{ip}\t{name}")
    return "\n".join(lines) + "\n" + _aliases(aliases)


def _aliases(aliases: Iterable[HostAlias]) -> str:
    lines = [f"{alias.ip}\t" + "\t".join(alias.hostnames) for alias in aliases]
    return "\n# Entries added by HostAliases.\n" + "\n".join(lines) + "\n" if lines else ""
