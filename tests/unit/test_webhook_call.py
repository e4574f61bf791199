"""The caller of webhooks: places, trust, connections, and failures in Go's words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from webhook_lab import Json, Webhook, trust, webhook_server

from kaa.api.clock import SystemClock
from kaa.api.scheme import convert
from kaa.api.types.admissionregistration_v1 import WebhookClientConfig
from kaa.api.types.core_v1 import Service
from kaa.api.types.discovery_v1 import EndpointSlice
from kaa.apiserver.webhooks.call import BadConfig, Caller, CallError, refusal


class _View:
    """Services and slices by hand."""

    clock = SystemClock(seed=1)

    def __init__(self, *objects: object) -> None:
        self.objects = objects

    def get(self, kind: type, name: str, namespace: str = "") -> object | None:
        return next((o for o in self.list(kind, namespace) if o.metadata.name == name), None)  # type: ignore[attr-defined]

    def list(self, kind: type, namespace: str = "") -> list[object]:
        return [o for o in self.objects if type(o) is kind]

    def version(self, kind: type) -> int:
        return 0


def service(target: str = "ClusterIP", **spec: object) -> Service:
    return convert(
        Service,
        {"metadata": {"name": "hook", "namespace": "ns"}, "spec": {"type": target, "ports": [{"port": 443}], **spec}},
    )


def endpoints(port: int, *, ready: bool = True) -> EndpointSlice:
    return convert(
        EndpointSlice,
        {
            "metadata": {"name": "hook-x", "namespace": "ns", "labels": {"kubernetes.io/service-name": "hook"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}],
            "ports": [{"port": port}],
        },
    )


def config(**document: object) -> WebhookClientConfig:
    return convert(WebhookClientConfig, document)


def echo(path: str, review: Json) -> Json:
    return {"echo": review}


def use(test: Callable[[Webhook], Awaitable[None]], **server: object) -> None:
    handler = server.pop("handler", echo)

    async def main() -> None:
        async with asyncio.timeout(10), webhook_server(handler, **server) as hook:  # type: ignore[arg-type]
            await test(hook)

    asyncio.run(main())


async def fails(caller: Caller, given: WebhookClientConfig, timeout_s: float = 5) -> str:
    with pytest.raises(CallError) as caught:
        await caller.post(given, b"{}", timeout_s)
    caller.close()
    return str(caught.value)


def test_a_url_is_posted_to_and_its_connection_kept() -> None:
    async def test(hook: Webhook) -> None:
        caller = Caller(_View())
        given = convert(WebhookClientConfig, hook.client_config("/check"))
        for n in range(3):
            assert await caller.post(given, b'{"n":%d}' % n, 10) == b'{"echo": {"n": %d}}' % n
        caller.close()
        assert hook.connections == 1
        assert [path for path, _ in hook.seen] == ["/check?timeout=10s"] * 3
        assert hook.headers[0]["content-type"] == "application/json"
        assert hook.headers[0]["host"] == f"127.0.0.1:{hook.port}"

    use(test)


def test_a_service_is_asked_at_its_endpoint_under_its_own_name() -> None:
    async def test(hook: Webhook) -> None:
        caller = Caller(_View(service(), endpoints(hook.port)))
        given = config(service={"name": "hook", "namespace": "ns", "path": "/x"}, caBundle=hook.ca_bundle)
        await caller.post(given, b"{}", 3)
        caller.close()
        assert hook.seen[0][0] == "/x?timeout=3s"
        assert hook.headers[0]["host"] == "hook.ns.svc:443"

    use(test, names=("hook.ns.svc",))


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ((), 'service "hook" not found'),
        ((service(),), 'no endpoints available for service "hook"'),
        ((service(), endpoints(1, ready=False)), 'no endpoints available for service "hook"'),
        ((service(ports=[{"port": 80}]),), 'no service port 443 found for service "hook"'),
    ],
    ids=["no service", "no slices", "none ready", "no such port"],
)
def test_a_service_that_has_no_place(objects: tuple[object, ...], words: str) -> None:
    given = config(service={"name": "hook", "namespace": "ns", "path": "/x"})
    found = asyncio.run(fails(Caller(_View(*objects)), given))
    assert found == f'Post "https://hook.ns.svc:443/x?timeout=5s": {words}'


def test_a_webhook_that_does_not_answer_in_time() -> None:
    async def slow(path: str, review: Json) -> Json:
        await asyncio.sleep(5)
        return {}

    async def test(hook: Webhook) -> None:
        given = convert(WebhookClientConfig, hook.client_config("/slow"))
        found = await fails(Caller(_View()), given, 0.05)
        assert found == f'Post "https://127.0.0.1:{hook.port}/slow?timeout=1s": context deadline exceeded'

    use(test, handler=slow)


def test_nobody_listens() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        found = asyncio.run(fails(Caller(_View()), config(url=f"https://127.0.0.1:{port}")))
    where = f"127.0.0.1:{port}"
    assert found == f'Post "https://{where}/?timeout=5s": dial tcp {where}: connect: connection refused'


def test_a_server_of_another_authority_is_not_believed() -> None:
    async def test(hook: Webhook) -> None:
        from base64 import b64encode

        other = b64encode(trust("other").ca).decode()
        given = config(url=f"https://127.0.0.1:{hook.port}", caBundle=other)
        assert "tls: failed to verify certificate: x509: certificate signed by unknown authority" in await fails(
            Caller(_View()), given
        )

    use(test)


def test_a_server_of_another_name_is_not_believed() -> None:
    async def test(hook: Webhook) -> None:
        caller = Caller(_View(service(), endpoints(hook.port)))
        given = config(service={"name": "hook", "namespace": "ns"}, caBundle=hook.ca_bundle)
        assert "tls: failed to verify certificate: x509: certificate is " in await fails(caller, given)

    use(test, names=("somebody.else.svc",))


def test_a_certificate_out_of_time_is_not_believed() -> None:
    async def test(hook: Webhook) -> None:
        given = convert(WebhookClientConfig, hook.client_config())
        assert "x509: certificate has expired or is not yet valid" in await fails(Caller(_View()), given)

    use(test, expired=True)


def test_a_bundle_that_is_none() -> None:
    with pytest.raises(BadConfig, match="unable to load root certificates"):
        asyncio.run(Caller(_View()).post(config(url="https://127.0.0.1:1", caBundle="QUJD"), b"{}", 1))


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (404, "404 page not found", "the server could not find the requested resource"),
        (500, "boom", 'an error on the server ("boom") has prevented the request from succeeding'),
        (403, "go away", "go away"),
        (400, "", "the server rejected our request for an unknown reason"),
        (302, "", "the server responded with the status code 302 but did not return more information"),
    ],
)
def test_a_server_that_says_no(status: int, text: str, words: str) -> None:
    assert refusal(status, text) == words

    async def test(hook: Webhook) -> None:
        assert await fails(Caller(_View()), convert(WebhookClientConfig, hook.client_config())) == words

    use(test, handler=lambda path, review: (status, "text/plain", text.encode()))


def test_an_empty_answer_is_none() -> None:
    async def test(hook: Webhook) -> None:
        found = await fails(Caller(_View()), convert(WebhookClientConfig, hook.client_config()))
        assert found == "0-length response with status code: 200 and content type: application/json"

    use(test, handler=lambda path, review: (200, "application/json", b""))


def test_a_connection_that_the_server_closed_meanwhile_is_made_again() -> None:
    """A kept connection may be closed by the server as the next request is on its way: the request is sent once more."""

    async def test(hook: Webhook) -> None:
        caller = Caller(_View())
        given = convert(WebhookClientConfig, hook.client_config())
        await caller.post(given, b"{}", 5)
        for kept in caller._pools.values():
            for connection in kept.pool._idle:
                connection._transport.abort()
        await caller.post(given, b"{}", 5)
        caller.close()
        assert hook.connections == 2

    use(test)
