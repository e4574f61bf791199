"""Static pods: read from a folder, mirrored, restarted by their hash, gone with their file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kubelet_world import World

from kaa.api.types.core_v1 import Pod

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {{name: etcd, namespace: kube-system}}
spec:
  containers: [{{name: etcd, image: "etcd:{version}"}}]
"""


def test_a_file_becomes_a_pod_and_a_mirror(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "etcd.yaml").write_text(MANIFEST.format(version=1))
    (folder / "broken.yaml").write_text("kind: [")

    async def go() -> None:
        async with World(tmp_path, static_pod_path=folder) as world:
            await world.advance(1)
            mirror = world.pod("etcd-n1", "kube-system")
            assert mirror.status.phase == "Running"
            assert mirror.metadata.annotations["kubernetes.io/config.source"] == "file"
            assert mirror.metadata.owner_references[0].kind == "Node"

            await world.client.delete(Pod, "etcd-n1", "kube-system")
            await world.rest()
            assert world.pod("etcd-n1", "kube-system").status.phase == "Running"
            assert len(await world.runtime.list_containers()) == 1

            (folder / "etcd.yaml").write_text(MANIFEST.format(version=2))
            await world.advance(42, 21)
            assert world.pod("etcd-n1", "kube-system").spec.containers[0].image == "etcd:2"
            assert world.pod("etcd-n1", "kube-system").status.phase == "Running"

            (folder / "etcd.yaml").unlink()
            await world.advance(42, 21)
            assert not world.exists("etcd-n1", "kube-system")
            assert await world.runtime.list_sandboxes() == []

    asyncio.run(go())
