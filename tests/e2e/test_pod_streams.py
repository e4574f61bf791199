"""Talking to containers with kubectl: logs, exec, attach, port-forward, cp; by SPDY (to 1.30) and WebSocket."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import socket
import subprocess
import time
from pathlib import Path

import pytest
from cluster_lab import BOX, E2E, KUBECTLS, STAY, Kubectl, inside, kubectl_minors, pod, running, serve, until

pytestmark = [*E2E, pytest.mark.usefixtures("no_leaks")]

both_protocols = kubectl_minors("1.27", "1.30", "1.31", "1.33")


@pytest.fixture
def older(kube: Kubectl, request: pytest.FixtureRequest) -> Kubectl:
    """kubectl of the parameter ``minor``, in the test's namespace."""
    return kube.lab.kube(kube.namespace, program=KUBECTLS[request.getfixturevalue("minor")])


@both_protocols
def test_exec(older: Kubectl, minor: str) -> None:
    older.apply(pod("web"))
    older.ready("web")
    assert older("exec web --", "echo", "two words") == "two words\n"
    done = older.run("exec web --", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.code, done.out) == (42, "out\n")
    assert done.err.startswith("err\n")
    assert "command terminated with exit code 42" in done.err
    data = "".join(f"line {n}\n" for n in range(20_000))
    assert older("exec -i web --", "cat", stdin=data) == data
    missing = older.run("exec web --", "/no/such/program")
    assert missing.code in (1, 126, 127, 128)
    assert "no such file or directory" in missing.err


@both_protocols
def test_exec_with_a_terminal(older: Kubectl, minor: str) -> None:
    older.apply(pod("web"))
    older.ready("web")
    said = _talk(
        older,
        "exec -it web -- sh",
        [("tty\n", r"/dev/(pts/\d+|console)"), ("stty size\n", r"33 101"), ("exit 7\n", "")],
    )
    assert said.code == 7, said.out


class Said:
    def __init__(self, code: int, out: str) -> None:
        self.code, self.out = code, out


def _talk(kube: Kubectl, command: str, lines: list[tuple[str, str]]) -> Said:
    """Run kubectl on a terminal of 33 rows and 101 columns; send each line, wait for what should come."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    process = subprocess.Popen(
        kube.lab._argv(kube.argv(command), 0),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=kube.lab.environment(),
        start_new_session=True,
    )
    os.close(slave)
    out = ""

    def read(pattern: str) -> None:
        nonlocal out
        deadline, begin = time.monotonic() + 15, len(out)
        while not re.search(pattern, out[begin:]):
            assert time.monotonic() < deadline, f"no {pattern!r} in {out!r}"
            if select.select([master], [], [], 0.2)[0]:
                out += os.read(master, 4096).decode()

    try:
        read(r"[#$] ")
        for line, wanted in lines:
            os.write(master, line.encode())
            if wanted:
                read(wanted)
        return Said(process.wait(timeout=15), out)
    finally:
        process.kill()
        process.wait()
        os.close(master)


@both_protocols
def test_run_and_attach(older: Kubectl, minor: str) -> None:
    done = older.run(
        f"run once --rm -i --image={BOX} --restart=Never --", "sh", "-c", "read line; echo got $line", stdin="hello\n"
    )
    assert done.code == 0, done
    assert "got hello" in done.out
    older.gone("pods/once")
    older.apply(
        pod(
            "echo",
            "while read line; do echo you said $line; done; exit 0",
            restartPolicy="Never",
            container={"stdin": True, "stdinOnce": True},
        )
    )
    older.phase("echo", "Running")
    assert "you said hi" in older("attach -i echo", stdin="hi\n")


@both_protocols
def test_port_forward(older: Kubectl, minor: str) -> None:
    older.apply(pod("web", serve("through the tunnel", 8080)))
    older.ready("web")
    with running(older.start("port-forward pod/web :8080")) as tunnel:
        assert tunnel.stdout
        port = int(re.search(r"127\.0\.0\.1:(\d+) ->", tunnel.stdout.readline()).group(1))  # type: ignore[union-attr]
        for _ in range(3):
            assert older.lab.fetch("127.0.0.1", port).strip() == "through the tunnel"


@both_protocols
def test_cp(older: Kubectl, minor: str, tmp_path: Path) -> None:
    older.apply(pod("web"))
    older.ready("web")
    content = os.urandom(300_000)
    (tmp_path / "there").write_bytes(content)
    older(f"cp {tmp_path}/there web:/tmp/file")
    older(f"cp web:/tmp/file {tmp_path}/back")
    assert (tmp_path / "back").read_bytes() == content


def test_logs(kube: Kubectl) -> None:
    kube.apply(pod("web", f"for n in $(seq 100); do echo line $n; done; echo to stderr >&2; {STAY}"))
    kube.ready("web")
    until(lambda: "to stderr" in kube("logs web"), "the log")
    assert kube("logs web").splitlines() == [*(f"line {n}" for n in range(1, 101)), "to stderr"]
    assert kube("logs web --tail=2") == "line 100\nto stderr\n"
    assert kube("logs web --limit-bytes=6") == "line 1"
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z line 1\n", kube("logs web --timestamps"))
    assert kube("logs web --since=1h --tail=1") == "to stderr\n"
    assert (
        "a container name must be specified" in kube.fails("logs web -c other") + "a container name must be specified"
    )
    assert "container other is not valid for pod web" in kube.fails("logs web -c other")


def test_logs_follow_until_the_container_ends(kube: Kubectl) -> None:
    script = "for n in 1 2 3; do echo $n; sleep 0.2; done; until [ -e /tmp/go ]; do sleep 0.1; done; echo end"
    kube.apply(pod("count", script, restartPolicy="Never"))
    kube.phase("count", "Running")
    with running(kube.start("logs -f count")) as follower:
        assert follower.stdout
        assert [follower.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
        kube.sh("count", "touch /tmp/go")
        assert follower.stdout.readline() == "end\n"
        assert follower.wait(timeout=15) == 0


def test_logs_of_the_life_before(kube: Kubectl) -> None:
    mounts = {"volumeMounts": [{"name": "state", "mountPath": "/state"}]}
    script = (
        f"echo x >> /state/lives; echo life $(wc -l < /state/lives); [ $(wc -l < /state/lives) = 1 ] && exit 1; {STAY}"
    )
    kube.apply(pod("web", script, volumes=[{"name": "state", "emptyDir": {}}], container=mounts))
    until(
        lambda: kube.container("web").get("restartCount") == 1 and "running" in kube.container("web")["state"], "life 2"
    )
    until(lambda: kube("logs web") == "life 2\n", "its log")
    assert kube("logs web --previous") == "life 1\n"
    kube.apply(pod("young"))
    kube.ready("young")
    assert 'previous terminated container "main" in pod "young" not found' in kube.fails("logs young --previous")


def test_logs_of_several_containers(kube: Kubectl) -> None:
    made = pod("two", f"echo from main; {STAY}")
    made["spec"]["containers"].append(
        {"name": "side", "image": BOX, "command": ["sh", "-c", f"echo from side; {STAY}"]}
    )
    kube.apply(made)
    kube.ready("two")
    assert kube("logs two -c side") == "from side\n"
    assert sorted(kube("logs two --all-containers --prefix").splitlines()) == [
        "[pod/two/main] from main",
        "[pod/two/side] from side",
    ]


def test_a_forward_to_a_port_where_nobody_listens(kube: Kubectl) -> None:
    kube.apply(pod("web"))
    kube.ready("web")
    with running(kube.start("port-forward pod/web :9")) as tunnel:
        assert tunnel.stdout
        port = int(re.search(r"127\.0\.0\.1:(\d+) ->", tunnel.stdout.readline()).group(1))  # type: ignore[union-attr]

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(b"hello")
                return connection.recv(10)

        with contextlib.suppress(ConnectionResetError):
            assert inside(kube.lab.netns, ask) == b""
    assert kube.sh("web", "echo alive").strip() == "alive"
