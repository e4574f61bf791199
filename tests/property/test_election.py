"""Coordinated elections, from any state: nobody is deposed who holds on, and the best leads in the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kaa.api.clock import format_micro_time
from kaa.api.types.coordination_v1 import Lease, LeaseSpec
from kaa.api.types.coordination_v1beta1 import LeaseCandidate, LeaseCandidateSpec
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.apiserver.election import NoElection, best, is_expired, plan
from kaa.client.workqueue import Key

NOW = 1_800_000_000.0
KEY = Key("kube-system", "l")
AGES = st.one_of(st.none(), st.integers(0, 4000))


def stamp(ago_s: float | None) -> str | None:
    return None if ago_s is None else format_micro_time(NOW - ago_s)


CANDIDATES = st.lists(
    st.builds(
        lambda name, minor, renewed, pinged: LeaseCandidate(
            metadata=ObjectMeta(name=name, namespace=KEY.namespace, creation_timestamp="2026-01-01T00:00:00Z"),
            spec=LeaseCandidateSpec(
                lease_name=KEY.name,
                binary_version="1.36.0",
                emulation_version=f"1.{minor}.0",
                strategy="OldestEmulationVersion",
                renew_time=stamp(renewed),
                ping_time=stamp(pinged),
            ),
        ),
        st.sampled_from("abcd"),
        st.integers(33, 36),
        AGES,
        AGES,
    ),
    max_size=4,
    unique_by=lambda one: one.metadata.name,
)
LEASES = st.one_of(
    st.none(),
    st.builds(
        lambda holder, renewed, preferred: Lease(
            metadata=ObjectMeta(name=KEY.name, namespace=KEY.namespace, uid="u"),
            spec=LeaseSpec(
                holder_identity=holder,
                renew_time=stamp(renewed),
                lease_duration_seconds=15,
                preferred_holder=preferred,
                strategy="OldestEmulationVersion",
            ),
        ),
        st.sampled_from((None, "", "a", "b", "x")),
        st.integers(0, 30),
        st.sampled_from((None, "a", "b")),
    ),
)


@given(lease=LEASES, candidates=CANDIDATES)
def test_who_holds_on_is_not_deposed(lease: Lease | None, candidates: list[LeaseCandidate]) -> None:
    try:
        found = plan(KEY, lease, candidates, NOW)
    except NoElection:
        return
    if lease is not None and lease.spec.holder_identity and not is_expired(lease, NOW) and found.lease is not None:
        assert found.lease.spec.holder_identity == lease.spec.holder_identity
    if found.lease is not None and found.lease.spec.holder_identity:
        names = {one.metadata.name for one in candidates} | {lease.spec.holder_identity if lease is not None else ""}
        assert found.lease.spec.holder_identity in names


@given(lease=LEASES, candidates=CANDIDATES)
def test_the_best_of_those_who_answer_leads_in_the_end(lease: Lease | None, candidates: list[LeaseCandidate]) -> None:
    """Everybody answers, and every holder makes way and renews."""
    candidates = [replace(one, spec=replace(one.spec, renew_time=stamp(0))) for one in candidates]
    now = NOW
    for _ in range(12):
        now += 1.0
        try:
            found = plan(KEY, lease, candidates, now)
        except NoElection:
            continue
        asked = {one.metadata.name for one in found.ping}
        candidates = [
            replace(
                one, spec=replace(one.spec, ping_time=format_micro_time(now), renew_time=format_micro_time(now + 0.1))
            )
            if one.metadata.name in asked
            else one
            for one in candidates
        ]
        lease = found.lease or lease
        if lease is None:
            continue
        if lease.spec.preferred_holder:
            spec = LeaseSpec(holder_identity="", lease_duration_seconds=1, strategy=lease.spec.strategy)
        elif lease.spec.holder_identity in {one.metadata.name for one in candidates}:
            spec = replace(lease.spec, renew_time=format_micro_time(now), lease_duration_seconds=15)
        else:
            spec = lease.spec
        lease = replace(lease, spec=spec)
    chosen = best(candidates)
    if chosen is None:
        return
    assert lease is not None
    stranger = lease.spec.holder_identity not in {one.metadata.name for one in candidates}
    assert (stranger and not is_expired(lease, now)) or lease.spec.holder_identity == chosen.metadata.name
