"""Image volumes from the pod's spec to what a runtime is told: pulled first, mounted by id, kept while they are used."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod

from kaa.api.types.core_v1 import ImageVolumeSource, LocalObjectReference, Pod, Secret, Volume, VolumeMount
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.runtime.base import ContainerConfig, Image, ImageAuth, Mount, RuntimeFailure
from kaa.runtime.cri import convert
from kaa.runtime.cri import messages as cri
from kaa.runtime.oci.bundle import Facts, User, build_spec
from kaa.runtime.oci.images import ImageConfig
from kaa.runtime.oci.prepare import image_mount

DATA = "data.io/set:1"


def with_image(name: str = "web", policy: str | None = None, **mount: Any) -> Pod:
    volume = Volume(name="data", image=ImageVolumeSource(reference=DATA, pull_policy=policy))
    container = make_container(volume_mounts=(VolumeMount(name="data", mount_path="/data", **mount),))
    secrets = (LocalObjectReference(name="regcred"),)
    return make_pod(name, volumes=(volume,), containers=(container,), image_pull_secrets=secrets)


def play(folder: Path, story: Any) -> None:
    async def go() -> None:
        async with World(folder) as world:
            await story(world)

    asyncio.run(go())


def config_of(world: World) -> ContainerConfig:
    (one,) = world.runtime._running.values()
    return one.config


def test_an_image_is_pulled_with_the_pods_secrets_and_mounted_by_its_id(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        asked: list[tuple[str, str]] = []
        pull = world.runtime.pull_image

        async def noted(reference: str, auth: ImageAuth | None = None) -> Image:
            asked.append((reference, auth.username if auth else ""))
            return await pull(reference, auth)

        world.runtime.pull_image = noted  # type: ignore[method-assign]
        login = base64.b64encode(json.dumps({"auths": {"data.io": {"username": "u", "password": "p"}}}).encode())
        meta = ObjectMeta(name="regcred", namespace="default")
        world.client.put(
            Secret(metadata=meta, type="kubernetes.io/dockerconfigjson", data={".dockerconfigjson": login.decode()})
        )
        world.client.put(with_image(sub_path="etc/conf"))
        await world.rest()
        assert world.pod().status.phase == "Running"
        assert asked == [(DATA, "u"), ("busybox:1.36", "")]
        image = await world.runtime.image(DATA)
        assert image is not None
        assert Mount("", "/data", read_only=True, image=image.id, image_sub_path="etc/conf") in config_of(world).mounts
        (container,) = await world.runtime.list_containers()
        assert container.volume_images == (image.id,)

    play(tmp_path, story)


def test_one_that_does_not_come_holds_back_who_mounts_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.runtime.pull_errors[DATA] = "manifest unknown"
        world.client.put(with_image())
        await world.rest()

        def waiting() -> Any:
            state = world.pod().status.container_statuses[0].state
            assert state is not None
            return state.waiting

        assert (waiting().reason, waiting().message) == ("ErrImagePull", "manifest unknown")
        lacks = "Unable to retrieve some image pull secrets (regcred); attempting to pull the image may not succeed."
        assert ("web", "FailedToRetrieveImagePullSecret", lacks) in world.events.said
        await world.advance(3)
        assert (waiting().reason, waiting().message) == (
            "ImagePullBackOff",
            f'Back-off pulling image "{DATA}": ErrImagePull: manifest unknown',
        )
        said = world.events.reasons("web")
        assert "Pulling" in said
        assert said.count("Failed") == 3  # why, then each reason once
        del world.runtime.pull_errors[DATA]
        await world.advance(12)
        assert world.pod().status.phase == "Running"

    play(tmp_path, story)


def test_one_that_the_runtime_cannot_mount(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async def refuse(sandbox_id: str, config: ContainerConfig) -> str:
            raise RuntimeFailure("ImageVolumeMountFailed: no such sub path")

        world.runtime.create_container = refuse  # type: ignore[method-assign]
        world.client.put(with_image(sub_path="none"))
        await world.rest()
        state = world.pod().status.container_statuses[0].state
        assert state is not None
        assert state.waiting is not None
        assert (state.waiting.reason, state.waiting.message) == (
            "CreateContainerError",
            "ImageVolumeMountFailed: no such sub path",
        )

    play(tmp_path, story)


def test_the_cri_is_told_the_images_id_and_the_sub_path() -> None:
    config = ContainerConfig("c", "sha256:a", mounts=(Mount("", "/data", True, image="sha256:b", image_sub_path="x"),))
    image = Image("sha256:a", (), (), 1)
    told = convert.container_message(config, image, convert.Namespaces(), "me")
    (mount,) = cri.ContainerConfig.decode(told.encode()).mounts
    assert mount == cri.Mount("/data", "", True, image=cri.ImageSpec("sha256:b"), image_sub_path="x")
    status = cri.ContainerStatus.decode(
        cri.ContainerStatus(mounts=(cri.MountedImage(cri.ImageSpec("sha256:b")),)).encode()
    )
    found = convert.container(cri.Container(id="c"), status, "sha256:a", None)
    assert found.volume_images == ("sha256:b",)


def test_an_oci_bundle_mounts_it_read_only_and_runs_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    mount = image_mount(Mount("", "/data", image="sha256:b", image_sub_path="sub"), tmp_path)
    config = ContainerConfig("c", "sha256:a", command=("x",), mounts=(mount,))
    spec = build_spec(config, ImageConfig(), Facts("/root", "/cg", {}, User()))
    (made,) = [one for one in spec["mounts"] if one["destination"] == "/data"]
    assert made["source"] == str(tmp_path / "sub")
    assert {"ro", "noexec", "nosuid", "nodev", "rprivate"} <= set(made["options"])


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("", "."),
        ("a/b", "a/b"),
        ("out/b", "a/b"),
        ("../../a", "a"),
        ("up/a", "a"),
        ("loop", None),
        ("none", None),
        ("a/b/c", None),
    ],
)
def test_sub_paths_never_leave_the_image(tmp_path: Path, inner: str, expected: str | None) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "b").write_text("x")
    (tmp_path / "none").write_text("outside")
    (root / "out").symlink_to("/a")
    (root / "up").symlink_to("../../..")
    (root / "loop").symlink_to("loop")
    mount = Mount("", "/data", image="sha256:b", image_sub_path=inner)
    if expected is None:
        with pytest.raises(
            RuntimeFailure, match=f"ImageVolumeMountFailed: sub path '{inner}' does not exist in the image"
        ):
            image_mount(mount, root)
    else:
        assert Path(image_mount(mount, root).host_path) == root / expected
