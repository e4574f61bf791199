"""HTTPS to the API server behind an APIService: who it must prove to be, whom we prove to be, and for whom we ask.

The idea: this server has authenticated the user; the server behind trusts our client certificate (signed by the front
proxy's authority) and takes the user from ``X-Remote-*`` headers. So those never pass through from a client.

Source: client-go transport NewAuthProxyRoundTripper; kube-aggregator BuildTransportConfig.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from kaa.api.types.apiregistration_v1 import APIServiceSpec
from kaa.client.connection import Pool
from kaa.client.pipeline import User

Pair = tuple[str, str]

#: Not to be passed on: what is this connection's own, what proves who the client is, what we state ourselves.
_OURS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "expect", "authorization", "te", "trailer",
     "keep-alive", "proxy-authorization", "proxy-connection", "x-forwarded-for", "audit-id"}
)  # fmt: skip
_OUR_PREFIXES = ("x-remote-", "impersonate-")
#: What Go leaves as it is in a header's name; all else of an extra's key is percent-encoded.
_TOKEN = "!#$&'*+-.^_`|~"


@dataclass(frozen=True, slots=True)
class Identity:
    """The files of the client certificate that servers behind this one know it by; None when there is none."""

    cert: Path
    key: Path


class BadTrust(Exception):
    """The caBundle is none that TLS can be built on."""


class Backend:
    """The servers of one APIService, as its spec says they must be spoken to. Connections are kept by address."""

    def __init__(self, spec: APIServiceSpec, identity: Identity | None) -> None:
        self.spec, self._identity = spec, identity
        self._pools: dict[tuple[str, int], Pool] = {}

    @property
    def server_name(self) -> str:
        service = self.spec.service
        assert service is not None
        return f"{service.name}.{service.namespace}.svc"

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Raises BadTrust."""
        context = client_context(self._identity)
        if self.spec.insecure_skip_tls_verify:
            return context
        trust(context, self.spec.ca_bundle or "")
        return context

    def pool(self, host: str, port: int) -> Pool:
        """Raises BadTrust."""
        found = self._pools.get((host, port))
        if found is None:
            if len(self._pools) >= 16:  # endpoints come and go: those of long ago are let go
                self.close()
            shown = f"[{host}]" if ":" in host else host
            found = Pool(f"https://{shown}:{port}", self.tls, {}, server_name=self.server_name)
            self._pools[host, port] = found
        return found

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


def client_context(identity: Identity | None) -> ssl.SSLContext:
    """TLS that shows our certificate and as yet checks nothing. Any certificate of a bundle is an anchor, as in Go."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    if identity is not None:
        context.load_cert_chain(identity.cert, identity.key)
    return context


def trust(context: ssl.SSLContext, bundle: str) -> None:
    """Have TLS demand a certificate by the authorities of a caBundle (base64 of PEM), or the machine's when there is none.

    Raises: BadTrust.
    """
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    if not bundle:
        context.load_default_certs()
        return
    try:
        context.load_verify_locations(cadata=base64.b64decode(bundle).decode("ascii"))
    except (ssl.SSLError, binascii.Error, UnicodeDecodeError) as err:
        raise BadTrust("unable to load root certificates: unable to parse bytes as PEM block") from err


def user_headers(user: User) -> list[Pair]:
    """The headers that say for whom a request is made."""
    pairs = [("X-Remote-User", user.name)]
    if user.uid:
        pairs.append(("X-Remote-Uid", user.uid))
    pairs += [("X-Remote-Group", group) for group in user.groups]
    for key, values in user.extra.items():
        pairs += [(f"X-Remote-Extra-{quote(key, safe=_TOKEN)}", value) for value in values]
    return pairs


def forwarded_headers(headers: Mapping[str, str], user: User, peer: str, audit_id: str) -> list[Pair]:
    """A client's headers as they go on, with who it is in place of what it showed."""
    kept = [
        (name, value) for name, value in headers.items() if name not in _OURS and not name.startswith(_OUR_PREFIXES)
    ]
    before = headers.get("x-forwarded-for")
    if peer:
        kept.append(("X-Forwarded-For", f"{before}, {peer}" if before else peer))
    if audit_id:
        kept.append(("Audit-ID", audit_id))
    return [*kept, *user_headers(user)]


_NOT_RETURNED = frozenset(
    {"connection", "content-length", "transfer-encoding", "keep-alive", "date", "cache-control", "audit-id",
     "content-type", "te", "trailer", "upgrade", "proxy-authenticate"}
)  # fmt: skip


def returned_headers(headers: Iterable[Pair]) -> tuple[str, list[Pair]]:
    """An answer's content type, and its other headers that the client gets."""
    pairs: Sequence[Pair] = list(headers)
    content_type = next((value for name, value in pairs if name == "content-type"), "")
    kept = [("-".join(word.capitalize() for word in n.split("-")), v) for n, v in pairs if n not in _NOT_RETURNED]
    return content_type, kept
