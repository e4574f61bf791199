"""One suite for every runtime: what the kubelet may rely on. A runtime joins by adding a factory to ``FACTORIES``."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import containerd_lab
import node_lab
import pytest
from cluster_lab import inside

from kaa.api.clock import SystemClock
from kaa.runtime.base import (
    ContainerConfig,
    ContainerState,
    Device,
    EventKind,
    Image,
    Mount,
    NotFoundError,
    Resources,
    Runtime,
    RuntimeEvent,
    RuntimeFailure,
    SandboxConfig,
    SandboxState,
    Streams,
)


@dataclass
class Subject:
    """A started runtime that holds the image ``busybox``. ``real``: commands do what they say.

    ``own_images`` are tags that the runtime needs for itself.
    """

    runtime: Runtime
    folder: Path
    real: bool
    own_images: frozenset[str] = frozenset()
    image_volumes: bool = True  #: containerd mounts images since 2.1


Factory = Callable[[Path], AbstractAsyncContextManager[Subject]]


@asynccontextmanager
async def oci(engine: str, folder: Path) -> AsyncIterator[Subject]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("conmon", engine))) or not os.access("/bin/busybox", os.X_OK):
        pytest.skip(f"needs root, conmon, {engine} and busybox-static")
    from kaa.runtime.oci.build import busybox_archive
    from kaa.runtime.oci.runtime import OciRuntime

    runtime = OciRuntime(folder / "root", folder / "run", SystemClock(), runtime_binary=engine)
    await runtime.start()
    await runtime.import_images(busybox_archive(folder / "busybox.tar"))
    try:
        yield Subject(runtime, folder, real=True)
    finally:
        for sandbox in await runtime.list_sandboxes():
            await runtime.remove_sandbox(sandbox.id)
        await runtime.close()
        assert node_lab.cgroups(node_lab.own_cgroup(folder / "run")) == set()
        assert str(folder) not in read("/proc/self/mounts")


#: The containerd of this module's tests, begun by the first of them.
_containerd: list[containerd_lab.Containerd] = []


@pytest.fixture(scope="module", autouse=True)
def containerd_ends() -> Iterator[None]:
    yield
    while _containerd:
        _containerd.pop().close()


def containerd() -> containerd_lab.Containerd:
    if not _containerd:
        if lacks := containerd_lab.missing():
            pytest.skip(f"containerd needs {lacks}")
        _containerd.append(containerd_lab.Containerd())
    return _containerd[0]


@asynccontextmanager
async def cri(folder: Path) -> AsyncIterator[Subject]:
    from kaa.runtime.cri.runtime import CriRuntime

    daemon = containerd()
    daemon.busybox()
    runtime = CriRuntime(daemon.endpoint, SystemClock(), owner="contract")
    await runtime.start()
    try:
        yield Subject(runtime, folder, real=True, own_images=frozenset({containerd_lab.PAUSE}), image_volumes=False)
    finally:
        for sandbox in await runtime.list_sandboxes():
            await runtime.remove_sandbox(sandbox.id)
        await runtime.close()


#: Add yours: {name: an async context manager that gives a Subject}.
FACTORIES: dict[str, Factory] = {"cri": cri, "crun": partial(oci, "crun"), "runc": partial(oci, "runc")}

NEED_ROOT = {"cri", "crun", "runc"}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.root] if name in NEED_ROOT else []) for name in sorted(FACTORIES)]
)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Subject], Awaitable[None]]], None]:
    """Runs a test's body on a runtime."""

    def runner(body: Callable[[Subject], Awaitable[None]]) -> None:
        async def main() -> None:
            async with FACTORIES[request.param](tmp_path) as subject:
                async with asyncio.timeout(60):
                    await body(subject)

        if request.param == "cri":
            inside(containerd().netns, lambda: asyncio.run(main()))  # where its streaming server listens
        else:
            asyncio.run(main())

    return runner


def sandbox_config(subject: Subject, **changes: object) -> SandboxConfig:
    settings: dict[str, object] = {"name": "web", "namespace": "default", "uid": "u1"}
    settings |= {"log_directory": str(subject.folder / "logs"), "labels": {"a": "b"}, "annotations": {"c": "d"}}
    return SandboxConfig(**{**settings, **changes})  # type: ignore[arg-type]


def container_config(script: str = "sleep 1000", **changes: object) -> ContainerConfig:
    settings: dict[str, object] = {"name": "c", "image": "busybox", "command": ("sh", "-c", script)}
    settings |= {"log_path": "c/0.log", "labels": {"e": "f"}}
    return ContainerConfig(**{**settings, **changes})  # type: ignore[arg-type]


async def exited(events: AsyncIterator[RuntimeEvent], container_id: str) -> None:
    async for event in events:
        if (event.kind, event.container_id) == (EventKind.STOPPED, container_id):
            return


async def images(subject: Subject) -> list[Image]:
    return [one for one in await subject.runtime.list_images() if not subject.own_images & {*one.repo_tags}]


def read(path: str) -> str:
    return Path(path).read_text()


@pytest.mark.parametrize("leaving", [False, True])
def test_a_sandbox_lives_and_ends(run: Callable[..., None], leaving: bool) -> None:
    async def body(subject: Subject) -> None:
        runtime = subject.runtime
        config = sandbox_config(subject)
        sandbox_id = await runtime.run_sandbox(config)
        assert await runtime.run_sandbox(config) == sandbox_id
        (found,) = await runtime.list_sandboxes()
        assert (found.id, found.name, found.namespace, found.uid) == (sandbox_id, "web", "default", "u1")
        assert await runtime.list_sandboxes(uid="u1") == [found]
        assert await runtime.list_sandboxes(uid="u2") == await runtime.list_sandboxes(uid="") == []
        assert (found.labels, found.annotations, found.state) == ({"a": "b"}, {"c": "d"}, SandboxState.READY)
        for _ in range(2):
            await runtime.stop_sandbox(sandbox_id, leaving=leaving)
        (found,) = await runtime.list_sandboxes()
        assert found.state is SandboxState.NOT_READY
        for _ in range(2):
            await runtime.remove_sandbox(sandbox_id)
        assert await runtime.list_sandboxes() == []

    run(body)


def test_a_container_lives_and_ends(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        runtime = subject.runtime
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        config = container_config()
        container_id = await runtime.create_container(sandbox_id, config)
        assert await runtime.create_container(sandbox_id, config) == container_id
        made = await runtime.container(container_id)
        assert (made.state, made.started_at, made.sandbox_id, made.name) == (ContainerState.CREATED, 0, sandbox_id, "c")
        for _ in range(2):
            await runtime.start_container(container_id)
        running = await runtime.container(container_id)
        assert running.state is ContainerState.RUNNING
        assert running.started_at >= running.created_at > 0
        assert running.labels == {"e": "f"}
        assert running.image_id.startswith("sha256:")
        assert [found.id for found in await runtime.list_containers(sandbox_id=sandbox_id)] == [container_id]
        assert await runtime.list_containers(sandbox_id="other") == []
        for _ in range(2):
            await runtime.stop_container(container_id, 0)
        ended = await runtime.container(container_id)
        assert (ended.state, ended.exit_code, ended.reason) == (ContainerState.EXITED, 137, "Error")
        assert ended.finished_at >= ended.started_at
        for _ in range(2):
            await runtime.remove_container(container_id)
        with pytest.raises(NotFoundError):
            await runtime.container(container_id)

    run(body)


@pytest.mark.parametrize("leaving", [False, True])
def test_removing_a_sandbox_takes_its_containers(run: Callable[..., None], leaving: bool) -> None:
    async def body(subject: Subject) -> None:
        runtime = subject.runtime
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        container_id = await runtime.create_container(sandbox_id, container_config())
        await runtime.start_container(container_id)
        await runtime.stop_sandbox(sandbox_id, leaving=leaving)
        assert (await runtime.container(container_id)).state is ContainerState.EXITED
        await runtime.remove_sandbox(sandbox_id)
        assert await runtime.list_containers() == []

    run(body)


def test_unknown_things_are_not_found(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        runtime = subject.runtime
        await runtime.stop_container("none", 1)
        await runtime.remove_container("none")
        await runtime.stop_sandbox("none")
        await runtime.remove_sandbox("none")
        assert await runtime.image("nothing:here") is None
        with pytest.raises(NotFoundError):
            await runtime.start_container("none")
        with pytest.raises(NotFoundError):
            await runtime.create_container("none", container_config())
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        with pytest.raises(NotFoundError):
            await runtime.create_container(sandbox_id, container_config(image="nothing:here"))

    run(body)


def test_events_tell_of_each_step(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        runtime, seen = subject.runtime, list[RuntimeEvent]()
        events = runtime.events()
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        container_id = await runtime.create_container(sandbox_id, container_config())
        await runtime.start_container(container_id)
        await runtime.stop_container(container_id, 0)
        await runtime.remove_container(container_id)
        async for event in events:
            if event.container_id:
                seen.append(event)
            if event.kind is EventKind.DELETED:
                break
        assert [event.kind for event in seen] == ["created", "started", "stopped", "deleted"]
        assert {(event.sandbox_id, event.container_id) for event in seen} == {(sandbox_id, container_id)}
        assert {event.uid for event in seen} <= {"", "u1"}, "the pod's, or nothing"

    run(body)


def test_exit_codes_logs_and_exec(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        if not subject.real:
            return
        runtime = subject.runtime
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        first = await runtime.create_container(sandbox_id, container_config("echo out; echo err >&2; exit 3"))
        events = runtime.events()
        await runtime.start_container(first)
        await exited(events, first)
        found = await runtime.container(first)
        assert (found.exit_code, found.reason) == (3, "Error")
        lines = [line.split(" ", 1)[1] for line in read(found.log_path).splitlines()]
        assert sorted(lines) == ["stderr F err", "stdout F out"]
        second = await runtime.create_container(sandbox_id, container_config(attempt=1))
        await runtime.start_container(second)
        result = await runtime.exec_sync(second, ("sh", "-c", "echo a; echo b >&2; exit 7"), 10)
        assert (result.exit_code, result.stdout, result.stderr) == (7, b"a\n", b"b\n")
        with pytest.raises(TimeoutError):
            await runtime.exec_sync(second, ("sleep", "100"), 0.2)
        with pytest.raises(RuntimeFailure, match="executable file not found"):
            await runtime.exec_sync(second, ("no-such-command",), 10)

    run(body)


async def collect(streams: Streams) -> dict[str, bytes]:
    found = {"stdout": b"", "stderr": b""}
    async for channel, data in streams.output():
        found[channel] += data
    return found


def test_exec_streams_carry_input_output_and_the_code(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        if not subject.real:
            return
        runtime = subject.runtime
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        container_id = await runtime.create_container(sandbox_id, container_config())
        await runtime.start_container(container_id)
        streams = await runtime.exec(container_id, ("sh", "-c", "cat; echo e >&2; exit 5"), stdin=True, tty=False)
        await streams.write(b"x" * 100_000)
        await streams.close_stdin()
        assert await collect(streams) == {"stdout": b"x" * 100_000, "stderr": b"e\n"}
        assert await streams.wait() == 5
        await streams.close()
        script = "until stty size | grep '30 90'; do sleep 0.01; done; read go; tty"
        terminal = await runtime.exec(container_id, ("sh", "-c", script), stdin=True, tty=True)
        await terminal.resize(90, 30)
        await terminal.write(b"go\n")
        said = (await collect(terminal))["stdout"]
        assert b"30 90" in said
        assert b"/dev/pts/" in said
        assert await terminal.wait() == 0
        await terminal.close()

    run(body)


async def collect_and_close(runtime: Runtime, sandbox_id: str, port: int) -> None:
    streams = await runtime.port_forward(sandbox_id, port)
    try:
        await collect(streams)
    finally:
        await streams.close()


def test_attach_and_port_forward(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        if not subject.real:
            return
        runtime = subject.runtime
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        listens = "until grep -q :1B9E /proc/net/tcp*; do sleep 0.05; done"  # port 7070
        script = f"nc -l -p 7070 -e cat & {listens}; while read line; do echo got $line; done"
        container_id = await runtime.create_container(sandbox_id, container_config(script, stdin=True))
        await runtime.start_container(container_id)
        attached = await runtime.attach(container_id, stdin=True, tty=False)
        await attached.write(b"hello\n")
        async for channel, data in attached.output():
            assert (channel, data) == ("stdout", b"got hello\n")
            break
        await attached.close()
        forwarded = await runtime.port_forward(sandbox_id, 7070)
        await forwarded.write(b"over the wire")
        async for channel, data in forwarded.output():
            assert (channel, data) == ("stdout", b"over the wire")
            break
        await forwarded.close()
        with pytest.raises(RuntimeFailure, match="refused"):
            await collect_and_close(runtime, sandbox_id, 7071)

    run(body)


def test_a_command_that_is_missing_fails_the_start(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        if not subject.real:
            return
        runtime = subject.runtime
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        container_id = await runtime.create_container(sandbox_id, container_config(command=("nope",)))
        with pytest.raises(RuntimeFailure, match="executable file not found"):
            await runtime.start_container(container_id)
        found = await runtime.container(container_id)
        assert (found.state, found.exit_code, found.reason) == (ContainerState.EXITED, 128, "StartError")

    run(body)


def test_usage_and_resources(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        runtime = subject.runtime
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        container_id = await runtime.create_container(sandbox_id, container_config())
        await runtime.start_container(container_id)
        given = Resources(cpu_shares=512, memory_limit_bytes=64 << 20)
        await runtime.update_resources(container_id, given)
        assert (await runtime.container(container_id)).resources == given
        (use,) = await runtime.usage()
        assert use.container_id == container_id
        assert use.memory_bytes >= 0
        assert min(await runtime.image_fs_bytes()) >= 0

    run(body)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU cannot be parted")
def test_cpus_and_memory_nodes_at_creation_and_while_it_runs(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        runtime = subject.runtime
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        given = Resources(cpu_shares=512, cpu_quota_us=-1, cpu_period_us=100_000, cpuset_cpus="1", cpuset_mems="0")
        container_id = await runtime.create_container(sandbox_id, container_config(resources=given))
        await runtime.start_container(container_id)
        for cpus in ("1", "0", "0-1"):
            given = replace(given, cpuset_cpus=cpus)
            await runtime.update_resources(container_id, given)
            assert (await runtime.container(container_id)).resources == given
            if subject.real:
                done = await runtime.exec_sync(container_id, ("grep", "allowed_list", "/proc/1/status"), 5)
                assert [line.split()[1] for line in done.stdout.decode().splitlines()] == [cpus, "0"]

    run(body)


def test_devices_as_far_as_their_permissions_go(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        if not subject.real:
            return
        runtime, control = subject.runtime, "/dev/loop-control"  # containers do not have it by themselves
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        made = await runtime.create_container(
            sandbox_id, container_config(devices=(Device(control, "/dev/mine", "r"),))
        )
        await runtime.start_container(made)
        result = await runtime.exec_sync(made, ("sh", "-c", ": < /dev/mine && echo read; : > /dev/mine"), 10)
        assert result.stdout == b"read\n"
        assert b"not permitted" in result.stderr
        absent = container_config(name="other", devices=(Device("/dev/none", "/dev/x"),))
        with pytest.raises(RuntimeFailure):
            await runtime.create_container(sandbox_id, absent)

    run(body)


def test_images_are_listed_and_removed(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        runtime = subject.runtime
        (image,) = await images(subject)
        assert not image.pinned
        pinned = {tag for one in await runtime.list_images() if one.pinned for tag in one.repo_tags}
        assert pinned == subject.own_images
        assert image.repo_tags == ("docker.io/library/busybox:latest",)
        for name in ("busybox", "busybox:latest", "docker.io/library/busybox", image.id, image.repo_digests[0]):
            found = await runtime.image(name)
            assert found is not None, name
            assert found.id == image.id
        for _ in range(2):
            await runtime.remove_image(image.id)
        assert await images(subject) == []

    run(body)


def test_an_image_is_mounted(run: Callable[..., None]) -> None:
    async def body(subject: Subject) -> None:
        runtime = subject.runtime
        image = await runtime.image("busybox")
        assert image is not None
        sandbox_id = await runtime.run_sandbox(sandbox_config(subject))
        mounts = (
            Mount("", "/data", read_only=True, image=image.id),
            Mount("", "/part", image=image.id, image_sub_path="bin"),
        )
        if not subject.image_volumes:
            with pytest.raises(RuntimeFailure, match="failed to generate spec"):
                await runtime.start_container(
                    await runtime.create_container(sandbox_id, container_config(mounts=mounts))
                )
            return
        container_id = await runtime.create_container(sandbox_id, container_config(mounts=mounts))
        await runtime.start_container(container_id)
        script = "test -s /data/bin/busybox && test -s /part/busybox && ! touch /data/x /part/x && ! /part/busybox true"
        assert (await runtime.exec_sync(container_id, ("sh", "-c", script), 5)).exit_code == 0
        assert (await runtime.container(container_id)).volume_images == (image.id,)
        none = container_config(name="none", mounts=(Mount("", "/data", image="sha256:" + "0" * 64),))
        with pytest.raises(RuntimeFailure, match=r"^ImageVolumeMountFailed: "):
            await runtime.create_container(sandbox_id, none)
        await runtime.remove_image(image.id)
        assert (await runtime.exec_sync(container_id, ("ls", "/data/bin/busybox"), 5)).exit_code == 0

    run(body)
