"""Plans of services, autoscalers and storage: each address in one place, each volume with one claim, replicas within
their limits; and that a plan carried out leaves nothing to plan."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pod_lists import POD_LISTS
from service_builders import make_service
from world import World

from kaa.api.clock import format_time
from kaa.api.types.autoscaling_v2 import (
    HorizontalPodAutoscalerBehavior,
    HPAScalingPolicy,
    HPAScalingRules,
    MetricStatus,
)
from kaa.api.types.core_v1 import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeSpec,
    Pod,
    VolumeResourceRequirements,
)
from kaa.api.types.discovery_v1 import EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.networking_v1 import IPAddress, IPAddressSpec, ParentReference, ServiceCIDR, ServiceCIDRSpec
from kaa.api.types.resource_v1 import (
    AllocationResult,
    DeviceClaim,
    ResourceClaim,
    ResourceClaimConsumerReference,
    ResourceClaimSpec,
    ResourceClaimStatus,
)
from kaa.api.values import Quantity
from kaa.controllers import (
    autoscaling_behavior,
    endpoints,
    endpointslicemirroring,
    resourceclaim,
    servicecidrs,
    storage_protection,
)
from kaa.controllers.autoscaling_proposals import Proposal
from kaa.controllers.autoscaling_replicas import NoMetrics
from kaa.controllers.horizontalpodautoscaler import gather
from kaa.controllers.pods import is_ready

NOW = 1_800_000_000.0

# ------------------------------------------------------------------------------------------------ services


@settings(deadline=None)
@given(histories=st.lists(POD_LISTS, min_size=1, max_size=3), unready=st.booleans())
def test_endpoints_hold_each_address_once_in_its_place(histories: list[list[Pod]], unready: bool) -> None:
    service, standing = make_service(publish_not_ready_addresses=unready or None), None
    for pods in histories:
        standing = endpoints.plan(service, pods, standing) or standing
        assert standing is not None
        ready = [a.target_ref.uid for s in standing.subsets for a in s.addresses if a.target_ref]
        rest = [a.target_ref.uid for s in standing.subsets for a in s.not_ready_addresses if a.target_ref]
        assert len({*ready, *rest}) == len(ready) + len(rest)
        uids = {pod.metadata.uid for pod in pods if is_ready(pod) or unready}
        assert {*ready} <= uids
        assert unready or not {*rest} & uids
        assert endpoints.plan(service, pods, standing) is None


IPS = st.sampled_from(("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "nonsense"))


@settings(deadline=None)
@given(
    histories=st.lists(
        st.lists(
            st.tuples(st.lists(IPS, unique=True, max_size=4), st.integers(1, 3)), max_size=3, unique_by=lambda s: s[1]
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_mirror_shows_each_address_that_is_one(histories: list[list[tuple[list[str], int]]]) -> None:
    slices: list[EndpointSlice] = []
    made = 0
    for subsets in histories:
        given_subsets = tuple(
            EndpointSubset(addresses=tuple(EndpointAddress(ip=ip) for ip in ips), ports=(EndpointPort(port=port),))
            for ips, port in subsets
        )
        meta = ObjectMeta(name="web", namespace="default", uid="u")
        source = Endpoints(metadata=meta, subsets=given_subsets)
        mirrored = endpointslicemirroring.mirror(source)
        step = endpointslicemirroring.plan(source, mirrored, slices)
        updated = {each.metadata.name: each for each in step.update}
        slices = [updated.get(each.metadata.name, each) for each in slices if each not in step.delete]
        for each in step.create:
            made += 1
            slices.append(replace(each, metadata=replace(each.metadata, name=f"s{made}", generate_name=None)))
        shown = sorted((e.addresses[0], s.ports[0].port or 0) for s in slices for e in s.endpoints)
        assert shown == sorted((ip, port) for ips, port in subsets for ip in ips if ip != "nonsense")
        assert all(
            s.address_type == f"IPv{ipaddress.ip_address(e.addresses[0]).version}" for s in slices for e in s.endpoints
        )
        again = endpointslicemirroring.plan(source, mirrored, slices)
        assert (again.create, again.update, again.delete) == ((), (), ())


@given(
    ranges=st.dictionaries(
        st.sampled_from("abc"),
        st.tuples(st.sampled_from(("10.0.0.0/30", "10.0.0.0/29", "10.0.0.4/30")), st.booleans()),
        min_size=1,
    ),
    addresses=st.sets(st.sampled_from([f"10.0.0.{n}" for n in range(9)])),
)
def test_no_range_goes_while_an_address_is_its_alone(ranges: dict[str, tuple[str, bool]], addresses: set[str]) -> None:
    cidrs = [
        ServiceCIDR(
            metadata=ObjectMeta(name=name, deletion_timestamp=format_time(0) if ends else None),
            spec=ServiceCIDRSpec(cidrs=(cidr,)),
        )
        for name, (cidr, ends) in ranges.items()
    ]
    parent = IPAddressSpec(parent_ref=ParentReference(resource="services", name="s"))
    used = [IPAddress(metadata=ObjectMeta(name=ip), spec=parent) for ip in addresses]
    for cidr in cidrs:
        staying = [
            net
            for each in cidrs
            if each is not cidr and each.metadata.deletion_timestamp is None
            for net in servicecidrs.networks_of(each)
        ]
        inside = [ip for ip in map(ipaddress.ip_address, addresses) if ip in servicecidrs.networks_of(cidr)[0]]
        alone = [ip for ip in inside if not any(ip in net for net in staying)]
        assert servicecidrs.is_needed(cidr, cidrs, used) == bool(alone)


# ------------------------------------------------------------------------------------------------ autoscaling


@settings(deadline=None)
@given(
    start=st.integers(2, 20),
    wishes=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 400)), min_size=1, max_size=12),
    windows=st.one_of(st.none(), st.tuples(st.integers(0, 300), st.integers(0, 300))),
    rate=st.integers(1, 5),
)
def test_replicas_stay_within_their_limits_and_their_rate(
    start: int, wishes: list[tuple[int, int]], windows: tuple[int, int] | None, rate: int
) -> None:
    behavior = None
    if windows is not None:
        policy = HPAScalingPolicy(type="Pods", value=rate, period_seconds=60)
        up, down = (HPAScalingRules(stabilization_window_seconds=s, policies=(policy,)) for s in windows)
        behavior = HorizontalPodAutoscalerBehavior(scale_up=up, scale_down=down)
    memory = autoscaling_behavior.Memory()
    current, now = start, NOW
    history = [(now, current)]
    for desired, pause in wishes:
        now += pause
        found = autoscaling_behavior.decide(
            memory, behavior, current=current, desired=desired, least=2, most=20, now=now
        ).replicas
        assert 2 <= found <= 20
        if behavior is None:
            assert found <= max(2 * current, 4)
        elif found != current:
            memory.scaled(now, current, found, 60)
            begun = [n for at, n in history if at <= now - 60][-1:] or [start]  #: a minute ago
            assert min(current, begun[0] - rate) <= found <= max(current, begun[0] + rate)
        current = found
        history.append((now, current))


@given(
    proposed=st.lists(st.one_of(st.integers(0, 30), st.none()), max_size=5),
    current=st.integers(0, 20),
)
def test_unknown_metrics_never_take_replicas_away(proposed: list[int | None], current: int) -> None:
    made = [
        NoMetrics("unknown") if n is None else Proposal(n, f"metric {n}", MetricStatus(type="Resource"))
        for n in proposed
    ]
    found = gather(made, current)
    known = [n for n in proposed if n is not None]
    if found.replicas is not None:
        assert found.replicas == max(known)
        assert None not in proposed or found.replicas >= current
    else:
        assert not known or None in proposed


# ------------------------------------------------------------------------------------------------ storage and devices


@given(deleting=st.booleans(), held=st.booleans(), used=st.booleans())
def test_a_finalizer_goes_only_from_what_is_deleted_and_unused(deleting: bool, held: bool, used: bool) -> None:
    mine, other = storage_protection.CLAIM_FINALIZER, "example.com/other"
    finalizers = (other, mine) if held else (other,)
    stamp = format_time(0) if deleting else None
    claim = PersistentVolumeClaim(metadata=ObjectMeta(name="c", finalizers=finalizers, deletion_timestamp=stamp))
    found = storage_protection.plan(claim, mine, used=used) or claim
    assert other in found.metadata.finalizers
    if mine not in found.metadata.finalizers:
        assert deleting
        assert not (held and used)
    assert storage_protection.plan(found, mine, used=used) is None


@given(
    consumers=st.dictionaries(st.integers(0, 5), st.booleans(), max_size=5),
    allocated=st.booleans(),
    deleting=st.booleans(),
)
def test_a_claim_keeps_who_holds_it(consumers: dict[int, bool], allocated: bool, deleting: bool) -> None:
    holders = tuple(ResourceClaimConsumerReference(resource="pods", name=f"p{n}", uid=f"u{n}") for n in consumers)
    status = ResourceClaimStatus(reserved_for=holders, allocation=AllocationResult() if allocated else None)
    meta = ObjectMeta(name="c", deletion_timestamp=format_time(0) if deleting else None)
    claim = ResourceClaim(metadata=meta, spec=ResourceClaimSpec(devices=DeviceClaim()), status=status)

    def holds(consumer: ResourceClaimConsumerReference) -> bool:
        return consumers[int(consumer.name[1:])]

    found = resourceclaim.released(claim, holds) or claim
    kept = [each for each in holders if holds(each)]
    assert list(found.status.reserved_for) == kept
    assert not (allocated and kept) or found.status.allocation is not None
    assert resourceclaim.released(found, holds) is None


SIZES = st.sampled_from(("1Gi", "2Gi", "3Gi"))


@settings(deadline=None, max_examples=15)
@given(volumes=st.lists(SIZES, max_size=4), claims=st.lists(SIZES, max_size=4), late=st.booleans())
def test_each_volume_has_one_claim_and_both_say_so(volumes: list[str], claims: list[str], late: bool) -> None:
    async def play() -> None:
        async with World() as world:
            made: list[Any] = [make_volume(n, size) for n, size in enumerate(volumes)]
            made += [make_claim(n, size) for n, size in enumerate(claims)]
            for each in reversed(made) if late else made:
                await world.api.create(each)
            await world.settle()
            bound = {
                v.metadata.name: v for v in world.api.all(PersistentVolume) if v.status and v.status.phase == "Bound"
            }
            served = [c for c in world.api.all(PersistentVolumeClaim) if c.status.phase == "Bound"]
            assert sorted(c.spec.volume_name or "" for c in served) == sorted(bound)
            for claim in served:
                volume = bound[claim.spec.volume_name]
                assert volume.spec.claim_ref is not None
                assert volume.spec.claim_ref.uid == claim.metadata.uid
                assert volume.spec.capacity["storage"] >= claim.spec.resources.requests["storage"]
            free = [size for n, size in enumerate(volumes) if f"v{n}" not in bound]
            waiting = [size for n, size in enumerate(claims) if f"c{n}" not in {c.metadata.name for c in served}]
            assert not any(size >= wanted for size in free for wanted in waiting), "nobody waits beside what would do"
            before = world.api.all(PersistentVolume), world.api.all(PersistentVolumeClaim)
            await world.settle(60, rounds=2)
            assert (world.api.all(PersistentVolume), world.api.all(PersistentVolumeClaim)) == before

    asyncio.run(play())


def make_volume(n: int, size: str) -> PersistentVolume:
    spec = PersistentVolumeSpec(
        capacity={"storage": Quantity(size)}, access_modes=("ReadWriteOnce",), storage_class_name="manual"
    )
    return PersistentVolume(metadata=ObjectMeta(name=f"v{n}"), spec=spec)


def make_claim(n: int, size: str) -> PersistentVolumeClaim:
    spec = PersistentVolumeClaimSpec(
        access_modes=("ReadWriteOnce",),
        storage_class_name="manual",
        resources=VolumeResourceRequirements(requests={"storage": Quantity(size)}),
    )
    return PersistentVolumeClaim(metadata=ObjectMeta(name=f"c{n}", namespace="default"), spec=spec)
