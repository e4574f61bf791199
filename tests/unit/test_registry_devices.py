"""What the API server says of claims, classes and slices of devices that are not well, in upstream's words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_lab import lab as serving
from device_lab import DRIVER, asks, device, make_claim, make_class, make_slice, request
from msgspec.structs import replace

from kaa.api.errors import Invalid
from kaa.api.scheme import convert, resource_of
from kaa.api.types.core_v1 import Namespace
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.resource_v1 import DeviceClass, ResourceClaim, ResourceClaimStatus, ResourceSlice
from kaa.apiserver.registry import strategy_for


def faults(obj: Any) -> list[str]:
    strategy = strategy_for(resource_of(obj))
    return [str(fault) for fault in strategy.validate(strategy.default(obj))]


NO_REFERENCE = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
ONE = "spec.devices.requests[0].exactly"


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        pytest.param(make_claim("c", request("r"), request("s", asks(), asks())), [], id="well"),
        pytest.param(
            make_claim("c", request("r"), request("r")), ['spec.devices.requests[1]: Duplicate value: "r"'], id="twice"
        ),
        pytest.param(
            make_claim("c", {"name": "r"}),
            ["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"],
            id="asks for nothing",
        ),
        pytest.param(
            make_claim("c", {**request("r"), **request("r", asks())}),
            [
                "spec.devices.requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required,"
                " but multiple fields are set"
            ],
            id="both ways",
        ),
        pytest.param(
            make_claim("c", request("r", *[asks()] * 9)),
            ["spec.devices.requests[0].firstAvailable: Too many: 9: must have at most 8 items"],
            id="too many alternatives",
        ),
        pytest.param(
            make_claim("c", request("r", **asks(1, "device.nothing"))),
            [
                f'{ONE}.selectors[0].cel.expression: Invalid value: "device.nothing": compilation failed: ERROR:'
                " <input>:1:7: undefined field 'nothing'\n | device.nothing\n | ......^"
            ],
            id="no CEL",
        ),
        pytest.param(
            make_claim("c", request("r", **asks(1, "device.driver"))),
            [
                f'{ONE}.selectors[0].cel.expression: Invalid value: "device.driver": must evaluate to bool or the unknown'
                " type, not string"
            ],
            id="no question",
        ),
        pytest.param(
            make_claim("c", request("r", **asks(1, "[1,2,3,4,5,6,7,8,9].all(a, " * 7 + "true" + ")" * 7))),
            [f"{ONE}.selectors[0].cel.expression: Forbidden: too complex, exceeds cost limit"],
            id="too complex",
        ),
        pytest.param(
            make_claim(
                "c", request("r", **asks(1, "device.attributes['x.com'].all(k, device.attributes['x.com'][k] == 1)"))
            ),
            [],
            id="not too complex, as devices have few attributes",
        ),
        pytest.param(
            make_claim(
                "c", request("r", tolerations=[{"operator": "Exists", "value": "v", "effect": "PreferNoSchedule"}])
            ),
            [
                f'{ONE}.tolerations[0].value: Invalid value: "v": must be empty for operator `Exists`',
                f'{ONE}.tolerations[0].effect: Unsupported value: "PreferNoSchedule": supported values: "NoExecute",'
                ' "NoSchedule", "None"',
            ],
            id="tolerations",
        ),
        pytest.param(
            make_claim(
                "c", request("r", asks()), constraints=[{"matchAttribute": "a", "requests": ["s", "r/alt1", "r/alt0"]}]
            ),
            [
                f'spec.devices.constraints[0].requests[0]: Invalid value: "s": {NO_REFERENCE}',
                f'spec.devices.constraints[0].requests[1]: Invalid value: "r/alt1": {NO_REFERENCE}',
                'spec.devices.constraints[0].matchAttribute: Invalid value: "a": a fully qualified name must be a domain'
                " and a name separated by a slash",
            ],
            id="constraints",
        ),
        pytest.param(
            make_claim("c", request("r"), config=[{"opaque": {"driver": "Bad_", "parameters": [1]}}, {}]),
            [
                'spec.devices.config[0].opaque.driver: Invalid value: "bad_": a lowercase RFC 1123 subdomain must consist of'
                " lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
                " (e.g. 'example.com', regex used for validation is"
                " '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                'spec.devices.config[0].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object',
                "spec.devices.config[1].opaque: Required value",
            ],
            id="configuration",
        ),
    ],
)
def test_claims(claim: ResourceClaim, expected: list[str]) -> None:
    assert faults(claim) == expected


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(make_class("c", "true"), [], id="well"),
        pytest.param(
            make_class("c", "1 +", extendedResourceName="cpu"),
            [
                'spec.selectors[0].cel.expression: Invalid value: "1 +": compilation failed: ERROR: <input>:1:4: Syntax'
                " error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null',"
                " NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
                'spec.extendedResourceName: Invalid value: "cpu": must be a valid extended resource name',
            ],
            id="no CEL, no extended resource",
        ),
    ],
)
def test_classes(made: DeviceClass, expected: list[str]) -> None:
    assert faults(made) == expected


PLACES = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
SHARED: dict[str, Any] = {"allowMultipleAllocations": True}


def memory(**policy: Any) -> dict[str, Any]:
    return {"capacity": {"memory": {"value": "10Gi", "requestPolicy": policy}}}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(
            make_slice("s", device("a", attributes={"x.com/n": 1, "m": "v"}, taint="NoExecute")), [], id="well"
        ),
        pytest.param(
            make_slice("s", sharedCounters=[{"name": "c", "counters": {"n": {"value": "1"}}}]), [], id="counters"
        ),
        pytest.param(
            make_slice("s", nodeName="n", allNodes=True),
            [f'spec: Invalid value: "{{`nodeName`, `allNodes`}}": {PLACES}, but multiple fields are set'],
            id="two places",
        ),
        pytest.param(make_slice("s", allNodes=None), [f"spec: Required value: {PLACES}"], id="nowhere"),
        pytest.param(
            make_slice("s", allNodes=False),
            [
                "spec.allNodes: Invalid value: false: must be either unset or set to true",
                f"spec: Required value: {PLACES}",
            ],
            id="false is no place",
        ),
        pytest.param(
            make_slice("s", device("a"), sharedCounters=[{"name": "c", "counters": {"n": {"value": "1"}}}]),
            ['spec: Invalid value: "": only one of `sharedCounters` or `devices` is allowed'],
            id="devices and counters",
        ),
        pytest.param(
            make_slice("s", *(device(f"d{n}", taint="None") for n in range(65))),
            ["spec.devices: Too many: 65: must have at most 64 items"],
            id="too many with taints",
        ),
        pytest.param(
            make_slice("s", device("a"), device("a"), count=0, generation=-1, pool="a//b"),
            [
                'spec.pool.name: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric'
                " characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex"
                " used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec.pool.generation: Invalid value: -1: must be greater than or equal to zero",
                'spec.devices[1]: Duplicate value: "a"',
            ],
            id="pool and names",
        ),
        pytest.param(
            make_slice(
                "s",
                device("a", attributes={"a/b/c": 1, "0": 2, "v": {"version": "1"}, "both": {"int": 1, "string": "x"}}),
            ),
            [
                'spec.devices[0].attributes: Invalid value: "a/b/c": must not contain more than one slash',
                'spec.devices[0].attributes: Invalid value: "0": a valid C identifier must start with alphabetic character'
                " or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',"
                " regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
                'spec.devices[0].attributes[v].version: Invalid value: "1": must be a string compatible with semver.org spec'
                " 2.0.0",
                'spec.devices[0].attributes[both]: Invalid value: {"int":1,"string":"x"}: exactly one value must be specified',
            ],
            id="attributes",
        ),
        pytest.param(
            make_slice("s", device("a", nodeName="n1"), perDeviceNodeSelection=True), [], id="a device says where it is"
        ),
        pytest.param(
            make_slice("s", device("a", nodeName="n1")),
            [
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if"
                " `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
            ],
            id="a device may not say where it is",
        ),
        pytest.param(
            make_slice("s", device("a", bindingConditions=["x"])),
            [
                "spec.devices[0].bindingFailureConditions: Invalid value: []: bindingFailureConditions are required to use"
                " bindingConditions"
            ],
            id="binding conditions",
        ),
        pytest.param(
            make_slice("s", device("a", **memory(default="1Gi"))),
            ["spec.devices[0].capacity[memory].requestPolicy: Forbidden: allowMultipleAllocations must be true"],
            id="a policy for one",
        ),
        pytest.param(
            make_slice("s", device("a", **SHARED, **memory(default="3Gi", validValues=["2Gi", "1Gi", "20Gi"]))),
            [
                'spec.devices[0].capacity[memory].requestPolicy.validValues[1]: Invalid value: "1Gi": values must be sorted in'
                " ascending order",
                'spec.devices[0].capacity[memory].requestPolicy.validValues[2]: Invalid value: "20Gi": option is larger than'
                " capacity value: 10Gi",
                'spec.devices[0].capacity[memory].requestPolicy.validValues: Invalid value: "3Gi": default value is not valid'
                " according to the requestPolicy",
            ],
            id="values",
        ),
        pytest.param(
            make_slice(
                "s",
                device("a", **SHARED, **memory(default="2Gi", validRange={"min": "1Gi", "max": "20Gi", "step": "2Gi"})),
            ),
            [
                'spec.devices[0].capacity[memory].requestPolicy.validRange.max: Invalid value: "20Gi": max is larger than'
                " capacity value: 10Gi",
                'spec.devices[0].capacity[memory].requestPolicy.validRange.step: Invalid value: "2Gi": value is not a multiple'
                " of a given step (2Gi) from (1Gi)",
                'spec.devices[0].capacity[memory].requestPolicy.validRange.step: Invalid value: "20Gi": value is not a multiple'
                " of a given step (2Gi) from (1Gi)",
            ],
            id="a range",
        ),
    ],
)
def test_slices(made: ResourceSlice, expected: list[str]) -> None:
    assert faults(made) == expected


# ------------------------------------------------------------------------------------------------ status

POD = {"resource": "pods", "name": "p", "uid": "u"}
RESULT = {"request": "r", "driver": DRIVER, "pool": "pool", "device": "a"}
GIVEN: dict[str, Any] = {"allocation": {"devices": {"results": [RESULT]}}}
TOLD = {"driver": DRIVER, "pool": "pool", "device": "a"}


def status_faults(new: dict[str, Any], old: dict[str, Any], *, deleted: bool = False) -> list[str]:
    strategy = strategy_for(resource_of(ResourceClaim))
    claim = make_claim("c", request("r"))
    if deleted:
        claim = replace(claim, metadata=replace(claim.metadata, deletion_timestamp="2026-01-01T00:00:00Z"))
    before, after = (replace(claim, status=convert(ResourceClaimStatus, status)) for status in (old, new))
    return [
        str(fault) for fault in strategy.validate_status_update(strategy.prepare_status_update(after, before), before)
    ]


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        pytest.param({**GIVEN, "reservedFor": [POD], "devices": [TOLD]}, {}, [], id="well"),
        pytest.param({}, {**GIVEN, "devices": [TOLD]}, [], id="taken back"),
        pytest.param({"devices": [TOLD]}, {**GIVEN, "devices": [TOLD]}, [], id="what was told of lost devices goes"),
        pytest.param(
            {"reservedFor": [POD]},
            {},
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"],
            id="reserved without devices",
        ),
        pytest.param(
            {**GIVEN, "reservedFor": [POD, {**POD, "name": ""}]},
            GIVEN,
            [
                "status.reservedFor[1].name: Required value",
                'status.reservedFor[1]: Duplicate value: "u"',
            ],
            id="users",
        ),
        pytest.param(
            {**GIVEN, "reservedFor": [{**POD, "uid": str(n)} for n in range(257)]},
            GIVEN,
            ["status.reservedFor: Too many: 257: must have at most 256 items"],
            id="too many users",
        ),
        pytest.param(
            {**GIVEN, "devices": [{**TOLD, "device": "b"}]},
            GIVEN,
            [f'status.devices[0]: Invalid value: "{DRIVER}/pool/b": must be an allocated device in the claim'],
            id="another device",
        ),
        pytest.param(
            {"allocation": {"devices": {"results": [{**RESULT, "request": "s", "shareID": "x"}]}}},
            {},
            [
                f'status.allocation.devices.results[0].request: Invalid value: "s": {NO_REFERENCE}',
                'status.allocation.devices.results[0].shareID: Invalid value: "x": uid must be in RFC 4122 normalized form,'
                " `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters",
            ],
            id="results",
        ),
        pytest.param(
            {**GIVEN, "devices": [{**TOLD, "networkData": {"ips": ["10.0.0.1", "10.0.0.1/24"]}}]},
            GIVEN,
            [
                'status.devices[0].networkData.ips[0]: Invalid value: "10.0.0.1": must be a valid address in CIDR form, (e.g.'
                " 10.9.8.7/24 or 2001:db8::1/64)"
            ],
            id="addresses",
        ),
    ],
)
def test_the_status_of_claims(new: dict[str, Any], old: dict[str, Any], expected: list[str]) -> None:
    assert status_faults(new, old) == expected


def test_an_allocation_never_changes() -> None:
    other = {"allocation": {"devices": {"results": [{**RESULT, "device": "b"}]}}}
    (fault,) = status_faults(other, GIVEN)
    assert fault.startswith("status.allocation: Invalid value: ")
    assert fault.endswith(": field is immutable")


def test_nobody_comes_to_a_claim_that_goes() -> None:
    other = {**POD, "uid": "v"}
    assert status_faults({**GIVEN, "reservedFor": [POD]}, {**GIVEN, "reservedFor": [POD, other]}, deleted=True) == []
    assert status_faults({**GIVEN, "reservedFor": [POD, other]}, {**GIVEN, "reservedFor": [POD]}, deleted=True) == [
        "status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or `deletionTimestamp` are"
        " set"
    ]


def test_admin_access_is_for_namespaces_that_allow_it_and_taints_are_dated() -> None:
    async def body() -> None:
        async with serving() as api:
            for name, labels in (("plain", {}), ("admins", {"resource.kubernetes.io/admin-access": "true"})):
                await api.client.create(Namespace(metadata=ObjectMeta(name=name, labels=labels)))
            claim = make_claim("c", request("r", adminAccess=True))
            placed = {
                name: replace(claim, metadata=ObjectMeta(name="c", namespace=name)) for name in ("plain", "admins")
            }
            with pytest.raises(Invalid, match=r"requests\[0\].exactly.adminAccess: Forbidden: admin access to devices"):
                await api.client.create(placed["plain"])
            made = await api.client.create(placed["admins"])
            given = {"allocation": {"devices": {"results": [{**RESULT, "adminAccess": True}]}}, "reservedFor": [POD]}
            had = await api.client.update_status(replace(made, status=convert(ResourceClaimStatus, given)))
            assert had.status.allocation is not None
            tainted = await api.client.create(make_slice("s", device("a", taint="NoExecute")))
            assert tainted.spec.devices[0].taints[0].time_added is not None

    asyncio.run(body())
