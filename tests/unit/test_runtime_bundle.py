"""What a container's config becomes for the OCI runtime."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kaa.runtime.base import ContainerConfig, Mount, Resources, RuntimeFailure, Security
from kaa.runtime.oci.bundle import DEFAULT_CAPABILITIES, DeviceNode, Facts, User, build_spec, command_line, resolve_user
from kaa.runtime.oci.containers import signal_number
from kaa.runtime.oci.images import ImageConfig
from kaa.runtime.oci.sandbox import pause_program
from kaa.runtime.oci.work import complaint

IMAGE = ImageConfig(env=("PATH=/bin", "A=image"), entrypoint=("/entry",), cmd=("arg",), working_dir="/work")
FACTS = Facts("/r", "/kaa/pod1/c1", {"mount": None, "network": "/ns/net", "pid": None}, User(), hostname="web")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n"
GROUP = "root:x:0:\nwww:x:34:\nstaff:x:50:web,other\nmore:x:51:web\n"


def config(**changes: object) -> ContainerConfig:
    return replace(ContainerConfig("c", "image"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (None, None, ("/entry", "arg")),
        (("/c",), None, ("/c",)),
        (None, ("a",), ("/entry", "a")),
        (("/c",), ("a",), ("/c", "a")),
        ((), (), ("/entry", "arg")),
    ],
    ids=["the image's", "command drops the image's arguments", "args keep the entrypoint", "both", "empty is none"],
)
def test_command_lines_merge(
    command: tuple[str, ...] | None, args: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    assert command_line(config(command=command, args=args), IMAGE) == expected


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(RuntimeFailure, match="no command specified"):
        command_line(config(), ImageConfig())


def test_the_environment_merges() -> None:
    process = build_spec(config(env=(("A", "mine"), ("B", "b")), tty=True), IMAGE, FACTS)["process"]
    assert process["env"] == ["HOSTNAME=web", "TERM=xterm", "PATH=/bin", "A=mine", "B=b", "HOME=/"]
    assert process["cwd"] == "/work"
    assert build_spec(config(working_dir="/w"), IMAGE, FACTS)["process"]["cwd"] == "/w"


@pytest.mark.parametrize(
    ("security", "image_user", "expected"),
    [
        (Security(), "", User(0, 0, (0,), "/root")),
        (Security(), "web", User(33, 34, (34, 50, 51), "/var/www")),
        (Security(), "33", User(33, 34, (34, 50, 51), "/var/www")),
        (Security(), "web:staff", User(33, 50, (50, 51), "/var/www")),
        (Security(), "999:888", User(999, 888, (888,), "/")),
        (Security(user=999), "web", User(999, 0, (0,), "/")),
        (Security(user=33, group=7, supplemental_groups=(9, 7)), "", User(33, 7, (7, 50, 51, 9), "/var/www")),
        (Security(username="web"), "", User(33, 34, (34, 50, 51), "/var/www")),
    ],
)
def test_users_are_looked_up_in_the_image(security: Security, image_user: str, expected: User) -> None:
    assert resolve_user(config(security=security), ImageConfig(user=image_user), PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    ("user", "passwd", "group", "expected"),
    [
        pytest.param(
            "1000", "1000:x:0:0::/:/bin/sh\n", "", User(1000, 0, (0,), "/"), id="root by the name of a number"
        ),
        pytest.param("7:1000", "", "1000:x:0:\n", User(7, 1000, (1000,), "/"), id="a group by the name of a number"),
        pytest.param("007", "a:x:7:8::/a:/bin/sh\n", "", User(7, 8, (8,), "/a"), id="zeros before a number"),
        pytest.param(
            "a",
            "a:x:b:0::/:/\na:x:-1:0::/:/\na:x:\u0663:0::/:/\na:x:5:6::/:/",
            "",
            User(5, 6, (6,), "/"),
            id="rows that are none",
        ),
        pytest.param(
            "a", f"a:x:{1 << 40}:0::/:/\na:x:1:2::/:/", "g:x:9z:a", User(1, 2, (2,), "/"), id="ids beyond all"
        ),
        pytest.param("a", "a:x:1:2::/:/\u2028a:x:0:0::/:/", "", User(1, 2, (2,), "/"), id="lines end at newlines only"),
    ],
)
def test_accounts_that_an_enemy_wrote(user: str, passwd: str, group: str, expected: User) -> None:
    assert resolve_user(config(), ImageConfig(user=user), passwd, group) == expected


@pytest.mark.parametrize("user", ["4294967295", "4294967296", "9" * 5000, "0:2147483648"])
def test_ids_that_are_none_are_refused(user: str) -> None:
    with pytest.raises(RuntimeFailure, match="uids and gids must be in range 0-2147483647"):
        resolve_user(config(), ImageConfig(user=user), PASSWD, GROUP)


@pytest.mark.parametrize("user", ["nobody-here", "web:nothing", "-1", "²", "0x0", "+0"])
def test_unknown_users_are_refused(user: str) -> None:
    with pytest.raises(RuntimeFailure, match="unable to find"):
        resolve_user(config(), ImageConfig(user=user), PASSWD, GROUP)


@pytest.mark.parametrize(
    ("security", "more", "less"),
    [
        (Security(), set(), set()),
        (Security(add_capabilities=("NET_ADMIN",), drop_capabilities=("CAP_KILL",)), {"NET_ADMIN"}, {"KILL"}),
        (
            Security(add_capabilities=("CHOWN",), drop_capabilities=("ALL",)),
            set(),
            set(DEFAULT_CAPABILITIES) - {"CHOWN"},
        ),
    ],
)
def test_capabilities(security: Security, more: set[str], less: set[str]) -> None:
    process = build_spec(config(security=security), IMAGE, FACTS)["process"]
    expected = {f"CAP_{name}" for name in (set(DEFAULT_CAPABILITIES) | more) - less}
    assert set(process["capabilities"]["bounding"]) == expected
    assert "ambient" not in process["capabilities"]


def test_privileged_has_everything_that_can_be_given() -> None:
    facts = replace(FACTS, capabilities=frozenset({"SYS_ADMIN", "CHOWN"}))
    spec = build_spec(config(security=Security(privileged=True, seccomp="runtime/default")), IMAGE, facts)
    assert spec["process"]["capabilities"]["effective"] == ["CAP_CHOWN", "CAP_SYS_ADMIN"]
    assert spec["linux"]["maskedPaths"] == spec["linux"]["readonlyPaths"] == []
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "seccomp" not in spec["linux"]
    (sys,) = (mount for mount in spec["mounts"] if mount["destination"] == "/sys")
    assert sys["options"][-1] == "rw"


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(RuntimeFailure, match="unknown capability CAP_FLY"):
        build_spec(config(security=Security(add_capabilities=("FLY",))), IMAGE, FACTS)


def test_mounts_stand_in_order_and_replace_ours() -> None:
    facts = replace(FACTS, mounts=(Mount("/s/hosts", "/etc/hosts"), Mount("/s/shm", "/dev/shm")))
    mounts = (
        Mount("/a/deep", "/data/deep/er"),
        Mount("/a", "/data", propagation="host_to_container"),
        Mount("/h", "/etc/hosts"),
    )
    spec = build_spec(config(mounts=mounts), IMAGE, facts)
    found = [(mount["destination"], mount["source"]) for mount in spec["mounts"]]
    assert found.index(("/data", "/a")) < found.index(("/data/deep/er", "/a/deep"))
    assert ("/etc/hosts", "/h") in found
    assert ("/etc/hosts", "/s/hosts") not in found
    assert spec["linux"]["rootfsPropagation"] == "rslave"
    (shm,) = (mount for mount in spec["mounts"] if mount["destination"] == "/dev/shm")
    assert shm["options"] == ["rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"]


def test_resources_devices_and_namespaces() -> None:
    resources = Resources(cpu_shares=2, cpu_quota_us=3, memory_limit_bytes=4, pids_limit=5, oom_score_adj=-999)
    device = DeviceNode("/dev/x", "c", 10, 229, permissions="rwx")
    facts = replace(FACTS, devices=(device,), lowest_oom_score_adj=0)
    spec = build_spec(config(resources=resources), IMAGE, facts)
    linux = spec["linux"]
    assert linux["resources"]["cpu"] == {"shares": 2, "quota": 3}
    assert (linux["resources"]["memory"], linux["resources"]["pids"]) == ({"limit": 4}, {"limit": 5})
    assert linux["resources"]["devices"][1] == {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    assert linux["namespaces"] == [{"type": "mount"}, {"type": "network", "path": "/ns/net"}, {"type": "pid"}]
    assert linux["cgroupsPath"] == "/kaa/pod1/c1"
    assert spec["process"]["oomScoreAdj"] == 0


def test_the_default_seccomp_profile_depends_on_capabilities() -> None:
    spec = build_spec(config(security=Security(seccomp="runtime/default")), IMAGE, FACTS)
    plain = spec["linux"]["seccomp"]
    assert plain["defaultAction"] == "SCMP_ACT_ERRNO"
    free = {
        name
        for rule in plain["syscalls"]
        for name in rule["names"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
    }
    assert {"read", "openat", "chroot"} <= free
    assert not {"mount", "unshare", "bpf", "clone", "socket"} & free
    admin = Security(seccomp="runtime/default", add_capabilities=("SYS_ADMIN",))
    rules = build_spec(config(security=admin), IMAGE, FACTS)["linux"]["seccomp"]["syscalls"]
    assert any("mount" in rule["names"] for rule in rules)


@pytest.mark.parametrize(
    "text",
    [
        b"exec failed: no",
        b'noise\ntime="2026-01-01" level=error msg="exec failed: no"\n',
        b"\x1b[31mERRO\x1b[0m[0000] exec failed: no \r\n",
        b"ERRO[0012] exec failed: no\n",
    ],
)
def test_complaints_lose_their_decoration(text: bytes) -> None:
    assert complaint(text) == "exec failed: no"


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGTERM", 15), ("TERM", 15), ("9", 9), ("sigquit", 3), ("SIGRTMIN+3", 37), ("nonsense", 15), ("0", 15)],
)
def test_signals_have_many_spellings(name: str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_pause_is_a_whole_program(machine: str) -> None:
    program = pause_program(machine)
    assert program[:4] == b"\x7fELF"
    assert len(program) % 8 == 0
    assert program[-32:] == (1).to_bytes(32, "little")  # {SIG_IGN, 0, 0, 0}
    with pytest.raises(RuntimeFailure, match="not supported on vax"):
        pause_program("vax")
