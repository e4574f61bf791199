"""Things found by what they belong to: the same as looking through all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kaa.runtime.oci.grouped import Grouped

keys, groups = st.sampled_from("abcdef"), st.sampled_from(["one", "two", ""])


@given(st.lists(st.tuples(keys, st.none() | groups)))
def test_groups_hold_what_looking_through_all_finds(history: list[tuple[str, str | None]]) -> None:
    found: Grouped[tuple[str, str]] = Grouped(lambda thing: thing[1])
    model: dict[str, tuple[str, str]] = {}
    for key, group in history:
        if group is None:
            assert found.pop(key, None) == model.pop(key, None)
        else:
            model.pop(key, None)
            found[key] = model[key] = (key, group)
        assert dict(found) == model
        for name in ("one", "two", "", "three"):
            assert found.of(name) == [thing for thing in model.values() if thing[1] == name]
    assert set(found._groups) == {thing[1] for thing in model.values()}, "empty groups are forgotten"
