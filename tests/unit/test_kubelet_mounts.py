"""What a container's mounts and devices are, and what the node says that it can."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, make_container, make_pod

from kaa.api.types.core_v1 import (
    EmptyDirVolumeSource,
    Node,
    Volume,
    VolumeDevice,
    VolumeMount,
)
from kaa.kubelet.container_config import _block_devices, recursive_read_only
from kaa.kubelet.env import ConfigError
from kaa.kubelet.node import runtime_features
from kaa.kubelet.volumes.manager import Prepared
from kaa.runtime.base import HandlerFeatures, RuntimeInfo

RRO = HandlerFeatures(recursive_read_only=True)
REFUSED = 'failed to resolve recursive read-only mode: volume "v" requested recursive read-only mode, but it is not '


def mount(**fields: Any) -> VolumeMount:
    return VolumeMount(name="v", mount_path="/v", **fields)


@pytest.mark.parametrize(
    ("fields", "features", "expected"),
    [
        ({"read_only": True}, RRO, False),
        ({"read_only": True, "recursive_read_only": "Disabled"}, RRO, False),
        ({"read_only": True, "recursive_read_only": "IfPossible"}, RRO, True),
        ({"read_only": True, "recursive_read_only": "IfPossible"}, HandlerFeatures(), False),
        ({"read_only": True, "recursive_read_only": "Enabled", "mount_propagation": "None"}, RRO, True),
    ],
)
def test_recursive_read_only(fields: dict[str, Any], features: HandlerFeatures, expected: bool) -> None:
    assert recursive_read_only(mount(**fields), features) is expected


@pytest.mark.parametrize(
    ("fields", "features", "text"),
    [
        ({"recursive_read_only": "IfPossible"}, RRO, "read-only"),
        ({"read_only": True, "recursive_read_only": "Enabled"}, HandlerFeatures(), "supported by the runtime"),
        (
            {"read_only": True, "recursive_read_only": "IfPossible", "mount_propagation": "HostToContainer"},
            RRO,
            'compatible with propagation "HostToContainer"',
        ),
    ],
)
def test_recursive_read_only_refused(fields: dict[str, Any], features: HandlerFeatures, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recursive_read_only(mount(**fields), features)
    assert str(caught.value) == REFUSED + text


def test_block_devices() -> None:
    spec = make_container("c", volume_devices=(VolumeDevice(name="v", device_path="/dev/xvda"),))
    made = Prepared(devices={"v": Path("/pods/v")})
    [device] = _block_devices(spec, made)
    assert (device.host_path, device.container_path, device.permissions) == ("/pods/v", "/dev/xvda", "mrw")
    made.read_only.add("v")
    assert _block_devices(spec, made)[0].permissions == "r"
    with pytest.raises(ConfigError, match='cannot find volume "v" to pass into container "c"'):
        _block_devices(spec, Prepared())
    relative = make_container("c", volume_devices=(VolumeDevice(name="v", device_path="xvda"),))
    with pytest.raises(ConfigError, match="error DevicePath `xvda` must be an absolute path"):
        _block_devices(relative, made)


def test_node_says_what_its_runtime_can() -> None:
    info = RuntimeInfo("x", "1", features={"": RRO, "kata": HandlerFeatures()}, strict_groups=True)
    said = runtime_features(info)
    assert said["features"].supplemental_groups_policy
    assert [(one.name, one.features.recursive_read_only_mounts) for one in said["runtime_handlers"]] == [
        ("", True),
        ("kata", False),
    ]


def test_depth_of_read_only_is_told(tmp_path: Path) -> None:
    async def go() -> None:
        async with World(tmp_path) as world:
            mounts = (
                VolumeMount(name="v", mount_path="/a", read_only=True, recursive_read_only="IfPossible"),
                VolumeMount(name="v", mount_path="/b", read_only=True),
                VolumeMount(name="v", mount_path="/c"),
            )
            volume = Volume(name="v", empty_dir=EmptyDirVolumeSource())
            world.client.put(make_pod(volumes=(volume,), containers=(make_container(volume_mounts=mounts),)))
            await world.rest()
            [status] = world.pod().status.container_statuses
            assert [m.recursive_read_only for m in status.volume_mounts] == ["Enabled", "Disabled", None]
            [container] = await world.runtime.list_containers()
            made = {m.container_path: m.recursive_read_only for m in world.runtime.config(container.id).mounts}
            assert (made["/a"], made["/b"], made["/c"]) == (True, False, False)
            node = await world.client.get(Node, "n1")
            assert node.status.runtime_handlers[0].features.user_namespaces

    asyncio.run(go())
