"""Which tokens in Secrets the cleaner may touch, whatever their story."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kaa.api.clock import format_time
from kaa.api.legacy_tokens import DAY_S, INVALID_SINCE, LAST_USED, day_of
from kaa.api.types.core_v1 import ObjectReference, Secret, ServiceAccount
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.controllers.legacytokencleaner import PERIOD_S, Plan, plan, tracked_long_enough

NOW = 1_800_000_000.0
AGES = st.one_of(st.none(), st.integers(0, 1000))


def labelled(last_used: int | None, invalid: int | str | None) -> dict[str, str]:
    found = {LAST_USED: day_of(NOW - last_used * DAY_S)} if last_used is not None else {}
    if invalid is not None:
        found[INVALID_SINCE] = invalid if isinstance(invalid, str) else day_of(NOW - invalid * DAY_S)
    return found


SECRETS = st.builds(
    lambda name, age, used, invalid, kind, going: Secret(
        metadata=ObjectMeta(
            name=f"t{name}",
            namespace="ns",
            creation_timestamp=format_time(NOW - age * DAY_S),
            deletion_timestamp=format_time(NOW) if going else None,
            labels=labelled(used, invalid),
        ),
        type=kind,
    ),
    st.integers(0, 9),
    st.integers(0, 1000),
    AGES,
    st.one_of(AGES, st.just("long ago")),
    st.sampled_from(("kubernetes.io/service-account-token", "Opaque")),
    st.booleans(),
)
NAMES = st.frozensets(st.sampled_from([f"t{n}" for n in range(10)]))


def settled(secrets: list[Secret], listed: frozenset[str], mounted: frozenset[str], now: float) -> Plan:
    references = tuple(ObjectReference(name=name) for name in sorted(listed))
    account = ServiceAccount(metadata=ObjectMeta(name="a", namespace="ns"), secrets=references)
    return plan(secrets, lambda secret: account, lambda namespace: mounted, now)


@given(secrets=st.lists(SECRETS, max_size=10, unique_by=lambda s: s.metadata.name), listed=NAMES, mounted=NAMES)
def test_only_what_nobody_misses_is_touched(
    secrets: list[Secret], listed: frozenset[str], mounted: frozenset[str]
) -> None:
    found = settled(secrets, listed, mounted, NOW)
    year_ago = day_of(NOW - PERIOD_S)
    for secret in (*found.mark, *found.delete):
        meta = secret.metadata
        assert secret.type == "kubernetes.io/service-account-token"
        assert meta.name in listed - mounted
        assert meta.deletion_timestamp is None
        assert (meta.creation_timestamp or "") < format_time(NOW - PERIOD_S)
        assert meta.labels.get(LAST_USED, "") < year_ago
    assert all(secret.metadata.labels[INVALID_SINCE] < year_ago for secret in found.delete)
    assert not set(map(id, found.mark)) & set(map(id, found.delete))


@given(secrets=st.lists(SECRETS, max_size=10, unique_by=lambda s: s.metadata.name), listed=NAMES, mounted=NAMES)
def test_a_plan_that_is_carried_out_leaves_nothing_to_do(
    secrets: list[Secret], listed: frozenset[str], mounted: frozenset[str]
) -> None:
    found = settled(secrets, listed, mounted, NOW)
    marked = {secret.metadata.name for secret in found.mark}
    gone = {secret.metadata.name for secret in found.delete}
    left = [
        replace(s, metadata=replace(s.metadata, labels={**s.metadata.labels, INVALID_SINCE: day_of(NOW)}))
        if s.metadata.name in marked
        else s
        for s in secrets
        if s.metadata.name not in gone
    ]
    assert settled(left, listed, mounted, NOW) == Plan()
    later = settled(left, listed, mounted, NOW + PERIOD_S + DAY_S)
    assert marked <= {secret.metadata.name for secret in later.delete}


@given(days=st.integers(0, 1000))
def test_nothing_is_known_of_use_before_it_was_tracked(days: int) -> None:
    start = NOW - NOW % DAY_S
    assert tracked_long_enough(day_of(start), start + days * DAY_S) is (days >= 366)
    assert not tracked_long_enough("", NOW)
