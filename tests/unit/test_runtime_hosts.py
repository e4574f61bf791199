"""Hosts files: which places are asked for a registry's images, in which order, and how."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from registry_lab import Registry

from kaa.api.clock import SystemClock
from kaa.runtime.base import ImageAuth, ImagePullError
from kaa.runtime.oci.build import image_archive
from kaa.runtime.oci.hosts import Endpoint, endpoints, is_loopback
from kaa.runtime.oci.images import ImageStore
from kaa.runtime.oci.registry import Puller
from kaa.runtime.oci.snapshots import Snapshots
from kaa.runtime.oci.work import Threads

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="layers keep their owners")


def write(folder: Path, registry: str, text: str) -> Path:
    (folder / registry).mkdir(exist_ok=True)
    path = folder / registry / "hosts.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("host", "answer"),
    [("localhost", True), ("localhost:5000", True), ("127.9.9.9:1", True), ("[::1]:5000", True), ("quay.io", False)],
)
def test_loopback_registries_speak_http(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer
    assert endpoints(None, host) == [Endpoint(("http://" if answer else "https://") + host + "/v2")]


def test_hosts_come_in_the_files_order_and_the_registry_last(tmp_path: Path) -> None:
    text = """
        [host."https://z.example:5000"]
        capabilities = ["pull"]
        [host."http://a.example/cache"]
        header = {X-One = "1", X-Two = ["2", "3"]}
        [host."b.example/v2/"]
        [host."https://c.example/own"]
        override_path = true
    """
    write(tmp_path, "docker.io", text)
    assert endpoints(tmp_path, "docker.io") == [
        Endpoint("https://z.example:5000/v2", proxy=True, resolve=False),
        Endpoint("http://a.example/cache/v2", proxy=True, headers=(("X-One", "1"), ("X-Two", "2"), ("X-Two", "3"))),
        Endpoint("https://b.example/v2", proxy=True),
        Endpoint("https://c.example/own", proxy=True),
        Endpoint("https://registry-1.docker.io/v2"),
    ]
    assert endpoints(tmp_path, "quay.io") == [Endpoint("https://quay.io/v2")]


def test_a_server_stands_for_the_registry(tmp_path: Path) -> None:
    write(tmp_path, "quay.io", 'server = "http://inside.example"')
    assert endpoints(tmp_path, "quay.io") == [Endpoint("http://inside.example/v2", proxy=True)]
    write(tmp_path, "quay.io", 'server = "http://quay.io"\ncapabilities = ["resolve"]')
    assert endpoints(tmp_path, "quay.io") == [Endpoint("http://quay.io/v2", pull=False)]


def test_the_first_folder_that_is_there_decides(tmp_path: Path) -> None:
    write(tmp_path, "_default", '[host."http://all.example"]')
    write(tmp_path, "r.io:5000", '[host."http://colon.example"]')
    assert endpoints(tmp_path, "r.io:5000")[0].url == "http://colon.example/v2"
    write(tmp_path, "r.io_5000_", '[host."http://under.example"]')
    assert endpoints(tmp_path, "r.io:5000")[0].url == "http://under.example/v2"
    assert [place.url for place in endpoints(tmp_path, "quay.io")] == ["http://all.example/v2", "https://quay.io/v2"]
    (tmp_path / "quay.io").mkdir()
    assert [place.url for place in endpoints(tmp_path, "quay.io")] == ["https://quay.io/v2"]


def test_tls_is_as_the_file_says(tmp_path: Path) -> None:
    write(tmp_path, "quay.io", "skip_verify = true")
    (place,) = endpoints(tmp_path, "quay.io")
    assert isinstance(place.tls, ssl.SSLContext)
    assert (place.tls.verify_mode, place.tls.check_hostname) == (ssl.CERT_NONE, False)
    write(tmp_path, "localhost:1", "skip_verify = true")
    assert endpoints(tmp_path, "localhost:1")[0].url == "https://localhost:1/v2"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server = ", "Invalid value"),
        ("host = 1", "Expected `object`"),
        ('[host."http://a"]\ncapabilities = ["fly"]', "unknown capability fly"),
        ('[host."https://a"]\nca = "missing.crt"', "No such file"),
        ('[host."https://a"]\nclient = [["a", "b", "c"]]', "client is a certificate, or a certificate and its key"),
        ('[host."https:///x"]', "has no name"),
        ('[host."https://[::1"]', "Invalid IPv6"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = write(tmp_path, "quay.io", text)
    with pytest.raises(ValueError, match=why) as caught:
        endpoints(tmp_path, "quay.io")
    assert str(caught.value).startswith(f"invalid hosts file {path}: ")


# ---------------------------------------------------------------------------------------- pulls through real servers


@dataclass
class World:
    """``plain``: a registry over http; ``secure``: one over TLS that ``ca.crt`` vouches for and that asks ``client``."""

    plain: Registry
    secure: Registry
    puller: Puller
    hosts: Path
    folder: Path
    seen: list[tuple[str, str]]  #: (X-Own header, ns parameter) of each request to ``secure``

    async def pull(self) -> tuple[str, ...]:
        return (await self.puller.pull("reg.invalid/a/b:1", ImageAuth())).names


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def make_certificate(folder: Path) -> None:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl("req", "-x509", *curve, *names, "-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.crt"))


async def serve(stack: AsyncExitStack, registry: Registry, handler: object, tls: ssl.SSLContext | None) -> None:
    runner = web.ServerRunner(web.Server(handler))  # type: ignore[arg-type]
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    registry.port = runner.addresses[0][1]


async def use(folder: Path, body: Callable[[World], Awaitable[None]]) -> None:
    hosts = folder / "registries"
    (hosts / "reg.invalid").mkdir(parents=True)
    make_certificate(hosts / "reg.invalid")
    snapshots = Snapshots(folder / "store")
    snapshots.open()
    store = ImageStore(folder / "store" / "images", snapshots)
    store.open()
    threads, seen = Threads(), list[tuple[str, str]]()
    plain, secure = Registry(), Registry()

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.get("X-Own", ""), request.query.get("ns", "")))
        return await secure.answer(request)

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=hosts / "reg.invalid" / "ca.crt")
    tls.load_cert_chain(hosts / "reg.invalid" / "ca.crt", hosts / "reg.invalid" / "ca.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    async with AsyncExitStack() as stack:
        stack.callback(threads.close)
        await serve(stack, plain, plain.answer, None)
        await serve(stack, secure, note, tls)
        puller = Puller(store, threads, SystemClock(seed=1), hosts)
        stack.push_async_callback(puller.close)
        await body(World(plain, secure, puller, hosts, folder, seen))


def load(world: World, *registries: Registry) -> None:
    archive = image_archive(world.folder / "i.tar", ["x.io/a/b:1"], files={"bin/x": (os.urandom(5000), 0o755)})
    for registry in registries:
        registry.load(archive)


@pytest.mark.root
@needs_root
def test_a_mirror_with_its_own_authority_client_certificate_and_headers(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        load(world, world.secure)
        mirror = f'[host."https://127.0.0.1:{world.secure.port}"]\nclient = [["ca.crt", "ca.key"]]\n'
        write(world.hosts, "reg.invalid", f'server = "http://127.0.0.1:{world.plain.port}"\n{mirror}')
        with pytest.raises(ImagePullError, match="not found"):  # nobody vouches for the mirror; the server has none
            await world.pull()
        assert not world.seen
        text = mirror + 'ca = "ca.crt"\nheader = {X-Own = "yes"}\n'
        write(world.hosts, "reg.invalid", text)
        assert await world.pull() == ("reg.invalid/a/b:1",)
        assert set(world.seen) == {("yes", "reg.invalid")}
        write(world.hosts, "reg.invalid", mirror + "skip_verify = true")
        assert await world.pull() == ("reg.invalid/a/b:1",)

    asyncio.run(use(tmp_path, body))


@pytest.mark.root
@needs_root
def test_tls_that_fails_says_so_in_gos_words(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        load(world, world.secure, world.plain)
        for port, words in (
            (world.secure.port, "tls: failed to verify certificate: x509: certificate signed by unknown authority"),
            (world.plain.port, "http: server gave HTTP response to HTTPS client"),
        ):
            write(world.hosts, "reg.invalid", f'server = "https://127.0.0.1:{port}"')
            with pytest.raises(ImagePullError) as raised:
                await world.pull()
            assert str(raised.value) == (
                'failed to pull and unpack image "reg.invalid/a/b:1": failed to resolve reference "reg.invalid/a/b:1": '
                f'failed to do request: Get "https://127.0.0.1:{port}/v2/a/b/manifests/1": {words}'
            )

    asyncio.run(use(tmp_path, body))


@pytest.mark.root
@needs_root
def test_what_one_host_says_another_gives(tmp_path: Path) -> None:
    """The server alone resolves; the mirror, which may not, gives the layers by their digests."""

    async def body(world: World) -> None:
        load(world, world.secure, world.plain)
        text = f"""
            server = "https://127.0.0.1:{world.secure.port}"
            skip_verify = true
            client = [["ca.crt", "ca.key"]]
            [host."http://127.0.0.1:{world.plain.port}"]
            capabilities = ["pull"]
        """
        write(world.hosts, "reg.invalid", text)
        await world.pull()
        assert world.secure.requests == ["/v2/a/b/manifests/1"]
        assert len(world.plain.requests) == 2
        assert all("/blobs/" in request for request in world.plain.requests)

    asyncio.run(use(tmp_path, body))


@pytest.mark.root
@needs_root
def test_a_mirror_that_lies_or_lost_a_layer_is_passed_over(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        load(world, world.secure, world.plain)
        world.plain.lie = max(world.plain.blobs, key=lambda digest: len(world.plain.blobs[digest]))
        text = f"""
            server = "https://127.0.0.1:{world.secure.port}"
            skip_verify = true
            client = [["ca.crt", "ca.key"]]
            [host."http://127.0.0.1:{world.plain.port}"]
        """
        write(world.hosts, "reg.invalid", text)
        assert await world.pull() == ("reg.invalid/a/b:1",)
        assert world.secure.requests[-1] == f"/v2/a/b/blobs/{world.plain.lie}"

    asyncio.run(use(tmp_path, body))


@pytest.mark.root
@needs_root
def test_a_broken_file_fails_the_pull_and_no_host_is_asked(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        write(world.hosts, "reg.invalid", f'[host."http://127.0.0.1:{world.plain.port}"]\ncapabilities = ["fly"]')
        with pytest.raises(ImagePullError, match=r"invalid hosts file .*: unknown capability fly"):
            await world.pull()
        assert not world.plain.requests
        write(world.hosts, "reg.invalid", 'capabilities = ["push"]')
        with pytest.raises(ImagePullError, match="no host of the hosts file may be asked for this"):
            await world.pull()

    asyncio.run(use(tmp_path, body))
