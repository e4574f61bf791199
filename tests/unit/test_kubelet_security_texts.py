"""What confines a pod as its spec and the node's configuration say, and the words with which it is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod

from kaa.api.types.core_v1 import (
    AppArmorProfile,
    EmptyDirVolumeSource,
    EnvVar,
    EnvVarSource,
    FileKeySelector,
    PodDNSConfig,
    PodSecurityContext,
    SeccompProfile,
    SecurityContext,
    Volume,
)
from kaa.kubelet import admission, security
from kaa.kubelet.config import KubeletConfig
from kaa.kubelet.config_file import configured
from kaa.kubelet.env import ConfigError, Sources, environment
from kaa.kubelet.env_file import EnvFileError, value_of
from kaa.kubelet.resolv import pod_dns

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


@pytest.mark.parametrize(
    ("pod_profile", "own", "default", "expected"),
    [
        (None, None, False, "unconfined"),
        (None, None, True, "runtime/default"),
        ("Unconfined", None, True, "unconfined"),
        ("Unconfined", "RuntimeDefault", False, "runtime/default"),
    ],
)
def test_seccomp_of_those_who_say_nothing(
    pod_profile: str | None, own: str | None, default: bool, expected: str
) -> None:
    context = PodSecurityContext(seccomp_profile=SeccompProfile(type=pod_profile)) if pod_profile else None
    mine = SecurityContext(seccomp_profile=SeccompProfile(type=own)) if own else None
    pod = make_pod(containers=(make_container(security_context=mine),), security_context=context)
    assert security.security(pod, pod.spec.containers[0], seccomp_default=default).seccomp == expected


def test_seccomp_default_of_the_configuration() -> None:
    made, without_effect = configured(KubeletConfig("n"), HEAD + "seccompDefault: true\n")
    assert made.seccomp_default
    assert without_effect == []


def test_privileged_containers_are_not_filtered_by_default() -> None:
    pod = make_pod(containers=(make_container(security_context=SecurityContext(privileged=True)),))
    assert security.security(pod, pod.spec.containers[0], seccomp_default=True).seccomp == "unconfined"


def test_a_host_name_that_is_too_long_for_linux() -> None:
    pod = make_pod(hostname="a" * 40, subdomain="sub", set_hostname_as_fqdn=True)
    full = f"{'a' * 40}.sub.default.svc.cluster.local"
    with pytest.raises(ConfigError) as caught:
        security.hostname(pod, "cluster.local", "node")
    assert str(caught.value) == (
        f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long"
        f" (64 characters is the max, {len(full)} characters requested)"
    )
    short = make_pod(hostname="a", subdomain="sub", set_hostname_as_fqdn=True)
    assert security.hostname(short, "cluster.local", "node")[0] == "a.sub.default.svc.cluster.local"


def test_an_overriding_host_name_is_cut_as_others_are() -> None:
    pod = make_pod(hostname_override=f"{'a' * 62}.bc", hostname="other", subdomain="sub")
    assert security.hostname(pod, "cluster.local", "node") == ("a" * 62, "")


@pytest.mark.parametrize(
    ("contexts", "refused"),
    [
        ((None, None), False),
        (("Unconfined", None), False),
        (("RuntimeDefault", None), True),
        ((None, "RuntimeDefault"), True),
    ],
)
def test_a_machine_without_apparmor(tmp_path: Path, contexts: tuple[str | None, str | None], refused: bool) -> None:
    of_pod, own = (AppArmorProfile(type=kind) if kind else None for kind in contexts)
    pod = make_pod(
        security_context=PodSecurityContext(app_armor_profile=of_pod),
        containers=(make_container(security_context=SecurityContext(app_armor_profile=own)),),
    )
    found = admission.lacking_apparmor(pod, tmp_path / "enabled")
    expected = admission.Refusal("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
    assert found == (expected if refused else None)
    (tmp_path / "enabled").write_text("Y\n")
    assert admission.lacking_apparmor(pod, tmp_path / "enabled") is None


def test_strict_groups_that_the_runtime_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            plain = world.runtime.info

            async def info() -> Any:
                from dataclasses import replace

                return replace(await plain(), strict_groups=False)

            monkeypatch.setattr(world.runtime, "info", info)
            world.client.put(make_pod(security_context=PodSecurityContext(supplemental_groups_policy="Strict")))
            await world.rest()
            text = "SupplementalGroupsPolicy=Strict is not supported in this node"
            assert ("web", "SupplementalGroupsPolicyNotSupported", text) in world.events.said
            status = world.pod().status
            assert (status.phase, status.reason) == ("Failed", "SupplementalGroupsPolicyNotSupported")
            assert status.message == f"Pod was rejected: {text}"

    asyncio.run(go())


def test_name_servers_that_do_not_fit_are_told(tmp_path: Path) -> None:
    def dns(pod: Any, *, cluster_dns: Any, cluster_domain: str, host: Any) -> Any:
        return pod_dns(pod, host, cluster_dns=cluster_dns, cluster_domain=cluster_domain)

    async def go() -> None:
        async with World(tmp_path, pod_dns=dns) as world:
            servers = tuple(f"10.0.0.{n}" for n in range(5))
            world.client.put(make_pod(dns_policy="None", dns_config=PodDNSConfig(nameservers=servers)))
            await world.rest()
            [text] = [message for _, reason, message in world.events.said if reason == "DNSConfigForming"]
            assert text.endswith("the applied nameserver line is: 10.0.0.0 10.0.0.1 10.0.0.2")

    asyncio.run(go())


# -------------------------------------------------------------------------------------------------------- files of variables

FILE = """
# made by an init container
A='plain'
  B='with $(A) and "quotes"' # as it is
C='two
lines'
D= 'nothing'
"""


@pytest.mark.parametrize(
    ("key", "value"),
    [("A", "plain"), ("B", 'with $(A) and "quotes"'), ("C", "two\nlines"), ("D", ""), ("E", "")],
)
def test_variables_of_a_file(key: str, value: str) -> None:
    assert value_of(FILE, key) == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\nA", "at line 2: missing '='"),
        ("='x'", "at line 1: empty variable name"),
        ("A ='x'", "at line 1: whitespace before '=' is not allowed"),
        ("A=x", "at line 1: value must be enclosed in single quotes"),
        ("A=", "at line 1: value must be enclosed in single quotes"),
        ("A='x'y", "at line 1: unexpected content after closing quote"),
        ("A='x\ny", "starting at line 1: unclosed single quote"),
    ],
)
def test_files_that_are_not_of_variables(text: str, fault: str) -> None:
    with pytest.raises(EnvFileError) as caught:
        value_of(text, "Z")
    assert str(caught.value) == f"invalid environment variable format {fault}"


def from_file(volume: Path, **fields: Any) -> dict[str, str]:
    ref = FileKeySelector(**{"volume_name": "v", "path": "env", "key": "A", **fields})
    variable = EnvVar(name="X", value_from=EnvVarSource(file_key_ref=ref))
    spec = make_container(env=(variable,))
    pod = make_pod(containers=(spec,), volumes=(Volume(name="v", empty_dir=EmptyDirVolumeSource()),))
    return dict(environment(pod, spec, Sources(volumes={"v": volume})))


def test_variables_from_a_volume(tmp_path: Path) -> None:
    (tmp_path / "env").write_text(FILE)
    assert from_file(tmp_path) == {"X": "plain"}
    assert from_file(tmp_path, key="E", optional=True) == {}
    for fields, text in (
        ({"key": "E"}, f'environment variable key "E" not found in file "{tmp_path}/env"'),
        ({"path": "none"}, "couldn't parse env file"),
        ({"volume_name": "w"}, 'cannot find the volume "w" referenced by FileKeyRef'),
    ):
        with pytest.raises(ConfigError) as caught:
            from_file(tmp_path, **fields)
        assert str(caught.value) == text
    assert not (tmp_path / "none").exists()


def test_no_file_of_the_nodes_is_read(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "secret").write_text("A='hidden'\n")
    (tmp_path / "volume/env").symlink_to("../secret")
    with pytest.raises(ConfigError, match="couldn't parse env file"):
        from_file(tmp_path / "volume")
