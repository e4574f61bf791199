"""Kinds of volumes: emptyDir by medium and size, whose files are, claims and what refuses them, devices."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import FakeClient, World, make_container, make_pod
from runtime_lab import loop_device

from kaa.api.clock import VirtualClock
from kaa.api.scheme import convert
from kaa.api.types.core_v1 import (
    ConfigMap,
    EmptyDirVolumeSource,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    PodSecurityContext,
    ResourceRequirements,
    Secret,
    SecurityContext,
    Volume,
    VolumeDevice,
    VolumeMount,
)
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.values import Quantity
from kaa.client.client import WatchType
from kaa.kubelet.env import Sources
from kaa.kubelet.objects import Objects
from kaa.kubelet.volumes import VolumeError, Volumes, empty_dir, ownership
from kaa.kubelet.volumes.manager import Prepared
from kaa.kubelet.volumes.mounts import PlainFolders, SystemMounter
from kaa.kubelet.volumes.payload import PayloadError
from kaa.runtime.files import mount_points


class Shelf:
    """Volumes of one node, without a kubelet."""

    def __init__(self, root: Path, mounter: Any = None) -> None:
        self.client, self.clock = FakeClient(), VirtualClock()
        objects = Objects(self.client, self.clock, lambda uid: None)  # type: ignore[arg-type]  # a fake
        self.volumes = Volumes(self.client, self.clock, objects, root, mounter or PlainFolders())  # type: ignore[arg-type]

    def prepare(self, pod: Pod) -> Prepared:
        return asyncio.run(self.volumes.prepare(pod, Sources(allocatable={"memory": "1Gi"})))

    def put(self, kind: Any, **fields: Any) -> None:
        self.client.put(convert(kind, fields))


def limited(*memory: str | None) -> Pod:
    """A pod of containers with limits of memory."""
    resources = [ResourceRequirements(limits={"memory": Quantity(m)} if m else {}) for m in memory]
    return make_pod(containers=tuple(make_container(f"c{n}", resources=r) for n, r in enumerate(resources)))


@pytest.mark.parametrize(
    ("own", "pod", "size"),
    [
        (None, limited(None), 2**30),
        (None, limited("64Mi", "64Mi"), 2**27),
        (None, limited("64Mi", None), 2**30),
        ("1Mi", limited("64Mi"), 2**20),
        ("128Mi", limited("64Mi"), 2**26),
        ("0", limited("64Mi"), 2**26),
    ],
    ids=["the node's", "the pod's", "one without a limit", "its own", "no more than the pod's", "zero is none"],
)
def test_size_of_a_volume_in_memory(own: str | None, pod: Pod, size: int) -> None:
    source = EmptyDirVolumeSource(medium="Memory", size_limit=Quantity(own) if own else None)
    assert empty_dir.memory_size(source, pod, 2**30) == size


def huge(*sizes: str) -> Pod:
    limits = {f"hugepages-{size}": Quantity("2Gi") for size in sizes}
    return make_pod(containers=(make_container(resources=ResourceRequirements(limits=limits)),))


def test_huge_pages() -> None:
    assert empty_dir.huge_page_size(huge("2Mi"), "HugePages") == "2Mi"
    assert empty_dir.huge_page_size(huge("2Mi", "1Gi"), "HugePages-1Gi") == "1Gi"


@pytest.mark.parametrize(
    ("medium", "pod", "text"),
    [
        (
            "HugePages",
            huge("2Mi", "1Gi"),
            "medium: HugePages can't be used if container requests multiple huge page sizes",
        ),
        (
            "HugePages-1Gi",
            huge("2Mi"),
            "medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages",
        ),
    ],
)
def test_huge_pages_that_cannot_be_had(medium: str, pod: Pod, text: str) -> None:
    with pytest.raises(PayloadError) as caught:
        empty_dir.huge_page_size(pod, medium)
    assert str(caught.value) == text


def test_unknown_medium(tmp_path: Path) -> None:
    pod = make_pod(volumes=(Volume(name="v", empty_dir=EmptyDirVolumeSource(medium="Tape")),))
    with pytest.raises(VolumeError, match='SetUp failed for volume "v" : unknown storage medium "Tape"'):
        Shelf(tmp_path).prepare(pod)


def test_mode_of_an_empty_dir_is_its_users_after_the_first_time(tmp_path: Path) -> None:
    shelf, group = Shelf(tmp_path), os.getgid()
    context = PodSecurityContext(fs_group=group)
    pod = make_pod(volumes=(Volume(name="v", empty_dir=EmptyDirVolumeSource()),), security_context=context)
    folder = shelf.prepare(pod).paths["v"]
    assert oct(folder.stat().st_mode) == "0o42777"
    folder.chmod(0o700)
    shelf.prepare(pod)
    assert oct(folder.stat().st_mode) == "0o40700"


@pytest.mark.root
def test_token_and_secret_belong_to_who_runs(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.client.put(
        Secret(metadata=ObjectMeta(name="s", namespace="default"), data={"k": base64.b64encode(b"1").decode()})
    )
    token = {"serviceAccountToken": {"path": "token"}}
    secret = {"secret": {"name": "s", "items": [{"key": "k", "path": "in/k"}]}}
    volume = convert(Volume, {"name": "v", "projected": {"defaultMode": 0o400, "sources": [token, secret]}})

    def seen(**context: Any) -> list[tuple[str, int, int]]:
        pod = make_pod(volumes=(volume,), security_context=PodSecurityContext(**context))
        folder = shelf.prepare(pod).paths["v"]
        facts = [(folder / name).stat() for name in ("token", "in/k", "in", "..data")]
        return [(oct(stat.S_IMODE(one.st_mode)), one.st_uid, one.st_gid) for one in facts]

    assert seen() == [("0o400", 0, 0), ("0o400", 0, 0), ("0o755", 0, 0), ("0o755", 0, 0)]
    assert seen(run_as_user=1000)[:2] == [("0o600", 1000, 0), ("0o400", 0, 0)]
    assert seen(fs_group=2000) == [
        ("0o640", 0, 2000),
        ("0o440", 0, 2000),
        ("0o2755", 0, 2000),
        ("0o2755", 0, 2000),
    ]


@pytest.mark.root
def test_a_volume_is_given_to_a_group_once(tmp_path: Path) -> None:
    folder, file, link = tmp_path / "v/in", tmp_path / "v/in/file", tmp_path / "v/link"
    folder.mkdir(parents=True)
    file.touch()
    file.chmod(0o600)
    link.symlink_to("/etc/passwd")
    ownership.give_to_group(tmp_path / "v", 2000)
    assert [(oct(p.lstat().st_mode & 0o7777), p.lstat().st_gid) for p in (tmp_path / "v", folder, file)] == [
        ("0o2775", 2000),
        ("0o2775", 2000),
        ("0o660", 2000),
    ]
    assert (link.lstat().st_gid, Path("/etc/passwd").stat().st_gid) == (2000, 0)
    file.chmod(0o600)
    ownership.give_to_group(tmp_path / "v", 2000, on_root_mismatch=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "v").chmod(0o755)
    ownership.give_to_group(tmp_path / "v", 2000, on_root_mismatch=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o660


# -------------------------------------------------------------------------------------------------------- claims


def claiming(name: str = "web", *, device: bool = False, **spec: Any) -> Pod:
    used: dict[str, Any] = {"volume_mounts": (VolumeMount(name="v", mount_path="/v"),)}
    if device:
        used = {"volume_devices": (VolumeDevice(name="v", device_path="/dev/xvda"),)}
    volume = convert(Volume, {"name": "v", "persistentVolumeClaim": {"claimName": "c"}})
    return make_pod(name, volumes=(volume,), containers=(make_container(**used),), **spec)


def bound(shelf: Shelf, path: Path, *, uid: str = "uid-c", claim: dict[str, Any] | None = None, **spec: Any) -> None:
    status = {"phase": "Bound"}
    meta = {"name": "c", "namespace": "default", "uid": "uid-c", **(claim or {})}
    shelf.put(PersistentVolumeClaim, metadata=meta, spec={"volumeName": "pv"}, status=status)
    held = {"local": {"path": str(path)}, "claimRef": {"uid": uid}, **spec}
    shelf.put(PersistentVolume, metadata={"name": "pv"}, spec=held)


FAILED = (
    "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: "
)
ELSEWHERE = {
    "required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}
}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"claim": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
            f"{FAILED}error processing PVC default/c: PVC is being deleted",
        ),
        (
            {"uid": "other"},
            f'{FAILED}error processing PVC default/c: found PV object pv with unexpected pv.Spec.ClaimRef.UID ("other")'
            ' that does not match the PVC UID ("uid-c")',
        ),
        (
            {"volumeMode": "Block"},
            f"{FAILED}volume v has volumeMode Block, but is specified in volumeMounts",
        ),
        (
            {"nodeAffinity": ELSEWHERE},
            'MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms',
        ),
        (
            {"local": {"path": "/not/there"}},
            'MountVolume.NewMounter initialization failed for volume "pv" : path "/not/there" does not exist',
        ),
    ],
    ids=["being deleted", "another's", "of blocks", "of another node", "not there"],
)
def test_claims_that_cannot_be_had(tmp_path: Path, fields: dict[str, Any], text: str) -> None:
    shelf = Shelf(tmp_path / "kubelet")
    shelf.client.put(convert(Node, {"metadata": {"name": "n1", "labels": {"disk": "hdd"}}}))
    bound(shelf, tmp_path, **fields)
    with pytest.raises(VolumeError) as caught:
        shelf.prepare(claiming())
    assert str(caught.value) == text


def test_claims_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(VolumeError) as caught:
        Shelf(tmp_path).prepare(claiming())
    assert str(caught.value) == (
        f"{FAILED}error processing PVC default/c: failed to fetch PVC from API server:"
        ' persistentvolumeclaims "c" not found'
    )


@pytest.mark.root
def test_local_volume_of_a_group_and_read_only(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shelf = Shelf(tmp_path / "kubelet")
    bound(shelf, tmp_path / "data")
    pod = claiming(security_context=PodSecurityContext(fs_group=2000))
    assert shelf.prepare(pod).paths == {"v": tmp_path / "data"}
    assert (oct((tmp_path / "data").stat().st_mode), (tmp_path / "data").stat().st_gid) == ("0o42775", 2000)
    volume = convert(Volume, {"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}})
    assert shelf.prepare(make_pod(volumes=(volume,))).read_only == {"v"}


def test_one_pod_at_a_time(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "kubelet")
    bound(shelf, tmp_path, accessModes=["ReadWriteOncePod"])
    shelf.prepare(claiming("a"))
    shelf.prepare(claiming("a"))
    with pytest.raises(VolumeError, match="ReadWriteOncePod access mode and is already in use by another pod"):
        shelf.prepare(claiming("b"))
    asyncio.run(shelf.volumes.remove("uid-a"))
    shelf.prepare(claiming("b"))


@pytest.mark.root
def test_devices(tmp_path: Path) -> None:
    device = tmp_path / "disk"
    os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(7, 200))
    shelf = Shelf(tmp_path / "kubelet")
    bound(shelf, device, volumeMode="Block")
    made = shelf.prepare(claiming(device=True))
    assert {name: os.readlink(path) for name, path in made.devices.items()} == {"v": str(device)}
    assert made.paths == {}
    bound(shelf, tmp_path, volumeMode="Block")
    with pytest.raises(VolumeError, match="is not a block device") as caught:
        shelf.prepare(claiming(device=True))
    assert caught.value.reason == "FailedMapVolume"


@pytest.mark.root
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/hugepages/hugepages-2048kB").exists(), reason="no huge pages of 2 MiB here"
)
def test_volumes_of_huge_pages(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, SystemMounter())
    volume = Volume(name="v", empty_dir=EmptyDirVolumeSource(medium="HugePages"))
    limits = ResourceRequirements(limits={"hugepages-2Mi": Quantity("2Mi")})
    pod = make_pod(volumes=(volume,), containers=(make_container(resources=limits),))
    try:
        folder = shelf.prepare(pod).paths["v"]
        assert shelf.prepare(pod).paths["v"] == folder
        [line] = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
        assert " hugetlbfs " in line
        assert "pagesize=2M" in line
        assert oct(folder.stat().st_mode) == "0o40777"
    finally:
        asyncio.run(shelf.volumes.remove("uid-web"))
    assert mount_points(tmp_path) == []


@pytest.mark.root
def test_volumes_in_memory_are_never_swapped(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, SystemMounter())
    source = EmptyDirVolumeSource(medium="Memory", size_limit=Quantity("1Mi"))
    context = PodSecurityContext(fs_group=2000)
    pod = make_pod(
        volumes=(Volume(name="v", empty_dir=source),),
        security_context=context,
        containers=(make_container(security_context=SecurityContext(run_as_user=1)),),
    )
    folder = shelf.prepare(pod).paths["v"]
    try:
        line = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line)
        assert "size=1024k" in line
        assert "noswap" in line
        assert (oct(folder.stat().st_mode), folder.stat().st_gid) == ("0o43777", 2000)
    finally:
        asyncio.run(shelf.volumes.remove("uid-web"))


# -------------------------------------------------------------------------------------------------------- another life


def test_volumes_of_an_earlier_life_are_followed_on(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            words = ConfigMap(metadata=ObjectMeta(name="words", namespace="default"), data={"a": "1"})
            world.client.put(words)
            token = {"serviceAccountToken": {"path": "token"}}
            both = convert(Volume, {"name": "v", "projected": {"sources": [token, {"configMap": {"name": "words"}}]}})
            world.client.put(make_pod(volumes=(both,)))
            await world.rest()
            folder = world.config.root / "pods/uid-web/volumes/kubernetes.io~projected/v"
            assert (folder / "a").read_text() == "1"
            await world.restart()
            world.client.put(ConfigMap(metadata=words.metadata, data={"a": "2"}))
            await world.until(lambda: (folder / "a").read_text() == "2")
            before = (folder / "token").read_text()
            await world.advance(3000, 500)
            assert (folder / "token").read_text() != before

    asyncio.run(go())


def test_volumes_of_an_earlier_life_that_cannot_be_had_are_asked_for_again(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            words = ConfigMap(metadata=ObjectMeta(name="words", namespace="default"), data={"a": "1"})
            words = world.client.put(words)
            world.client.put(make_pod(volumes=(convert(Volume, {"name": "v", "configMap": {"name": "words"}}),)))
            await world.rest()
            await world.stop()
            world.client.put(words, WatchType.DELETED)
            world.kubelet = world.make()
            await world.start()
            await world.advance(3)
            folder = world.config.root / "pods/uid-web/volumes/kubernetes.io~configmap/v"
            assert (folder / "a").read_text() == "1"
            world.client.put(ConfigMap(metadata=words.metadata, data={"a": "2"}))
            await world.until(lambda: (folder / "a").read_text() == "2")
            assert world.events.reasons("web").count("FailedMount") < 6

    asyncio.run(go())


def test_what_never_changes_is_not_watched(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            for name, fixed in (("fixed", True), ("open", None)):
                meta = ObjectMeta(name=name, namespace="default")
                world.client.put(ConfigMap(metadata=meta, data={"a": "1"}, immutable=fixed))
            volumes = tuple(convert(Volume, {"name": n, "configMap": {"name": n}}) for n in ("fixed", "open"))
            world.client.put(make_pod(volumes=volumes))
            await world.rest()
            watched = {fields for kind, _, fields, _ in world.client.watches if kind is ConfigMap}
            assert watched == {"metadata.name=open"}
            world.client.put(make_pod("other", volumes=volumes[:1]))
            await world.until(lambda: world.pod("other").status.phase == "Running")
            world.client.ask_delete("web", world.clock.now())
            world.client.ask_delete("other", world.clock.now())
            await world.until(lambda: not world.exists() and not world.exists("other"))
            assert {kind for kind, *_ in world.client.watches if kind is ConfigMap} == set()

    asyncio.run(go())


# -------------------------------------------------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 2 MiB with nothing on it."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("no mkfs.ext4")
    with loop_device(tmp_path / "image", bytes(2**21)) as device:
        yield device


@pytest.mark.root
def test_a_disk_is_formatted_once_and_mounted_for_as_long_as_pods_use_it(tmp_path: Path, disk: Path) -> None:
    root = tmp_path / "kubelet"
    shelf = Shelf(root, SystemMounter())
    bound(shelf, disk)
    try:
        first = shelf.prepare(claiming("a")).paths["v"]
        assert first == root / "pods/uid-a/volumes/kubernetes.io~local-volume/pv"
        (first / "file").write_text("kept")
        second = shelf.prepare(claiming("b")).paths["v"]
        assert (second / "file").read_text() == "kept"
        asyncio.run(shelf.volumes.remove("uid-a"))
        assert len(mount_points(root)) == 2
        again = Shelf(root, SystemMounter())  # as after a crash
        asyncio.run(again.volumes.remove("uid-b"))
        assert mount_points(root) == []
        bound(again, disk)
        assert (again.prepare(claiming("c")).paths["v"] / "file").read_text() == "kept"
        asyncio.run(again.volumes.remove("uid-c"))
        assert mount_points(root) == []
    finally:
        SystemMounter().unmount_below(root)


@pytest.mark.root
def test_a_disk_of_another_kind_is_left_alone(tmp_path: Path, disk: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    before = disk.read_bytes()
    shelf = Shelf(tmp_path / "kubelet", SystemMounter())
    bound(shelf, disk, local={"path": str(disk), "fsType": "xfs"})
    with pytest.raises(
        VolumeError, match=r'MountVolume.MountDevice failed for volume "pv" : mount failed: exit status'
    ):
        shelf.prepare(claiming())
    assert disk.read_bytes() == before
    asyncio.run(shelf.volumes.remove("uid-web"))


# -------------------------------------------------------------------------------------------------------- words


def test_every_source_that_fails_is_named(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    sources = [{"secret": {"name": "a"}}, {"configMap": {"name": "b"}}, {"secret": {"name": "a"}}]
    pod = make_pod(volumes=(convert(Volume, {"name": "v", "projected": {"sources": sources}}),))
    with pytest.raises(VolumeError) as caught:
        shelf.prepare(pod)
    assert str(caught.value) == (
        'MountVolume.SetUp failed for volume "v" : [secret "a" not found, configmap "b" not found]'
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("DirectoryOrCreate", "mkdir {path}: not a directory"),
        ("FileOrCreate", "open {path}: not a directory"),
        ("CharDevice", "hostPath type check failed: {path} is not a character device"),
        ("BlockDevice", "hostPath type check failed: {path} is not a block device"),
        ("Tape", "Tape is an invalid volume type"),
    ],
)
def test_host_paths_that_cannot_be_made(tmp_path: Path, kind: str, text: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file/inner"
    pod = make_pod(volumes=(convert(Volume, {"name": "v", "hostPath": {"path": str(path), "type": kind}}),))
    with pytest.raises(VolumeError) as caught:
        Shelf(tmp_path / "kubelet").prepare(pod)
    assert str(caught.value) == f'MountVolume.SetUp failed for volume "v" : {text.format(path=path)}'


def test_an_ephemeral_claim_of_somebody_else(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    meta = {"name": "web-v", "namespace": "default", "uid": "u"}
    shelf.put(PersistentVolumeClaim, metadata=meta, spec={"volumeName": "pv"}, status={"phase": "Bound"})
    pod = make_pod(volumes=(convert(Volume, {"name": "v", "ephemeral": {}}),))
    with pytest.raises(VolumeError) as caught:
        shelf.prepare(pod)
    assert str(caught.value) == f"{FAILED}PVC default/web-v was not created for pod default/web (pod is not owner)"
