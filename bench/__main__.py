"""``python -m bench [section …]``: one table of what issue and REFERENCE.md ask, measured in one run; some two minutes.

Sections: start idle pods node read watch write apply list many controllers scheduler store. Each figure is a median; beside it stands what the Go
implementation reached on this kind of machine. Absolute figures move with the machine and with what else runs on it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

from kaa.store.sqlite import open_sqlite

from .cluster import POD_PATH, Cluster, cluster, enter_namespace
from .fanout import CONFIG_MAPS, fan_out
from .load import together
from .node import ENDS, EXECS, FULL, agent_memory, ends, exec_true, fill, idle_cpu, percentile

STARTS, READ_S, WRITES, LISTED, SINGLE_PODS, DEPLOYED, SELECTED, MANY = 3, 5, 5000, 5000, 15, 50, 50, 150_000
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
LIST_PODS, ONE_POD = "LIST 5,000 pods, 7.5 MB JSON", "GET one pod (3.4 KB, TLS, bearer token), 32 connections"


def row(what: str, figure: str, target: str = "", go: str = "") -> None:
    print(f"{what:<78}{figure:>24}{target:>12}{go:>18}", flush=True)


def pod(name: str, variables: int, **spec: Any) -> dict[str, Any]:
    """A pod that no scheduler takes; 22 variables make it 3.4 KB, 2 make 1.5 KB once it is stored."""
    env = [{"name": f"VARIABLE_{n}", "value": "v" * 48} for n in range(variables)]
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    container = {"name": "c", "image": "busybox", "env": env, "resources": resources, "ports": [{"containerPort": 80}]}
    metadata = {"name": name, "labels": {"app": "bench"}}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata,
            "spec": {"schedulerName": "nobody", "containers": [container], **spec}}  # fmt: skip


def sleeping(name: str) -> dict[str, Any]:
    """A pod that runs, and ends when it is told to."""
    command = ["sh", "-c", "trap exit TERM; sleep 3600 & wait"]
    container = {"name": "c", "image": "busybox", "imagePullPolicy": "Never", "command": command}
    return {"metadata": {"name": name}, "spec": {"containers": [container]}}


def text(document: Any) -> str:
    import json

    return json.dumps(document)


def remove_pods(world: Cluster) -> None:
    world.ask("DELETE", f"{POD_PATH}?gracePeriodSeconds=0")
    while world.ask("GET", POD_PATH)["items"]:
        time.sleep(0.1)


# -------------------------------------------------------------------------------------------------------- sections


def start(world: Cluster) -> None:
    times = []
    for n in range(STARTS):
        if n:
            world.reset()
        times.append(world.up())
    row("kaa up to node Ready, empty data folder", f"{statistics.median(times):.2f} s", "1.5 s", "4.3 s")


def idle(world: Cluster) -> None:
    time.sleep(8)
    before, seconds = world.cpu_s(), 10.0
    time.sleep(seconds)
    used = (world.cpu_s() - before) / seconds * 100
    resident, proportional = world.memory()
    row("idle: resident memory of all processes", f"{resident:.0f} MB", "150 MB", "604 MB")
    row("idle: the same, shared pages counted once (PSS)", f"{proportional:.0f} MB")
    row("idle: CPU", f"{used:.1f} % of a core", "1 %", "6 %")


def read(world: Cluster) -> None:
    world.ask("POST", POD_PATH, pod("big", 22))
    path = f"{POD_PATH}/big"
    if shutil.which("wrk"):
        rate, p50, p99 = wrk(world, path)
    else:
        (found,) = together([world.load(path=path, total=30_000)])
        rate, p50, p99 = found.rate, found.p50, found.p99
    row(ONE_POD, f"{rate:,.0f} /s", "10,000 /s", "4,410 /s")
    row("    p50 / p99", f"{p50:.1f} / {p99:.1f} ms", "", "6.5 / 22 ms")
    remove_pods(world)


def wrk(world: Cluster, path: str, connections: int = 32) -> tuple[float, float, float]:
    """(requests a second, p50, p99 in ms) as wrk sees them."""
    header = f"Authorization: Bearer {world.token}"
    url = f"https://127.0.0.1:{world.config.api_port}{path}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{READ_S}", "--latency", "-H", header, url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in shown:
        raise RuntimeError(shown)
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", shown)[0])
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    percent = {name: float(n) * units[unit] for name, n, unit in re.findall(r"(\d\d)%\s+([\d.]+)(us|ms|s)", shown)}
    return rate, percent["50"], percent["99"]


def write(world: Cluster) -> None:
    load = world.load(method="POST", path=POD_PATH, body=text(pod("write-{n}", 22)), total=WRITES)
    (found,) = together([load])
    refuse(found.refused)
    row(
        "POST pods, 32 in flight, all components running, none schedules",
        f"{found.rate:,.0f} /s",
        "2,500 /s",
        "1,360 /s alone",
    )
    row("    p50 / p99", f"{found.p50:.1f} / {found.p99:.1f} ms", "", "21 / 64 ms")
    remove_pods(world)


def list_(world: Cluster) -> None:
    (made,) = together([world.load(method="POST", path=POD_PATH, body=text(pod("list-{n}", 2)), total=LISTED)])
    refuse(made.refused)
    count = len(world.ask("GET", POD_PATH)["items"])
    if count != LISTED:
        raise RuntimeError(f"{count} pods instead of {LISTED}")
    (found,) = together([world.load(path=POD_PATH, total=15, connections=1)])
    p50 = wrk(world, POD_PATH, 1)[1] if shutil.which("wrk") else found.p50
    row(f"LIST 5,000 pods, {found.bytes / 1e6:.1f} MB JSON (Go: 7.5 MB)", f"{p50:.1f} ms", "20 ms", "78 ms")
    resident, _ = world.memory()
    row("resident memory with 5,000 pods, server and agent", f"{resident:.0f} MB", "", "416 MB apiserver")
    for n in range(SELECTED):
        world.patch(f"{POD_PATH}/list-{n * LISTED // SELECTED}", {"metadata": {"labels": {"pick": "me"}}})
    selected = f"{POD_PATH}?labelSelector=pick%3Dme"
    (found,) = together([world.load(path=selected, total=100, connections=1)])
    row(f"LIST by label, {SELECTED} of 5,000 pods", f"{found.p50:.1f} ms")
    remove_pods(world)


def apply(world: Cluster) -> None:
    """One pod applied again and again, each time with another label; then as many patches of its labels."""
    one = pod("applied", 22)
    one["metadata"]["labels"]["turn"] = "v{n}"
    path, kind = f"{POD_PATH}/applied?fieldManager=bench", "application/apply-patch+yaml"
    loads = {
        "APPLY of a whole pod (3.4 KB), one label changed, one at a time": (path, text(one), kind, "2 ms"),
        "PATCH of one label": (path, '{"metadata":{"labels":{"turn":"p{n}"}}}', "application/merge-patch+json", ""),
    }
    for what, (path, body, kind, mark) in loads.items():
        ask = world.load(method="PATCH", path=path, body=body, content_type=kind, total=300, connections=1)
        (found,) = together([ask])
        refuse(found.refused)
        row(what, f"{found.p50:.1f} ms", mark)
    remove_pods(world)


def many(world: Cluster) -> None:
    """A cluster that wakes up with 150,000 pods, written into its store while it was down; those of ``list_`` are its own."""
    world.ask("POST", POD_PATH, pod("many-0", 2))
    size = len(text(world.ask("GET", f"{POD_PATH}/many-0")))
    world.kaa("down", "--name", "bench")
    uvloop.run(_fill(world.config.root / "store.db"))
    before = time.perf_counter()
    world.up()
    row(f"kaa up with {MANY:,} pods of {size / 1024:.1f} KB in the store", f"{time.perf_counter() - before:.1f} s")
    resident, _ = world.memory()
    (found,) = together([world.load(path=POD_PATH, total=3, connections=1)])
    row(f"LIST {MANY:,} pods, {found.bytes / 1e6:.0f} MB JSON, streamed", f"{found.p50:,.0f} ms")
    row("    resident memory of server and agent before, after", f"{resident:,.0f}, {world.memory()[0]:,.0f} MB")


async def _fill(path: Path) -> None:
    store, key = await open_sqlite(path), "/registry/pods/default/"
    kept = await store.get(f"{key}many-0")
    assert kept is not None
    for first in range(1, MANY, 1000):
        names = [f"many-{n}" for n in range(first, min(first + 1000, MANY))]
        await asyncio.gather(*(store.put(key + name, kept.value.replace(b"many-0", name.encode())) for name in names))
    await store.close()


def watch(world: Cluster) -> None:
    world.ask("POST", CONFIG_MAPS, {"metadata": {"name": "watched"}})
    version = world.ask("GET", CONFIG_MAPS)["metadata"]["resourceVersion"]
    for watches, mark in ((100, ""), (1000, "20 ms")):
        before = world.memory()[0]
        delays = uvloop.run(fan_out(world.load(path="", total=0), version, watches, 50))
        what = f"PATCH sent to the last of {watches:,} watches having the event, p50"
        row(what, f"{statistics.median(delays):.1f} ms", mark)
    row("    resident memory of each of the 1,000", f"{(world.memory()[0] - before) * 1024 / 1000:.0f} KB")
    world.ask("DELETE", f"{CONFIG_MAPS}/watched")


def pods(world: Cluster) -> None:
    if world.real:
        import_image(world)
    times = [_until_running(world, f"single-{n}") for n in range(SINGLE_PODS)]
    row(
        "pod create to Running, image present, one at a time, p50",
        f"{statistics.median(times):.2f} s",
        "0.1 s",
        "0.50 s",
    )
    remove_pods(world)
    ready, gone = _deployment(world)
    row(f"Deployment of {DEPLOYED} pods to all ready", f"{ready:.1f} s", "1.2 s", "6.7 s")
    row(f"delete of those {DEPLOYED} to gone", f"{gone:.1f} s", "0.4 s", "1.9 s")


def node(world: Cluster) -> None:
    """A full node: what it costs while nothing happens, then execs, then one container after the other is killed."""
    if not world.real:
        return
    import_image(world)
    fill(world, FULL - len(world.ask("GET", "/api/v1/pods")["items"]))
    time.sleep(15)  # their events are written by then
    row(
        f"full node, {FULL} pods that do nothing: resident memory of the agent",
        f"{agent_memory(world):.0f} MB",
        "80 MB",
    )
    row("    CPU of server and agent", f"{idle_cpu(world):.1f} % of a core", "1 %")
    took = [exec_true(world, f"rest-{number}") for number in range(EXECS)]
    row("exec of true in a pod, by WebSocket through the API server, p50", f"{statistics.median(took):.0f} ms", "60 ms")
    ended = ends(world, ENDS)
    shown = f"{statistics.median(ended):.0f} / {percentile(ended, 99):.0f} ms"
    row("a container is killed to a watch having its end, p50 / p99", shown, "- / 30 ms")
    remove_pods(world)


def import_image(world: Cluster) -> None:
    from kaa.runtime.oci.build import busybox_archive

    archive = world.folder / "busybox.tar"
    busybox_archive(archive)
    world.kaa("image", "import", "--name", "bench", str(archive))


def until(events: Iterator[Any], done: Callable[[Any], bool]) -> float:
    """Take events until one is the last that was waited for; the moment of it."""
    for event in events:
        if event["type"] == "ERROR":
            break
        if done(event):
            return time.perf_counter()
    raise RuntimeError("the watch ended too early")


def _until_running(world: Cluster, name: str) -> float:
    def runs(event: Any) -> bool:
        found = event["object"]
        return bool(found["metadata"]["name"] == name and found["status"].get("phase") == "Running")

    events = world.watch(POD_PATH)
    begin = time.perf_counter()
    world.ask("POST", POD_PATH, sleeping(name))
    return until(events, runs) - begin


def _deployment(world: Cluster) -> tuple[float, float]:
    """(seconds to all ready, seconds to all gone)."""
    template = {"metadata": {"labels": {"app": "many"}}, "spec": sleeping("")["spec"]}
    spec = {"replicas": DEPLOYED, "selector": {"matchLabels": {"app": "many"}}, "template": template}
    events = world.watch(DEPLOYMENTS)
    begin = time.perf_counter()
    world.ask("POST", DEPLOYMENTS, {"metadata": {"name": "many"}, "spec": spec})
    ready = until(events, lambda event: event["object"]["status"].get("readyReplicas") == DEPLOYED) - begin
    left = {one["metadata"]["name"] for one in world.ask("GET", POD_PATH)["items"]}

    def last_is_gone(event: Any) -> bool:
        if event["type"] == "DELETED":
            left.discard(event["object"]["metadata"]["name"])
        return not left

    events = world.watch(POD_PATH)
    begin = time.perf_counter()
    world.ask("DELETE", f"{DEPLOYMENTS}/many?propagationPolicy=Background")
    return ready, until(events, last_is_gone) - begin


def controllers(world: Cluster) -> None:
    """On a cluster of its own, whose node pretends to have room for 30,000 pods."""
    from .controllers import KUBELET, measure

    world.reset()
    world.real, real = False, world.real
    try:
        world.up(kubelet=KUBELET)
        world.make_user()
        measure(world, row)
        world.reset()
    finally:
        world.real = real
    world.up()
    world.make_user()


def refuse(refused: int) -> None:
    if refused:
        raise RuntimeError(f"{refused} requests were refused")


def scheduler(world: Cluster | None) -> None:
    from .scheduler import CASES, measure

    go = {"resources only": "297 /s, API too", "required anti-affinity, host": "103 /s",
          "required affinity, zone": "40 /s", "spread over zones, DoNotSchedule": "111 /s"}  # fmt: skip
    for name, reference in go.items():
        spec, per_node = CASES[name]
        rate, _ = measure(5000, min(10_000, 5000 * per_node) if per_node else 10_000, spec)
        row(f"scheduling cycle, 5,000 nodes: {name}", f"{rate:,.0f} pods/s", "", reference)


def store(world: Cluster | None) -> None:
    from .store import VALUE, rate

    async def puts(folder: Path) -> float:
        opened = await open_sqlite(folder / "kaa.db")
        found = await rate(lambda n: opened.put(f"/registry/pods/default/web-{n % 5000}", VALUE), 20_000, 32)
        await opened.close()
        return found

    with tempfile.TemporaryDirectory() as folder:
        row("store alone: put of 3.4 KB, 32 in flight, each fsynced", f"{asyncio.run(puts(Path(folder))):,.0f} /s")


#: In this order: what fills the memory comes after what measures it.
SECTIONS: dict[str, Callable[[Any], None]] = {
    "start": start, "idle": idle, "pods": pods, "node": node, "read": read, "watch": watch, "write": write, "apply": apply, "list": list_,
    "many": many, "controllers": controllers,
}  # fmt: skip
ALONE: dict[str, Callable[[Any], None]] = {"scheduler": scheduler, "store": store}


def main() -> None:
    wanted = sys.argv[1:] or [*SECTIONS, *ALONE]
    unknown = set(wanted) - {*SECTIONS, *ALONE}
    if unknown:
        sys.exit(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join((*SECTIONS, *ALONE))}")
    enter_namespace()
    row("what", "kaa", "first mark", "Go")
    if set(wanted) & set(SECTIONS):
        with cluster() as world:
            if "start" not in wanted:
                world.up()
            for name, section in SECTIONS.items():
                if name in wanted:
                    section(world)
                if name == "start":
                    world.make_user()
    for name, section in ALONE.items():
        if name in wanted:
            section(None)


if __name__ == "__main__":
    main()
