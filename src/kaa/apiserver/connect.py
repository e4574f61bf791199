"""Requests that end elsewhere: logs, exec, attach and port-forward at a kubelet; proxy at a pod, a service or a node.

The idea: the answer's head is read, so that a refusal becomes a Status; from then on bytes go both ways untouched. So
SPDY, WebSocket and plain streams all pass, and this server needs to know none of them.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from kaa.api.errors import ApiError, BadRequest, NotFound, ServiceUnavailable
from kaa.api.resources import Resource
from kaa.api.types.core_v1 import Node, Pod, Service
from kaa.api.types.discovery_v1 import EndpointSlice
from kaa.client.pipeline import Request

from .admission.base import Attributes, Chain
from .connect_options import options_of
from .http import Answer, Connection, HttpRequest
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

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.path}"


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
        reader, writer = await dial(place)
        try:
            writer.write(_request_head(http, place) + http.body)
            await writer.drain()
            head = await read_head(reader)
            status = int(head.split(b" ", 2)[1])
            if target.subresource != "proxy" and status not in (101, 200):
                return await self._refusal(status, reader, head, request)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as err:
            writer.close()
            raise ServiceUnavailable(f"error trying to reach {place.url}: {err}") from None
        except BaseException:
            writer.close()
            raise
        return Relay(head, reader, writer)

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
        if resource == "nodes":
            node, _, port = request.name.partition(":")
            path = "/" + target.rest + (f"?{query}" if query else "")
            return self._kubelet(node, path, int(port) if port.isdigit() else 0)
        if resource == "services":
            return self._service(request, target, query)
        name, _, port = request.name.partition(":")
        if target.subresource == "proxy":
            pod = self._pod(request.resource, request.namespace, _without_scheme(request.name)[0])
            return self._pod_proxy(pod, _without_scheme(request.name)[1], target, query)
        pod = self._pod(request.resource, request.namespace, name)
        return self._pod_connect(pod, target.subresource, query)

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

    def _kubelet(self, node_name: str, path: str, port: int = 0) -> Place:
        node = self._view.get(Node, node_name)
        if node is None or node.status is None:
            raise NotFound(f'nodes "{node_name}" not found', name=node_name, kind="nodes")
        address = next((a.address for a in node.status.addresses if a.type == "InternalIP"), "")
        endpoint = node.status.daemon_endpoints.kubelet_endpoint
        port = port or (endpoint.port if endpoint else 10250)
        return Place(address, port, path, self._kubelet_tls)

    def _pod_proxy(self, pod: Pod, port: str, target: Target, query: str) -> Place:
        address = pod.status.pod_ip
        if not address:
            raise BadRequest("address not allowed")
        number = int(port) if port.isdigit() else _named_port(pod, port)
        return Place(address, number, "/" + target.rest + (f"?{query}" if query else ""))

    def _service(self, request: Request, target: Target, query: str) -> Place:
        name, port = _without_scheme(request.name)
        service = self._view.get(Service, name, request.namespace)
        if service is None:
            raise NotFound.of(request.resource, name)
        wanted = next((p for p in service.spec.ports if not port or port in (p.name, str(p.port))), None)
        if wanted is None:
            raise ServiceUnavailable(f'no service port "{port}" found for service "{name}"')
        for piece in self._view.list(EndpointSlice, request.namespace):
            if piece.metadata.labels.get("kubernetes.io/service-name") != name:
                continue
            numbers = [p.port for p in piece.ports if (p.name or "") == (wanted.name or "") and p.port]
            ready = [e.addresses[0] for e in piece.endpoints if e.conditions is None or e.conditions.ready is not False]
            if numbers and ready:
                address = self._view.clock.random.choice(ready)
                return Place(address, numbers[0], "/" + target.rest + (f"?{query}" if query else ""))
        raise ServiceUnavailable(f'no endpoints available for service "{name}"')


def _query(pairs: list[tuple[str, str]]) -> str:
    return "?" + urlencode(pairs) if pairs else ""


def _without_scheme(name: str) -> tuple[str, str]:
    """``[scheme:]name[:port]`` -> (name, port)."""
    parts = name.split(":")
    if len(parts) == 3:
        parts = parts[1:]
    return parts[0], parts[1] if len(parts) > 1 else ""


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


async def dial(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(DIAL_S):
            return await asyncio.open_connection(
                place.host,
                place.port,
                ssl=place.tls,
                limit=HEAD_LIMIT,
                server_hostname=(place.server_name or place.host) if place.tls else None,
            )
    except (OSError, TimeoutError) as err:
        raise ServiceUnavailable(f"error trying to reach {place.url}: {err}") from None


def _request_head(http: HttpRequest, place: Place) -> bytes:
    """The request as it goes on. Credentials stay here, and whom the asker acts as: the kubelet sees this server's
    certificate."""
    upgrade = http.wants_upgrade()
    lines = [f"{http.method} {place.path} HTTP/1.1", f"Host: {place.host}:{place.port}"]
    lines.append("Connection: Upgrade" if upgrade else "Connection: close")
    kept = (name for name in http.headers if name not in _HOP_HEADERS and not name.startswith("impersonate-"))
    lines += [f"{name}: {http.headers[name]}" for name in kept]
    lines.append(f"Content-Length: {len(http.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


class Relay:
    """Bytes both ways until either side ends."""

    def __init__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._head, self._reader, self._writer = head, reader, writer

    async def __call__(self, connection: Connection) -> None:
        ended = asyncio.Event()

        def sink(data: bytes) -> None:
            if data:
                self._writer.write(data)
            else:
                ended.set()

        connection.take_over(sink)
        down = asyncio.ensure_future(self._down(connection))
        gone = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait((down, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            down.cancel()
            gone.cancel()
            self._writer.close()

    async def _down(self, connection: Connection) -> None:
        await connection.write(self._head if self._head.split(b" ", 2)[1] == b"101" else _last(self._head))
        while data := await self._reader.read(64 * 1024):
            await connection.write(data)


def _last(head: bytes) -> bytes:
    """The head of an answer after which the connection ends, which a client that keeps connections must be told."""
    first, *headers = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in headers if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join((first, *kept, b"Connection: close", b"", b""))
