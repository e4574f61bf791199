"""``--runtime-config``: which APIs are served, and that those which are off by default work when they are on."""

from __future__ import annotations

import base64
import datetime
from pathlib import Path
from typing import Any

import pytest

from kaa.api import scheme
from kaa.api.clock import SystemClock
from kaa.api.errors import Forbidden, Invalid, NotFound
from kaa.api.resources import OPTIONAL, RESOURCES, Resource
from kaa.api.types import coordination_v1alpha2, coordination_v1beta1, resource_v1, resource_v1beta1, resource_v1beta2
from kaa.api.types.apiregistration_v1 import APIService
from kaa.api.types.apiserverinternal_v1alpha1 import ServerStorageVersion, StorageVersion, StorageVersionStatus
from kaa.api.types.certificates_v1beta1 import ClusterTrustBundle
from kaa.api.types.meta_v1 import Condition, ObjectMeta
from kaa.api.types.storagemigration_v1beta1 import StorageVersionMigration, StorageVersionMigrationStatus
from kaa.apiserver.options import ApiServerOptions, OptionError
from kaa.apiserver.registry import strategy_for
from kaa.apiserver.serving import serving_of
from kaa.cluster import lifecycle
from kaa.cluster.config import ClusterConfig, ConfigError, read_config
from kaa.cluster.control_plane import bootstrap
from tests.api_lab import Lab, cluster_config, run

ALL = ApiServerOptions(runtime_config="api/all=true")


def added(text: str) -> set[str]:
    return {f"{one.api_version}/{one.plural}" for one in serving_of(text).resources if one not in RESOURCES}


def lacking(text: str) -> set[str]:
    found = serving_of(text).resources
    return {f"{one.api_version}/{one.plural}" for one in RESOURCES if one not in found}


def test_nothing_said_is_what_stands() -> None:
    assert serving_of("").resources is RESOURCES
    assert not set(OPTIONAL) & set(RESOURCES)


def test_versions_and_resources_are_switched() -> None:
    leases = "coordination.k8s.io/v1beta1/leasecandidates"
    assert added("coordination.k8s.io/v1beta1=true") == {leases}
    assert added("coordination.k8s.io/v1beta1") == {leases}
    assert added("api/beta=true") == {f"{r.api_version}/{r.plural}" for r in OPTIONAL if "beta" in r.version}
    assert added("api/alpha=true") == {f"{r.api_version}/{r.plural}" for r in OPTIONAL if "alpha" in r.version}
    assert len(added("api/all=true")) == len(OPTIONAL)
    assert added("api/beta=true,coordination.k8s.io/v1beta1=false") == added("api/beta=true") - {leases}
    assert added("resource.k8s.io/v1beta2/devicetaintrules=true") == {"resource.k8s.io/v1beta2/devicetaintrules"}
    assert lacking("batch/v1=0, apps/v1/daemonsets=false") == {
        "batch/v1/jobs",
        "batch/v1/cronjobs",
        "apps/v1/daemonsets",
    }
    assert lacking("api/ga=false,/v1=true") == {f"{r.api_version}/{r.plural}" for r in RESOURCES if r.group}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("api/all=false", "invalid key with only api/all=false"),
        ("v1=true", "runtime-config invalid key v1"),
        ("a/b/c/d=true", "runtime-config invalid key a/b/c/d"),
        ("acme.io/v1=true,zoo/v1=false", "unknown api groups acme.io,zoo"),
        ("apps/v2=true", "group version apps/v2 that has not been registered"),
        ("api/beta=yes", "invalid value api/beta=yes"),
        (
            "apps/v1=maybe",
            'invalid value of apps/v1: maybe, err: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        (
            "apps/v1/Deployments=true",
            'invalid key apps/v1/Deployments: group/version/resource and resource is always lowercase plural, not "Deployments"',
        ),
    ],
)
def test_what_is_no_key_is_refused_in_upstreams_words(text: str, why: str) -> None:
    with pytest.raises(OptionError) as caught:
        serving_of(text)
    assert str(caught.value) == why


def test_by_default_nothing_of_it_is_there() -> None:
    async def use(lab: Lab) -> None:
        for path in ("/apis/storagemigration.k8s.io", "/apis/coordination.k8s.io/v1beta1"):
            assert (await lab.ask("GET", path)).status == 404
        versions = (await lab.ask("GET", "/apis/coordination.k8s.io")).json()["versions"]
        assert [one["version"] for one in versions] == ["v1"]
        with pytest.raises(NotFound, match="could not find the requested resource"):
            await lab.client.list(StorageVersionMigration)

    run(use, http=True)


def test_what_is_switched_off_is_gone_and_said_to_be() -> None:
    options = ApiServerOptions(runtime_config="batch/v1=false,apps/v1/daemonsets=false")

    async def use(lab: Lab) -> None:
        assert (await lab.ask("GET", "/apis/batch/v1/jobs")).status == 404
        assert (await lab.ask("GET", "/apis/apps/v1/daemonsets")).status == 404
        assert (await lab.ask("GET", "/apis/apps/v1/deployments")).status == 200
        assert "batch" not in {one["name"] for one in (await lab.ask("GET", "/apis")).json()["groups"]}
        names = {one["name"] for one in (await lab.ask("GET", "/apis/apps/v1")).json()["resources"]}
        assert "daemonsets" not in names
        assert "/apis/batch/v1/jobs" not in (await lab.ask("GET", "/openapi/v2")).json()["paths"]

    run(use, http=True, options=options)


def test_a_cluster_starts_without_flow_control_and_drops_what_is_withdrawn() -> None:
    options = ApiServerOptions(runtime_config="flowcontrol.apiserver.k8s.io/v1=false,coordination.k8s.io/v1beta1=true")

    async def use(lab: Lab) -> None:
        assert (await lab.client.get(APIService, "v1beta1.coordination.k8s.io")).spec is not None
        with pytest.raises(NotFound):
            await lab.client.get(APIService, "v1.flowcontrol.apiserver.k8s.io")
        lab.plane.api.serving = serving_of("")  # as a start without the flag would have it
        await bootstrap(lab.client, lab.plane.api, cluster_config(), lab.clock)
        await lab.client.get(APIService, "v1.flowcontrol.apiserver.k8s.io")
        with pytest.raises(NotFound):
            await lab.client.get(APIService, "v1beta1.coordination.k8s.io")

    run(use, bootstrapped=True, options=options)


def bundle() -> str:
    """A certificate that is an authority's, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    at = datetime.datetime.fromtimestamp(SystemClock().now(), datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(at)
        .not_valid_after(at + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def stub_request() -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(
        serialization.Encoding.DER
    )


PEM = bundle()
REQUEST = {"name": "r", "deviceClassName": "gpu.example.com"}
POD_REQUEST = {
    "signerName": "acme.io/pods",
    "podName": "p",
    "podUID": "u1",
    "serviceAccountName": "default",
    "serviceAccountUID": "u2",
    "nodeName": "n",
    "nodeUID": "u3",
    "stubPKCS10Request": base64.b64encode(stub_request()).decode(),
}
POLICY: dict[str, Any] = {
    "matchConstraints": {
        "resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
        ]
    },
    "reinvocationPolicy": "Never",
    "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}},
    ],
}
#: {plural: what an object of it needs}
BODIES: dict[str, dict[str, Any]] = {
    "clustertrustbundles": {"spec": {"trustBundle": PEM}},
    "podcertificaterequests": {"spec": POD_REQUEST},
    "ipaddresses": {"spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "default"}}},
    "servicecidrs": {"spec": {"cidrs": ["10.9.0.0/24"]}},
    "volumeattributesclasses": {"driverName": "a.example.com", "parameters": {"a": "b"}},
    "mutatingadmissionpolicies": {"spec": POLICY},
    "mutatingadmissionpolicybindings": {"spec": {"policyName": "x"}},
    "leasecandidates": {
        "spec": {
            "leaseName": "l",
            "binaryVersion": "1.36.0",
            "emulationVersion": "1.35.0",
            "strategy": "OldestEmulationVersion",
        }
    },
    "deviceclasses": {"spec": {}},
    "resourceclaims": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}},
    "resourceclaimtemplates": {
        "spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}}
    },
    "resourceslices": {
        "spec": {
            "driver": "d.example.com",
            "nodeName": "n",
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "dev", "attributes": {"a": {"int": 1}}}],
        }
    },
    "devicetaintrules": {"spec": {"taint": {"key": "k", "effect": "NoSchedule"}}},
    "storageversions": {"spec": {}},
    "storageversionmigrations": {"spec": {"resource": {"group": "", "resource": "secrets"}}},
}
NAMES = {"ipaddresses": "10.96.0.77", "storageversions": "apps.deployments"}


def body_of(row: Resource[Any]) -> dict[str, Any]:
    name = NAMES.get(row.plural, "x")
    found = {"apiVersion": row.api_version, "kind": row.kind, "metadata": {"name": name}, **BODIES[row.plural]}
    if row.version == "v1beta1" and row.plural == "resourceslices":
        spec = found["spec"]
        found["spec"] = {**spec, "devices": [{"name": "dev", "basic": {"attributes": {"a": {"int": 1}}}}]}
    if row.version == "v1beta1" and row.plural.startswith("resourceclaim"):
        devices = {"devices": {"requests": [{"name": "r", "deviceClassName": "gpu"}]}}
        found["spec"] = devices if row.plural == "resourceclaims" else {"spec": devices}
    return found


@pytest.mark.parametrize("row", OPTIONAL, ids=lambda row: f"{row.api_version}/{row.plural}")
def test_every_kind_is_served_as_any(row: Resource[Any]) -> None:
    async def use(lab: Lab) -> None:
        body = body_of(row)
        where, name = row.path("default"), body["metadata"]["name"]
        made = await lab.ask("POST", where, body)
        assert made.status == 201, made.body
        document = made.json()
        assert (document["apiVersion"], document["kind"]) == (row.api_version, row.kind)
        sent = body["spec"] if "spec" in body else body["parameters"]
        kept = document["spec"] if "spec" in document else document["parameters"]
        if row.plural not in ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"):
            assert contains(kept, sent)
        again = await lab.ask("PUT", f"{where}/{name}", document)
        assert again.json() == document
        patch = {"metadata": {"labels": {"a": "b"}}}
        patched = await lab.ask("PATCH", f"{where}/{name}", patch, content_type="application/merge-patch+json")
        assert patched.json()["metadata"]["labels"] == {"a": "b"}
        assert patched.json().get("spec") == document.get("spec")
        table = await lab.ask("GET", where, Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
        assert table.json()["rows"][0]["cells"][0] == name
        listed = (await lab.ask("GET", where)).json()
        assert listed["kind"] == f"{row.kind}List"
        proto = await lab.ask("GET", f"{where}/{name}", Accept="application/vnd.kubernetes.protobuf")
        assert proto.headers["content-type"] == "application/vnd.kubernetes.protobuf"
        assert row.plural in {one["name"] for one in (await lab.ask("GET", row.root)).json()["resources"]}
        schemas = (await lab.ask("GET", f"/openapi/v3{row.root}")).json()
        assert f"{row.root}/{row.plural}" in schemas["paths"] or row.namespaced
        assert (await lab.ask("DELETE", f"{where}/{name}")).status == 200

    run(use, http=True, options=ALL)


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and all(map(contains, whole, part)) and len(whole) == len(part)
    return bool(whole == part)


def test_strategies_and_columns() -> None:
    for row in OPTIONAL:
        strategy = strategy_for(row)
        assert strategy.kind is row.type
        assert strategy.table is not None


def test_versions_show_the_same_objects() -> None:
    async def use(lab: Lab) -> None:
        row = scheme.resource_by_path("resource.k8s.io", "v1beta1", "resourceclaims")
        assert row is not None
        await lab.client.create(scheme.convert(resource_v1beta1.ResourceClaim, body_of(row)), namespace="default")
        new = await lab.client.get(resource_v1.ResourceClaim, "x", "default")
        assert new.spec.devices.requests[0].exactly is not None
        assert new.spec.devices.requests[0].exactly.count == 1
        between = await lab.client.get(resource_v1beta2.ResourceClaim, "x", "default")
        assert between.spec.devices is not None
        assert between.spec.devices.requests[0].exactly is not None
        old = await lab.client.get(resource_v1beta1.ResourceClaim, "x", "default")
        assert old.spec.devices is not None
        assert (old.spec.devices.requests[0].device_class_name, old.spec.devices.requests[0].count) == ("gpu", 1)
        await lab.client.create(candidate("c"))
        older = await lab.client.get(coordination_v1alpha2.LeaseCandidate, "c", "default")
        assert older.spec.emulation_version == "1.35.0"
        watch = lab.client.watch(coordination_v1alpha2.LeaseCandidate, "default", resource_version="0")
        event = await anext(watch)
        assert isinstance(event.object, coordination_v1alpha2.LeaseCandidate)
        await watch.aclose()  # type: ignore[attr-defined]

    run(use, options=ALL)


def candidate(name: str, **spec: Any) -> coordination_v1beta1.LeaseCandidate:
    given: dict[str, Any] = {
        "lease_name": "l",
        "binary_version": "1.36.0",
        "emulation_version": "1.35.0",
        "strategy": "OldestEmulationVersion",
    }
    return coordination_v1beta1.LeaseCandidate(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=coordination_v1beta1.LeaseCandidateSpec(**{**given, **spec}),
    )


async def faults(lab: Lab, obj: Any, *, status: bool = False) -> str:
    try:
        await (lab.client.update_status(obj) if status else lab.client.create(obj))
    except Invalid as err:
        return str(err)
    return ""


def test_lease_candidates_are_checked() -> None:
    async def use(lab: Lab) -> None:
        assert "spec.leaseName: Required value" in await faults(lab, candidate("a", lease_name=""))
        assert 'spec.binaryVersion: Invalid value: "1.36": must be a valid semantic version' in await faults(
            lab, candidate("a", binary_version="1.36")
        )
        assert (
            'spec.binaryVersion: Invalid value: "1.34.0": must be greater than or equal to `emulationVersion`'
            in await faults(lab, candidate("a", binary_version="1.34.0"))
        )
        needed = "spec.emulationVersion: Required value: must be specified when `strategy` is 'OldestEmulationVersion'"
        assert needed in await faults(lab, candidate("a", emulation_version=None))
        assert 'Unsupported value: "Best": supported values: "OldestEmulationVersion"' in await faults(
            lab, candidate("a", strategy="Best")
        )
        assert not await faults(lab, candidate("node_1.a", strategy="example.com/best", emulation_version=None))

    run(use, options=ALL)


def test_trust_bundles_are_checked_and_attested() -> None:
    def named(name: str, trust: str = PEM, signer: str | None = None) -> ClusterTrustBundle:
        spec = {"trustBundle": trust, **({"signerName": signer} if signer else {})}
        return scheme.convert(ClusterTrustBundle, {"metadata": {"name": name}, "spec": spec})

    async def use(lab: Lab) -> None:
        hidden = 'spec.trustBundle: Invalid value: "<value omitted>": '
        assert f"{hidden}at least one trust anchor must be provided" in await faults(lab, named("a", "nothing"))
        assert f"{hidden}duplicate trust anchor (indices [0 1])" in await faults(lab, named("a", PEM + PEM))
        key = "-----BEGIN EC KEY-----\nAAAA\n-----END EC KEY-----\n"
        assert f"{hidden}entry 1 has bad block type: EC KEY" in await faults(lab, named("a", PEM + key))
        broken = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(b'no').decode()}\n-----END CERTIFICATE-----\n"
        assert f"{hidden}entry 0 does not parse as X.509" in await faults(lab, named("a", broken))
        assert 'must not have ":" in its name' in await faults(lab, named("a:b"))
        assert "ClusterTrustBundle for signerName acme.io/foo must be named with prefix acme.io:foo:" in await faults(
            lab, named("foo", signer="acme.io/foo")
        )
        assert not await faults(lab, named("acme.io:foo:a", signer="acme.io/foo"))
        listed = await lab.client.list(ClusterTrustBundle, field_selector="spec.signerName=acme.io/foo")
        assert [one.metadata.name for one in listed.items] == ["acme.io:foo:a"]

    run(use, options=ALL)


def test_storage_versions_are_checked() -> None:
    async def use(lab: Lab) -> None:
        assert "name must be in the form of <group>.<resource>" in await faults(
            lab, StorageVersion(metadata=ObjectMeta(name="pods"))
        )
        made = await lab.client.create(StorageVersion(metadata=ObjectMeta(name="apps.deployments")))

        def told(*servers: tuple[str, str], common: str | None = None, decodable: tuple[str, ...] = ()) -> Any:
            listed = tuple(
                ServerStorageVersion(api_server_id=id, encoding_version=v, decodable_versions=decodable or (v,))
                for id, v in servers
            )
            status = StorageVersionStatus(storage_versions=listed, common_encoding_version=common)
            return StorageVersion(metadata=made.metadata, spec=made.spec, status=status)

        two = told(("a", "apps/v1"), ("b", "apps/v2"), common="apps/v1")
        assert "should be nil if servers do not agree on the same encoding version" in await faults(
            lab, two, status=True
        )
        one = told(("a", "apps/v1"))
        assert "the common encoding version is apps/v1" in await faults(lab, one, status=True)
        twice = told(("a", "apps/v1"), ("a", "apps/v1"), common="apps/v1")
        assert "apiServerID: Duplicate value" in await faults(lab, twice, status=True)
        other = told(("a", "apps/v1"), common="apps/v1", decodable=("apps/v2",))
        assert "decodableVersions must include encodingVersion apps/v1" in await faults(lab, other, status=True)
        assert not await faults(lab, told(("a", "apps/v1"), common="apps/v1"), status=True)

    run(use, options=ALL)


def test_migrations_are_checked() -> None:
    def asking(**resource: str) -> StorageVersionMigration:
        spec = {"resource": {"group": "", "resource": "", **resource}}
        return scheme.convert(StorageVersionMigration, {"metadata": {"name": "m"}, "spec": spec})

    def condition(type: str) -> Condition:
        return Condition(type=type, status="True", reason="R", message="", last_transition_time="2026-01-01T00:00:00Z")

    async def use(lab: Lab) -> None:
        assert "spec.resource.resource: Required value: resource is required to be set" in await faults(lab, asking())
        assert 'spec.resource.resource: Invalid value: "A"' in await faults(lab, asking(resource="A"))
        made = await lab.client.create(asking(resource="pods"))

        def told(*types: str, version: str = "") -> StorageVersionMigration:
            status = StorageVersionMigrationStatus(
                conditions=tuple(map(condition, types)), resource_version=version or None
            )
            return StorageVersionMigration(metadata=made.metadata, spec=made.spec, status=status)

        assert "Running condition cannot be true when success condition is true" in await faults(
            lab, told("Running", "Succeeded"), status=True
        )
        assert 'status.resourceVersion: Invalid value: "x"' in await faults(lab, told(version="x"), status=True)
        made = await lab.client.update_status(told("Succeeded", version="7"))
        assert "Success condition cannot be set to false once it is true" in await faults(
            lab, told(version="7"), status=True
        )
        assert 'status.resourceVersion: Invalid value: "8": field is immutable' in await faults(
            lab, told("Succeeded", version="8"), status=True
        )

    run(use, options=ALL)


def test_attestation_needs_permission() -> None:
    from kaa.api.types.rbac_v1 import ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject

    async def use(lab: Lab) -> None:
        rules = (PolicyRule(api_groups=("certificates.k8s.io",), resources=("clustertrustbundles",), verbs=("*",)),)
        await lab.client.create(ClusterRole(metadata=ObjectMeta(name="bundler"), rules=rules))
        ref = RoleRef(api_group="rbac.authorization.k8s.io", kind="ClusterRole", name="bundler")
        who = Subject(api_group="rbac.authorization.k8s.io", kind="User", name="jane")
        await lab.client.create(ClusterRoleBinding(metadata=ObjectMeta(name="b"), role_ref=ref, subjects=(who,)))
        jane = lab.as_user("jane")
        spec = {"trustBundle": PEM, "signerName": "acme.io/foo"}
        made = scheme.convert(ClusterTrustBundle, {"metadata": {"name": "acme.io:foo:a"}, "spec": spec})
        with pytest.raises(Forbidden, match=r'user not permitted to attest for signerName "acme\.io/foo"'):
            await jane.create(made)

    run(use, options=ALL)


def test_kaa_up_keeps_it(tmp_path: Path) -> None:
    config = ClusterConfig(name="c", data_dir=str(tmp_path))
    kept = lifecycle._with_runtime_config(config, "api/beta=true")
    assert read_config(tmp_path) == kept
    assert kept.api_server.runtime_config == "api/beta=true"
    assert lifecycle._with_runtime_config(kept, "").api_server == config.api_server
    with pytest.raises(ConfigError, match=r"--runtime-config: unknown api groups acme"):
        lifecycle._with_runtime_config(config, "acme/v1=true")
    assert lifecycle._with_runtime_config(kept, "api/beta=true") is kept
