"""Whole clusters for tests: each lab is a machine of its own, and looks behind itself when it closes.

A lab is a network namespace with loopback and one address, a folder for clusters, and a kubeconfig. ``kaa`` and
``kubectl`` run inside it as a person would run them; ``Api`` speaks raw HTTPS with the server; ``close`` resets what
stands and asserts that no process, mount, link, rule, cgroup or file of the lab is left.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import pytest

T = TypeVar("T")
Popen = TypeVar("Popen", subprocess.Popen[str], subprocess.Popen[bytes])
REPO = Path(__file__).resolve().parent.parent
ADDRESS = "192.168.77.2"
#: The image of the tests: busybox, under a tag that is not ``latest``, so that it is not asked for at a registry.
BOX = "docker.io/kaa/box:1"
NOBODY = 65534
CLONE_NEWNET = 0x40000000
#: Programs that drive or make containers; without them there is nothing to test.
NEEDED = ("kubectl", "runc", "conmon", "nft", "ip", "nsenter", "setpriv", "busybox")

_absent = [program for program in NEEDED if not shutil.which(program)]
E2E = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers, namespaces"),
    pytest.mark.skipif(bool(_absent), reason=f"not installed: {', '.join(_absent)}"),
]


def _installed() -> dict[str, str]:
    """{minor: program} of every kubectl on this machine that carries its version in its name."""
    plain = shutil.which("kubectl")
    if not plain:
        return {}
    return {path.name.split(".", 1)[1]: str(path) for path in sorted(Path(plain).resolve().parent.glob("kubectl.1.*"))}


KUBECTLS = _installed()
#: The newest kubectl: a program that picks another by the server's version would only cost time.
KUBECTL = KUBECTLS[max(KUBECTLS)] if KUBECTLS else "kubectl"


def kubectl_minors(*minors: str) -> Any:
    """Parametrize ``minor`` over kubectl's versions; one that is not installed is skipped by name."""
    return pytest.mark.parametrize(
        "minor",
        [
            pytest.param(m, marks=[] if m in KUBECTLS else pytest.mark.skip(reason=f"kubectl {m} is not installed"))
            for m in minors
        ],
    )


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    command: str
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"$ {self.command}\n[exit {self.code}]\n{self.out}{self.err}"


@dataclass(frozen=True)
class Answer:
    """What the API server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)


def until(check: Callable[[], T], what: str, timeout_s: float = 30, every_s: float = 0.05) -> T:
    """The first true answer of ``check``; an AssertionError with its last answer when time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        last = check()
        if last:
            return last
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}; last: {last!r}"
        time.sleep(every_s)


def inside(namespace: Path, function: Callable[[], T]) -> T:
    """The answer of ``function``, run by a thread of its own in a network namespace."""
    outcome: list[Any] = []

    def enter() -> None:
        descriptor = os.open(namespace, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            outcome.append((function(), None))
        except BaseException as err:
            outcome.append((None, err))
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


class _Connection(http.client.HTTPSConnection):
    """HTTPS whose socket is born in the lab's namespace."""

    def __init__(self, lab: Lab, port: int, context: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__("127.0.0.1", port, context=context, timeout=timeout_s)
        self.lab, self.tls = lab, context

    def connect(self) -> None:
        plain = self.lab.connect("127.0.0.1", self.port, self.timeout or 30)
        self.sock = self.tls.wrap_socket(plain, server_hostname="127.0.0.1")


class Api:
    """Raw requests to the API server of a cluster; ``who`` names the certificate that asks, none is anonymous."""

    def __init__(self, lab: Lab, name: str, who: str = "admin") -> None:
        self.lab, self.name, self.who = lab, name, who

    @contextmanager
    def connection(self, timeout_s: float = 20) -> Iterator[_Connection]:
        root = self.lab.home / self.name
        context = ssl.create_default_context(cafile=str(root / "pki/ca.crt"))
        if self.who:
            context.load_cert_chain(root / f"pki/{self.who}.crt", root / f"pki/{self.who}.key")
        port = json.loads((root / "config.json").read_bytes())["api_port"]
        connection = _Connection(self.lab, port, context, timeout_s)
        try:
            yield connection
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own. ``body``: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Accept": "application/json", "Content-Type": "application/json"}
        sent.update({key.replace("_", "-").title(): value for key, value in headers.items()})
        with self.connection() as connection:
            connection.request(method, path, body=data, headers=sent)
            answer = connection.getresponse()
            received: dict[str, str] = {}
            for key, value in answer.getheaders():  # Warning comes more than once
                received[key] = f"{received[key]}, {value}" if key in received else value
            return Answer(answer.status, received, answer.read())

    def get(self, path: str) -> Any:
        """The object at a path; None when there is none."""
        answer = self.ask("GET", path)
        if answer.status == 404:
            return None
        assert answer.status == 200, answer
        return answer.value

    def post(self, path: str, value: Any) -> Any:
        answer = self.ask("POST", path, value)
        assert answer.status == 201, answer
        return answer.value

    def alive(self) -> None:
        """Assert that the server answers and is ready."""
        answer = self.ask("GET", "/readyz")
        assert (answer.status, answer.body) == (200, b"ok"), answer


#: Namespaced resources that the tests read by raw requests: {plural: group path}
_GROUPS = {
    **dict.fromkeys(("deployments", "replicasets", "daemonsets", "statefulsets"), "/apis/apps/v1"),
    "jobs": "/apis/batch/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
}


@dataclass
class Kubectl:
    """kubectl in a lab, tied to a namespace. ``kube("get pods")`` runs it; further words are passed on unsplit."""

    lab: Lab
    namespace: str = "default"
    program: str = KUBECTL
    name: str = ""
    options: Sequence[str] = ()
    api: Api = field(init=False)

    def __post_init__(self) -> None:
        self.api = Api(self.lab, self.name or self.lab.name)

    def argv(self, command: str, *more: str) -> list[str]:
        words = shlex.split(command)
        where = [] if {"-n", "-A", "--all-namespaces"} & set(words) else ["-n", self.namespace]
        return [self.program, *self.options, *where, *words, *more]

    def run(self, command: str, *more: str, stdin: str | None = None, timeout_s: float = 40) -> Done:
        """Run it, whatever comes of it."""
        return self.lab.run(*self.argv(command, *more), stdin=stdin, timeout_s=timeout_s)

    def __call__(self, command: str, *more: str, stdin: str | None = None, timeout_s: float = 40) -> str:
        """What it printed; it must succeed."""
        done = self.run(command, *more, stdin=stdin, timeout_s=timeout_s)
        assert done.code == 0, str(done)
        return done.out

    def fails(self, command: str, *more: str, stdin: str | None = None) -> str:
        """What it complained of; it must fail."""
        done = self.run(command, *more, stdin=stdin)
        assert done.code != 0, str(done)
        return done.err

    def apply(self, manifest: Any, verb: str = "apply") -> str:
        """Apply YAML text, an object or a list of objects."""
        if isinstance(manifest, list):
            manifest = {"apiVersion": "v1", "kind": "List", "items": manifest}
        text = textwrap.dedent(manifest) if isinstance(manifest, str) else json.dumps(manifest)
        return self(f"{verb} -f -", stdin=text)

    def read(self, what: str, query: str = "") -> Any:
        """The object ``plural/name`` or the list ``plural`` by a raw request; None when there is none."""
        plural = what.partition("/")[0]
        group = _GROUPS.get(plural, "/api/v1")
        return self.api.get(f"{group}/namespaces/{self.namespace}/{what}{query}")

    def items(self, what: str, query: str = "") -> list[Any]:
        return self.read(what, query)["items"]  # type: ignore[no-any-return]

    def ready(self, *pods: str, timeout_s: float = 30) -> None:
        names = " ".join(f"pod/{pod}" for pod in pods)
        self(f"wait --for=condition=Ready {names} --timeout={timeout_s:g}s", timeout_s=timeout_s + 10)

    def phase(self, pod: str, phase: str, timeout_s: float = 30) -> Any:
        """Wait for a phase; the pod then."""

        def reached() -> Any:
            found = self.read(f"pods/{pod}")
            return found if found and found["status"].get("phase") == phase else None

        return until(reached, f"pod {pod} is {phase}", timeout_s)

    def container(self, pod: str, name: str = "main") -> Any:
        """A container's status; {} before there is one."""
        status = self.read(f"pods/{pod}")["status"]
        both = (*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ()))
        return next((found for found in both if found["name"] == name), {})

    def waiting(self, pod: str, reason: str, name: str = "main", timeout_s: float = 30) -> Any:
        """Wait until a container waits for a reason; that state's ``waiting``."""

        def reached() -> Any:
            state = self.container(pod, name).get("state", {}).get("waiting", {})
            return state if state.get("reason") == reason else None

        return until(reached, f"{pod}/{name} waits: {reason}", timeout_s)

    def gone(self, what: str, timeout_s: float = 30) -> None:
        until(lambda: self.read(what) is None, f"{what} is gone", timeout_s)

    def events(self, about: str) -> list[tuple[str, str]]:
        """(reason, message) of every event about an object's name."""
        found = self.items("events", f"?fieldSelector=involvedObject.name%3D{about}")
        return [(event["reason"], event["message"]) for event in found]

    def sh(self, pod: str, script: str, container: str = "") -> str:
        """What a shell script prints in a container."""
        where = f"exec {pod} -c {container} --" if container else f"exec {pod} --"
        return self(where, "sh", "-c", script)

    def start(self, command: str, *more: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Leave it running; ``running`` ends it."""
        return self.lab.start(*self.argv(command, *more), stdin=stdin)

    def state(self) -> str:
        """What a person would look at first."""
        return str(self.run("get all,events -o wide"))


@contextmanager
def running(process: Popen) -> Iterator[Popen]:
    """A process that ends with the block, and is collected."""
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


class Lab:
    """One machine. The default cluster has the lab's own name, so that cgroups of several labs stay apart."""

    def __init__(self) -> None:
        self.name = f"e2e{uuid.uuid4().hex[:6]}"
        self.netns = Path(f"/run/netns/{self.name}")
        self.home = Path(tempfile.mkdtemp(prefix="kaa-e2e-"))
        self.home.chmod(0o755)
        (self.home / "user").mkdir()
        self.kubeconfig = self.home / "kubeconfig"
        self.names = {self.name}
        ip = f"ip -n {self.name}"
        _sh(f"ip netns add {self.name}")
        _sh(f"{ip} link set lo up && {ip} link add eth0 type bridge && {ip} addr add {ADDRESS}/24 dev eth0")
        _sh(f"{ip} link set eth0 up && {ip} route add default via 192.168.77.1")

    # --------------------------------------------------------------------------------------------------- commands

    def _argv(self, argv: Sequence[str], uid: int) -> list[str]:
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return ["nsenter", f"--net={self.netns}", *user, *argv]

    def environment(self, **more: str) -> dict[str, str]:
        ours = {"PYTHONPATH": str(REPO / "src"), "KAA_HOME": str(self.home), "KUBECONFIG": str(self.kubeconfig)}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV_"))}
        return {**kept, **ours, "HOME": str(self.home / "user"), **more}

    def python(self, uid: int) -> tuple[str, str]:
        """A Python that a user can run, and the folder of its packages: root's may lie where nobody else looks."""
        packages = str(Path(click.__file__).parent.parent)
        same = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        check = "import os, sys, click; os.execv(sys.argv[1], [sys.argv[1], '-c', 'import msgspec'])"
        for program in (sys.executable, same):
            done = self.run(program, "-c", check, program, uid=uid, env={"PYTHONPATH": f"{REPO / 'src'}:{packages}"})
            if done.code == 0:
                return program, packages
        pytest.skip(f"user {uid} can run no Python that has kaa's packages")

    def run(
        self,
        *argv: str,
        stdin: str | None = None,
        timeout_s: float = 40,
        uid: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command on this machine, whatever comes of it."""
        done = subprocess.run(
            self._argv(argv, uid),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment(**(env or {})),
            check=False,
        )
        return Done(shlex.join(argv), done.returncode, done.stdout, done.stderr)

    def start(self, *argv: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._argv(argv, 0),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
        )

    def try_kaa(
        self, verb: str, *words: str, name: str = "", uid: int = 0, env: Mapping[str, str] | None = None
    ) -> Done:
        """``kaa VERB --name NAME …``, whatever comes of it."""
        name = name or self.name
        self.names.add(name)
        program, env = sys.executable, dict(env or {})
        if uid:
            program, packages = self.python(uid)
            env["PYTHONPATH"] = f"{REPO / 'src'}:{packages}"
        return self.run(program, "-m", "kaa", *verb.split(), "--name", name, *words, uid=uid, timeout_s=100, env=env)

    def kaa(self, verb: str, *words: str, name: str = "", uid: int = 0, env: Mapping[str, str] | None = None) -> str:
        """What kaa printed, progress included; it must succeed."""
        done = self.try_kaa(verb, *words, name=name, uid=uid, env=env)
        assert done.code == 0, str(done)
        return done.out + done.err

    def kube(self, namespace: str = "default", **options: Any) -> Kubectl:
        return Kubectl(self, namespace, **options)

    # ------------------------------------------------------------------------------------------------ looking around

    def config(self, name: str = "") -> Any:
        return json.loads((self.home / (name or self.name) / "config.json").read_bytes())

    def pid(self, part: str, name: str = "") -> int:
        """The process id of ``server`` or ``agent``."""
        return int((self.home / (name or self.name) / f"run/{part}.pid").read_text().split()[0])

    def kill(self, *parts: str) -> None:
        """``kill -9``, and wait until the kernel says that they are gone."""
        for part in parts:
            pid = self.pid(part)
            handle = os.pidfd_open(pid)
            try:
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: _state(pid) in "ZX", f"{part} is dead", 10)  # type: ignore[misc]
            finally:
                os.close(handle)

    def connect(self, address: str, port: int, timeout_s: float = 5) -> socket.socket:
        """A TCP connection that begins on this machine."""
        return inside(self.netns, lambda: socket.create_connection((address, port), timeout=timeout_s))

    def fetch(self, address: str, port: int, path: str = "/", timeout_s: float = 5) -> str:
        """The body of a page, asked for on this machine by plain HTTP."""
        connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
        connection.sock = self.connect(address, port, timeout_s)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def processes(self) -> dict[int, str]:
        """{pid: command line} of what this lab's clusters run: by namespace, folder or cgroup."""
        space = self.netns.stat().st_ino if self.netns.exists() else 0
        cgroups = tuple(f"/kaa-{name}" for name in self.names)
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(
                FileNotFoundError, ProcessLookupError, PermissionError
            ):  # ended, or one that root may not trace
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = (
                    str(self.home) in line
                    or (folder / "ns/net").stat().st_ino == space
                    or any(group in (folder / "cgroup").read_text() for group in cgroups)
                )
                if ours and _state(int(folder.name)) not in "ZX":
                    found[int(folder.name)] = line
        return found

    def mounts(self) -> list[str]:
        """Mount points in the lab's folder, deepest first."""
        points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [point for point in reversed(points) if point.startswith(f"{self.home}/")]

    def links(self) -> list[str]:
        rows = json.loads(_sh(f"ip -n {self.name} -json link"))
        return sorted(row["ifname"] for row in rows if row["ifname"] not in ("lo", "eth0"))

    def tables(self) -> list[str]:
        return _sh(f"nsenter --net={self.netns} nft list tables").splitlines()

    def routes(self) -> list[str]:
        return [line for line in _sh(f"ip -n {self.name} route").splitlines() if "dev eth0" not in line]

    def cgroups(self) -> list[Path]:
        base = Path("/sys/fs/cgroup")
        return [path for name in self.names for depth in ("", "*/") for path in base.glob(f"{depth}kaa-{name}")]

    def leftovers(self) -> dict[str, Any]:
        """What a machine still holds of its clusters, by kind; empty after ``kaa reset``."""
        files = [str(path.relative_to(self.home)) for path in self.home.iterdir() if path != self.kubeconfig]
        seen = {
            "processes": self.processes(),
            "mounts": self.mounts(),
            "links": self.links(),
            "tables": self.tables(),
            "routes": self.routes(),
            "cgroups": self.cgroups(),
            "files": [name for name in files if name in self.names or name.startswith(".")],
        }
        return {kind: found for kind, found in seen.items() if found}

    # ------------------------------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Reset every cluster, assert that nothing is left, and give the machine back in any case."""
        try:
            for name in sorted(self.names):
                if (self.home / name).exists():
                    self.kaa("reset", name=name)
            assert self.leftovers() == {}
        finally:
            self._sweep()

    def _sweep(self) -> None:
        """Remove by force what a failed test left."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), "every process is gone", 10)
        for point in self.mounts():
            _sh(f"umount -l {shlex.quote(point)}")
        for group in self.cgroups():
            for folder, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
        _sh(f"ip netns del {self.name}")
        if not self.mounts():
            shutil.rmtree(self.home)


def _state(pid: int) -> str:
    """The letter of a process's state; X when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _sh(command: str) -> str:
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    return done.stdout


# ---------------------------------------------------------------------------------------------------------- manifests


#: A script that runs until it is told to end, and then ends at once: process 1 ignores what it does not catch.
STAY = "trap 'exit 0' TERM; sleep 3600 & wait"


def serve(page: str, port: int = 80) -> str:
    """A script that serves a page until it is told to end."""
    return f"mkdir -p /www; echo {shlex.quote(page)} > /www/index.html; httpd -p {port} -h /www; {STAY}"


def pod(name: str, script: str = STAY, *, labels: Mapping[str, str] | None = None, **spec: Any) -> Any:
    """A pod of one container ``main`` that runs a shell script; ``container`` adds to the container."""
    container = {"name": "main", "image": BOX, "command": ["sh", "-c", script], **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels or {"app": name})},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }
