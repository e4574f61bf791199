"""From a kubeconfig to a client: TLS as it says, and credentials that are renewed while the client lives.

The idea: what a file says is read once (``kubeconfig.load``); what it points at is read again. A token's file is looked at
once a minute, an exec plugin is run before what it gave expires, and a certificate's file that has changed is taken up by
``reload``, which also ends the connections that were made with the old one.

Source: client-go transport (tokenSource, exec plugin), rest.Config.
"""

from __future__ import annotations

import asyncio
import os
import ssl

import structlog

from kaa.api.clock import Clock
from kaa.api.errors import ApiError

from .connection import Pool
from .http import HttpClient
from .kubeconfig import Access, Credentials, KubeconfigError, token_of

log = structlog.get_logger(__name__)
TOKEN_FILE_S = 60.0
#: An exec plugin that names no end for what it gave is not asked again before this; one that does, so long before its end.
PLUGIN_S, PLUGIN_EARLY_S = 3600.0, 60.0


def load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Have TLS show a certificate that stands in memory: OpenSSL's verb wants a file, so it is given one without a name.

    Raises KubeconfigError: the two do not belong together, or are no PEM.
    """
    descriptor = os.memfd_create("kaa-credentials", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(certificate.rstrip() + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as err:
        raise KubeconfigError(f"tls: the client certificate and its key cannot be used: {err}") from err
    finally:
        os.close(descriptor)


def tls_of(access: Access) -> ssl.SSLContext | None:
    """TLS as a kubeconfig says; None for plain HTTP. Raises KubeconfigError."""
    if not access.server.startswith("https://"):
        return None
    try:
        context = ssl.create_default_context(cadata=access.ca.decode() if access.ca else None)
    except (ssl.SSLError, UnicodeDecodeError) as err:
        raise KubeconfigError(f"unable to load root certificates: {err}") from err
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    credentials = access.credentials
    if credentials.certificate:
        load_certificate(context, credentials.certificate, credentials.key or credentials.certificate)
    return context


class Session:
    """A client by a kubeconfig. ``run`` keeps its credentials fresh until cancelled; ``close`` ends it.

    Raises KubeconfigError: the file asks for what this client cannot do, or its plugin gave nothing.
    """

    def __init__(self, access: Access, clock: Clock, agent: str) -> None:
        """Runs an exec plugin, where there is one, and waits for it."""
        for asked, what in (
            (access.proxy_url, "proxy-url"),
            (access.credentials.impersonate, "as"),
            (access.credentials.username, "username"),
        ):
            if asked:
                raise KubeconfigError(f"context {access.context!r}: {what} is not supported here; take it out")
        self.access, self._clock = access, clock
        self._now: Credentials = access.credentials
        self._renew()
        self._tls = tls_of(access)
        if self._now.certificate and self._tls is not None:
            load_certificate(self._tls, self._now.certificate, self._now.key or self._now.certificate)
        headers = {"User-Agent": agent, "Accept": "application/json"}
        self._pool = Pool(access.server, self._tls, headers, server_name=access.server_name)
        token = (lambda: self._now.token) if self._now.token else None
        self.client = HttpClient(access.server, self._tls, agent, token=token, pool=self._pool)

    @property
    def certificate(self) -> bytes:
        """The certificate, as PEM, that it shows now; empty with a token."""
        return self._now.certificate

    def reload(self, certificate: bytes, key: bytes) -> None:
        """Show another certificate from now on, on new connections; the old ones end. Raises KubeconfigError."""
        if self._tls is not None:
            load_certificate(self._tls, certificate, key)
        self._now = Credentials(certificate=certificate, key=key, token=self._now.token)
        self._pool.close()

    async def run(self) -> None:
        """Renew what has an end of its own."""
        given = self.access.credentials
        if not given.token_file and given.exec is None:
            return
        while True:
            await self._clock.sleep(self._wait_s())
            before = self._now
            try:
                await asyncio.to_thread(self._renew)
            except (KubeconfigError, OSError) as err:
                log.warning("credentials not renewed", server=self.access.server, error=str(err))
                continue
            if self._now.certificate and self._now.certificate != before.certificate:
                self.reload(self._now.certificate, self._now.key)

    def _wait_s(self) -> float:
        if self.access.credentials.exec is None:
            return TOKEN_FILE_S
        if self._now.expires_at is None:
            return PLUGIN_S
        return max(self._now.expires_at - PLUGIN_EARLY_S - self._clock.now(), 10.0)

    def _renew(self) -> None:
        given = self.access.credentials
        if given.token_file or given.exec is not None:
            self._now = token_of(given)

    async def close(self) -> None:
        await self.client.close()


async def whoami(client: HttpClient) -> str:
    """Whom the API server takes us for: ``system:node:n1``; empty when it does not say.

    Source: SelfSubjectReview, authentication.k8s.io/v1.
    """
    from kaa.api.types.authentication_v1 import SelfSubjectReview

    try:
        review = await client.create(SelfSubjectReview())
    except ApiError:
        return ""
    return review.status.user_info.username or ""
