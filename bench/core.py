"""What the API server's own code costs a request: no TLS, no sockets, no disk: ``python bench/core.py [case]``.

Requests are fed to a connection as the bytes that a client would send, and answers go to a transport that only counts.
The figures are CPU microseconds a request, the smallest of several rounds, so that a busy machine shows little in them.
With ``--profile`` a case's functions are listed too.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaa.api.clock import SystemClock
from kaa.api.types.core_v1 import ServiceAccount
from kaa.apiserver.authn.jwt import SigningKey, VerifyingKey
from kaa.apiserver.authn.tokens import ISSUER, TokenIssuer
from kaa.apiserver.http import Connection
from kaa.cluster.config import ClusterConfig
from kaa.cluster.control_plane import SYSTEM, ControlPlane, bootstrap, build
from kaa.cluster.pki import Pki, control_plane_profiles
from kaa.cluster.runner import settle_garbage
from kaa.store.memory import MemoryStore

ROUNDS = 5


def pod(name: str) -> bytes:
    """A pod of 3.4 KB once it is stored, that no scheduler takes."""
    env = [{"name": f"VARIABLE_{n}", "value": "v" * 48} for n in range(22)]
    container = {"name": "c", "image": "busybox", "env": env, "ports": [{"containerPort": 80}],
                 "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}  # fmt: skip
    metadata = {"name": name, "namespace": "default", "labels": {"app": "bench"}}
    spec = {"schedulerName": "nobody", "containers": [container]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).encode()


def status(n: int) -> bytes:
    """What a kubelet says of the pod ``big``, different each time."""
    started = f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}Z"
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": started}
    container = {"name": "c", "ready": True, "restartCount": n, "image": "busybox", "imageID": "busybox",
                 "state": {"running": {"startedAt": started}}}  # fmt: skip
    return json.dumps({"status": {"phase": "Running", "conditions": [condition], "podIP": "10.0.0.1",
                                  "containerStatuses": [container]}}).encode()  # fmt: skip


STRATEGIC = "application/strategic-merge-patch+json"


def request(method: str, path: str, token: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1:6443", "User-Agent: bench", "Accept: application/json"]
    lines += [f"Authorization: Bearer {token}"]
    if body:
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Counting:
    """A transport that takes everything at once and keeps the last of it."""

    def __init__(self) -> None:
        self.answers = 0
        self.size = 0
        self.last = b""
        self.waiting: asyncio.Event = asyncio.Event()
        self.told: asyncio.Event = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if b'"MODIFIED"' in data:
            self.told.set()
        if data.startswith(b"HTTP/1.1 "):
            self.answers += 1
            self.last = data
            self.waiting.set()

    def writelines(self, parts: Any) -> None:
        for part in parts:
            self.write(part)

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, **limits: int) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...


def connect(plane: ControlPlane) -> tuple[Connection, Counting]:
    transport: Any = Counting()
    connection = Connection(plane.server)
    connection.connection_made(transport)
    return connection, transport


async def measure(case: Callable[[int], Any], total: int) -> float:
    """CPU microseconds a call: the best round."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        await case(total)
        best = min(best, (time.process_time() - begin) / total)
    return best * 1e6


async def cases(plane: ControlPlane, token: str) -> dict[str, tuple[Callable[[int], Any], int]]:
    made, template = 0, pod("NAME")
    read = request("GET", "/api/v1/namespaces/default/pods/big", token)
    single, ends = connect(plane)
    many = [connect(plane) for _ in range(32)]

    async def get(total: int) -> None:
        for _ in range(total):
            single.data_received(read)
        assert ends.last.startswith(b"HTTP/1.1 200"), ends.last

    async def post(total: int) -> None:
        nonlocal made

        async def worker(connection: Connection, transport: Counting) -> None:
            nonlocal made
            for _ in range(total // len(many)):
                made += 1
                body = template.replace(b"NAME", b"bench-%d" % made)
                transport.waiting.clear()
                connection.data_received(request("POST", "/api/v1/namespaces/default/pods", token, body))
                await transport.waiting.wait()
                assert transport.last.startswith(b"HTTP/1.1 201"), transport.last

        await asyncio.gather(*(worker(*one) for one in many))

    async def patch(total: int) -> None:
        nonlocal made
        for _ in range(total):
            made += 1
            ends.waiting.clear()
            path = "/api/v1/namespaces/default/pods/big/status"
            single.data_received(request("PATCH", path, token, status(made), STRATEGIC))
            await ends.waiting.wait()
            assert ends.last.startswith(b"HTTP/1.1 200"), ends.last

    maps = "/api/v1/namespaces/default/configmaps"
    single.data_received(request("POST", maps, token, b'{"metadata":{"name":"watched"}}'))
    await ends.waiting.wait()
    watching = [connect(plane) for _ in range(1000)]
    for connection, _ in watching:
        query = f"{maps}?watch=1&fieldSelector=metadata.name%3Dwatched"
        connection.data_received(request("GET", query, token))

    async def tell(total: int) -> None:
        nonlocal made
        for _ in range(total // len(watching)):
            made += 1
            for _, transport in watching:
                transport.told.clear()
            body = json.dumps({"data": {"n": str(made)}}).encode()
            single.data_received(request("PATCH", f"{maps}/watched", token, body, "application/merge-patch+json"))
            for _, transport in watching:
                await transport.told.wait()

    return {
        "GET one pod": (get, 5000),
        "one event to one of 1,000 watches": (tell, 20_000),
        "POST pods, 32 in flight": (post, 640),
        "PATCH a pod's status, one after another": (patch, 320),
    }


async def main(wanted: str, profile: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = SystemClock()
        pki = Pki(Path(folder) / "pki", clock)
        pki.ensure(control_plane_profiles(("localhost",)))
        config = ClusterConfig(name="bench", data_dir=folder, node_name="bench", node_ip="192.168.77.2")
        signing = SigningKey(pki.token_key.read_bytes())
        plane = build(config, clock, MemoryStore(), signing_key=signing,
                      verifying_key=VerifyingKey(pki.token_public_key.read_bytes()),
                      kubelet_tls=ssl.create_default_context())  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            await plane.api.cacher.fill()
            following = tasks.create_task(plane.api.cacher.follow(), name="cacher")
            await bootstrap(plane.client(SYSTEM, "bench"), plane.api, config, clock)
            serving = tasks.create_task(plane.server.run(), name="http")
            token = await admin_token(plane, TokenIssuer(signing, ISSUER))
            settle_garbage()
            connection, transport = connect(plane)
            connection.data_received(request("POST", "/api/v1/namespaces/default/pods", token, pod("big")))
            await transport.waiting.wait()
            for name, (case, total) in (await cases(plane, token)).items():
                if wanted in name:
                    print(f"{name:<40}{await measure(case, total):>10.1f} us of CPU", flush=True)
                    if profile:
                        await profiled(case, total)
            following.cancel()
            serving.cancel()


async def admin_token(plane: ControlPlane, issuer: TokenIssuer) -> str:
    """A token of a service account that may do everything."""
    from kaa.api.scheme import convert
    from kaa.api.types.rbac_v1 import ClusterRoleBinding

    client = plane.client(SYSTEM, "bench")
    for namespace in ("default", "kube-system"):
        metadata = {"name": "default" if namespace == "default" else "bench", "namespace": namespace}
        account = await client.create(convert(ServiceAccount, {"metadata": metadata}))
    binding = {
        "metadata": {"name": "bench"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "bench", "namespace": "kube-system"}],
    }
    await client.create(convert(ClusterRoleBinding, binding))
    return issuer.issue(account, [ISSUER], 3600, plane.clock)


async def profiled(case: Callable[[int], Any], total: int) -> None:
    profile = cProfile.Profile()
    profile.enable()
    await case(total)
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    import uvloop

    arguments = [one for one in sys.argv[1:] if one != "--profile"]
    uvloop.run(main(arguments[0] if arguments else "", "--profile" in sys.argv))
