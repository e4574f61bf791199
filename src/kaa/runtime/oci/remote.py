"""One repository at one endpoint, over HTTP: manifests and blobs, with the credentials it asks for, repeated while that helps.

Bytes are checked against the digest and the size that asked for them as they arrive; what breaks is taken up where it broke.
Errors are in containerd's words, for they end in events that people search for.
Source: OCI distribution-spec; the token protocol of the distribution project; containerd core/remotes/docker.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import msgspec

from ...api.clock import Clock
from ..base import ImageAuth
from .hosts import Endpoint
from .images import digest_of
from .manifest import ACCEPT, MAX_DOCUMENT_BYTES, Descriptor
from .reference import Reference
from .work import Threads

if TYPE_CHECKING:
    import aiohttp

_ATTEMPTS = 6
_CHUNK = 1 << 18
#: A download that broke is not given up while every attempt brings so much.
_PROGRESS_BYTES = 1 << 20
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 30.0
_DENIED = "pull access denied, repository does not exist or may require authorization"


class Refused(Exception):
    """A registry's final answer; ``status`` 0 when it cannot be reached."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Progress:
    """How far a pull is; bytes are those of packed layers."""

    status: str = "resolving"
    done: int = 0
    total: int = 0


class Remote:
    """See the module. Every method raises Refused."""

    def __init__(
        self, session: aiohttp.ClientSession, clock: Clock, endpoint: Endpoint, reference: Reference, auth: ImageAuth
    ) -> None:
        self.session, self.clock, self.endpoint, self.path, self.auth = session, clock, endpoint, reference.path, auth
        self.name = str(reference)
        self.query = {"ns": reference.registry} if endpoint.proxy else {}
        self.authorization = f"Bearer {auth.registry_token}" if auth.registry_token else ""

    async def resolve(self, name: str, digest: str) -> bytes:
        """The manifest or index of a tag, or of a digest."""
        wanted = Descriptor(digest=digest) if digest else None
        try:
            return await self._document(f"/{self.path}/manifests/{name}", wanted)
        except Refused as err:
            raise Refused(f"{self.name}: not found", 404) if err.status == 404 else err from None

    async def fetch(self, kind: Literal["manifest", "config"], wanted: Descriptor) -> bytes:
        """A manifest or config by its descriptor."""
        if wanted.size > MAX_DOCUMENT_BYTES:
            raise Refused(f"{kind} {wanted.digest} of {wanted.size} bytes is larger than a document may be")
        where = "blobs" if kind == "config" else "manifests"
        try:
            return await self._document(f"/{self.path}/{where}/{wanted.digest}", wanted, kind)
        except Refused as err:
            raise _while_copying(err) from err

    async def _document(self, path: str, wanted: Descriptor | None, kind: str = "manifest") -> bytes:
        import aiohttp

        for attempt in range(_ATTEMPTS):
            try:
                async with self._get(path, {"Accept": ACCEPT}) as answer:
                    content = await self._whole(answer, path)
                break
            except (aiohttp.ClientError, TimeoutError) as err:
                if attempt + 1 == _ATTEMPTS:
                    raise Refused(f'failed to do request: Get "{self.endpoint.url}{path}": {_trouble(err)}') from err
                await self.clock.sleep(self._delay(attempt))
        if wanted is not None:
            check_content(kind, wanted, len(content), digest_of(content))
        return content

    @staticmethod
    async def _whole(answer: aiohttp.ClientResponse, path: str) -> bytes:
        content = b""
        async for chunk in answer.content.iter_chunked(_CHUNK):
            content += chunk
            if len(content) > MAX_DOCUMENT_BYTES:
                raise Refused(f"{path} is larger than a document may be")
        return content

    async def download(self, blob: Descriptor, path: Path, threads: Threads, progress: Progress) -> None:
        """Fetch a blob into a file; after a broken or silent connection go on from where it broke."""
        import aiohttp

        with cast(BinaryIO, await threads.run(path.open, "wb")) as file:
            part = _Part(blob, file, threads, progress)
            attempt = 0
            while part.done < blob.size:
                before = part.done
                try:
                    await self._go_on(part)
                except Refused as err:
                    raise _while_copying(err) from err
                except (aiohttp.ClientError, TimeoutError) as err:
                    if attempt + 1 >= _ATTEMPTS:
                        raise _while_copying(Refused(_trouble(err))) from err
                else:
                    if part.done < blob.size and attempt + 1 >= _ATTEMPTS:
                        break
                if part.done < blob.size:
                    attempt = 0 if part.done - before >= _PROGRESS_BYTES else attempt + 1
                    await self.clock.sleep(self._delay(attempt))
        check_content("layer", blob, part.done, f"sha256:{part.hasher.hexdigest()}")

    async def _go_on(self, part: _Part) -> None:
        headers = {"Range": f"bytes={part.done}-"} if part.done else {}
        async with self._get(f"/{self.path}/blobs/{part.blob.digest}", headers) as answer:
            if part.done and answer.status != 206:
                await part.again()
            async for chunk in answer.content.iter_chunked(_CHUNK):
                await part.take(chunk)

    @contextlib.asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer. Raises Refused with the registry's own words."""
        import aiohttp

        asked, url = False, f"{self.endpoint.url}{path}"
        for attempt in range(_ATTEMPTS):
            sent = [*self.endpoint.headers, *headers.items()]
            if self.authorization:
                sent = [pair for pair in sent if pair[0].lower() != "authorization"]
                sent.append(("Authorization", self.authorization))
            try:
                answer = await self.session.get(url, headers=sent, params=self.query, ssl=self.endpoint.tls)
            except (aiohttp.ClientError, TimeoutError) as err:
                if attempt >= 2 or isinstance(err, ssl.SSLError):  # TLS does not get better by asking again
                    raise Refused(f'failed to do request: Get "{url}": {_trouble(err)}') from err
                await self.clock.sleep(self._delay(attempt))
                continue
            try:
                if answer.status < 300:
                    yield answer
                    return
                challenges = answer.headers.getall("WWW-Authenticate", [])
                if answer.status == 401 and not asked and challenges:
                    asked = True
                    await self._authorize(challenges)
                elif answer.status in _TRANSIENT and attempt + 1 < _ATTEMPTS:
                    await self.clock.sleep(self._delay(attempt, answer.headers.get("Retry-After", "")))
                else:
                    raise Refused(_words(answer, challenges), answer.status)
            finally:
                answer.release()
        raise Refused(f"{self.endpoint.url} does not answer")

    def _delay(self, attempt: int, asked: str = "") -> float:
        """Seconds to wait: as a ``Retry-After`` asks, in seconds or as a date, else doubling; never for long."""
        wait: float = 0.25 * 2**attempt * (1 + self.clock.random.random())
        if asked.isdigit():
            wait = float(asked[:9])
        elif asked:
            with contextlib.suppress(ValueError):
                wait = email.utils.parsedate_to_datetime(asked).timestamp() - self.clock.now()
        return max(0.0, min(wait, _LONGEST_WAIT_S))

    # ------------------------------------------------------------------------------------------------- credentials

    async def _authorize(self, challenges: list[str]) -> None:
        """Answer ``WWW-Authenticate``: a token from the realm it names, or plain basic authentication."""
        for challenge in challenges:
            scheme, parameters = parse_challenge(challenge)
            if scheme == "bearer" and "realm" in parameters:
                self.authorization = f"Bearer {await self._token(parameters)}"
                return
            if scheme == "basic":
                if not (self.auth.username and self.auth.password):
                    raise Refused(f"{_DENIED}: authorization failed: no basic auth credentials", 401)
                self.authorization = self._basic()
                return
        raise Refused(f"unexpected status from GET request to {self.endpoint.url}: 401 Unauthorized", 401)

    def _basic(self) -> str:
        plain = f"{self.auth.username}:{self.auth.password}"
        return f"Basic {base64.b64encode(plain.encode()).decode()}"

    async def _token(self, challenge: Mapping[str, str]) -> str:
        import aiohttp

        scope = challenge.get("scope") or f"repository:{self.path}:pull"
        given = {"service": challenge.get("service", ""), "scope": scope}
        anonymous = not (self.auth.username or self.auth.identity_token)
        failed = f"failed to authorize: failed to fetch {'anonymous' if anonymous else 'oauth'} token"
        try:
            if self.auth.identity_token:
                grant = {"grant_type": "refresh_token", "refresh_token": self.auth.identity_token, "client_id": "kaa"}
                request = self.session.post(challenge["realm"], data={**given, **grant}, ssl=self.endpoint.tls)
            else:
                headers = {"Authorization": self._basic()} if self.auth.username else {}
                request = self.session.get(challenge["realm"], params=given, headers=headers, ssl=self.endpoint.tls)
            async with request as answer:
                body = await self._whole(answer, challenge["realm"])
                if answer.status != 200:
                    raise Refused(f"{failed}: {_status(answer)}", 401)
            found: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        except (aiohttp.ClientError, TimeoutError, ValueError) as err:
            raise Refused(f"{failed}: {_trouble(err)}", 401) from err
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not token.isprintable():
            raise Refused(f"{failed}: authorization server did not include a token in the response", 401)
        return token


class _Part:
    """A blob on its way into a file: how much of it is there, and its hash so far."""

    def __init__(self, blob: Descriptor, file: BinaryIO, threads: Threads, progress: Progress) -> None:
        self.blob, self.file, self.threads, self.progress = blob, file, threads, progress
        self.done, self.hasher = 0, hashlib.sha256()

    async def take(self, chunk: bytes) -> None:
        self.done += len(chunk)
        self.progress.done += len(chunk)
        if self.done > self.blob.size:
            check_content("layer", self.blob, self.done, "")
        await self.threads.run(self.file.write, chunk)
        self.hasher.update(chunk)

    async def again(self) -> None:
        """The registry knows no ranges: from the beginning."""
        self.progress.done -= self.done
        self.done, self.hasher = 0, hashlib.sha256()
        self.file.seek(0)
        await self.threads.run(self.file.truncate, 0)


def check_content(kind: str, wanted: Descriptor, size: int, digest: str) -> None:
    """What came must be what was asked for. A size of 0 is one that nobody announced. Raises Refused."""
    failed = f'failed commit on ref "{kind}-{wanted.digest}"'
    if wanted.size and size != wanted.size:
        raise Refused(f"{failed}: unexpected commit size {size}, expected {wanted.size}: failed precondition")
    if digest != wanted.digest:
        raise Refused(f"{failed}: unexpected commit digest {digest}, expected {wanted.digest}: failed precondition")


def parse_challenge(text: str) -> tuple[str, dict[str, str]]:
    """``Bearer realm="…",service="…"`` as (``bearer``, {"realm": …})."""
    scheme, _, rest = text.partition(" ")
    found = re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', rest)
    return scheme.lower(), {key.lower(): quoted or bare for key, quoted, bare in found}


def _while_copying(err: Refused) -> Refused:
    """As said of what the manifest names; what came and is wrong says so itself."""
    said = str(err)
    if err.status == 404:
        said = "content not found: not found"
    return (
        err
        if said.startswith("failed commit")
        else Refused(f"failed to copy: httpReadSeeker: failed open: {said}", err.status)
    )


def _words(answer: aiohttp.ClientResponse, challenges: list[str]) -> str:
    """Why a registry says no."""
    if answer.status == 401:
        for challenge in challenges:
            _, parameters = parse_challenge(challenge)
            if error := parameters.get("error"):
                return f"{_DENIED}: server message: {error[:200]}: authorization failed"
    return _status(answer)


def _status(answer: aiohttp.ClientResponse) -> str:
    return f"unexpected status from {answer.method} request to {answer.url}: {answer.status} {answer.reason}"


def _trouble(err: Exception) -> str:
    """Why a request never arrived, in the words of Go's HTTP client."""
    import aiohttp

    if isinstance(err, TimeoutError):
        return "context deadline exceeded"
    if not isinstance(err, aiohttp.ClientConnectorError):
        return str(err) or type(err).__name__
    if isinstance(err.os_error, ssl.SSLError):
        return _tls_trouble(err.os_error)
    if isinstance(err.os_error, socket.gaierror):
        return f"dial tcp: lookup {err.host}: no such host"
    if err.os_error.errno is None:  # several addresses, several reasons
        return str(err)
    return f"dial tcp {err.host}:{err.port}: connect: {os.strerror(err.os_error.errno).lower()}"


#: {OpenSSL's code: Go's words}
_X509 = {
    10: "certificate has expired or is not yet valid",
    9: "certificate has expired or is not yet valid",
    **dict.fromkeys((18, 19, 20, 21), "certificate signed by unknown authority"),
}


def _tls_trouble(err: ssl.SSLError) -> str:
    if isinstance(err, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {_X509.get(err.verify_code, err.verify_message)}"
    if err.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return "http: server gave HTTP response to HTTPS client"
    return f"remote error: tls: {(err.reason or str(err)).lower().replace('_', ' ')}"
