"""Pull policies, every credential in turn, who may have what is there, back-off and the events' words."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kaa.api.clock import VirtualClock
from kaa.api.types.core_v1 import Pod, PodSpec, Secret
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.kubelet.images import ImageError, Images
from kaa.kubelet.images.keyring import Keyring, add_files, add_secrets, matches
from kaa.kubelet.images.manager import named
from kaa.kubelet.images.names import go_seconds, pull_policy, repository, with_tag
from kaa.kubelet.images.records import POLICIES, Verification, check_pattern
from kaa.runtime.base import Image, ImageAuth, ImagePullError
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
    ("reference", "name"),
    [
        ("nginx:1", "docker.io/library/nginx"),
        ("me/app", "docker.io/me/app"),
        ("reg.io:5000/a/b:1", "reg.io:5000/a/b"),
        (f"localhost/a@sha256:{'0' * 64}", "localhost/a"),
    ],
)
def test_repositories(reference: str, name: str) -> None:
    assert repository(reference) == name


def test_go_seconds() -> None:
    assert [go_seconds(s) for s in (0, 0.012, 1.2, 63.5, 1.9999)] == ["0s", "12ms", "1.2s", "1m3.5s", "1.999s"]


# ----------------------------------------------------------------------------------------------------------- keyring


def pull_secret(value: object, key: str = ".dockerconfigjson", name: str = "p") -> Secret:
    content = base64.b64encode(json.dumps(value).encode()).decode()
    meta = ObjectMeta(name=name, namespace="n", uid=f"uid-{name}")
    return Secret(metadata=meta, data={key: content})


def found(image: str, *secrets: Secret) -> list[ImageAuth]:
    ring = Keyring()
    add_secrets(ring, secrets)
    return [one.auth for one in ring.lookup(repository(image))]


def login(user: str, password: str = "p") -> dict[str, str]:
    return {"username": user, "password": password}


@pytest.mark.parametrize(
    ("pattern", "image", "fits"),
    [
        ("reg.io", "reg.io/a/b", True),
        ("reg.io/a", "reg.io/a/b", True),
        ("reg.io/a", "reg.io/ab", True),  # a prefix of the path, as upstream has it
        ("reg.io/b", "reg.io/a/b", False),
        ("reg.io:5000", "reg.io/a", False),
        ("reg.io:5000/a", "reg.io:5000/a", True),
        ("*.example.com", "reg.example.com/a", True),
        ("*.example.com", "example.com/a", False),
        ("*.example.com", "a.b.example.com/a", False),
        ("*.*.example.com", "a.b.example.com/a", True),
        ("r*g.example.*", "reg.example.com/a", True),
        ("reg.io:port", "reg.io/a", False),
        ("[::1]:5000", "[::1]:5000/a", True),
    ],
)
def test_locations_match_as_upstreams_do(pattern: str, image: str, fits: bool) -> None:
    assert matches(pattern, image) is fits


def test_all_credentials_that_fit_come_the_most_specific_first() -> None:
    auth = base64.b64encode(b"user:pa:ss").decode()
    wide = pull_secret({"auths": {"*.io": login("glob"), "reg.io": login("a"), "https://reg.io/team": {"auth": auth}}})
    other = pull_secret({"reg.io": login("second")}, ".dockercfg")
    assert found("reg.io/team/app:1", wide, other) == [
        ImageAuth("user", "pa:ss"),
        ImageAuth("a", "p"),
        ImageAuth("second", "p"),
        ImageAuth("glob", "p"),
    ]
    assert found("other.dev/app", wide) == []


@pytest.mark.parametrize(
    "where", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "http://docker.io/v2/"]
)
def test_docker_hub_by_its_names(where: str) -> None:
    secret = pull_secret({where: login("a")}, ".dockercfg")
    assert found("busybox", secret) == found("me/app", secret) == [ImageAuth("a", "p")]


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"auth": "!!"}, id="no base64"),
        pytest.param({"auth": base64.b64encode(b"nocolon").decode()}, id="no colon"),
        pytest.param({"auth": base64.b64encode(b"\xff:\xff").decode()}, id="no text"),
        pytest.param({}, id="empty"),
        pytest.param("x", id="no object"),
        pytest.param({"username": 3}, id="a number"),
    ],
)
def test_entries_that_hold_nothing(entry: Any) -> None:
    assert found("reg.io/a", pull_secret({"auths": {"reg.io": entry, "[": login("a")}})) == []


@pytest.mark.parametrize("key", [".dockerconfigjson", ".dockercfg"])
def test_a_secret_that_is_no_text_holds_nothing(key: str) -> None:
    content = base64.b64encode(b'{"auths":{"reg.io":{"username":"\xff"}}}').decode()
    secret = Secret(metadata=ObjectMeta(name="p", namespace="n", uid="u"), data={key: content})
    assert found("reg.io/a", secret) == []


def test_an_auth_without_padding_is_read() -> None:
    auth = base64.b64encode(b"u:pw").decode().rstrip("=")
    assert found("reg.io/a", pull_secret({"auths": {"reg.io": {"auth": auth}}})) == [ImageAuth("u", "pw")]


@pytest.mark.parametrize(
    "data", [{".dockercfg": "!!"}, {".dockerconfigjson": "e30="}, {"x": ""}, {".dockercfg": "W10="}]
)
def test_secrets_that_hold_nothing(data: dict[str, str]) -> None:
    assert found("reg.io/a", Secret(data=data)) == []


def test_the_nodes_own_file(tmp_path: Path) -> None:
    ring, (broken, good, late) = Keyring(), (tmp_path / name for name in ("broken", "good", "late"))
    broken.write_text("{")
    good.write_text(json.dumps({"auths": {"reg.io": login("node")}}))
    late.write_text(json.dumps({"auths": {"reg.io": login("late")}}))
    add_files(ring, [tmp_path / "none", broken, good, late])
    (one,) = ring.lookup("reg.io/a")
    assert (one.auth.username, one.secret, one.account) == ("node", None, None)


# ----------------------------------------------------------------------------------------------------------- a node


class Registry(SimulatedRuntime):
    """Pulls succeed for those who may; ``asked`` notes with what they came."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.users: frozenset[str] | None = None  #: who may pull; None: everybody
        self.asked: list[str] = []

    async def pull_image(self, reference: str, auth: ImageAuth | None = None) -> Image:
        assert auth != ImageAuth()  # containerd takes no empty credentials, only none
        user = auth.username if auth else ""
        self.asked.append(user)
        if self.users is not None and user not in self.users:
            raise ImagePullError(f"{user or 'anonymous'} may not")
        return await super().pull_image(reference, auth)


class Node:
    """An image manager, what it said, and pods to ask it."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root, self.options, self.clock = root, options, VirtualClock()
        self.runtime = Registry(self.clock)
        self.said: list[tuple[str, str, str]] = []
        self.images = self.fresh()

    def fresh(self, **options: Any) -> Images:
        return Images(self.runtime, self.clock, self.root / "records", **{**self.options, **options})

    async def ensure(self, policy: str | None = None, *secrets: Secret, image: str = "app:1", user: str = "u") -> str:
        """``ok``, or the reason why not."""
        try:
            pod = Pod(metadata=ObjectMeta(name="p", namespace="n", uid=user), spec=PodSpec(containers=()))
            await self.images.ensure(image, policy, secrets, pod=pod, say=lambda *said: self.said.append(said))
        except ImageError as err:
            self.error = err
            return err.reason
        return "ok"

    @property
    def last(self) -> str:
        return self.said[-1][2]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_pulls_and_their_back_off(node: Node) -> None:
    async def go() -> None:
        assert await node.ensure("Never") == "ErrImageNeverPull"
        node.runtime.pull_errors["app:1"] = "manifest unknown"
        assert [await node.ensure(), await node.ensure()] == ["ErrImagePull", "ImagePullBackOff"]
        assert node.error.message == 'Back-off pulling image "app:1": ErrImagePull: manifest unknown'
        assert node.error.retry_at == node.clock.now() + 10
        await node.clock.advance(11)
        assert await node.ensure() == "ErrImagePull"
        await node.clock.advance(11)
        assert await node.ensure() == "ImagePullBackOff"
        assert await node.ensure(user="other") == "ErrImagePull"
        node.runtime.pull_errors.clear()
        await node.clock.advance(11)
        assert [await node.ensure(), await node.ensure()] == ["ok", "ok"]

    asyncio.run(go())
    assert node.said[0] == (
        "Warning",
        "ErrImageNeverPull",
        'Container image "app:1" is not present with pull policy of Never',
    )
    assert node.said[1:4] == [
        ("Normal", "Pulling", 'Pulling image "app:1"'),
        ("Warning", "Failed", 'Failed to pull image "app:1": manifest unknown'),
        ("Normal", "BackOff", 'Back-off pulling image "app:1"'),
    ]
    assert (
        node.said[-2][2]
        == 'Successfully pulled image "app:1" in 0s (0s including waiting). Image size: 10000000 bytes.'
    )
    assert node.last == 'Container image "app:1" already present on machine and can be accessed by the pod'


def test_a_wait_doubles_to_five_minutes_and_is_forgotten(node: Node) -> None:
    async def go() -> None:
        node.runtime.pull_errors["app:1"] = "no"
        waits = []
        for _ in range(7):
            assert await node.ensure() == "ErrImagePull"
            assert await node.ensure() == "ImagePullBackOff"
            waits.append(node.error.retry_at - node.clock.now())
            await node.clock.advance(waits[-1])
        assert waits == [10, 20, 40, 80, 160, 300, 300]
        node.images.release("u")
        assert await node.ensure() == "ErrImagePull"
        await node.ensure()
        assert node.error.retry_at - node.clock.now() == 10

    asyncio.run(go())


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        ("", "invalid reference format"),
        ("a b", "invalid reference format"),
        (":tag", "invalid reference format"),
        ("reg.io/Upper", "invalid reference format: repository name (Upper) must be lowercase"),
        ("UPPER:1", "invalid reference format: repository name (library/UPPER) must be lowercase"),
        ("a" * 64, f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings"),
        ("app@sha256:12", "invalid reference format"),
    ],
)
def test_names_that_are_none(node: Node, image: str, fault: str) -> None:
    assert asyncio.run(node.ensure(image=image)) == "InvalidImageName"
    assert node.said == [
        (
            "Warning",
            "InspectFailed",
            f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": {fault}',
        )
    ]
    assert node.error.message == node.last


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (
            "RegistryUnavailable: it is Sunday",
            "RegistryUnavailable",
            "image pull failed for a:1 because the registry is unavailable: it is Sunday",
        ),
        (
            "SignatureValidationFailed",
            "SignatureValidationFailed",
            "image pull failed for a:1 because the signature validation failed",
        ),
        ("failed to pull", "ErrImagePull", "failed to pull"),
    ],
)
def test_errors_that_have_names(error: str, reason: str, message: str) -> None:
    assert named("a:1", error) == (reason, message)


def test_every_credential_is_tried_until_one_works(node: Node) -> None:
    secrets = [
        pull_secret({"auths": {"docker.io": login(name)}}, name=name) for name in ("old", "older", "good", "late")
    ]

    async def go() -> None:
        node.runtime.users = frozenset({"good"})
        assert await node.ensure(None, *secrets) == "ok"
        assert node.runtime.asked == ["old", "older", "good"]
        node.runtime.users = frozenset()
        assert await node.ensure("Always", *secrets[:2]) == "ErrImagePull"
        assert node.error.message == "[old may not, older may not]"
        assert await node.ensure(image="other:1") == "ErrImagePull"
        assert node.error.message == "anonymous may not"

    asyncio.run(go())


@pytest.mark.parametrize(("options", "most"), [({"serialize": True}, 1), ({"parallel": 2}, 2), ({}, 5)])
def test_how_many_pull_at_once(tmp_path: Path, options: dict[str, Any], most: int) -> None:
    node = Node(tmp_path, **options)
    under_way = seen = 0

    async def slow(pull: Callable[..., Any], reference: str, auth: ImageAuth | None = None) -> Any:
        nonlocal under_way, seen
        under_way += 1
        seen = max(seen, under_way)
        await node.clock.sleep(1)
        under_way -= 1
        return await pull(reference, auth)

    async def go() -> None:
        pull = node.runtime.pull_image
        node.runtime.pull_image = lambda *args: slow(pull, *args)  # type: ignore[method-assign]
        tasks = [asyncio.ensure_future(node.ensure(image=f"app:{n}")) for n in range(5)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            await node.clock.advance(1)

    asyncio.run(go())
    assert seen == most
    if most == 1:
        assert "in 1s (5s including waiting)" in node.last


def test_pulls_beyond_the_rate_fail(tmp_path: Path) -> None:
    node = Node(tmp_path, rate=(1.0, 1))

    async def go() -> None:
        assert [await node.ensure("Always"), await node.ensure("Always")] == ["ok", "ErrImagePull"]
        assert node.error.message == "pull QPS exceeded"

    asyncio.run(go())


# ------------------------------------------------------------------------------------------------- who may have what

ONE, TWO = (pull_secret({"auths": {"docker.io": login(name)}}, name=name) for name in ("one", "two"))


def records(node: Node, kind: str = "pulled") -> list[dict[str, Any]]:
    return [msgspec.json.decode(path.read_bytes()) for path in sorted((node.root / "records" / kind).iterdir())]


def test_a_private_image_is_for_those_who_can_open_it(node: Node) -> None:
    node.runtime.users = frozenset({"one", "two"})

    async def go() -> None:
        assert await node.ensure(None, ONE) == "ok"
        assert await node.ensure() == "ErrImagePull"
        assert await node.ensure("Never", user="v") == "ErrImageNeverPull"
        assert node.last == (
            'Container image "app:1" is present with pull policy of Never but does not have the proper credentials to '
            "access the image"
        )
        assert await node.ensure("Never", ONE) == "ok"
        asked = len(node.runtime.asked)
        assert await node.ensure(None, ONE) == "ok"
        assert len(node.runtime.asked) == asked
        assert await node.ensure(None, TWO, user="w") == "ok"  # asks the registry, which lets it
        assert len(node.runtime.asked) == asked + 1
        assert await node.ensure("Never", TWO) == "ok"
        node.images = node.fresh()  # another life reads what the first wrote
        assert [await node.ensure("Never", one) for one in (ONE, TWO)] == ["ok", "ok"]
        assert await node.ensure("Never", image="app:1", user="v") == "ErrImageNeverPull"

    asyncio.run(go())
    (record,) = records(node)
    assert (record["kind"], record["apiVersion"]) == ("ImagePulledRecord", "kubelet.config.k8s.io/v1beta1")
    held = record["credentialMapping"]["docker.io/library/app"]["kubernetesSecrets"]
    assert [(one["namespace"], one["name"], one["uid"]) for one in held] == [
        ("n", "one", "uid-one"),
        ("n", "two", "uid-two"),
    ]
    assert "p" not in [one["credentialHash"] for one in held]
    assert records(node, "pulling") == []


def test_a_secret_is_known_by_its_name_and_by_what_it_holds(node: Node) -> None:
    renewed = pull_secret({"auths": {"docker.io": login("one", "new password")}}, name="one")
    copied = pull_secret({"auths": {"docker.io": login("one")}}, name="copy")

    async def go() -> None:
        assert await node.ensure(None, ONE) == "ok"
        node.runtime.users = frozenset()
        assert [await node.ensure("Never", one) for one in (renewed, copied)] == ["ok", "ErrImageNeverPull"]

    asyncio.run(go())
    (record,) = records(node)
    assert len(record["credentialMapping"]["docker.io/library/app"]["kubernetesSecrets"]) == 1  # as it is now
    assert asyncio.run(node.ensure("Never", renewed)) == "ok"


def test_a_copy_of_a_secret_is_let_in(node: Node) -> None:
    copied = pull_secret({"auths": {"docker.io": login("one")}}, name="copy")

    async def go() -> None:
        assert [await node.ensure(None, ONE), await node.ensure("Never", copied)] == ["ok", "ok"]

    asyncio.run(go())
    (record,) = records(node)
    assert len(record["credentialMapping"]["docker.io/library/app"]["kubernetesSecrets"]) == 2


def test_what_anyone_may_pull_is_anyones(node: Node) -> None:
    async def go() -> None:
        assert await node.ensure(None, ONE) == "ok"
        assert await node.ensure("Always") == "ok"
        assert await node.ensure("Never", user="other") == "ok"

    asyncio.run(go())
    (record,) = records(node)
    assert record["credentialMapping"] == {"docker.io/library/app": {"nodePodsAccessible": True}}


@pytest.mark.parametrize(
    ("policy", "allowlist", "preloaded", "pulled"),
    [
        ("NeverVerify", (), True, True),
        ("NeverVerifyPreloadedImages", (), True, False),
        ("NeverVerifyAllowlistedImages", (), False, False),
        ("NeverVerifyAllowlistedImages", ("docker.io/library/app",), True, True),
        ("NeverVerifyAllowlistedImages", ("docker.io/library/*",), True, True),
        ("NeverVerifyAllowlistedImages", ("docker.io/*", "reg.io/a"), True, True),
        ("AlwaysVerify", (), False, False),
    ],
)
def test_policies(tmp_path: Path, policy: Any, allowlist: Sequence[str], preloaded: bool, pulled: bool) -> None:
    """Whether a pod without credentials gets what is there: imported, or pulled for another."""
    node = Node(tmp_path, verification=Verification(policy, allowlist))

    async def go() -> None:
        node.runtime.add_image("app:1")
        assert await node.ensure("Never") == ("ok" if preloaded else "ErrImageNeverPull")
        assert await node.ensure("Always", ONE) == "ok"
        assert await node.ensure("Never") == ("ok" if pulled else "ErrImageNeverPull")

    asyncio.run(go())
    assert policy in POLICIES


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        (" a", "leading/trailing spaces are not allowed:  a"),
        ("", "the supplied pattern is too short: "),
        ("reg.io/*/a", "not a valid wildcard pattern, only patterns ending with '/*' are allowed: reg.io/*/a"),
        ("/*", "at least registry hostname is required"),
        ("reg.io/a:1", "neither tag nor digest is accepted in an image reference: reg.io/a:1"),
        (
            "reg.io/A",
            "failed to parse as an image name: invalid reference format: repository name (A) must be lowercase",
        ),
    ],
)
def test_allowlists_that_are_none(pattern: str, fault: str) -> None:
    with pytest.raises(ValueError) as raised:
        check_pattern(pattern)
    assert str(raised.value) == fault


def test_a_pull_that_a_crash_cut_off_is_nobodys(node: Node) -> None:
    async def go() -> None:
        images = node.fresh()
        images._records.open(())
        images._records.began("app:1")  # and the agent is gone; the runtime brings the pull to its end
        node.runtime._images["app:1"] = node.runtime.add_image("docker.io/library/app:1")
        node.runtime.users = frozenset({"one"})
        assert await node.ensure() == "ErrImagePull"
        assert await node.ensure(None, ONE, user="v") == "ok"

    asyncio.run(go())
    assert records(node, "pulling") == []


def test_records_of_images_that_are_gone_are_dropped(node: Node) -> None:
    async def go() -> None:
        assert [await node.ensure(image=f"app:{n}") for n in range(3)] == ["ok"] * 3
        since = node.clock.now() + 10
        kept = await node.runtime.image("app:1")
        assert kept is not None
        await node.images.forget(frozenset({kept.id}), since - 20)
        assert len(records(node)) == 3
        await node.images.forget(frozenset({kept.id}), since)
        assert [one["imageRef"] for one in records(node)] == [kept.id]

    asyncio.run(go())


def test_a_garbled_record_is_dropped(node: Node) -> None:
    asyncio.run(node.ensure(None, ONE))
    for path in (node.root / "records" / "pulled").iterdir():
        path.write_text("{")
    node.images = node.fresh()
    assert asyncio.run(node.ensure("Never")) == "ok"  # as if it had been there before
    assert records(node) == []
