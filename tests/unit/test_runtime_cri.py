"""The CRI runtime's pure parts: messages on the wire, the contract's values as messages, states as events."""

from __future__ import annotations

import pytest

from kaa.api.protobuf_structs import Message
from kaa.api.protobuf_values import Malformed
from kaa.runtime.base import (
    DNS,
    ContainerConfig,
    ContainerState,
    EventKind,
    HandlerFeatures,
    IdMap,
    Image,
    Mount,
    Namespaces,
    PortMapping,
    Resources,
    RuntimeFailure,
    SandboxConfig,
    Security,
)
from kaa.runtime.cri import convert
from kaa.runtime.cri import messages as cri
from kaa.runtime.cri.events import CREATED, ENDED, GONE, RUNNING, Key, Tracker
from kaa.runtime.cri.streams import exit_code

IMAGE = Image("sha256:aa", (), (), 1, user="nobody:nogroup")


@pytest.mark.parametrize(
    ("message", "data"),
    [
        pytest.param(cri.Id("abc"), b"\x0a\x03abc", id="text"),
        pytest.param(cri.StopContainerRequest("c", 300), b"\x0a\x01c\x10\xac\x02", id="number"),
        pytest.param(cri.LinuxContainerResources(cpu_quota=-1), b"\x10" + b"\xff" * 9 + b"\x01", id="negative"),
        pytest.param(cri.PortForwardRequest("s", (80, 443)), b"\x0a\x01s\x12\x03\x50\xbb\x03", id="packed"),
        pytest.param(cri.PodSandboxFilter(label_selector={"a": ""}), b"\x1a\x05\x0a\x01a\x12\x00", id="map"),
        pytest.param(cri.ExecRequest("c", ("ls", ""), tty=True), b"\x0a\x01c\x12\x02ls\x12\x00\x18\x01", id="list"),
        pytest.param(cri.Image(uid=cri.Number(0)), b"\x2a\x00", id="a zero that is there"),
        pytest.param(cri.Image(), b"", id="nothing"),
        pytest.param(cri.ExecSyncResponse(b"\xff"), b"\x0a\x01\xff", id="bytes"),
    ],
)
def test_messages_on_the_wire(message: Message, data: bytes) -> None:
    assert message.encode() == data
    assert type(message).decode(data) == message


def test_unknown_fields_are_passed_over() -> None:
    data = cri.ContainerConfig(stdin=True, working_dir="/w").encode() + b"\xfa\x01\x02hi" + b"\xf8\x02\x07"
    assert cri.ContainerConfig.decode(data) == cri.ContainerConfig(stdin=True, working_dir="/w")


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x0a", b"\x0d\x00\x00\x00\x00"])
def test_broken_messages_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        cri.Id.decode(data)


def test_unpacked_numbers_are_read_too() -> None:
    assert cri.PortForwardRequest.decode(b"\x10\x50\x10\x51") == cri.PortForwardRequest(port=(80, 81))


def test_a_sandbox_gives_its_config_back() -> None:
    config = SandboxConfig(
        name="web",
        namespace="default",
        uid="u",
        attempt=2,
        log_directory="/logs",
        dns=DNS(("10.96.0.10",), ("a.b",), ("ndots:5",)),
        ports=(PortMapping(80, 8080, "UDP", "1.2.3.4"),),
        namespaces=Namespaces(pid="pod"),
        sysctls={"a": "b"},
        cgroup_parent="/kaa/podu",
        privileged=True,
        labels={"app": "web"},
        annotations={"x": "y"},
    )
    made = convert.sandbox_message(config, "me")
    assert (made.hostname, made.labels) == ("web", {"app": "web", "kaa.dev/owner": "me", "kaa.dev/uid": "u"})
    row = cri.PodSandbox("id", made.metadata or cri.PodSandboxMetadata(), 0, 5 * 10**9, made.labels, made.annotations)
    assert convert.sandbox_config(row) == config
    shown = convert.sandbox(row, ("10.0.0.2",))
    assert (shown.labels, shown.annotations, shown.created_at) == ({"app": "web"}, {"x": "y"}, 5.0)
    foreign = convert.sandbox_config(cri.PodSandbox("id", cri.PodSandboxMetadata("n", "u", "ns", 1), labels={"l": "m"}))
    assert foreign == SandboxConfig("n", "ns", "u", 1, labels={"l": "m"})


def test_a_container_as_it_is_asked_for() -> None:
    config = ContainerConfig(
        name="c",
        image="sha256:aa",
        command=("sh",),
        mounts=(Mount("/h", "/c", read_only=True, propagation="bidirectional"),),
        resources=Resources(memory_limit_bytes=5, hugepage_limits={"2Mi": 7}),
        security=Security(group=5, seccomp="/p.json", apparmor="localhost/x", selinux_label="u:r:t:s0:c1"),
        stop_signal="SIGRTMIN+3",
        pid_target="other",
        labels={"a": "b"},
    )
    made = convert.container_message(config, IMAGE, Namespaces(ipc="node"), "me")
    assert made.linux is not None
    limits, confined = made.linux.resources, made.linux.security_context
    assert limits is not None
    assert confined is not None
    assert limits.hugepage_limits == (cri.HugepageLimit("2MB", 7),)
    assert confined.namespace_options == cri.NamespaceOption(cri.POD, cri.TARGET, cri.NODE, "other")
    assert (confined.run_as_username, confined.run_as_user, confined.run_as_group) == ("nobody", None, cri.Number(5))
    assert confined.seccomp == cri.SecurityProfile(cri.LOCALHOST, "/p.json")
    assert confined.apparmor == cri.SecurityProfile(cri.LOCALHOST, "x")
    assert confined.selinux_options == cri.SELinuxOption("u", "r", "t", "s0:c1")
    assert "/proc/kcore" in confined.masked_paths
    assert made.mounts == (cri.Mount("/c", "/h", readonly=True, propagation=2),)
    assert (made.stop_signal, made.labels) == (38, {"a": "b", "kaa.dev/owner": "me"})


def test_users_and_groups_as_they_are_asked_for() -> None:
    users = (IdMap(0, 65536, 65536),)
    maps = (cri.IdMapping(host_id=65536, container_id=0, length=65536),)
    sandbox = convert.sandbox_message(SandboxConfig("web", "d", "u", namespaces=Namespaces(users=users)), "me")
    assert sandbox.linux is not None
    assert sandbox.linux.security_context is not None
    assert sandbox.linux.security_context.namespace_options is not None
    assert sandbox.linux.security_context.namespace_options.userns_options == cri.UserNamespace(cri.POD, maps, maps)
    config = ContainerConfig("c", "i", mounts=(Mount("/h", "/c"),), security=Security(strict_groups=True))
    made = convert.container_message(config, IMAGE, Namespaces(users=users), "")
    assert made.linux is not None
    assert made.linux.security_context is not None
    assert made.linux.security_context.supplemental_groups_policy == cri.STRICT
    assert made.mounts == (cri.Mount("/c", "/h", uid_mappings=maps, gid_mappings=maps),)
    plain = convert.namespace_options(Namespaces())
    assert plain.userns_options is None


def test_what_handlers_can_is_read() -> None:
    handler = cri.RuntimeHandler("runc", cri.RuntimeHandlerFeatures(recursive_read_only_mounts=True))
    answer = cri.StatusResponse(runtime_handlers=(handler,), features=cri.RuntimeFeatures(True))
    read = cri.StatusResponse.decode(answer.encode())
    assert convert.features(read.runtime_handlers) == {"runc": HandlerFeatures(recursive_read_only=True)}
    assert read.features.supplemental_groups_policy


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGTERM", 23), ("KILL", 13), ("SIGWINCH", 32), ("SIGRTMIN", 35), ("SIGRTMAX-14", 51), ("SIGRTMAX", 65), ("", 0)],
)
def test_stop_signals_have_the_cris_numbers(name: str, number: int) -> None:
    assert convert.signal_number(name) == number


@pytest.mark.parametrize(
    ("image_user", "user", "username"),
    [("", cri.Number(0), ""), ("7:8", cri.Number(7), ""), ("web", None, "web")],
    ids=["root", "number", "name"],
)
def test_a_group_comes_with_the_images_user(image_user: str, user: cri.Number | None, username: str) -> None:
    image = Image("sha256:aa", (), (), 1, user=image_user)
    made = convert.container_message(ContainerConfig("c", "i", security=Security(group=5)), image, Namespaces(), "")
    assert made.linux is not None
    assert made.linux.security_context is not None
    assert (made.linux.security_context.run_as_user, made.linux.security_context.run_as_username) == (user, username)


def test_a_container_as_it_is_told() -> None:
    row = cri.Container(
        "c", "s", cri.ContainerMetadata("main", 1), cri.ImageSpec("box"), labels={"kaa.dev/owner": "me"}
    )
    told = cri.ContainerResources(cri.LinuxContainerResources(cpu_shares=512))
    ended = cri.ContainerStatus("c", state=cri.EXITED, exit_code=3, finished_at=2 * 10**9, resources=told)
    found = convert.container(row, ended, "sha256:aa", None)
    assert (found.state, found.exit_code, found.reason, found.finished_at) == (ContainerState.EXITED, 3, "Error", 2.0)
    assert (found.resources, found.labels, found.image_ref) == (Resources(cpu_shares=512), {}, "sha256:aa")
    assert convert.container(row, cri.ContainerStatus(state=cri.EXITED), "", None).reason == "Completed"
    assert convert.container(row, cri.ContainerStatus(state=9), "", None).state is ContainerState.UNKNOWN


BOX, OTHER, SANDBOX = Key("s", "c"), Key("s", "d"), Key("s")


def test_events_are_told_once_and_in_order() -> None:
    tracker = Tracker()
    tracker.begin()
    assert list(tracker.relisted({SANDBOX: RUNNING, OTHER: RUNNING})) == []  # it was there before us
    assert tracker.saw(BOX, CREATED) == (EventKind.CREATED,)
    tracker.begin()
    assert list(tracker.relisted({SANDBOX: RUNNING, OTHER: RUNNING, BOX: ENDED})) == [
        (BOX, EventKind.STARTED),
        (BOX, EventKind.STOPPED),
    ]
    assert tracker.saw(BOX, ENDED) == ()
    assert tracker.saw(BOX, GONE) == (EventKind.DELETED,)
    assert tracker.saw(BOX, GONE) == ()
    tracker.begin()
    assert list(tracker.relisted({SANDBOX: ENDED})) == [(SANDBOX, EventKind.STOPPED), (OTHER, EventKind.STOPPED), (OTHER, EventKind.DELETED)]  # fmt: skip


def test_a_list_that_is_older_than_a_verb_says_nothing_of_what_it_touched() -> None:
    tracker = Tracker()
    tracker.begin()
    list(tracker.relisted({SANDBOX: RUNNING, OTHER: RUNNING}))
    tracker.begin()
    tracker.saw(BOX, CREATED)
    tracker.saw(OTHER, GONE)
    assert list(tracker.relisted({SANDBOX: RUNNING, OTHER: RUNNING})) == []
    assert tracker.sandbox_of("c") == "s"
    assert tracker.sandbox_of("d") == ""


def test_exit_codes_of_the_error_stream() -> None:
    assert exit_code(b"") == exit_code(b'{"status":"Success"}') == 0
    failed = (
        b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}'
    )
    assert exit_code(failed) == 42
    with pytest.raises(RuntimeFailure, match="no such thing"):
        exit_code(b'{"status":"Failure","message":"no such thing"}')
    with pytest.raises(RuntimeFailure, match="plain words"):
        exit_code(b"plain words")
