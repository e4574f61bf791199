"""What a start need not read."""

from __future__ import annotations

import subprocess
import sys


def test_a_server_starts_without_what_few_clusters_use() -> None:
    parts = "kaa.cluster.lean, kaa.cluster.components, kaa.cluster.control_plane"
    code = f"import sys, {parts}; print(*sorted({{'kaa.api.cel', 'grpc', 'aiohttp', 'cbor2'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
