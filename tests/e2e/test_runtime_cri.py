"""The CRI runtime on containerd: what the contract does not ask of the others."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import containerd_lab
import msgspec
import pytest
from aiohttp import web
from cluster_lab import inside
from registry_lab import Registry

from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import Pod, PodSpec, Secret
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.runtime.base import (
    ContainerConfig,
    ContainerState,
    EventKind,
    ImagePullError,
    Namespaces,
    RuntimeFailure,
    SandboxConfig,
    SandboxState,
    Security,
)
from kaa.runtime.cri.runtime import CriRuntime
from kaa.runtime.oci.build import busybox_archive

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(containerd_lab.missing()), reason=f"containerd needs {containerd_lab.missing()}"),
]
Body = Callable[[CriRuntime], Awaitable[None]]


@pytest.fixture(scope="module")
def daemon() -> Iterator[containerd_lab.Containerd]:
    made = containerd_lab.Containerd()
    try:
        made.busybox()
        yield made
    finally:
        made.close()


@pytest.fixture
def run(daemon: containerd_lab.Containerd) -> Callable[[Body], None]:
    """Runs a test's body on a runtime of owner ``us``, in containerd's network."""

    async def main(body: Body) -> None:
        runtime = CriRuntime(daemon.endpoint, SystemClock(), owner="us")
        await runtime.start()
        try:
            async with asyncio.timeout(60):
                await body(runtime)
        finally:
            for sandbox in await runtime.list_sandboxes():
                await runtime.remove_sandbox(sandbox.id)
            await runtime.close()

    return lambda body: inside(daemon.netns, lambda: asyncio.run(main(body)))


def config(script: str = "sleep 1000", **changes: object) -> ContainerConfig:
    settings: dict[str, object] = {"name": "c", "image": "busybox", "command": ("sh", "-c", script)}
    return ContainerConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_another_process_goes_on_where_the_first_ended(
    run: Callable[[Body], None], daemon: containerd_lab.Containerd, tmp_path: Path
) -> None:
    async def body(first: CriRuntime) -> None:
        shape = SandboxConfig("web", "default", "u1", log_directory=str(tmp_path), namespaces=Namespaces(pid="pod"))
        sandbox_id = await first.run_sandbox(shape)
        second = CriRuntime(daemon.endpoint, SystemClock(), owner="us")
        await second.start()
        try:
            container_id = await second.create_container(
                sandbox_id, config("echo said; sleep 1000", log_path="c/0.log")
            )
            await second.start_container(container_id)
            (sandbox,) = await second.list_sandboxes()
            assert sandbox.ips[0].startswith("10.199.0.")
            (found,) = await first.list_containers()
            assert found.log_path == str(tmp_path / "c/0.log")
            seen = await second.exec_sync(container_id, ("ps", "-o", "comm"), 10)
            assert seen.stdout.split().count(b"sleep") == 2, seen  # the sandbox's own process is in its pid namespace
            assert (await second.container(container_id)).pid > 1
        finally:
            await second.close()

    run(body)


def test_what_others_run_is_not_ours(run: Callable[[Body], None], daemon: containerd_lab.Containerd) -> None:
    async def body(runtime: CriRuntime) -> None:
        other = CriRuntime(daemon.endpoint, SystemClock(), owner="them")
        await other.start()
        try:
            theirs = await other.run_sandbox(SandboxConfig("web", "default", "u1"))
            container_id = await other.create_container(theirs, config())
            await other.start_container(container_id)
            assert await runtime.list_sandboxes() == []
            assert await runtime.list_containers() == []
            assert await runtime.usage() == []
            assert [one.container_id for one in await other.usage()] == [container_id]
            pinned = {one.repo_tags: one.pinned for one in await runtime.list_images()}
            assert pinned == {(containerd_lab.BUSYBOX,): True, (containerd_lab.PAUSE,): True}
            assert [one.repo_tags for one in await other.list_images() if one.pinned] == [(containerd_lab.PAUSE,)]
            await other.remove_sandbox(theirs)
        finally:
            await other.close()

    run(body)


def test_containers_and_runtime_survive_a_crash_of_containerd(
    run: Callable[[Body], None], daemon: containerd_lab.Containerd
) -> None:
    async def body(runtime: CriRuntime) -> None:
        sandbox_id = await runtime.run_sandbox(SandboxConfig("web", "default", "u1"))
        container_id = await runtime.create_container(sandbox_id, config("sleep 2; exit 4"))
        await runtime.start_container(container_id)
        events = runtime.events()
        await asyncio.to_thread(daemon.restart)
        async for event in events:
            if (event.kind, event.container_id) == (EventKind.STOPPED, container_id):
                break
        found = await runtime.container(container_id)
        assert (found.state, found.exit_code) == (ContainerState.EXITED, 4)
        (sandbox,) = await runtime.list_sandboxes()
        assert sandbox.state is SandboxState.READY

    run(body)


def test_containers_are_confined_as_asked(run: Callable[[Body], None]) -> None:
    async def body(runtime: CriRuntime) -> None:
        sandbox_id = await runtime.run_sandbox(SandboxConfig("web", "default", "u1", privileged=True))

        async def said(name: str, security: Security, script: str) -> str:
            container_id = await runtime.create_container(sandbox_id, config(name=name, security=security))
            await runtime.start_container(container_id)
            return (await runtime.exec_sync(container_id, ("sh", "-c", script), 10)).stdout.decode().strip()

        user = Security(user=7, group=8, supplemental_groups=(9,), read_only_root=True)
        who, groups, touched = (await said("user", user, "id -u; id -G; touch /x 2>&1")).splitlines()
        assert (who, sorted(groups.split())) == ("7", ["8", "9"])
        assert "Read-only file system" in touched
        capabilities = "grep CapEff /proc/self/status | cut -f2"
        plain = int(await said("plain", Security(drop_capabilities=("ALL",)), capabilities), 16)
        every = int(await said("all", Security(privileged=True), capabilities), 16)
        assert plain == 0
        assert every > 1 << 30

    run(body)


def test_an_endpoint_where_nobody_answers(tmp_path: Path) -> None:
    async def body() -> None:
        runtime = CriRuntime(f"unix://{tmp_path}/none.sock", SystemClock())
        try:
            with pytest.raises(RuntimeFailure, match="does not answer"):
                await runtime.start()
        finally:
            await runtime.close()

    asyncio.run(body())


@pytest.mark.skipif(not shutil.which("docker-registry") or not shutil.which("skopeo"), reason="needs a registry")
def test_images_are_pulled(run: Callable[[Body], None], daemon: containerd_lab.Containerd, tmp_path: Path) -> None:
    enter = ["nsenter", f"--net={daemon.netns}"]
    settings = tmp_path / "registry.yml"
    settings.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/blobs}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n"
    )
    registry = subprocess.Popen(
        [*enter, "docker-registry", "serve", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        archive = busybox_archive(tmp_path / "app.tar", ("127.0.0.1:5000/app:1",), user="33:33")
        copy = [*enter, "skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false"]
        deadline = time.monotonic() + 15
        while subprocess.run(
            [*copy, f"oci-archive:{archive}", "docker://127.0.0.1:5000/app:1"], capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)

        async def body(runtime: CriRuntime) -> None:
            image = await runtime.pull_image("127.0.0.1:5000/app:1")
            assert image.repo_tags == ("127.0.0.1:5000/app:1",)
            assert image.repo_digests[0].startswith("127.0.0.1:5000/app@sha256:")
            assert image.user == "33"
            assert await runtime.image("127.0.0.1:5000/app:1") == image
            with pytest.raises(ImagePullError, match="not found"):
                await runtime.pull_image("127.0.0.1:5000/app:2")
            assert runtime.pull_progress("127.0.0.1:5000/app:2") is None
            await runtime.remove_image(image.id)
            assert await runtime.image(image.id) is None

        run(body)
    finally:
        registry.terminate()
        registry.wait(10)


def test_images_come_with_credentials_and_without(run: Callable[[Body], None], tmp_path: Path) -> None:
    """Through the kubelet's own image manager: no credentials must be none, and a refusal is containerd's own words."""
    from kaa.kubelet.images import ImageError, Images

    registry = Registry()
    registry.load(busybox_archive(tmp_path / "box.tar", ["x.io/a:1"]))
    pod = Pod(metadata=ObjectMeta(name="p", namespace="n", uid="u"), spec=PodSpec(containers=()))
    said: list[tuple[str, str, str]] = []

    async def body(runtime: CriRuntime) -> None:
        runner = web.ServerRunner(web.Server(registry.answer), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        registry.port = runner.addresses[0][1]
        place = f"127.0.0.1:{registry.port}"
        auths = json.dumps({"auths": {place: {"username": "me", "password": "pw"}}}).encode()
        meta = ObjectMeta(name="s", namespace="n", uid="s-uid")
        secret = Secret(metadata=meta, data={".dockerconfigjson": base64.b64encode(auths).decode()})
        images = Images(runtime, SystemClock(), tmp_path / "records")

        async def pull(name: str, *secrets: Secret) -> str:
            image = f"{place}/{name}:1"
            return (await images.ensure(image, "Always", secrets, pod=pod, say=lambda *words: said.append(words))).id

        try:
            first = await pull("open/box")
            registry.basic = f"Basic {base64.b64encode(b'me:pw').decode()}"
            with pytest.raises(ImageError) as refused:
                await pull("closed/box")
            assert refused.value.reason == "ErrImagePull"
            whole = f"{place}/closed/box:1"
            resolving = f'failed to pull and unpack image "{whole}": failed to resolve reference "{whole}": '
            assert refused.value.message.startswith(resolving)
            pod_of_another = msgspec.structs.replace(pod, metadata=ObjectMeta(name="q", namespace="n", uid="v"))
            image = await images.ensure(whole, "Always", (secret,), pod=pod_of_another, say=lambda *words: None)
            assert image.id == first
        finally:
            await runtime.remove_image(first)
            await runner.cleanup()

    run(body)
