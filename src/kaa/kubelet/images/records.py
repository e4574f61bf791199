"""Who pulled which image with what: a private image on the node is handed only to pods that show they may have it.

    <root>/image_manager/pulling/sha256-<of the image's name>     a pull that began
    <root>/image_manager/pulled/sha256-<of the image's id>        {repository: who may have it}

The idea: before a pull its intent is written, after it the record; so an image that neither names was not pulled by this
kubelet (it was imported, or is older than the records), and one with an intent but no record may be anybody's: it is pulled
again with the pod's own credentials. Files and their form are upstream's, so that kubelets can follow each other.
Source: KEP-2535; pkg/kubelet/images/pullmanager; kubelet.config.k8s.io/v1beta1 ImagePulledRecord, ImagePullIntent.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import structlog

from kaa.api.clock import Clock, format_time, parse_time
from kaa.runtime.base import Image

from .keyring import Credential, Owner
from .names import parse_reference, repository

log = structlog.get_logger(__name__)

Policy = Literal["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"]
POLICIES: tuple[Policy, ...] = (
    "NeverVerify",
    "NeverVerifyPreloadedImages",
    "NeverVerifyAllowlistedImages",
    "AlwaysVerify",
)
_VERSION = "kubelet.config.k8s.io/v1beta1"
_MOST_OWNERS = 100  #: beyond it, a pod that is known by its hash or its name alone is let in, but not written down


class SecretRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    uid: str = ""
    namespace: str = ""
    name: str = ""
    credential_hash: str = ""


class AccountRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    uid: str = ""
    namespace: str = ""
    name: str = ""


class Access(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Who may have an image: every pod of the node, or those that use a secret or service account of these."""

    kubernetes_secrets: tuple[SecretRecord, ...] = ()
    kubernetes_service_accounts: tuple[AccountRecord, ...] = ()
    node_pods_accessible: bool = False


class PulledRecord(msgspec.Struct, frozen=True, rename="camel"):
    kind: str
    api_version: str
    last_updated_time: str
    image_ref: str
    credential_mapping: dict[str, Access] = {}


class PullIntent(msgspec.Struct, frozen=True, rename="camel"):
    kind: str
    api_version: str
    image: str


R = TypeVar("R", PulledRecord, PullIntent)


class Verification:
    """Whether a pod must show credentials for an image that is there already."""

    def __init__(self, policy: Policy = "NeverVerifyPreloadedImages", allowlist: Sequence[str] = ()) -> None:
        """Raises ValueError for a pattern that is none."""
        self.policy = policy
        self._patterns = tuple(check_pattern(pattern) for pattern in allowlist)

    def needed(self, image: str, *, pulled_here: bool) -> bool:
        match self.policy:
            case "NeverVerify":
                return False
            case "NeverVerifyPreloadedImages":
                return pulled_here
            case "NeverVerifyAllowlistedImages":
                return not self._allowed(image)
            case "AlwaysVerify":
                return True

    def _allowed(self, image: str) -> bool:
        name = repository(image)
        return any(name.startswith(one) if one.endswith("/") else name == one for one in self._patterns)


def check_pattern(pattern: str) -> str:
    """A repository's whole name, or the beginning that a pattern in ``/*`` stands for. Raises ValueError, in upstream's words."""
    if pattern != pattern.strip():
        raise ValueError(f"leading/trailing spaces are not allowed: {pattern}")
    bare = pattern.removesuffix("*") if pattern.endswith("/*") else pattern
    if not bare:
        raise ValueError(f"the supplied pattern is too short: {pattern}")
    if "*" in bare:
        raise ValueError(f"not a valid wildcard pattern, only patterns ending with '/*' are allowed: {pattern}")
    if bare != pattern:
        if bare == "/":
            raise ValueError("at least registry hostname is required")
        return bare
    try:
        name = parse_reference(pattern).name
    except ValueError as err:
        raise ValueError(f"failed to parse as an image name: {err}") from None
    if name != pattern:
        raise ValueError(f"neither tag nor digest is accepted in an image reference: {pattern}")
    return pattern


class PullRecords:
    """The records of one node, in memory and on disk. Methods that write block, shortly."""

    def __init__(self, root: Path, clock: Clock, verification: Verification) -> None:
        self._pulling, self._pulled, self._clock = root / "pulling", root / "pulled", clock
        self.verification = verification
        self._records: dict[str, PulledRecord] = {}  #: {image id: record}
        self._intents: Counter[str] = Counter()  #: {image: pulls under way}, those of an earlier life as well

    def open(self, images: Iterable[Image]) -> None:
        """Read what an earlier life left. Pulls that it began and that came to their end are recorded as nobody's."""
        for folder in (self._pulling, self._pulled):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._records = {one.image_ref: one for one in _read(self._pulled, PulledRecord)}
        self._intents = Counter(one.image for one in _read(self._pulling, PullIntent))
        if not self._intents:
            return
        begun = {_whole(name): name for name in self._intents}
        for image in images:
            for name in begun.keys() & {*image.repo_tags, *image.repo_digests}:
                self.ended(begun[name], image.id, None)

    def began(self, image: str) -> None:
        """A pull begins."""
        if not self._intents[image]:
            _write(self._pulling, image, PullIntent("ImagePullIntent", _VERSION, image))
        self._intents[image] += 1

    def failed(self, image: str) -> None:
        self._intents[image] -= 1
        if self._intents[image] <= 0:
            del self._intents[image]
            _path(self._pulling, image).unlink(missing_ok=True)

    def ended(self, image: str, image_id: str, access: Access | None) -> None:
        """A pull came to its end; ``access`` None when nobody knows with whose credentials."""
        self._grant(image, image_id, access)
        self.failed(image)

    def must_pull(self, image: str, image_id: str, credentials: Sequence[Credential]) -> bool:
        """Whether a pod with these credentials must ask the registry for an image that the node has already."""
        record = self._records.get(image_id)
        if not self.verification.needed(image, pulled_here=record is not None or bool(self._intents[image])):
            return False
        access = record.credential_mapping.get(repository(image)) if record else None
        if access is None:
            return True
        if access.node_pods_accessible:
            return False
        return not any(self._known(image, image_id, access, one) for one in credentials)

    def _known(self, image: str, image_id: str, access: Access, credential: Credential) -> bool:
        if credential.account is not None:
            return account_record(credential.account) in access.kubernetes_service_accounts
        if credential.secret is None:
            return False
        own = secret_record(credential)
        same_place = [
            one
            for one in access.kubernetes_secrets
            if (one.uid, one.namespace, one.name) == (own.uid, own.namespace, own.name)
        ]
        same_hash = [one for one in access.kubernetes_secrets if one.credential_hash == own.credential_hash]
        if not (same_place or same_hash):
            return False
        if own not in access.kubernetes_secrets and len(access.kubernetes_secrets) < _MOST_OWNERS:
            self._grant(image, image_id, Access((own,)))
        return True

    def _grant(self, image: str, image_id: str, access: Access | None) -> None:
        old = self._records.get(image_id)
        name, known = repository(image), old.credential_mapping if old else {}
        wanted = dict(known)
        if access is not None:
            wanted[name] = merged(known.get(name, Access()), access)
        if old is not None and wanted == known:
            return
        made = PulledRecord("ImagePulledRecord", _VERSION, format_time(self._clock.now()), image_id, wanted)
        _write(self._pulled, image_id, made)
        self._records[image_id] = made

    def forget(self, known: frozenset[str], since: float) -> None:
        """Drop the records of images that are gone. ``known``: ids of those that were there at ``since``."""
        for image_id, record in list(self._records.items()):
            if image_id not in known and parse_time(record.last_updated_time) < since:
                del self._records[image_id]
                _path(self._pulled, image_id).unlink(missing_ok=True)


def merged(old: Access, new: Access) -> Access:
    """What both allow together: with access for every pod the others say nothing, and a secret is there once, as it is now."""
    if old.node_pods_accessible or new.node_pods_accessible:
        return Access(node_pods_accessible=True)
    fresh = {(one.uid, one.namespace, one.name) for one in new.kubernetes_secrets}
    kept = [one for one in old.kubernetes_secrets if (one.uid, one.namespace, one.name) not in fresh]
    accounts = {*old.kubernetes_service_accounts, *new.kubernetes_service_accounts}
    return Access(tuple(sorted((*kept, *new.kubernetes_secrets), key=_place)), tuple(sorted(accounts, key=_place)))


def access_of(credential: Credential | None) -> Access:
    """Whom a pull with a credential (None: anonymous) lets have the image."""
    if credential is not None and credential.secret is not None:
        return Access((secret_record(credential),))
    if credential is not None and credential.account is not None:
        return Access((), (account_record(credential.account),))
    return Access(node_pods_accessible=True)


def secret_record(credential: Credential) -> SecretRecord:
    owner = credential.secret
    assert owner is not None
    return SecretRecord(owner.uid, owner.namespace, owner.name, credential.hash)


def account_record(owner: Owner) -> AccountRecord:
    return AccountRecord(owner.uid, owner.namespace, owner.name)


def _place(one: SecretRecord | AccountRecord) -> tuple[str, str, str]:
    return one.uid, one.namespace, one.name


def _whole(image: str) -> str:
    """As images are listed: without the tag, where a digest decides."""
    found = parse_reference(image)
    return f"{found.name}@{found.digest}" if found.digest else str(found)


def _path(folder: Path, name: str) -> Path:
    return folder / f"sha256-{hashlib.sha256(name.encode()).hexdigest()}"


def _write(folder: Path, name: str, record: PulledRecord | PullIntent) -> None:
    path = _path(folder, name)
    part = path.with_name(f".{path.name}")
    part.write_bytes(msgspec.json.encode(record))
    os.replace(part, path)


def _read(folder: Path, kind: Callable[..., R]) -> list[R]:
    """What can be read; a record that a crash garbled is removed, and its image verified again."""
    found = []
    for path in sorted(folder.iterdir()):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=kind))
        except (msgspec.DecodeError, UnicodeDecodeError, OSError) as err:
            log.warning("record of an image pull is unreadable and dropped", path=str(path), error=str(err))
            path.unlink(missing_ok=True)
    return found
