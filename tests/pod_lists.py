"""Pods as hypothesis draws them: in every phase, ready or not, placed or not, some on their way out."""

from __future__ import annotations

from hypothesis import strategies as st
from world import make_pod

PODS = st.builds(
    lambda n, node, phase, ready, cost, age, deleting: make_pod(
        f"p{n}",
        node=node,
        phase=phase,
        ready=ready,
        ready_at=1000 - age,
        created_at=1000 - age,
        deleting=deleting,
        annotations={"controller.kubernetes.io/pod-deletion-cost": str(cost)} if cost else {},
        ip=f"10.0.{n // 250}.{n % 250 + 1}",
    ),
    st.integers(0, 10_000),
    st.sampled_from((None, "n1", "n2")),
    st.sampled_from(("Pending", "Running", "Unknown", "Succeeded", "Failed")),
    st.sampled_from((None, True, False)),
    st.integers(-2, 2),
    st.integers(0, 900),
    st.booleans(),
)
POD_LISTS = st.lists(PODS, max_size=30, unique_by=lambda pod: pod.metadata.name)
