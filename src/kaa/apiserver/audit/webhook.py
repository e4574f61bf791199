"""Audit events to another server, in batches: a kubeconfig says where it is and how to be trusted there.

Writing never waits: events gather in a buffer with a bound, and what comes while it is full is lost and counted, so that a
dead receiver cannot stop the API server.
Source: apiserver plugin/pkg/audit/{buffered,webhook}.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from kaa.api.clock import Clock
from kaa.api.errors import ApiError
from kaa.client.http import HttpClient
from kaa.client.kubeconfig import Access, KubeconfigError, load, token_of

from ..hearing import rest
from ..options import OptionError

log = structlog.get_logger(__name__)

BUFFER = 10_000  # events that may wait
BATCH = 400  # events in one request
GATHER_S = 30.0  # how long the first event of a batch waits for others
RETRIES = 4
BACKOFF_S = 10.0
LAST_S = 5.0  # what a server that ends gives to the events that are left


class Webhook:
    """An ``auditor.Backend`` whose ``run`` sends what ``write`` has gathered."""

    def __init__(self, client: HttpClient, clock: Clock, *, path: str = "") -> None:
        self._client, self._clock, self._path = client, clock, path
        self._events: deque[bytes] = deque()
        self._full = asyncio.Event()  #: a batch is there, or the server is closing
        self.lost = 0

    @classmethod
    def of_file(cls, path: Path, clock: Clock) -> Webhook:
        """Raises OptionError."""
        try:
            access = load([path])
            credentials = token_of(access.credentials)
        except KubeconfigError as err:
            raise OptionError(f"{path}: {err}") from err
        token = (lambda: credentials.token) if credentials.token else None
        client = HttpClient(access.server, _context(access), "kube-apiserver-audit", token=token)
        return cls(client, clock, path="" if urlsplit(access.server).path.strip("/") else "/")

    def write(self, event: bytes) -> None:
        if len(self._events) >= BUFFER:
            self.lost += 1
            return
        self._events.append(event)
        if len(self._events) >= BATCH:
            self._full.set()

    async def run(self) -> None:
        """Send batches until cancelled; then what is left, once."""
        try:
            while True:
                await rest(self._full, self._clock, GATHER_S)
                self._full.clear()
                while self._events:
                    await self._send()
        finally:
            try:
                async with asyncio.timeout(LAST_S):
                    while self._events and await self._post(self._batch()):
                        pass
            finally:
                await self._client.close()

    def _batch(self) -> bytes:
        taken = [self._events.popleft() for _ in range(min(BATCH, len(self._events)))]
        head = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":['
        return head + b",".join(taken) + b"]}"

    async def _send(self) -> None:
        """One batch, tried several times."""
        batch, lost = self._batch(), self.lost
        for attempt in range(RETRIES + 1):
            if await self._post(batch):
                return
            if attempt < RETRIES:
                await self._clock.sleep(BACKOFF_S * 1.5**attempt)
        log.error("a batch of audit events was lost", lost_before=lost)

    async def _post(self, batch: bytes) -> bool:
        try:
            await self._client.raw("POST", self._path, batch)
        except ApiError as err:
            log.warning("the audit webhook refused a batch", error=str(err))
            return False
        return True

    def close(self) -> None:
        """``run`` has sent what it could."""


def _context(access: Access) -> ssl.SSLContext:
    """TLS as the kubeconfig wants it."""
    context = ssl.create_default_context(cadata=access.ca.decode("ascii") if access.ca else None)
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    credentials = access.credentials
    if credentials.certificate and credentials.key:
        with tempfile.NamedTemporaryFile(mode="wb") as file:  # ssl reads certificates from files only
            file.write(credentials.certificate + b"\n" + credentials.key)
            file.flush()
            context.load_cert_chain(file.name)
    return context
