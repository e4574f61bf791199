"""Requests that end elsewhere: logs, exec, attach and port-forward at a kubelet; proxy at a pod, a service or a node.

The idea: the answer's head is read, so that a refusal becomes a Status; from then on bytes go both ways untouched. So
SPDY, WebSocket and plain streams all pass, and this server needs to know none of them. Two are told otherwise: pages that
are proxied get their links led over here (``proxied``), and a log goes as messages to whom asks for a WebSocket.

Source: pkg/registry/core/{pod,service,node} (ResourceLocation), apimachinery pkg/util/proxy (upgradeaware.go).
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from kaa.api.errors import ApiError, BadRequest, NotFound, ServiceUnavailable, Unclassified
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import Node, Pod, Service
from kaa.api.types.discovery_v1 import Endpoint, EndpointSlice
from kaa.client.pipeline import Request

from .admission.base import Attributes, Chain
from .connect_options import options_of
from .connect_relay import MessageRelay, Relay, asks_for_messages
from .go_words import go_words
from .http import Answer, HttpRequest, HttpResponse
from .routes import Target
from .view import View

HEAD_LIMIT = 64 * 1024
DIAL_S = 10.0
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_HOP_HEADERS = frozenset({"host", "connection", "authorization", "content-length", "transfer-encoding", "expect"})
_KUBELET_FLAGS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes on."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None = None
    server_name: str = ""  #: whom its certificate must name, if not the host


class Connector:
    """``front.Connector``. ``kubelet_tls`` presents this server's client certificate and trusts the kubelets' CA."""

    def __init__(self, view: View, admission: Chain, kubelet_tls: ssl.SSLContext) -> None:
        self._view, self._admission, self._kubelet_tls = view, admission, kubelet_tls

    async def __call__(self, http: HttpRequest, request: Request, target: Target) -> Answer:
        if target.subresource != "log":
            query = http.target.partition(b"?")[2].decode("latin-1")
            asked = options_of(request.resource.plural, target.subresource, query, target.rest)
            attributes = Attributes(request, "CONNECT", asked)
            await self._admission.admit(attributes, self._view)
            await self._admission.validate(attributes, self._view)
        place = self._place(http, request, target)
        below = _below_proxy(http, target)
        plain = http.method in ("GET", "HEAD") and not http.wants_upgrade()
        if target.subresource == "proxy" and plain and not below:
            path, _, query = http.target.decode("latin-1").partition("?")
            return HttpResponse(301, b"", "", [("Location", path + "/" + (f"?{query}" if query else ""))])
        messages = target.subresource == "log" and asks_for_messages(http.headers)
        try:
            reader, writer = await dial(place)
        except Undialled as err:
            raise not_reached(str(err), place, target.subresource) from None
        try:
            writer.write(_request_head(http, place, below, upgrade=http.wants_upgrade() and not messages) + http.body)
            await writer.drain()
            head = await read_head(reader)
            status = int(head.split(b" ", 2)[1])
            if target.subresource != "proxy" and status not in (101, 200):
                return await self._refusal(status, reader, head, request)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as err:
            writer.close()
            raise not_reached(str(err) or "EOF", place, target.subresource) from None
        except BaseException:
            writer.close()
            raise
        if messages:
            return MessageRelay(head, reader, writer, http.headers)
        if target.subresource != "proxy":
            return Relay(head, reader, writer)
        from .proxied import ProxyRelay, Standing

        standing = Standing(_prefix(http, below), f"{place.host}:{place.port}", http.headers.get("host", ""))
        return ProxyRelay(head, reader, writer, standing, http.method)

    async def _refusal(self, status: int, reader: asyncio.StreamReader, head: bytes, request: Request) -> Answer:
        """The kubelet's no, as this server's."""
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")),
            -1,
        )
        body = await (reader.readexactly(length) if length >= 0 else reader.read(HEAD_LIMIT))
        message = body.decode("utf-8", "replace").strip() or f"the server responded with the status code {status}"
        reasons = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}
        raise ApiError(
            message,
            code=status,
            reason=reasons.get(status, "InternalError"),
            name=request.name,
            kind=request.resource.plural,
        )

    # ------------------------------------------------------------------------------------------------ places

    def _place(self, http: HttpRequest, request: Request, target: Target) -> Place:
        resource = request.resource.plural
        query = http.target.partition(b"?")[2].decode("latin-1")
        if target.subresource != "proxy":
            pod = self._pod(request.resource, request.namespace, request.name)
            return self._pod_connect(pod, target.subresource, query)
        path = (_below_proxy(http, target) or "/") + (f"?{query}" if query else "")
        scheme, name, port = _split(request.name, "node" if resource == "nodes" else resource.removesuffix("s"))
        if resource == "nodes":
            return self._node(name, scheme, port, path)
        tls = _any_certificate() if scheme == "https" else None
        if resource == "services":
            return Place(*self._service(request.resource, request.namespace, name, port), path, tls)
        pod = self._pod(request.resource, request.namespace, name)
        address = pod.status.pod_ip or ""
        if not _proxyable(address):
            raise BadRequest("address not allowed")
        return Place(address, int(port) if port.isdigit() else _named_port(pod, port), path, tls)

    def _pod(self, resource: Resource[Any], namespace: str, name: str) -> Pod:
        pod = self._view.get(Pod, name, namespace)
        if pod is None:
            raise NotFound.of(resource, name)
        return pod

    def _pod_connect(self, pod: Pod, subresource: str, query: str) -> Place:
        pairs = parse_qsl(query, keep_blank_values=True)
        given = dict(pairs)
        where = f"{quote(pod.metadata.namespace or '')}/{quote(pod.metadata.name or '')}"
        if subresource == "portforward":
            ports = [("port", port) for key, value in pairs if key == "ports" for port in value.split(",")]
            _need_node(pod)
            return self._kubelet(pod.spec.node_name or "", f"/portForward/{where}{_query(ports)}")
        container = _container(pod, given.get("container", ""))
        if subresource == "log":
            _need_node(pod, waiting=container)
            kept = [(key, value) for key, value in pairs if key != "container"]
            return self._kubelet(pod.spec.node_name or "", f"/containerLogs/{where}/{quote(container)}{_query(kept)}")
        _need_node(pod)
        passed = [("command", value) for key, value in pairs if key == "command"]
        passed += [(name, "1") for key, name in _KUBELET_FLAGS.items() if given.get(key) in ("true", "1")]
        path = f"/{subresource}/{where}/{quote(container)}{_query(passed)}"
        return self._kubelet(pod.spec.node_name or "", path)

    def _kubelet(self, node_name: str, path: str) -> Place:
        address, port = self._kubelet_address(node_name)
        return Place(address, port, path, self._kubelet_tls)

    def _node(self, name: str, scheme: str, port: str, path: str) -> Place:
        """The kubelet, or by another port whoever else listens at the node."""
        address, own = self._kubelet_address(name)
        if not port or port == str(own):
            return Place(address, own, path, self._kubelet_tls)
        return Place(address, int(port), path, _any_certificate() if scheme == "https" else None)

    def _kubelet_address(self, name: str) -> tuple[str, int]:
        node = self._view.get(Node, name)
        if node is None or node.status is None:
            raise NotFound(f'nodes "{name}" not found', name=name, kind="nodes")
        address = next((a.address for a in node.status.addresses if a.type == "InternalIP"), "")
        endpoint = node.status.daemon_endpoints.kubelet_endpoint
        return address, endpoint.port if endpoint else 10250

    def _service(self, resource: Resource[Any], namespace: str, name: str, port: str) -> tuple[str, int]:
        """One of the pods behind a service: its address and the port there."""
        service = self._view.get(Service, name, namespace)
        if service is None:
            raise NotFound.of(resource, name)
        if port.isdigit():
            numbered = next((p for p in service.spec.ports if p.port == int(port)), None)
            if numbered is None:
                raise ServiceUnavailable(f'no service port {int(port)} found for service "{name}"')
            port = numbered.name or ""
        for piece in self._view.list(EndpointSlice, namespace):
            if piece.metadata.labels.get("kubernetes.io/service-name") != name:
                continue
            numbers = [p.port for p in piece.ports if (p.name or "") == port and p.port]
            ready = [e for e in piece.endpoints if e.conditions is None or e.conditions.ready is not False]
            pods = [e.addresses[0] for e in ready if self._is_pods(e, namespace)]
            if numbers and pods:
                return self._view.clock.random.choice(pods), numbers[0]
        raise ServiceUnavailable(f'no endpoints available for service "{name}"')

    def _is_pods(self, endpoint: Endpoint, namespace: str) -> bool:
        """Whether an endpoint's address is that of the pod it names: no others are reached for a client."""
        target, address = endpoint.target_ref, endpoint.addresses[0]
        pod = self._view.get(Pod, target.name or "", namespace) if target and target.kind == "Pod" else None
        return pod is not None and _proxyable(address) and address in {ip.ip for ip in pod.status.pod_ips}


def _query(pairs: list[tuple[str, str]]) -> str:
    return "?" + urlencode(pairs) if pairs else ""


def _split(text: str, kind: str) -> tuple[str, str, str]:
    """``[scheme:]name[:port]`` -> (scheme, name, port); a scheme is there only with two colons. Raises BadRequest."""
    parts = text.split(":")
    match parts:
        case [name]:
            return "", name, ""
        case [name, port]:
            return "", name, port
        case ["http" | "https" | "" as scheme, name, port]:
            return scheme, name, port
    raise BadRequest(f'invalid {kind} request "{text}"')


def _below_proxy(http: HttpRequest, target: Target) -> str:
    """What follows ``proxy`` in a request's path, as it was written: ``/a/b``, ``/`` or nothing."""
    if target.subresource != "proxy":
        return ""
    pieces = http.target.partition(b"?")[0].decode("latin-1").split("/", 8 if target.namespace else 6)
    return "/" + pieces[-1] if len(pieces) == (9 if target.namespace else 7) else ""


def _prefix(http: HttpRequest, below: str) -> str:
    return http.target.partition(b"?")[0].decode("latin-1").removesuffix(below)


def _proxyable(address: str) -> bool:
    """Whether an address may be reached for a client: not this machine, nor what is only on a link."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


@cache
def _any_certificate() -> ssl.SSLContext:
    """TLS with whomever: pods have certificates of their own."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _named_port(pod: Pod, name: str) -> int:
    ports = [port for container in pod.spec.containers for port in container.ports]
    found = next((p.container_port for p in ports if (p.name == name if name else True)), None)
    if found is None:
        if name:
            raise BadRequest(f'no port "{name}" in pod')
        return 80
    return found


def _container(pod: Pod, asked: str) -> str:
    """The container meant. Raises BadRequest in upstream's words when it is none, or one of several."""
    spec = pod.spec
    known = [c.name for c in spec.containers] + [c.name for c in spec.init_containers]
    known += [c.name for c in spec.ephemeral_containers]
    if asked:
        if asked not in known:
            raise BadRequest(f"container {asked} is not valid for pod {pod.metadata.name}")
        return asked
    if len(spec.containers) == 1:
        return spec.containers[0].name
    default = pod.metadata.annotations.get(_DEFAULT_CONTAINER, "")
    if default in known:
        return default
    names = " ".join(c.name for c in spec.containers)
    message = f"a container name must be specified for pod {pod.metadata.name}, choose one of: [{names}]"
    if spec.init_containers:
        message += f" or one of the init containers: [{' '.join(c.name for c in spec.init_containers)}]"
    raise BadRequest(message)


def _need_node(pod: Pod, waiting: str = "") -> None:
    if pod.spec.node_name:
        return
    if waiting:
        raise BadRequest(f"pod {pod.metadata.name} does not have a host assigned")
    raise BadRequest(f"pod {pod.metadata.name} does not have a host assigned")


class Undialled(ConnectionError):
    """Nobody was reached; the text says why, in Go's words."""


async def dial(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises Undialled."""
    name = place.server_name or place.host
    try:
        async with asyncio.timeout(DIAL_S):
            return await asyncio.open_connection(
                place.host, place.port, ssl=place.tls, limit=HEAD_LIMIT, server_hostname=name if place.tls else None
            )
    except TimeoutError:
        raise Undialled(f"dial tcp {place.host}:{place.port}: i/o timeout") from None
    except OSError as err:
        raise Undialled(go_words(err, place.host, place.port, name)) from None


def not_reached(why: str, place: Place, subresource: str) -> ApiError:
    """As upstream tells it of each: a log is fetched, a proxy passes on, and everything else is dialled first."""
    if subresource == "proxy":
        return ServiceUnavailable(f"error trying to reach service: {why}")
    if subresource == "log":
        return Unclassified(f'Get "https://{place.host}:{place.port}{place.path}": {why}')
    return Unclassified(f"error dialing backend: {why}")


def _request_head(http: HttpRequest, place: Place, below: str, *, upgrade: bool) -> bytes:
    """The request as it goes on. Credentials stay here, and whom the asker acts as: the kubelet sees this server's
    certificate."""
    lines = [f"{http.method} {place.path} HTTP/1.1", f"Host: {place.host}:{place.port}"]
    lines.append("Connection: Upgrade" if upgrade else "Connection: close")
    dropped = _HOP_HEADERS if upgrade else _HOP_HEADERS | {"upgrade"}
    kept = (name for name in http.headers if name not in dropped and not name.startswith("impersonate-"))
    lines += [f"{name}: {http.headers[name]}" for name in kept]
    if below:
        lines.append(f"X-Forwarded-Uri: {_prefix(http, below)}{below}")
    lines.append(f"Content-Length: {len(http.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")
