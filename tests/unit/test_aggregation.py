"""An API server behind this one: a small HTTPS server on loopback that only the front proxy's certificate may speak to."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pytest

from kaa.api.errors import Forbidden, NotFound
from kaa.api.types.apiregistration_v1 import APIService, APIServiceCondition, APIServiceSpec, ServiceReference
from kaa.api.types.core_v1 import Service, ServicePort, ServiceSpec
from kaa.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.apiserver.aggregation import resolve
from kaa.apiserver.aggregation.backend import forwarded_headers, user_headers
from kaa.apiserver.http import Connection, HttpRequest, HttpResponse, HttpServer
from kaa.client.pipeline import User
from kaa.cluster.pki import Pki, Profile
from kaa.controllers.served import rows_of_document
from tests import api_lab
from tests.api_lab import Answer, Lab, chunks, read_answer

NAME = "v1alpha1.wardle.example.com"
PATH = "/apis/wardle.example.com/v1alpha1"
FLUNDERS = f"{PATH}/namespaces/default/flunders"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
RESOURCES = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": "wardle.example.com/v1alpha1",
    "resources": [
        {
            "name": "flunders",
            "singularName": "flunder",
            "namespaced": True,
            "kind": "Flunder",
            "verbs": ["get", "list"],
        },
        {"name": "flunders/status", "singularName": "", "namespaced": True, "kind": "Flunder", "verbs": ["get"]},
    ],
}


META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
DOCUMENTS: dict[str, Any] = {
    "/openapi/v3": {
        "paths": {
            PATH[1:]: {"serverRelativeURL": f"/openapi/v3{PATH}?hash=ABC"},
            "apis/other": {"serverRelativeURL": "/openapi/v3/apis/other?hash=DEF"},
        }
    },
    f"/openapi/v3{PATH}": {"openapi": "3.0.0", "info": {"title": "sample"}},
    "/openapi/v2": {
        "swagger": "2.0",
        "paths": {
            f"{PATH}/flunders": {"get": {"schema": {"$ref": "#/definitions/example.Flunder"}}},
            "/apis/": {"get": {}},
        },
        "definitions": {
            "example.Flunder": {"properties": {"metadata": {"$ref": f"#/definitions/{META}"}}},
            META: {"description": "not the same"},
            "example.Unused": {},
        },
    },
}


@dataclass
class Sample:
    """The other API server: it remembers what it was asked."""

    asked: list[HttpRequest] = field(default_factory=list)
    healthy: bool = True
    port: int = 0

    def __call__(self, http: HttpRequest) -> Any:
        self.asked.append(http)
        path, _, query = http.target.decode().partition("?")
        if not self.healthy:
            return HttpResponse(500, b"broken", "text/plain")
        if http.wants_upgrade():
            return _echo
        if path in DOCUMENTS:
            return HttpResponse(200, json.dumps(DOCUMENTS[path]).encode())
        if path == PATH:
            return HttpResponse(200, json.dumps(RESOURCES).encode())
        if "watch=" in query:
            return HttpResponse(200, _events(), "application/json")
        if path.endswith("/big"):
            return HttpResponse(200, b"x" * 2_000_000, "application/octet-stream")
        if path.endswith("/none"):
            return HttpResponse(404, b'{"kind":"Status","code":404}')
        said = {"method": http.method, "target": http.target.decode(), "body": http.body.decode()}
        return HttpResponse(201 if http.method == "POST" else 200, json.dumps(said).encode(), headers=[("X-Own", "1")])


async def _events() -> AsyncIterator[bytes]:
    for n in range(3):
        yield b'{"type":"ADDED","object":%d}\n' % n
        await asyncio.sleep(0)


async def _echo(connection: Connection) -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()
    connection.take_over(received.put_nowait)
    await connection.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\n")
    while data := await received.get():
        await connection.write(data.upper())


@lru_cache(maxsize=1)
def sample_pki() -> Pki:
    pki = api_lab.keys()[1]
    pki.ensure([Profile("sample", "sample", hosts=("sample.default.svc",), server=True, client=False)])
    return pki


@asynccontextmanager
async def sample_server() -> AsyncIterator[Sample]:
    pki = sample_pki()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.cert("sample"), pki.key("sample"))
    context.load_verify_locations(pki.front_proxy_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    sample = Sample()
    server = HttpServer(sample)
    sample.port = await server.listen("127.0.0.1", 0, context)
    running = asyncio.create_task(server.run(), name="sample")
    try:
        yield sample
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def api_service(sample: Sample, **more: Any) -> APIService:
    bundle = base64.b64encode(sample_pki().ca.read_bytes()).decode()
    given: dict[str, Any] = {"ca_bundle": bundle, **more}
    return APIService(
        metadata=ObjectMeta(name=NAME),
        spec=APIServiceSpec(
            group="wardle.example.com",
            version="v1alpha1",
            group_priority_minimum=2000,
            version_priority=200,
            service=ServiceReference(namespace="default", name="sample", port=sample.port),
            **given,
        ),
    )


def use(test: Callable[[Lab, Sample], Awaitable[None]], *, registered: bool = True) -> None:
    async def main(lab: Lab) -> None:
        async with sample_server() as sample:
            keeping = asyncio.create_task(lab.plane.aggregator.run(), name="aggregator")
            try:
                if registered:
                    await register(lab, sample)
                await test(lab, sample)
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)

    api_lab.run(main, http=True)


async def register(lab: Lab, sample: Sample) -> None:
    spec = ServiceSpec(type="ExternalName", external_name="localhost")
    await lab.client.create(Service(metadata=ObjectMeta(name="sample", namespace="default"), spec=spec))
    await lab.client.create(api_service(sample))
    await condition(lab, "Passed")


async def condition(lab: Lab, reason: str) -> APIServiceCondition:
    """Wait for the Available condition to give a reason."""
    while True:
        service = await lab.client.get(APIService, NAME)
        for found in service.status.conditions:
            if found.reason == reason:
                return found
        await asyncio.sleep(0.01)


async def until(lab: Lab, path: str, seen: Callable[[Answer], bool]) -> Any:
    """Ask for a path until the answer is as wanted; returns it."""
    while True:
        answer = await lab.ask("GET", path)
        if seen(answer):
            return answer.json() if answer.status == 200 else None
        await asyncio.sleep(0.01)


def test_requests_go_on_with_the_user_in_headers_and_answers_come_back() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        sample.asked.clear()
        answer = await lab.ask(
            "POST", FLUNDERS + "?dryRun=All", {"a": 1}, X_Remote_User="evil", Authorization="Basic x", Audit_ID="mine"
        )
        assert answer.status == 201
        assert answer.json() == {"method": "POST", "target": FLUNDERS + "?dryRun=All", "body": '{"a": 1}'}
        assert (answer.headers["x-own"], answer.headers["audit-id"]) == ("1", "mine")
        headers = sample.asked[-1].headers
        assert headers["x-remote-user"] == "kubernetes-super-admin"
        assert headers["x-remote-group"] == "system:masters,system:authenticated"
        assert headers["x-remote-extra-authentication.kubernetes.io%2fcredential-id"].startswith("X509SHA256=")
        assert (headers["audit-id"], headers["x-forwarded-for"]) == ("mine", "127.0.0.1")
        assert "authorization" not in headers

    use(test)


def test_what_the_other_server_refuses_is_its_own_answer() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        answer = await lab.ask("GET", FLUNDERS + "/none")
        assert (answer.status, answer.json()["code"]) == (404, 404)

    use(test)


def test_impersonation_ends_here() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        await lab.ask("GET", PATH, Impersonate_User="jane", Impersonate_Group="system:masters")
        headers = sample.asked[-1].headers
        assert headers["x-remote-user"] == "jane"
        assert not [name for name in headers if name.startswith("impersonate-")]

    use(test)


def test_who_may_not_is_refused_before_the_other_server_hears_of_it() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        sample.asked.clear()
        answer = await lab.ask("GET", FLUNDERS + "?watch=1", admin=False)
        assert answer.status == 403
        assert 'cannot watch resource "flunders" in API group "wardle.example.com"' in answer.json()["message"]
        assert not sample.asked

    use(test)


def test_a_watch_streams() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        reader, writer = await lab.connect()
        writer.write(f"GET {FLUNDERS}?watch=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        assert b"chunked" in head
        assert b"".join([chunk async for chunk in chunks(reader)]).count(b"ADDED") == 3
        writer.write(f"GET {FLUNDERS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await read_answer(reader)).status == 200
        writer.close()

    use(test)


def test_a_long_answer_arrives_whole() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        assert len((await lab.ask("GET", FLUNDERS + "/big")).body) == 2_000_000
        assert (await lab.ask("HEAD", FLUNDERS + "/big")).status == 200

    use(test)


def test_an_upgrade_passes_bytes_both_ways() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        reader, writer = await lab.connect()
        path = FLUNDERS + "/one/exec"
        upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\n{upgrade}Content-Length: 0\r\n\r\n".encode())
        assert b"101 Switching" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"HELLO"
        assert sample.asked[-1].headers["x-remote-user"] == "kubernetes-super-admin"
        writer.close()

    use(test)


def test_discovery_tells_of_the_other_server() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        groups = {group["name"]: group for group in (await lab.ask("GET", "/apis")).json()["groups"]}
        assert groups["wardle.example.com"]["preferredVersion"]["version"] == "v1alpha1"
        assert (await lab.ask("GET", "/apis/wardle.example.com")).json()["versions"][0]["version"] == "v1alpha1"
        assert (await lab.ask("GET", PATH)).json() == RESOURCES
        shown = await shown_version(lab)
        assert (shown["freshness"], shown["resources"][0]["resource"]) == ("Current", "flunders")
        assert shown["resources"][0]["subresources"][0]["subresource"] == "status"

    use(test)


async def shown_version(lab: Lab) -> dict[str, Any]:
    items = (await lab.ask("GET", "/apis", Accept=AGGREGATED)).json()["items"]
    found: dict[str, Any] = next(one for one in items if one["metadata"]["name"] == "wardle.example.com")
    version: dict[str, Any] = found["versions"][0]
    return version


def test_openapi_speaks_of_the_other_server() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        index = (await lab.ask("GET", "/openapi/v3")).json()["paths"]
        assert index[PATH[1:]]["serverRelativeURL"].endswith("?hash=ABC")
        assert "apis/other" not in index
        assert "apis/apps/v1" in index
        document = await lab.ask("GET", f"/openapi/v3{PATH}?hash=ABC")
        assert document.json()["info"]["title"] == "sample"
        first = await lab.ask("GET", "/openapi/v2", Accept_Encoding="gzip")
        tree = json.loads(gzip.decompress(first.body))
        assert tree["paths"][f"{PATH}/flunders"]["get"]["schema"] == {"$ref": "#/definitions/example.Flunder"}
        properties = tree["definitions"]["example.Flunder"]["properties"]
        assert properties["metadata"]["$ref"] == f"#/definitions/{META}_v2"
        assert tree["definitions"][f"{META}_v2"] == {"description": "not the same"}
        assert "properties" in tree["definitions"][META]
        assert "example.Unused" not in tree["definitions"]
        again = await lab.ask("GET", "/openapi/v2", If_None_Match=first.headers["etag"])
        assert again.status == 304

    use(test)


def test_a_server_that_fails_is_unavailable_and_its_discovery_stale() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        sample.healthy = False
        spec = (await lab.client.get(APIService, NAME)).spec
        await lab.client.patch(APIService, NAME, {"spec": {"versionPriority": spec.version_priority + 1}})
        found = await condition(lab, "FailedDiscoveryCheck")
        url = f"https://localhost:{sample.port}{PATH}"
        assert found.message == f"failing or missing response from {url}: bad status from {url}: 500"
        answer = await lab.ask("GET", FLUNDERS)
        assert (answer.status, answer.body) == (503, b"service unavailable\n")
        shown = await shown_version(lab)
        assert (shown["freshness"], len(shown["resources"])) == ("Stale", 1)
        sample.healthy = True
        await condition(lab, "Passed")
        assert (await lab.ask("GET", FLUNDERS)).status == 200

    use(test)


def test_without_its_service_it_is_not_found_and_gone_it_is_404() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        await lab.client.create(api_service(sample))
        found = await condition(lab, "ServiceNotFound")
        assert found.message == 'service/sample in "default" is not present'
        assert (await lab.ask("GET", FLUNDERS)).status == 503
        await lab.client.delete(APIService, NAME)
        await until(lab, "/apis/wardle.example.com", lambda answer: answer.status == 404)
        assert (await lab.ask("GET", FLUNDERS)).status == 404

    use(test, registered=False)


@pytest.mark.parametrize(
    ("bundle", "status", "words"),
    [
        pytest.param(b"nonsense", 500, "unable to load root certificates", id="no certificate"),
        pytest.param(b"other", 503, "certificate verify failed", id="another authority's"),
    ],
)
def test_trust_is_the_bundles(bundle: bytes, status: int, words: str) -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        data = sample_pki().front_proxy_ca.read_bytes() if bundle == b"other" else bundle
        await lab.client.patch(APIService, NAME, {"spec": {"caBundle": base64.b64encode(data).decode()}})
        answer = await lab.ask("GET", FLUNDERS)
        assert (answer.status, words in answer.body.decode()) == (status, True), answer.body
        await lab.client.patch(APIService, NAME, {"spec": {"caBundle": None, "insecureSkipTLSVerify": True}})
        assert (await lab.ask("GET", FLUNDERS)).status == 200

    use(test)


def test_components_reach_the_other_server_through_their_client() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        rows = rows_of_document(await lab.client.raw("GET", PATH))
        assert [row.plural for row in rows] == ["flunders"]
        await lab.client.delete_collection(rows[0], "default")
        assert (sample.asked[-1].method, sample.asked[-1].target.decode()) == ("DELETE", FLUNDERS)
        assert sample.asked[-1].headers["x-remote-user"] == "system:apiserver"
        with pytest.raises(NotFound):
            await lab.client.get(rows[0], "none", "default")
        with pytest.raises(Forbidden):
            await lab.as_user("nobody").get(rows[0], "one", "default")
        with pytest.raises(NotFound):
            await lab.client.raw("GET", "/apis/nowhere.example.com/v1")

    use(test)


def test_local_and_custom_group_versions_have_their_apiservices() -> None:
    async def test(lab: Lab, sample: Sample) -> None:
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.org"},
            "spec": {
                "group": "example.org",
                "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [
                    {"name": "v1", "served": True, "storage": True,
                     "schema": {"openAPIV3Schema": {"type": "object"}}},
                ],
            },
        }  # fmt: skip
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        assert (await lab.ask("POST", path, definition)).status == 201
        made = (await lab.ask("GET", path + "/widgets.example.org")).json()
        made["status"] = {
            "acceptedNames": {"plural": "widgets", "kind": "Widget"},
            "storedVersions": ["v1"],
            "conditions": [{"type": "Established", "status": "True"}],
        }
        assert (await lab.ask("PUT", path + "/widgets.example.org/status", made)).status == 200
        where = "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.org"
        found = await until(lab, where, lambda answer: bool(answer.json().get("status", {}).get("conditions")))
        assert found["metadata"]["labels"] == {"kube-aggregator.kubernetes.io/automanaged": "true"}
        assert (found["spec"]["groupPriorityMinimum"], found["spec"]["versionPriority"]) == (1000, 100)
        assert found["status"]["conditions"][0]["reason"] == "Local"
        await lab.ask("DELETE", path + "/widgets.example.org")
        await until(lab, where, lambda answer: answer.status == 404)

    use(test, registered=False)


# -------------------------------------------------------------------------------------------------------- decisions

REFERENCE = ServiceReference(namespace="ns", name="svc", port=443)


def service(kind: str = "ClusterIP", port: int = 443, name: str = "https") -> Service:
    spec = ServiceSpec(type=kind, ports=(ServicePort(port=port, name=name),))
    return Service(metadata=ObjectMeta(name="svc", namespace="ns"), spec=spec)


def endpoint_slice(*addresses: str, port_name: str = "https", ready: bool | None = None) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name="svc-1", namespace="ns", labels={resolve.SERVICE_NAME: "svc"}),
        address_type="IPv4",
        endpoints=tuple(Endpoint(addresses=(a,), conditions=EndpointConditions(ready=ready)) for a in addresses),
        ports=(EndpointPort(name=port_name, port=4443),),
    )


@pytest.mark.parametrize(
    ("found", "slices", "reason"),
    [
        pytest.param(None, [], "ServiceNotFound", id="no service"),
        pytest.param(service(port=8443), [], "ServicePortError", id="another port"),
        pytest.param(service(), [], "EndpointsNotFound", id="no slices"),
        pytest.param(service(), [endpoint_slice()], "MissingEndpoints", id="empty slice"),
        pytest.param(service(), [endpoint_slice("10.0.0.1", ready=False)], "MissingEndpoints", id="none ready"),
        pytest.param(service(), [endpoint_slice("10.0.0.1", port_name="x")], "MissingEndpoints", id="other port name"),
        pytest.param(service(), [endpoint_slice("10.0.0.1")], None, id="there"),
        pytest.param(service("ExternalName"), [], None, id="elsewhere"),
    ],
)
def test_doubts(found: Service | None, slices: list[EndpointSlice], reason: str | None) -> None:
    doubt = resolve.doubt_of(found, slices, REFERENCE)
    assert (doubt.reason if doubt else None) == reason


def test_the_transition_time_moves_with_the_status_only() -> None:
    held = APIService(metadata=ObjectMeta(name=NAME), spec=APIServiceSpec(group_priority_minimum=1, version_priority=1))
    down = resolve.Doubt("ServiceNotFound", "a")
    first = resolve.with_condition(held, down, "t1")
    import msgspec

    held = msgspec.structs.replace(held, status=msgspec.structs.replace(held.status, conditions=first))
    other = resolve.with_condition(held, resolve.Doubt("MissingEndpoints", "b"), "t2")
    assert (other[0].reason, other[0].last_transition_time) == ("MissingEndpoints", "t1")
    up = resolve.with_condition(held, resolve.Doubt("Passed", "", "True"), "t3")
    assert up[0].last_transition_time == "t3"


def test_headers_of_a_user() -> None:
    user = User("jane", uid="7", groups=("a", "b"), extra={"example.com/Scopes": ("x", "y")})
    assert user_headers(user) == [
        ("X-Remote-User", "jane"),
        ("X-Remote-Uid", "7"),
        ("X-Remote-Group", "a"),
        ("X-Remote-Group", "b"),
        ("X-Remote-Extra-example.com%2FScopes", "x"),
        ("X-Remote-Extra-example.com%2FScopes", "y"),
    ]


def test_no_header_of_ours_comes_from_a_client() -> None:
    given = {"x-remote-extra-a": "1", "x-remote-uid": "0", "impersonate-user": "x", "authorization": "y", "accept": "z"}
    kept = forwarded_headers(given, User("jane"), "192.0.2.1", "")
    assert kept == [("accept", "z"), ("X-Forwarded-For", "192.0.2.1"), ("X-Remote-User", "jane")]
