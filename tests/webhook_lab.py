"""A webhook for tests: an HTTPS server on loopback with an authority of its own, answering as the test says.

async with webhook_server(lambda path, review: allow(review)) as hook:
    hook.client_config("/mutate")       # {"url": "https://127.0.0.1:…/mutate", "caBundle": …}
    hook.seen                           # every (path with its query, review) so far
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Json = dict[str, Any]
#: (path, review) -> the answer: a document, or raw (status, content type, body)
Handler = Callable[[str, Json], "Reply | Awaitable[Reply]"]
Reply = Json | tuple[int, str, bytes]


@dataclass(frozen=True)
class Trust:
    """PEM files of an authority, and of a server's certificate signed by it."""

    folder: tempfile.TemporaryDirectory[str]
    ca: bytes

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(self.folder.name) / "tls.crt", Path(self.folder.name) / "tls.key")
        return context


@lru_cache(maxsize=8)
def trust(*names: str, expired: bool = False) -> Trust:
    """An authority, and a certificate for ``names`` besides 127.0.0.1; made once a session."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, ca = _certificate("webhook-ca", None, None, (), now + datetime.timedelta(days=1))
    end = now - datetime.timedelta(hours=1) if expired else now + datetime.timedelta(days=1)
    key, cert = _certificate("webhook", ca, ca_key, names, end)
    folder = tempfile.TemporaryDirectory(prefix="kaa-webhook-")
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    Path(folder.name, "tls.crt").write_bytes(cert.public_bytes(pem))
    Path(folder.name, "tls.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return Trust(folder, ca.public_bytes(pem))


def _certificate(
    name: str,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey | None,
    names: tuple[str, ...],
    end: datetime.datetime,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=2))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        alternatives: list[x509.GeneralName] = [x509.DNSName(n) for n in names]
        alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return key, builder.sign(issuer_key or key, hashes.SHA256())


@dataclass(slots=True)
class Webhook:
    """A server that runs. ``connections`` counts those it took."""

    port: int
    trust: Trust
    seen: list[tuple[str, Json]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    handler: Handler | None = None  #: answers from now on

    @property
    def ca_bundle(self) -> str:
        return base64.b64encode(self.trust.ca).decode()

    def client_config(self, path: str = "") -> Json:
        return {"url": f"https://127.0.0.1:{self.port}{path}", "caBundle": self.ca_bundle}

    @property
    def requests(self) -> list[Json]:
        return [review["request"] for _, review in self.seen]


def allow(review: Json, **more: Any) -> Json:
    """An answer that allows; ``patch`` is a JSON patch."""
    return _answer(review, True, more)


def deny(review: Json, message: str = "", code: int = 0, **more: Any) -> Json:
    status = {**({"message": message} if message else {}), **({"code": code} if code else {})}
    return _answer(review, False, {**more, **({"status": status} if status else {})})


def _answer(review: Json, allowed: bool, more: Json) -> Json:
    response: Json = {"uid": review["request"]["uid"], "allowed": allowed, **more}
    if "patch" in more:
        response["patch"] = base64.b64encode(json.dumps(more["patch"]).encode()).decode()
        response["patchType"] = "JSONPatch"
    return {"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response}


@asynccontextmanager
async def webhook_server(
    handler: Handler, *, names: tuple[str, ...] = (), expired: bool = False
) -> AsyncIterator[Webhook]:
    made = trust(*names, expired=expired)
    hook = Webhook(0, made)

    open_writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hook.connections += 1
        open_writers.add(writer)
        try:
            while await _one(reader, writer, handler, hook):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            open_writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=made.context)
    hook.port = server.sockets[0].getsockname()[1]
    try:
        yield hook
    finally:
        server.close()
        for writer in list(open_writers):
            writer.transport.abort()
        await asyncio.sleep(0.01)


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler, hook: Webhook) -> bool:
    """Answer one request; False when the client has gone."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return False
    start, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    review = json.loads(await reader.readexactly(int(headers["content-length"])))
    path = start.split(" ")[1]
    hook.seen.append((path, review))
    hook.headers.append(headers)
    made = (hook.handler or handler)(path.partition("?")[0], review)
    reply = await made if isinstance(made, Awaitable) else made
    status, kind, body = reply if isinstance(reply, tuple) else (200, "application/json", json.dumps(reply).encode())
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return True
