"""Environment, command line and downward API, as upstream resolves them."""

from __future__ import annotations

import base64

import pytest
from kubelet_world import make_container, make_pod
from msgspec.structs import replace

from kaa.api.types.core_v1 import (
    ConfigMap,
    ConfigMapEnvSource,
    ConfigMapKeySelector,
    EnvFromSource,
    EnvVar,
    EnvVarSource,
    ObjectFieldSelector,
    ResourceFieldSelector,
    ResourceRequirements,
    Secret,
    SecretKeySelector,
    Service,
    ServicePort,
    ServiceSpec,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.values import Quantity
from kaa.kubelet.env import (
    ConfigError,
    Sources,
    command_line,
    environment,
    expand,
    field_value,
    format_map,
    resource_value,
    service_variables,
)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("$(A)", "1"),
        ("$(A)-$$(A)-$(B)", "1-$(A)-$(B)"),
        ("$$$$(A)", "$$(A)"),
        ("$", "$"),
        ("$$", "$"),
        ("a$b", "a$b"),
        ("$(A", "$(A"),
        ("$(A)$(A)", "11"),
        ("$()", "$()"),
    ],
)
def test_expand(text: str, made: str) -> None:
    assert expand(text, {"A": "1"}) == made


def service(name: str, ip: str = "10.96.0.1", namespace: str = "default", **ports: int) -> Service:
    made = tuple(ServicePort(name=n, port=p) for n, p in ports.items())
    return Service(metadata=ObjectMeta(name=name, namespace=namespace), spec=ServiceSpec(cluster_ip=ip, ports=made))


def test_service_variables_are_docker_links() -> None:
    assert service_variables([service("redis-master", "10.0.0.11", main=6379)]) == {
        "REDIS_MASTER_SERVICE_HOST": "10.0.0.11",
        "REDIS_MASTER_SERVICE_PORT": "6379",
        "REDIS_MASTER_SERVICE_PORT_MAIN": "6379",
        "REDIS_MASTER_PORT": "tcp://10.0.0.11:6379",
        "REDIS_MASTER_PORT_6379_TCP": "tcp://10.0.0.11:6379",
        "REDIS_MASTER_PORT_6379_TCP_PROTO": "tcp",
        "REDIS_MASTER_PORT_6379_TCP_PORT": "6379",
        "REDIS_MASTER_PORT_6379_TCP_ADDR": "10.0.0.11",
    }


def test_kubernetes_is_seen_from_everywhere_others_only_at_home() -> None:
    services = (service("kubernetes", https=443), service("web", a=80), service("db", namespace="other", a=5432))
    pod = make_pod(namespace="other")
    env = dict(environment(pod, pod.spec.containers[0], Sources(services=services)))
    assert (env["KUBERNETES_SERVICE_HOST"], env["DB_SERVICE_PORT"]) == ("10.96.0.1", "5432")
    assert "WEB_SERVICE_HOST" not in env
    quiet = make_pod(namespace="other", enable_service_links=False)
    env = dict(environment(quiet, quiet.spec.containers[0], Sources(services=services)))
    assert "KUBERNETES_SERVICE_HOST" in env
    assert "DB_SERVICE_PORT" not in env


def test_sources_in_their_order() -> None:
    config = ConfigMap(metadata=ObjectMeta(name="c"), data={"A": "map", "B": "b"})
    secret = Secret(metadata=ObjectMeta(name="s"), data={"k": base64.b64encode(b"hidden").decode()})
    container = make_container(
        env_from=(EnvFromSource(prefix="P_", config_map_ref=ConfigMapEnvSource(name="c")),),
        env=(
            EnvVar(name="P_A", value="own"),
            EnvVar(name="S", value_from=EnvVarSource(secret_key_ref=SecretKeySelector(name="s", key="k"))),
            EnvVar(name="BOTH", value="$(P_A)/$(P_B)/$(S)"),
        ),
        command=("run", "$(BOTH)"),
    )
    env = dict(environment(make_pod(), container, Sources({"c": config}, {"s": secret})))
    assert env == {"P_A": "own", "P_B": "b", "S": "hidden", "BOTH": "own/b/hidden"}
    assert command_line(container, env) == (("run", "own/b/hidden"), None)


@pytest.mark.parametrize("optional", [True, False])
def test_missing_keys(optional: bool) -> None:
    ref = ConfigMapKeySelector(name="c", key="x", optional=optional)
    container = make_container(env=(EnvVar(name="A", value_from=EnvVarSource(config_map_key_ref=ref)),))
    sources = Sources({"c": ConfigMap(metadata=ObjectMeta(name="c"))})
    if optional:
        assert environment(make_pod(), container, sources) == ()
    else:
        with pytest.raises(ConfigError, match="couldn't find key x in ConfigMap default/c"):
            environment(make_pod(), container, sources)


def test_fields() -> None:
    pod = make_pod(labels={"app": "x"}, annotations={"b": 'q"\n', "a": "1"})
    sources = Sources(host_ips=("192.0.2.1",), pod_ips=("10.0.0.1", "fd00::1"))
    assert field_value(pod, "metadata.labels['app']", sources) == "x"
    assert field_value(pod, "status.podIPs", sources) == "10.0.0.1,fd00::1"
    assert field_value(pod, "spec.nodeName", sources) == "n1"
    assert format_map(pod.metadata.annotations) == 'a="1"\nb="q\\"\\n"'
    with pytest.raises(ConfigError):
        field_value(pod, "status.phase", sources)


def test_resource_fields_are_rounded_up() -> None:
    resources = ResourceRequirements(limits={"cpu": Quantity("1500m"), "memory": Quantity("64Mi")})
    pod = make_pod(containers=(make_container(resources=resources),))
    [container] = pod.spec.containers

    def read(resource: str, divisor: str | None = None) -> str:
        ref = ResourceFieldSelector(resource=resource, divisor=Quantity(divisor) if divisor else None)
        return resource_value(pod, container, ref, {"ephemeral-storage": "10"})

    assert read("limits.cpu") == "2"
    assert read("limits.cpu", "1m") == "1500"
    assert read("limits.memory", "1Mi") == "64"
    assert read("limits.ephemeral-storage") == "10"


def test_a_limit_that_is_not_set_is_the_pods_before_the_nodes() -> None:
    pod = make_pod(containers=(make_container(),))
    pod = replace(pod, spec=replace(pod.spec, resources=ResourceRequirements(limits={"cpu": Quantity("2")})))

    def read(resource: str) -> str:
        node = {"cpu": "8", "memory": "100"}
        return resource_value(pod, pod.spec.containers[0], ResourceFieldSelector(resource=resource), node)

    assert (read("limits.cpu"), read("limits.memory"), read("requests.cpu")) == ("2", "100", "0")


def test_field_ref_in_env() -> None:
    ref = EnvVarSource(field_ref=ObjectFieldSelector(field_path="metadata.name"))
    container = make_container(env=(EnvVar(name="ME", value_from=ref),))
    assert environment(make_pod(), container, Sources()) == (("ME", "web"),)
