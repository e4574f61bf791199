"""Pull policies, credentials, back-off and the events' words."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import Secret
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.kubelet.images import ImageError, Images, credentials, go_seconds, pull_policy, split_registry, with_tag
from kaa.runtime.base import ImageAuth
from kaa.runtime.simulated import SimulatedRuntime


@pytest.mark.parametrize(
    ("image", "reference", "policy"),
    [
        ("nginx", "nginx:latest", "Always"),
        ("nginx:1.27", "nginx:1.27", "IfNotPresent"),
        ("reg:5000/nginx", "reg:5000/nginx:latest", "Always"),
        ("nginx@sha256:00", "nginx@sha256:00", "IfNotPresent"),
    ],
)
def test_references(image: str, reference: str, policy: str) -> None:
    assert (with_tag(image), pull_policy(image, None)) == (reference, policy)


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("nginx:1", ("docker.io", "library/nginx")),
        ("me/app", ("docker.io", "me/app")),
        ("reg.io:5000/a/b:1", ("reg.io:5000", "a/b")),
        ("localhost/a@sha256:00", ("localhost", "a")),
    ],
)
def test_registries(reference: str, parts: tuple[str, str]) -> None:
    assert split_registry(reference) == parts


def pull_secret(value: object, key: str = ".dockerconfigjson") -> Secret:
    return Secret(metadata=ObjectMeta(name="p"), data={key: base64.b64encode(json.dumps(value).encode()).decode()})


def test_credentials_of_the_longest_path_win() -> None:
    auth = base64.b64encode(b"user:pa:ss").decode()
    secret = pull_secret(
        {"auths": {"reg.io": {"username": "a", "password": "b"}, "https://reg.io/team": {"auth": auth}}}
    )
    assert credentials("reg.io/team/app:1", [secret]) == ImageAuth("user", "pa:ss")
    assert credentials("reg.io/teammate/app:1", [secret]) == ImageAuth("a", "b")
    assert credentials("other.io/app", [secret]) is None


def test_docker_hub_and_the_old_format() -> None:
    secret = pull_secret({"https://index.docker.io/v1/": {"username": "a", "password": "b"}}, ".dockercfg")
    assert credentials("busybox", [secret]) == ImageAuth("a", "b")
    assert credentials("busybox", [Secret(data={".dockercfg": "!!"})]) is None


def test_go_seconds() -> None:
    assert [go_seconds(s) for s in (0, 0.012, 1.2, 63.5)] == ["0s", "12ms", "1.2s", "1m3.5s"]


def test_pulls_and_their_back_off() -> None:
    clock = VirtualClock()
    runtime = SimulatedRuntime(clock)
    images = Images(runtime, clock, serialize=True)
    said: list[tuple[str, str, str]] = []

    async def ensure(policy: str | None = None) -> str:
        def say(type: str, reason: str, message: str) -> None:
            said.append((type, reason, message))

        try:
            await images.ensure("app:1", policy, (), user="u", say=say)
        except ImageError as err:
            return err.reason
        return "ok"

    async def go() -> None:
        assert await ensure("Never") == "ErrImageNeverPull"
        runtime.pull_errors["app:1"] = "manifest unknown"
        assert [await ensure(), await ensure()] == ["ErrImagePull", "ImagePullBackOff"]
        await clock.advance(11)
        assert await ensure() == "ErrImagePull"
        await clock.advance(11)
        assert await ensure() == "ImagePullBackOff"
        runtime.pull_errors.clear()
        await clock.advance(11)
        assert [await ensure(), await ensure()] == ["ok", "ok"]

    asyncio.run(go())
    assert said[1:5] == [
        ("Normal", "Pulling", 'Pulling image "app:1"'),
        ("Warning", "Failed", 'Failed to pull image "app:1": manifest unknown'),
        ("Warning", "Failed", "Error: ErrImagePull"),
        ("Normal", "BackOff", 'Back-off pulling image "app:1"'),
    ]
    assert said[-2][2] == 'Successfully pulled image "app:1" in 0s (0s including waiting). Image size: 10000000 bytes.'
    assert said[-1][2] == 'Container image "app:1" already present on machine and can be accessed by the pod'
