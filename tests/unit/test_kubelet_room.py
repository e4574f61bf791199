"""What a node's pods were given, in sum; and that one pod more does not count all others."""

from __future__ import annotations

from kaa.kubelet.room import Room


def test_what_others_use_is_the_sum_without_ones_own() -> None:
    room = Room(lambda uid: None)
    room.give("a", {"pods": 1, "cpu": 100})
    room.give("b", {"pods": 1, "cpu": 50, "hugepages-2Mi": 4})
    assert room.used_beside("a") == {"pods": 1, "cpu": 50, "hugepages-2Mi": 4}
    assert room.used_beside("new")["cpu"] == 150
    room.give("a", {"pods": 1, "cpu": 300})
    assert room.used_beside("b")["cpu"] == 300
    room.forget("a")
    assert room.used_beside("new") == {"pods": 1, "cpu": 50, "hugepages-2Mi": 4}


def test_only_those_that_wait_are_woken() -> None:
    woken: list[str] = []
    room = Room(woken.append)
    for uid in ("a", "b", "c"):
        room.give(uid, {"pods": 1})
    room.waits("b", True)
    room.waits("c", True)
    room.forget("a")
    assert sorted(woken) == ["b", "c"]
    room.waits("b", False)
    room.freed()
    assert sorted(woken) == ["b", "c", "c"]
    room.forget("c")
    assert sorted(woken) == ["b", "c", "c"]
