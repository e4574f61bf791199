"""Volumes as files: atomic sets, payloads, host paths, tokens, tmpfs, and clean-up that stays at home."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import FakeClient, World, make_container, make_pod

from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import (
    ConfigMap,
    ConfigMapProjection,
    DownwardAPIProjection,
    DownwardAPIVolumeFile,
    EmptyDirVolumeSource,
    HostPathVolumeSource,
    KeyToPath,
    ObjectFieldSelector,
    ObjectReference,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeClaimStatus,
    PersistentVolumeClaimVolumeSource,
    PersistentVolumeSpec,
    Pod,
    PodSecurityContext,
    ProjectedVolumeSource,
    Secret,
    SecretVolumeSource,
    ServiceAccountTokenProjection,
    Volume,
    VolumeMount,
    VolumeProjection,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.values import Quantity
from kaa.kubelet.env import Sources
from kaa.kubelet.objects import Objects
from kaa.kubelet.volumes import VolumeError, Volumes, atomic
from kaa.kubelet.volumes.mounts import PlainFolders, SystemMounter
from kaa.kubelet.volumes.payload import File
from kaa.runtime.files import mount_points


def files(**contents: str) -> dict[str, File]:
    return {name.replace("__", "/"): File(text.encode(), 0o644) for name, text in contents.items()}


def held(volume: Path) -> dict[str, str]:
    """What a user sees in a volume: {path: text}."""
    made = {}
    for folder, _, names in os.walk(volume, followlinks=True):
        relative = Path(folder).relative_to(volume)
        if not relative.parts or not relative.parts[0].startswith(".."):
            made.update({str(relative / name): (volume / relative / name).read_text() for name in names})
    return made


def test_sets_change_at_once_and_leave_nothing_behind(tmp_path: Path) -> None:
    assert atomic.write(tmp_path, files(a="1", b="2"), 1000.0)
    before = os.readlink(tmp_path / "..data")
    assert not atomic.write(tmp_path, files(a="1", b="2"), 1001.0)
    assert os.readlink(tmp_path / "..data") == before
    assert atomic.write(tmp_path, files(a="3", c="4"), 1002.0)
    assert held(tmp_path) == {"a": "3", "c": "4"}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["..data", os.readlink(tmp_path / "..data"), "a", "c"])


def test_folders_inside_a_set(tmp_path: Path) -> None:
    atomic.write(tmp_path, files(d__a="1", d__b="2"), 1000.0)
    assert os.readlink(tmp_path / "d") == "..data/d"
    assert (tmp_path / "d/b").read_text() == "2"


@pytest.mark.parametrize("name", ["../a", "/a", "..a", "a/../../b", ""])
def test_paths_that_leave_a_volume_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="invalid path"):
        atomic.write(tmp_path, {name: File(b"", 0o644)}, 1000.0)


class Shelf:
    """Volumes of one node, without a kubelet."""

    def __init__(self, root: Path, mounter: Any = None) -> None:
        self.client, self.clock = FakeClient(), VirtualClock()
        objects = Objects(self.client, self.clock, lambda uid: None)  # type: ignore[arg-type]  # a fake
        self.volumes = Volumes(self.client, self.clock, objects, root, mounter or PlainFolders())  # type: ignore[arg-type]

    def prepare(self, pod: Pod) -> dict[str, Path]:
        async def go() -> dict[str, Path]:
            return (await self.volumes.prepare(pod, Sources(pod_ips=("10.0.0.1",)))).paths

        return asyncio.run(go())


def test_secret_items_modes_and_group(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    data = {"k": base64.b64encode(b"hidden").decode(), "other": ""}
    shelf.client.put(Secret(metadata=ObjectMeta(name="s", namespace="default"), data=data))
    source = SecretVolumeSource(secret_name="s", items=(KeyToPath(key="k", path="in/side", mode=0o400),))
    group = os.getgid()
    pod = make_pod(volumes=(Volume(name="v", secret=source),), security_context=PodSecurityContext(fs_group=group))
    path = shelf.prepare(pod)["v"]
    assert path == tmp_path / "pods/uid-web/volumes/kubernetes.io~secret/v"
    assert held(path) == {"in/side": "hidden"}
    found = (path / "in/side").stat()
    assert (oct(found.st_mode & 0o777), found.st_gid) == ("0o440", group)


def test_missing_key_and_optional_object(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    optional = Volume(name="o", secret=SecretVolumeSource(secret_name="none", optional=True))
    assert held(shelf.prepare(make_pod(volumes=(optional,)))["o"]) == {}
    shelf.client.put(Secret(metadata=ObjectMeta(name="s", namespace="default")))
    picky = Volume(name="p", secret=SecretVolumeSource(secret_name="s", items=(KeyToPath(key="k", path="k"),)))
    with pytest.raises(VolumeError, match='volume "p" : references non-existent secret key: k'):
        shelf.prepare(make_pod(volumes=(picky,)))


def api_access() -> Volume:
    """What admission adds to every pod."""
    sources = (
        VolumeProjection(service_account_token=ServiceAccountTokenProjection(path="token", expiration_seconds=3607)),
        VolumeProjection(
            config_map=ConfigMapProjection(name="kube-root-ca.crt", items=(KeyToPath(key="ca.crt", path="ca.crt"),))
        ),
        VolumeProjection(
            downward_api=DownwardAPIProjection(
                items=(
                    DownwardAPIVolumeFile(
                        path="namespace", field_ref=ObjectFieldSelector(field_path="metadata.namespace")
                    ),
                )
            )
        ),
    )
    return Volume(name="kube-api-access", projected=ProjectedVolumeSource(sources=sources))


def test_projected_volume_and_its_token_is_renewed(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            root_ca = ConfigMap(
                metadata=ObjectMeta(name="kube-root-ca.crt", namespace="default"), data={"ca.crt": "CA"}
            )
            world.client.put(root_ca)
            world.client.put(make_pod(volumes=(api_access(),)))
            await world.rest()
            folder = world.config.root / "pods/uid-web/volumes/kubernetes.io~projected/kube-api-access"
            assert held(folder) == {"token": "token-1", "ca.crt": "CA", "namespace": "default"}
            await world.advance(2800, 400)
            assert held(folder)["token"] == "token-1"
            await world.advance(200, 100)
            assert held(folder)["token"] == "token-2"

    asyncio.run(go())


@pytest.mark.parametrize(
    ("kind", "there", "fault"),
    [
        ("", False, ""),
        ("DirectoryOrCreate", False, ""),
        ("FileOrCreate", False, ""),
        ("Directory", False, "is not a directory"),
        ("File", True, "is not a file"),
        ("Socket", True, "is not a socket file"),
    ],
)
def test_host_paths(tmp_path: Path, kind: str, there: bool, fault: str) -> None:
    path = tmp_path / "host/path"
    if there:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
    pod = make_pod(volumes=(Volume(name="v", host_path=HostPathVolumeSource(path=str(path), type=kind)),))
    shelf = Shelf(tmp_path / "kubelet")
    if fault:
        with pytest.raises(VolumeError, match=fault):
            shelf.prepare(pod)
    else:
        assert shelf.prepare(pod) == {"v": path}


def test_claim_on_a_host_path(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "kubelet")
    volume = Volume(name="v", persistent_volume_claim=PersistentVolumeClaimVolumeSource(claim_name="c"))
    pod = make_pod(volumes=(volume,))
    meta = ObjectMeta(name="c", namespace="default", uid="uid-c")
    shelf.client.put(PersistentVolumeClaim(metadata=meta))
    with pytest.raises(VolumeError, match="error processing PVC default/c: PVC is not bound"):
        shelf.prepare(pod)
    source = HostPathVolumeSource(path=str(tmp_path / "data"), type="DirectoryOrCreate")
    shelf.client.put(
        PersistentVolume(
            metadata=ObjectMeta(name="pv"),
            spec=PersistentVolumeSpec(host_path=source, claim_ref=ObjectReference(uid="uid-c")),
        )
    )
    bound = PersistentVolumeClaimStatus(phase="Bound")
    shelf.client.put(
        PersistentVolumeClaim(metadata=meta, spec=PersistentVolumeClaimSpec(volume_name="pv"), status=bound)
    )
    assert shelf.prepare(pod) == {"v": tmp_path / "data"}
    assert (tmp_path / "data").is_dir()


def test_clean_up_follows_no_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    shelf = Shelf(tmp_path / "kubelet")
    path = shelf.prepare(make_pod(volumes=(Volume(name="v", empty_dir=EmptyDirVolumeSource()),)))["v"]
    assert path.stat().st_mode & 0o777 == 0o777
    (path / "link").symlink_to(precious)
    asyncio.run(shelf.volumes.remove("uid-web"))
    assert not (tmp_path / "kubelet/pods/uid-web").exists()
    assert (precious / "file").exists()


@pytest.mark.root
def test_memory_volumes_are_tmpfs_and_go(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, SystemMounter())
    shelf.client.put(
        Secret(metadata=ObjectMeta(name="s", namespace="default"), data={"k": base64.b64encode(b"x").decode()})
    )
    volumes = (
        Volume(name="m", empty_dir=EmptyDirVolumeSource(medium="Memory", size_limit=Quantity("1Mi"))),
        Volume(name="s", secret=SecretVolumeSource(secret_name="s")),
    )
    paths = shelf.prepare(make_pod(volumes=volumes))
    try:
        assert all(os.path.ismount(path) for path in paths.values())
        assert os.statvfs(paths["m"]).f_blocks * os.statvfs(paths["m"]).f_frsize == 2**20
        assert held(paths["s"]) == {"k": "x"}
        assert shelf.prepare(make_pod(volumes=volumes)) == paths
        assert len(mount_points(tmp_path)) == 2
    finally:
        asyncio.run(shelf.volumes.remove("uid-web"))
    assert mount_points(tmp_path) == []
    assert not (tmp_path / "pods/uid-web").exists()


def test_mounts_of_a_container(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            mounts = (VolumeMount(name="v", mount_path="/data", sub_path="a", read_only=True),)
            volume = Volume(name="v", empty_dir=EmptyDirVolumeSource())
            world.client.put(make_pod(volumes=(volume,), containers=(make_container(volume_mounts=mounts),)))
            await world.rest()
            [container] = await world.runtime.list_containers()
            made = {m.container_path: m for m in world.runtime.config(container.id).mounts}
            assert made["/data"].read_only
            assert made["/data"].host_path.endswith("kubernetes.io~empty-dir/v/a")
            assert "10.200.0.3\tweb\n" in await asyncio.to_thread(Path(made["/etc/hosts"].host_path).read_text)
            await asyncio.to_thread(Path(made["/dev/termination-log"].host_path).write_text, "farewell")
            world.runtime.exit(container.id, 1)
            await world.rest()
            last = world.pod().status.container_statuses[0].last_state.terminated
            assert last is not None
            assert last.message == "farewell"

    asyncio.run(go())
