"""Whatever bytes come in where bytes come in, the answer is a value or a refusal, soon.

Inputs are drawn from a fixed seed, so that a run is what the last one was. ``KAA_FUZZ=10`` tries ten times as many.
"""

from __future__ import annotations

import os
import time

import pytest
from fuzz_seams import SEAMS, SEEDS
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

TIMES = int(os.environ.get("KAA_FUZZ", "1"))
SLOWEST_S = 2.0  # of processor time, for any input
#: What breaks readers: the ends of numbers, openings without an end, text that is none.
SPICE = (
    b"", b"\x00", b"\xff", b"\xed\xa0\x80", b"%", b"\\", b"\"", b"'", b"{", b"}", b"[" * 400, b"{\"a\":" * 400, b"(" * 400,
    b"-", b"9" * 30, b"1e400", b"NaN", b"null", b"true", b"1", b"~1", b"/-", b"$patch", b"\xe2\x80\xa8", b"\r\n", b",", b"=",
    b"!", b"*", b"&a", b"*a", b"<<: ", b"\xf0\x9f\x92\xa9", b"\xd9\xa1", b"a" * 300,
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with up to four cuts, each filled by something that does not belong there."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        filling = draw(st.one_of(st.sampled_from(SPICE), st.binary(max_size=4), st.sampled_from(seeds)))
        data = data[:start] + filling + data[end:]
    return data


def inputs(name: str) -> SearchStrategy[bytes]:
    return st.one_of(
        mangled(SEEDS[name]), mangled(SEEDS[name]), st.binary(max_size=60), st.text(max_size=40).map(str.encode)
    )


@pytest.mark.parametrize("name", SEAMS)
def test_a_seam_holds(name: str) -> None:
    seam = SEAMS[name]

    @seed(20260101)
    @settings(
        max_examples=120 * TIMES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=False,
    )
    @given(inputs(name))
    def holds(data: bytes) -> None:
        began = time.process_time()
        seam(data)
        assert time.process_time() - began < SLOWEST_S

    holds()
