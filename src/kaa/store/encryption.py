"""Values that lie encrypted in the store: a Store around another one, and the ciphers.

What is written is what kube-apiserver writes (``k8s:enc:aescbc:v1:key1:…``), so that either can read the other's. The first
transformer of a rule writes, all of them read; a value in the clear is readable wherever ``identity`` is among them.

Left to others: which keys are encrypted with what (apiserver.encryption). ``cryptography`` is read when the first cipher is
made. Source: apiserver pkg/storage/value/encrypt/{aes,secretbox,identity}.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from .base import Event, KeyValue, Page, Revision, RevisionMismatch, Store, StoreError

PREFIX = b"k8s:enc:"
NOW = Revision(0)


class DecryptionError(StoreError):
    """A value cannot be read with the keys at hand."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f'unable to transform key "{key}": {why}')


class Cipher(Protocol):
    """``key`` is the store's key, which some ciphers bind a value to. Raises ValueError for what is not its own."""

    def seal(self, value: bytes, key: str) -> bytes: ...

    def open(self, data: bytes, key: str) -> bytes: ...


class AesGcm:
    """Twelve bytes of nonce before the text; a value moved to another key is refused."""

    name = b"aesgcm"

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(secret)

    def seal(self, value: bytes, key: str) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, value, key.encode())

    def open(self, data: bytes, key: str) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(data[:12], data[12:], key.encode())
        except InvalidTag as err:
            raise ValueError("cipher: message authentication failed") from err


class AesCbc:
    """Sixteen bytes of initialization vector before the text, padded as PKCS #7. Nothing says that it was not altered."""

    name = b"aescbc"

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.algorithms import AES

        self._algorithm = AES(secret)

    def _cipher(self, vector: bytes) -> Any:
        from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
        from cryptography.hazmat.primitives.ciphers.modes import CBC

        return BlockCipher(self._algorithm, CBC(vector))

    def seal(self, value: bytes, key: str) -> bytes:
        vector = os.urandom(16)
        missing = 16 - len(value) % 16
        sealing = self._cipher(vector).encryptor()
        sealed: bytes = sealing.update(value + bytes([missing]) * missing) + sealing.finalize()
        return vector + sealed

    def open(self, data: bytes, key: str) -> bytes:
        if len(data) < 32 or len(data) % 16:
            raise ValueError("the stored data is not a multiple of the block size")
        opening = self._cipher(data[:16]).decryptor()
        plain: bytes = opening.update(data[16:]) + opening.finalize()
        count = plain[-1]
        if not 1 <= count <= 16 or plain[-count:] != bytes([count]) * count:
            raise ValueError("invalid padding on input")
        return plain[:-count]


class SecretBox:
    """XSalsa20 and Poly1305, from PyNaCl: twenty-four bytes of nonce before the box."""

    name = b"secretbox"

    def __init__(self, secret: bytes) -> None:
        from nacl.secret import SecretBox as Box  # an extra of its own: kaa[secretbox]

        self._box = Box(secret)

    def seal(self, value: bytes, key: str) -> bytes:
        return bytes(self._box.encrypt(value))

    def open(self, data: bytes, key: str) -> bytes:
        from nacl.exceptions import CryptoError

        try:
            return bytes(self._box.decrypt(data))
        except CryptoError as err:
            raise ValueError("output data failed authentication") from err


class Identity:
    """In the clear."""

    def seal(self, value: bytes, key: str) -> bytes:
        return value

    def open(self, data: bytes, key: str) -> bytes:
        if data.startswith(PREFIX):
            raise ValueError("identity transformer tried to read encrypted data")
        return data


class Transformer:
    """The ciphers of a rule by the prefix of what they write; the first one writes."""

    def __init__(self, ciphers: Sequence[tuple[bytes, Cipher]]) -> None:
        self._ciphers = tuple(ciphers)

    def seal(self, value: bytes, key: str) -> bytes:
        prefix, cipher = self._ciphers[0]
        return prefix + cipher.seal(value, key)

    def is_current(self, data: bytes) -> bool:
        """Whether the cipher that writes has written it."""
        prefix = self._ciphers[0][0]
        return data.startswith(prefix) if prefix else not data.startswith(PREFIX)

    def open(self, data: bytes, key: str) -> bytes:
        """Raises DecryptionError."""
        fault = "no matching prefix found"
        for prefix, cipher in self._ciphers:
            if data.startswith(prefix):
                try:
                    return cipher.open(data[len(prefix) :], key)
                except ValueError as err:
                    fault = str(err)
        raise DecryptionError(key, fault)


class EncryptedStore:
    """``base.Store`` whose values are encrypted on the way in. ``transformer_of`` says with what; None leaves a key's
    values alone."""

    def __init__(self, store: Store, transformer_of: Callable[[str], Transformer | None]) -> None:
        self._store, self._transformer_of = store, transformer_of
        #: {key: (as stored, in the clear)} of writes that the watch has not shown yet: their own bytes come back from it
        self._written: dict[str, tuple[bytes, bytes]] = {}

    @property
    def revision(self) -> Revision:
        return self._store.revision

    def _opened(self, kv: KeyValue) -> KeyValue:
        transformer = self._transformer_of(kv.key)
        if transformer is None or not kv.value:
            return kv
        return replace(kv, value=transformer.open(kv.value, kv.key), stale=not transformer.is_current(kv.value))

    async def get(self, key: str, *, revision: Revision = NOW) -> KeyValue | None:
        found = await self._store.get(key, revision=revision)
        return self._opened(found) if found is not None else None

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: Revision = NOW) -> Page:
        page = await self._store.range(prefix, after=after, limit=limit, revision=revision)
        return replace(page, items=tuple(self._opened(kv) for kv in page.items))

    async def put(self, key: str, value: bytes, *, expected: Revision | None = None) -> KeyValue:
        transformer = self._transformer_of(key)
        if transformer is None:
            return await self._store.put(key, value, expected=expected)
        sealed = transformer.seal(value, key)
        before = self._written.get(key)
        self._written[key] = (sealed, value)
        try:
            return replace(await self._store.put(key, sealed, expected=expected), value=value)
        except RevisionMismatch as err:
            self._forget(key, sealed, before)
            raise RevisionMismatch(key, self._opened(err.current) if err.current is not None else None) from None
        except BaseException:
            self._forget(key, sealed, before)
            raise

    def _forget(self, key: str, sealed: bytes, before: tuple[bytes, bytes] | None) -> None:
        held = self._written.get(key)
        if held is not None and held[0] is sealed:
            del self._written[key]
            if before is not None:
                self._written[key] = before

    async def delete(self, key: str, *, expected: Revision | None = None) -> KeyValue | None:
        try:
            gone = await self._store.delete(key, expected=expected)
        except RevisionMismatch as err:
            raise RevisionMismatch(key, self._opened(err.current) if err.current is not None else None) from None
        return self._opened(gone) if gone is not None else None

    async def watch(self, prefix: str, *, after: Revision) -> AsyncIterator[Sequence[Event]]:
        async with aclosing(self._store.watch(prefix, after=after)) as batches:  # type: ignore[type-var]  # a generator
            async for batch in batches:
                yield [self._event(event) for event in batch]

    def _event(self, event: Event) -> Event:
        key = event.kv.key
        if self._transformer_of(key) is None:
            return event
        written = self._written.get(key)
        if written is not None and written[0] == event.kv.value:
            del self._written[key]
            kv = replace(event.kv, value=written[1])
        else:
            kv = self._opened(event.kv)
        previous = self._opened(event.previous) if event.previous is not None else None
        return replace(event, kv=kv, previous=previous)

    async def compact(self, revision: Revision) -> None:
        await self._store.compact(revision)

    async def close(self) -> None:
        await self._store.close()
