"""The EncryptionConfiguration: which resources lie encrypted, with which keys.

Source: apiserver pkg/server/options/encryptionconfig; API reference "EncryptionConfiguration".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path

import msgspec

from kaa.api.resources import OPTIONAL, RESOURCES
from kaa.store.base import Store
from kaa.store.encryption import AesCbc, AesGcm, Cipher, EncryptedStore, Identity, SecretBox, Transformer

from . import keys
from .options import OptionError


class EncryptionConfigError(OptionError):
    """The configuration cannot be used; the message says what is wrong with it."""


class Key(msgspec.Struct, frozen=True):
    name: str = ""
    secret: str = ""


class Keys(msgspec.Struct, frozen=True):
    keys: tuple[Key, ...] = ()


class Provider(msgspec.Struct, frozen=True):
    aesgcm: Keys | None = None
    aescbc: Keys | None = None
    secretbox: Keys | None = None
    identity: dict[str, str] | None = None
    kms: dict[str, object] | None = None


class ResourceRule(msgspec.Struct, frozen=True):
    resources: tuple[str, ...] = ()
    providers: tuple[Provider, ...] = ()


class EncryptionConfiguration(msgspec.Struct, frozen=True, rename="camel"):
    resources: tuple[ResourceRule, ...] = ()
    api_version: str = ""
    kind: str = ""


class Rules:
    """Transformers by what the store's keys begin with: a resource, a whole group of custom ones, or everything."""

    def __init__(self, configuration: EncryptionConfiguration) -> None:
        self._by_prefix: dict[str, Transformer] = {}
        self._all: Transformer | None = None
        for n, rule in enumerate(configuration.resources):
            self._take(rule, f"resources[{n}]")

    def _take(self, rule: ResourceRule, where: str) -> None:
        if not rule.resources or not rule.providers:
            raise EncryptionConfigError(f"{where}: Required value: resources and providers must be given")
        transformer = Transformer([pair for one in rule.providers for pair in _ciphers(one, where)])
        for name in rule.resources:
            if name == "*.*":
                self._all = self._all or transformer
            for prefix in _prefixes(name):
                self._by_prefix.setdefault(prefix, transformer)

    def transformer_of(self, key: str) -> Transformer | None:
        """The longest prefix counts; what no rule names is in the clear."""
        end = key.find("/", len(keys.ROOT)) + 1
        deeper = key.find("/", end) + 1
        for cut in (deeper, end):
            found = self._by_prefix.get(key[:cut]) if cut else None
            if found is not None:
                return found
        return self._all


def _prefixes(name: str) -> Iterable[str]:
    """What the keys of a resource, or of all resources of a group (``*.apps``, ``*.`` for the core), begin with."""
    plural, _, group = name.partition(".")
    if name == "*.*":
        return
    known = [
        one
        for one in (*RESOURCES, *OPTIONAL)
        if one.group == group and plural in (one.plural, "*") and keys.is_stored(one)
    ]
    for resource in known:
        yield keys.prefix(resource)
    if plural == "*" and group:
        yield f"{keys.ROOT}{group}/"
    elif not known and group:
        yield f"{keys.ROOT}{group}/{plural}/"


def _ciphers(provider: Provider, where: str) -> list[tuple[bytes, Cipher]]:
    """The provider's ciphers, each with the prefix of what it writes."""
    if provider.identity is not None:
        return [(b"", Identity())]
    if provider.kms is not None:
        raise EncryptionConfigError(f"{where}: the kms provider is not supported: use aesgcm, aescbc or secretbox")
    for kind, given in ((AesGcm, provider.aesgcm), (AesCbc, provider.aescbc), (SecretBox, provider.secretbox)):
        if given is not None:
            return [_cipher(kind, key) for key in _checked(given, kind.name.decode())]
    raise EncryptionConfigError(
        f"{where}: provider does not contain any of the expected providers: AESGCM, AESCBC, Secretbox, Identity"
    )


def _checked(given: Keys, kind: str) -> tuple[Key, ...]:
    if not given.keys:
        raise EncryptionConfigError(f"{kind} provider has no valid keys")
    for key in given.keys:
        if not key.name:
            raise EncryptionConfigError("key with invalid name provided")
        if not key.secret:
            raise EncryptionConfigError(f"key {key.name} has no provided secret")
    return given.keys


def _cipher(kind: type[AesGcm] | type[AesCbc] | type[SecretBox], key: Key) -> tuple[bytes, Cipher]:
    try:
        secret = base64.b64decode(key.secret, validate=True)
    except binascii.Error as err:
        raise EncryptionConfigError(f"could not obtain secret for named key {key.name}: {err}") from err
    sizes = (32,) if kind is SecretBox else (16, 24, 32)
    if len(secret) not in sizes:
        expected = " or ".join(map(str, sizes))
        raise EncryptionConfigError(f"key {key.name}: expected key size {expected}, got {len(secret)}")
    try:
        return b"k8s:enc:%s:v1:%s:" % (kind.name, key.name.encode()), kind(secret)
    except ImportError as err:
        raise EncryptionConfigError(f"the {kind.name.decode()} provider needs a library: {err}") from err


def read_encryption(path: Path) -> Rules:
    """Raises EncryptionConfigError."""
    from kaa.api import yaml

    try:
        found = msgspec.convert(yaml.load(path.read_bytes()), EncryptionConfiguration)
    except OSError as err:
        raise EncryptionConfigError(
            f"error opening encryption provider configuration file {str(path)!r}: {err}"
        ) from err
    except (yaml.YAMLError, msgspec.ValidationError) as err:
        raise EncryptionConfigError(f"{path}: {err}") from err
    if (found.api_version, found.kind) != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration"):
        raise EncryptionConfigError(f'{path}: no kind "{found.kind}" is registered for version "{found.api_version}"')
    return Rules(found)


def encrypted(store: Store, path: str) -> Store:
    """The store, encrypted as the file at ``path`` says; the store itself when there is none."""
    return EncryptedStore(store, read_encryption(Path(path)).transformer_of) if path else store
