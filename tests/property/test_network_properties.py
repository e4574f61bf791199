"""Any history of models leads to the same table; any bytes are survived."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from kaa.network import dns_wire
from kaa.network.dns_wire import Answer, FormatError, Record, Type
from kaa.network.ruleset import Model, diff

names = st.sampled_from(["a", "b", "c", "d"])
models = st.builds(
    Model,
    chains=st.dictionaries(names, st.lists(st.sampled_from(["accept", "drop", "return"]), max_size=3).map(tuple)),
    elements=st.dictionaries(st.tuples(st.sampled_from(["m", "n"]), st.sampled_from(["1", "2", "3"])), names),
    sets=st.dictionaries(st.sampled_from(["s", "t"]), st.sampled_from(["timeout 1s;", "timeout 2s;"])),
)


def apply(model: Model, text: str) -> Model:
    """What nft would make of ``text``, strictly: nothing twice, nothing missing."""
    sets, chains, elements = dict(model.sets), {k: list(v) for k, v in model.chains.items()}, dict(model.elements)
    for line in text.splitlines():
        verb, what, _, _, name, *rest = line.split(" ", 5)
        tail = rest[0] if rest else ""
        if what == "chain":
            if verb == "add":
                assert chains.setdefault(name, []) == []
            elif verb == "flush":
                chains[name].clear()
            else:
                assert chains.pop(name) == []
        elif what == "rule":
            chains[name].append(tail)
        elif what == "set":
            if verb == "add":
                assert name not in sets
                sets[name] = tail[2:-2]
            else:
                del sets[name]
        else:
            for item in tail[2:-2].split(", "):
                key, _, value = item.partition(" : ")
                if verb == "add":
                    assert (name, key) not in elements
                    elements[name, key] = value
                else:
                    del elements[name, key]
    return Model(sets=sets, chains={k: tuple(v) for k, v in chains.items()}, elements=elements)


@given(old=models, new=models)
def test_a_difference_applied_is_the_new_model(old: Model, new: Model) -> None:
    assert apply(old, diff("t", old, new)) == new
    assert diff("t", new, new) == ""


@settings(max_examples=500)
@given(
    st.binary(max_size=80)
    | st.binary(max_size=60).map(lambda tail: struct.pack("!HHHHHH", 1, 0x100, 1, 1, 0, 1) + tail)
)
def test_any_bytes_are_a_query_or_a_format_error(data: bytes) -> None:
    for read in (dns_wire.parse_query, dns_wire.least_ttl, lambda raw: dns_wire.read_addresses(raw, Type.A)):
        try:
            read(data)  # type: ignore[operator]
        except FormatError:
            continue


labels = st.lists(st.text("abc-", min_size=1, max_size=5), min_size=1, max_size=5).map(tuple)


@given(name=labels, others=st.lists(labels, max_size=5))
def test_what_is_written_reads_back(name: tuple[str, ...], others: list[tuple[str, ...]]) -> None:
    query = dns_wire.parse_query(dns_wire.make_query(7, name, Type.A))
    assert (query.name, query.type, query.edns) == (name, Type.A, True)
    records = tuple(Record(other, Type.CNAME, 30, b"", name) for other in others)
    data = dns_wire.encode(query, Answer(answers=records), 4096)
    assert dns_wire.read_addresses(data, Type.A) == records
