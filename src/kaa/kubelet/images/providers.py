"""Credentials from programs of the registries' makers: ``CredentialProviderConfig`` and what it names in a folder.

A program whose ``matchImages`` fit is run with a question on its standard input and answers on its output; the answer is kept
for as long as it says, for its image, its registry or all. One that wants it is shown a token of the pod's service account.
Loaded by nodes that have such a file only.
Source: pkg/credentialprovider/plugin; kubelet.config.k8s.io/v1 CredentialProviderConfig, credentialprovider.kubelet.k8s.io.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import structlog

from kaa.api.clock import Clock
from kaa.api.durations import parse_seconds
from kaa.api.errors import ApiError
from kaa.api.resources import Resource
from kaa.api.scheme import resource_of
from kaa.api.types.authentication_v1 import BoundObjectReference, TokenRequest, TokenRequestSpec
from kaa.api.types.core_v1 import Pod, ServiceAccount
from kaa.client.client import Client

from ..metrics.images import ImageMetrics
from .keyring import Keyring, Owner, matches
from .provider_config import Provider, TokenAttributes, read_providers

log = structlog.get_logger(__name__)

_TIMEOUT_S = 60.0
_PURGE_S = 900.0
_MAX_ANSWER = 1 << 20


class _Refused(Exception):
    """The program gives nothing; the message says why, without any credential in it."""


class _Auth(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    kind: str = ""
    api_version: str = ""
    cache_key_type: str = ""
    cache_duration: str | None = None
    auth: dict[str, _Auth] | None = None


class _Kept(msgspec.Struct, frozen=True):
    entries: dict[str, dict[str, str]]
    until: float


class _Asker(msgspec.Struct, frozen=True):
    """The service account on whose behalf a program is asked."""

    owner: Owner
    annotations: dict[str, str]
    token: str


class CredentialProviders:
    """All programs that a file, or the files of a folder, name. Raises ValueError for a file that cannot be used."""

    def __init__(
        self, client: Client, clock: Clock, config: Path, programs: Path, metrics: ImageMetrics | None = None
    ) -> None:
        told = metrics or ImageMetrics(clock)
        self._all = [_Program(client, clock, one, programs, told) for one in read_providers(config, programs)]

    async def add(self, ring: Keyring, repository: str, pod: Pod) -> None:
        """Add what the programs give for an image's repository. A program that fails gives nothing, and is logged."""
        for program in self._all:
            try:
                await program.add(ring, repository, pod)
            except (_Refused, ApiError, OSError, TimeoutError) as err:
                log.error("no credentials from a provider", provider=program.name, image=repository, error=str(err))


class _Program:
    """One program, what it said lately, and which questions are open."""

    def __init__(self, client: Client, clock: Clock, provider: Provider, folder: Path, metrics: ImageMetrics) -> None:
        self._client, self._clock, self._provider, self._metrics = client, clock, provider, metrics
        self.name = provider.name
        self._path = folder / provider.name
        self._kept: dict[tuple[str, str], _Kept] = {}  #: {(image, registry or "global"; for whom): answer}
        self._purged_at = clock.now()
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def add(self, ring: Keyring, repository: str, pod: Pod) -> None:
        if not any(matches(_bare(pattern), repository) for pattern in self._provider.match_images):
            return
        attributes, asker = self._provider.token_attributes, None
        if attributes is not None:
            if not pod.spec.service_account_name:
                if attributes.require_service_account:
                    return
            else:
                asker = await self._asker(attributes, pod)
                if asker is None:
                    return
        entries = await self._entries(repository, asker)
        ring.add(entries, account=asker.owner if asker else None)

    async def _asker(self, attributes: TokenAttributes, pod: Pod) -> _Asker | None:
        """None: the account lacks an annotation by which its owner would have opted in."""
        name, namespace = pod.spec.service_account_name or "", pod.metadata.namespace or ""
        account = await self._client.get(ServiceAccount, name, namespace)
        held = account.metadata.annotations
        if not held.keys() >= set(attributes.required_keys):
            return None
        shown = {key: held[key] for key in (*attributes.required_keys, *attributes.optional_keys) if key in held}
        token = await self._token(attributes.service_account_token_audience, pod)
        return _Asker(Owner(account.metadata.uid or "", namespace, name), shown, token)

    async def _token(self, audience: str, pod: Pod) -> str:
        bound = BoundObjectReference(kind="Pod", api_version="v1", name=pod.metadata.name, uid=pod.metadata.uid)
        wanted = TokenRequest(spec=TokenRequestSpec(audiences=(audience,), bound_object_ref=bound))
        resource: Resource[ServiceAccount] = resource_of(ServiceAccount)
        account = pod.spec.service_account_name or ""
        made = await self._client.call(resource, account, "token", wanted, TokenRequest, pod.metadata.namespace)
        return made.status.token or ""

    # ------------------------------------------------------------------------------------------------------- answers

    async def _entries(self, repository: str, asker: _Asker | None) -> dict[str, dict[str, str]]:
        """{location: entry}. Those who ask the same at once share one answer."""
        whom = self._whom(asker)
        found = self._cached(repository, whom)
        if found is not None:
            return found
        key = (repository, whom)
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                found = self._cached(repository, whom)
                return found if found is not None else await self._ask(repository, asker, whom)
        finally:
            if not lock.locked():
                self._locks.pop(key, None)

    def _whom(self, asker: _Asker | None) -> str:
        if asker is None:
            return ""
        attributes = self._provider.token_attributes
        own_token = asker.token if attributes is not None and attributes.cache_type == "Token" else ""
        facts = [msgspec.structs.astuple(asker.owner), sorted(asker.annotations.items()), own_token]
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()

    def _cached(self, repository: str, whom: str) -> dict[str, dict[str, str]] | None:
        now = self._clock.now()
        if now > self._purged_at + _PURGE_S:
            self._kept, self._purged_at = {key: one for key, one in self._kept.items() if one.until >= now}, now
        for scope in (repository, repository.partition("/")[0], "global"):
            kept = self._kept.get((scope, whom))
            if kept is not None and kept.until >= now:
                return kept.entries
        return None

    async def _ask(self, repository: str, asker: _Asker | None, whom: str) -> dict[str, dict[str, str]]:
        with self._metrics.plugin(self.name):
            answer = await self._run(repository, asker)
        scopes = {"Image": repository, "Registry": repository.partition("/")[0], "Global": "global"}
        if answer.cache_key_type not in scopes:
            raise _Refused(f'credential provider plugin did not return a valid cacheKeyType: "{answer.cache_key_type}"')
        entries = {place: msgspec.structs.asdict(auth) for place, auth in (answer.auth or {}).items()}
        lasts_s = self._provider.cache_s if answer.cache_duration is None else _seconds(answer.cache_duration)
        if lasts_s > 0:
            self._kept[scopes[answer.cache_key_type], whom] = _Kept(entries, self._clock.now() + lasts_s)
        return entries

    async def _run(self, repository: str, asker: _Asker | None) -> _Answer:
        question: dict[str, Any] = {
            "kind": "CredentialProviderRequest",
            "apiVersion": self._provider.api_version,
            "image": repository,
        }
        if asker is not None:
            question["serviceAccountToken"] = asker.token
            if asker.annotations:
                question["serviceAccountAnnotations"] = asker.annotations
        failed = f"error execing credential provider plugin {self.name} for image {repository}"
        try:
            output, complaint, code = await self._execute(msgspec.json.encode(question))
        except (OSError, TimeoutError) as err:
            raise _Refused(f"{failed}: {err or 'context deadline exceeded'}") from err
        if code:
            raise _Refused(f"{failed}: exit status {code}: {complaint}")
        return self._read(output)

    async def _execute(self, question: bytes) -> tuple[bytes, str, int]:
        env = {**os.environ, **{one.name: one.value for one in self._provider.env}}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            self._path, *self._provider.args, stdin=pipe, stdout=pipe, stderr=pipe, env=env
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                output, complaint = await process.communicate(question)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return output, complaint.decode(errors="replace")[:1000], process.returncode or 0

    def _read(self, output: bytes) -> _Answer:
        """The answer. What is wrong with it is not quoted, for it may hold a password."""
        wanted = self._provider.api_version
        try:
            answer = msgspec.json.decode(output[:_MAX_ANSWER], type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Refused("error decoding credential provider plugin response from stdout") from None
        if answer.api_version != wanted:
            raise _Refused(
                f"apiVersion from credential plugin response did not match expected apiVersion:{wanted}, "
                f"actual apiVersion:{answer.api_version}"
            )
        if answer.kind != "CredentialProviderResponse":
            raise _Refused(f'failed to decode CredentialProviderResponse, unexpected Kind: "{answer.kind}"')
        return answer


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError:
        raise _Refused("error decoding credential provider plugin response from stdout") from None


def _bare(pattern: str) -> str:
    return pattern.split("://", 1)[-1]
