"""Coverage-guided fuzzing of one seam by atheris: ``tools/fuzz.py SEAM [libFuzzer options]``, for hours if you like.

    python tools/fuzz.py protobufs -max_total_time=600 -seed=1

The seams are those of ``tests/fuzz_seams.py``; what this finds becomes a line of ``tests/unit/test_apiserver_findings.py``.
Runs on the developer's machine: the tests themselves take hypothesis' inputs, which are the same on every machine.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

with atheris.instrument_imports(include=["kaa"]):
    from fuzz_seams import SEAMS, SEEDS


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in SEAMS:
        raise SystemExit(f"usage: tools/fuzz.py SEAM [options]; seams: {' '.join(SEAMS)}")
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory(prefix="kaa-fuzz-") as corpus:
        for n, data in enumerate(SEEDS[name]):
            (Path(corpus) / str(n)).write_bytes(data)
        atheris.Setup(
            [sys.argv[0], "-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", *sys.argv[1:], corpus], SEAMS[name]
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
