"""The kubelet's pages over real connections: which there are, to whom, by which methods, and what they say."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from kubelet_serving import Play, fetch, play, unchunk
from kubelet_world import World, make_container, make_pod

from kaa.api.types.core_v1 import ExecAction, Probe
from kaa.kubelet.config import Serving
from kaa.kubelet.serving.server import KubeletServer

__all__ = ["play"]  # a fixture


async def ask(port: int, raw: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of one raw request; the server must end the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, unchunk(body) if "transfer-encoding" in headers else body


async def do(port: int, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    return await ask(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


LINE = re.compile(r'[a-z_]+(\{([a-zA-Z_]+="([^"\\]|\\.)*",?)*\})? [-+0-9.eInfNa]+( \d+)?')


def samples(page: bytes) -> dict[str, str]:
    """{sample with its labels: value}; every line must be of the format, every family described once."""
    found, described = {}, set()
    for text in page.decode().splitlines():
        if text.startswith("# TYPE "):
            assert text.split()[2] not in described
            described.add(text.split()[2])
        elif not text.startswith("# HELP "):
            assert LINE.fullmatch(text), text
            name, value = text.rsplit("} ", 1) if "} " in text else text.split(" ", 1)
            found[name + ("}" if "{" in name else "")] = value
    return found


def test_metrics_of_a_pod_that_was_started(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        probe = Probe(exec=ExecAction(command=("true",)), period_seconds=1)
        world.client.put(make_pod(containers=(make_container(liveness_probe=probe),)))
        await world.rest()
        await world.advance(3)
        found = samples((await fetch(port, "/metrics"))[1])
        assert found["kubelet_running_pods"] == "1"
        assert found['kubelet_running_containers{container_state="running"}'] == "1"
        assert found['kubelet_started_containers_total{container_type="container"}'] == "1"
        assert found["kubelet_started_pods_total"] == "1"
        assert found["kubelet_pod_start_duration_seconds_count"] == "1"
        assert found['kubelet_runtime_operations_total{operation_type="run_podsandbox"}'] == "1"
        assert found['kubelet_runtime_operations_duration_seconds_count{operation_type="create_container"}'] == "1"
        assert found['kubelet_image_pull_duration_seconds_count{image_size_in_bytes="0-10MB"}'] == "1"
        assert found['kubelet_node_name{node="n1"}'] == "1"
        assert float(found["process_start_time_seconds"]) > 0
        assert any(name.startswith("kubernetes_build_info{") and 'git_version="v1.36.0"' in name for name in found)
        found = samples((await fetch(port, "/metrics/probes"))[1])
        labels = (
            'container="main",namespace="default",pod="web",pod_uid="uid-web",probe_type="Liveness",result="successful"'
        )
        assert int(found[f"prober_probe_total{{{labels}}}"]) >= 3
        found = samples((await fetch(port, "/metrics/resource"))[1])
        assert 'container_cpu_usage_seconds_total{container="main",namespace="default",pod="web"}' in found
        assert "machine_scrape_error" in samples((await fetch(port, "/metrics/cadvisor"))[1])
        assert (await fetch(port, "/metrics/others"))[0] == 404
        found = samples((await fetch(port, "/metrics"))[1])
        about = 'long_running="false",method="GET",path="metrics/probes",server_type="readwrite"'
        assert found[f"kubelet_http_requests_total{{{about}}}"] == "1"
        world.client.ask_delete("web", world.clock.now(), 0)
        await world.advance(5)
        assert samples((await fetch(port, "/metrics/probes"))[1]).keys() & {f"prober_probe_total{{{labels}}}"} == set()

    play(story)


@pytest.mark.parametrize(
    ("path", "code", "body"),
    [
        ("/healthz", 200, "ok"),
        ("/healthz/ping", 200, "ok"),
        ("/healthz/log", 200, "ok"),
        ("/healthz/syncloop", 200, "ok"),
        ("/healthz/nothing", 404, "404 page not found\n"),
        ("/healthz?verbose", 200, "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n"),
        ("/debug/pprof/heap", 404, "404 page not found\n"),
        ("/spec", 404, "404 page not found\n"),
        ("/logs/kubelet.log", 200, "said\n"),
        ("/logs/../../etc/passwd", 404, "404 page not found\n"),
        ("/logs/out/passwd", 404, "404 page not found\n"),
        ("/exec/default/web/another-uid/main?command=true&output=1", 404, 'pod "web_default" not found'),
        ("/exec/default/web/main?command=true", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/portForward/default/web/another-uid", 404, "pod not found"),
        ("/containerLogs/default/web/nobody", 404, 'container "nobody" not found in pod "web"'),
        ("/containerLogs/default/nobody/main", 404, 'pod "nobody" does not exist'),
        ("/containerLogs/default/web/main?tailLines=-1", 422, '{"message": "Invalid request."}'),
        ("/containerLogs/default/web/main?tailLines=1&stream=Stdout", 422, '{"message": "Invalid request."}'),
        ("/containerLogs/default/web/main?limitBytes=0", 422, '{"message": "Invalid request."}'),
        ("/containerLogs/default/web/main?tailLines=x", 400, '{"message": "Unable to decode query."}'),
    ],
)
def test_pages(play: Play, tmp_path: Path, path: str, code: int, body: str) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        assert await fetch(port, path) == (code, body.encode())

    play(story, serving=Serving(system_log_root=node_logs(tmp_path)))


def node_logs(tmp_path: Path) -> Path:
    root = tmp_path / "var-log"
    (root / "pods").mkdir(parents=True)
    (root / "kubelet.log").write_text("said\n")
    (root / "a&b").touch()
    (root / "out").symlink_to("/etc")
    return root


def test_the_nodes_logs_are_listed(play: Play, tmp_path: Path) -> None:
    async def story(world: World, port: int) -> None:
        code, headers, body = await do(port, "GET", "/logs/")
        assert (code, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b'<pre>\n<a href="a%26b">a&amp;b</a>\n<a href="kubelet.log">kubelet.log</a>\n' in body

    play(story, serving=Serving(system_log_root=node_logs(tmp_path)))


@pytest.mark.parametrize(
    ("query", "code", "body"),
    [
        ("query=kubelet", 200, "said\n"),
        ("query=/kubelet.log", 200, "said\n"),
        ("query=nobody", 200, "\nlog not found for nobody\n"),
        ("query=kubelet&tailLines=1", 200, "\noptions present and query resolved to log files for [kubelet]\n"
         "try without specifying options\n"),
        ("query=", 400, 'query: Invalid value: [""]: query cannot be empty\n'),
        ("tailLines=2", 406, "query: Required value: cannot be empty with options\n"),
        ("query=a&tailLines=200000", 406, "tailLines: Invalid value: 200000: must be between 0 and 100000, inclusive\n"),
        ("query=a&boot=1", 406, "boot: Invalid value: 1: must be less than 1\n"),
        ("query=a;b", 406, 'query: Invalid value: "a;b": input contains unsupported characters\n'),
        ("query=a&sinceTime=now", 400, 'sinceTime: Invalid value: "now": invalid time format\n'),
    ],
)  # fmt: skip
def test_the_nodes_logs_by_query(play: Play, tmp_path: Path, query: str, code: int, body: str) -> None:
    async def story(world: World, port: int) -> None:
        assert await fetch(port, f"/logs/?{query.replace(';', '%3B')}") == (code, body.encode())

    play(story, serving=Serving(system_log_root=node_logs(tmp_path), system_log_query=True))


def test_methods_are_refused_by_name(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        for method, path, allowed in (
            ("POST", "/pods", "GET"),
            ("GET", "/run/a/b/c", "POST"),
            ("PUT", "/exec/a/b/c", "GET, POST"),
        ):
            code, headers, body = await do(port, method, path)
            assert (code, headers["allow"], body) == (405, allowed, b"Method Not Allowed")

    play(story)


@pytest.mark.parametrize(
    "path", ["/run/a/b/c", "/exec/a/b/c", "/containerLogs/a/b/c", "/runningpods/", "/debug/pprof/", "/logs/"]
)
def test_debugging_may_be_forbidden(play: Play, path: str) -> None:
    async def story(world: World, port: int) -> None:
        assert await fetch(port, path) == (405, b"Debug endpoints are disabled.\n")
        assert (await fetch(port, "/configz"))[0] == 404
        assert (await fetch(port, "/pods"))[0] == 200

    play(story, serving=Serving(debugging=False))


def test_parts_may_be_forbidden(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        assert await fetch(port, "/logs/") == (405, b"logs endpoint is disabled.\n")
        assert await fetch(port, "/debug/pprof/heap") == (405, b"profiling endpoint is disabled.\n")
        assert await fetch(port, "/debug/flags/v") == (405, b"flags endpoint is disabled.\n")

    play(story, serving=Serving(system_logs=False, profiling=False, debug_flags=False))


def test_the_read_only_server_knows_what_needs_no_permission(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        plain = KubeletServer(world.kubelet, auth=None, tls=None, read_only=True)
        other = await plain.start("127.0.0.1", 0)
        try:
            for path in ("/healthz", "/pods", "/stats/summary", "/metrics", "/metrics/resource"):
                assert (await fetch(other, path))[0] == 200
            for path in ("/configz", "/exec/a/b/c", "/runningpods/", "/logs/", "/containerLogs/a/b/c"):
                assert (await fetch(other, path))[0] == 404
        finally:
            await plain.close()

    play(story)


def test_configz_has_defaults_and_what_was_given(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        made = json.loads((await fetch(port, "/configz"))[1])["kubeletconfig"]
        assert made["maxPods"] == 7
        assert made["syncFrequency"] == "1m0s"
        assert made["evictionPressureTransitionPeriod"] == "5m0s"
        assert made["authentication"]["anonymous"] == {"enabled": False}
        assert made["authentication"]["webhook"] == {"enabled": True, "cacheTTL": "9s"}
        assert made["featureGates"] == {"NodeLogQuery": True}
        assert "userNamespaces" not in made

    given: dict[str, Any] = {"featureGates": {"NodeLogQuery": True}, "authentication": {"webhook": {"cacheTTL": "9s"}}}
    play(story, max_pods=7, given=given)


def test_running_pods_are_the_runtimes(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        [pod] = json.loads((await fetch(port, "/runningpods/"))[1])["items"]
        assert pod["metadata"]["name"] == "web"
        assert pod["metadata"]["uid"] == "uid-web"
        assert [one["name"] for one in pod["spec"]["containers"]] == ["main"]
        [pod] = json.loads((await fetch(port, "/pods"))[1])["items"]
        assert pod["status"]["phase"] == "Running"

    play(story)


def test_zpages(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        code, body = await fetch(port, "/statusz")
        assert code == 200
        assert body.startswith(b"\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable")
        assert b"\nBinary version: 1.36.0\nEmulation version: 1.36\nPaths: /attach /checkpoint " in body
        assert b"\nhostname-override=n1\n" in (await fetch(port, "/flagz"))[1]

    play(story)


def test_a_checkpoint_that_cannot_be_made_says_why(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        world.client.put(make_pod())
        await world.rest()
        assert (await do(port, "POST", "/checkpoint/default/nobody/main"))[::2] == (404, b"pod does not exist")
        assert (await do(port, "POST", "/checkpoint/default/web/other"))[::2] == (
            404,
            b"container other does not exist",
        )
        assert (await do(port, "POST", "/checkpoint/default/web/main?timeout=x"))[::2] == (
            404,
            b"cannot parse value of timeout parameter",
        )
        code, _, body = await do(port, "POST", "/checkpoint/default/web/main")
        assert code == 500
        assert body.startswith(b"checkpointing of default/web/main failed (")

    play(story)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        ("POST /run/a/b/c HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        ("POST /run/a/b/c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 411),
        (f"GET / HTTP/1.1\r\nX: {'y' * 70000}\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(play: Play, raw: str, code: int) -> None:
    async def story(world: World, port: int) -> None:
        assert (await ask(port, raw))[0] == code
        assert (await fetch(port, "/healthz"))[0] == 200

    play(story)


def test_a_kubelet_that_stands_still_is_not_healthy(play: Play) -> None:
    async def story(world: World, port: int) -> None:
        world.kubelet._kept_at = world.clock.monotonic() - 1000
        assert (await fetch(port, "/healthz/syncloop"))[0] == 500
        code, body = await fetch(port, "/healthz")
        assert (code, body) == (
            500,
            b"[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n",
        )
        assert (await fetch(port, "/healthz?exclude=syncloop")) == (200, b"ok")

    play(story)
