"""What a node costs: a container's end until a watch shows it, an exec, and a full node that does nothing."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import statistics
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kaa.cluster.lifecycle import pid_file
from kaa.cluster.pki import Pki
from kaa.cluster.processes import running_pid

from .cluster import POD_PATH, Cluster

ENDS, EXECS, FULL, IDLE_S = 60, 30, 110, 20.0
#: A program's argument tells which container it is: the node's processes are this machine's.
_SLEEP_S = 31_536_000


def resting(name: str, number: int) -> dict[str, Any]:
    """A pod that does nothing, and is not started again."""
    container = {
        "name": "c",
        "image": "busybox",
        "imagePullPolicy": "Never",
        "command": ["sleep", str(_SLEEP_S + number)],
    }
    spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    return {"metadata": {"name": name, "labels": {"bench": "node"}}, "spec": spec}


def fill(world: Cluster, count: int) -> None:
    """So many pods, all of them running."""
    events = world.watch(POD_PATH)
    for number in range(count):
        world.ask("POST", POD_PATH, resting(f"rest-{number}", number))
    waiting = {f"rest-{number}" for number in range(count)}
    for event in events:
        if event["object"]["status"].get("phase") == "Running":
            waiting.discard(event["object"]["metadata"]["name"])
        if not waiting:
            return
    raise RuntimeError(f"{len(waiting)} pods never ran")


def ends(world: Cluster, count: int) -> list[float]:
    """Milliseconds from the kill of a container's process until a watch shows its end; each in turn."""
    pids = dict(_sleepers())
    events, times = world.watch(POD_PATH), []
    for number in range(count):
        begin = time.perf_counter()
        os.kill(pids[number], signal.SIGKILL)
        times.append((_until_ended(events, f"rest-{number}") - begin) * 1000)
    return times


def _sleepers() -> Iterator[tuple[int, int]]:
    """(number, pid) of the containers of ``resting`` pods."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:1] == [b"sleep"] and len(words) > 1 and words[1].isdigit() and int(words[1]) >= _SLEEP_S:
                yield int(words[1]) - _SLEEP_S, int(folder.name)


def _until_ended(events: Iterator[Any], name: str) -> float:
    for event in events:
        found = event["object"]
        if found["metadata"]["name"] == name and found["status"].get("phase") == "Failed":
            return time.perf_counter()
    raise RuntimeError("the watch ended too early")


def exec_true(world: Cluster, pod: str) -> float:
    """Milliseconds of ``true`` in a pod by WebSocket through the API server, connection and all."""
    config = world.config
    pki = Pki(config.pki_dir, None)  # type: ignore[arg-type]  # only its paths
    context = ssl.create_default_context(cafile=str(pki.ca))
    key = base64.b64encode(os.urandom(16)).decode()
    request = (
        f"GET {POD_PATH}/{pod}/exec?command=true&stdout=true HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {world.token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    )
    begin = time.perf_counter()
    with (
        socket.create_connection(("127.0.0.1", config.api_port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(request.encode())
        stream = connection.makefile("rb")
        head = stream.readline()
        if b" 101 " not in head:
            raise RuntimeError(head.decode())
        while stream.readline() not in (b"\r\n", b""):
            pass
        status = next((body for channel, body in _frames(stream) if channel == 3), b"{}")
    took = (time.perf_counter() - begin) * 1000
    if json.loads(status).get("status") != "Success":
        raise RuntimeError(status.decode())
    return took


def _frames(stream: Any) -> Iterator[tuple[int, bytes]]:
    """(channel, bytes) of each message until the connection ends."""
    while head := stream.read(2):
        length = head[1] & 0x7F
        if length >= 126:
            wide = stream.read(2 if length == 126 else 8)
            length = struct.unpack(">H" if length == 126 else ">Q", wide)[0]
        body = stream.read(length)
        if head[0] & 0x0F in (1, 2) and body:
            yield body[0], body[1:]


def agent_memory(world: Cluster) -> float:
    """Resident megabytes of the node's agent."""
    pid = running_pid(pid_file(world.config, "agent"))
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel tells no Rss")


def percentile(times: list[float], part: float) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[round(part) - 1]


def idle_cpu(world: Cluster) -> float:
    """Percent of a core that server and agent use together."""
    before = world.cpu_s()
    time.sleep(IDLE_S)
    return (world.cpu_s() - before) / IDLE_S * 100
