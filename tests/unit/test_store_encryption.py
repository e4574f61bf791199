"""Encryption at rest: what lies in the store, who can read it, and configurations that cannot be."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kaa.api.types.core_v1 import Secret
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.values import Base64
from kaa.apiserver.encryption import EncryptionConfigError, EncryptionConfiguration, Rules, encrypted, read_encryption
from kaa.apiserver.options import ApiServerOptions
from kaa.store.base import Revision
from kaa.store.encryption import AesCbc, AesGcm, Cipher, DecryptionError, EncryptedStore, Identity, SecretBox
from kaa.store.memory import MemoryStore
from tests import api_lab
from tests.api_lab import Lab

SECRET = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(32)).decode()
KEY = "/registry/secrets/default/a"


def rules(*resources: dict[str, Any]) -> Rules:
    return Rules(msgspec.convert({"resources": list(resources)}, EncryptionConfiguration))


def provider(kind: str, *keys: tuple[str, str]) -> dict[str, Any]:
    return {kind: {"keys": [{"name": name, "secret": secret} for name, secret in keys]}}


@pytest.mark.parametrize("kind", [AesGcm, AesCbc, SecretBox])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4000])
def test_what_is_sealed_opens_and_nothing_else_does(kind: Any, size: int) -> None:
    cipher: Cipher = kind(bytes(range(32)))
    value = bytes(size)
    sealed = cipher.seal(value, KEY)
    assert cipher.open(sealed, KEY) == value
    assert cipher.seal(value, KEY) != sealed  # a nonce of its own each time
    if kind is not AesCbc:  # it does not authenticate
        with pytest.raises(ValueError, match="authentic"):
            kind(bytes(32)).open(sealed, KEY)
        with pytest.raises(ValueError, match="authentic"):
            cipher.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), KEY)


def test_aes_gcm_binds_a_value_to_its_key() -> None:
    """As upstream's authenticated data does: a Secret's bytes put under another name are refused."""
    cipher = AesGcm(bytes(range(32)))
    sealed = cipher.seal(b"x", KEY)
    with pytest.raises(ValueError, match="authentication failed"):
        cipher.open(sealed, "/registry/secrets/default/b")


def test_identity_refuses_what_is_encrypted() -> None:
    with pytest.raises(ValueError, match="tried to read encrypted data"):
        Identity().open(b"k8s:enc:aescbc:v1:k:...", KEY)


def test_the_first_provider_writes_and_all_read() -> None:
    async def main() -> None:
        inner = MemoryStore()
        await inner.put(KEY, b"clear")
        first = provider("aescbc", ("k1", SECRET))
        old = _store(inner, {"resources": ["secrets"], "providers": [first, {"identity": {}}]})
        assert (await old.get(KEY)).value == b"clear"
        await old.put(KEY, b"one")
        raw = await inner.get(KEY)
        assert raw is not None
        assert raw.value.startswith(b"k8s:enc:aescbc:v1:k1:")
        rotated = provider("aescbc", ("k2", OTHER), ("k1", SECRET))
        new = _store(inner, {"resources": ["secrets"], "providers": [rotated]})
        assert (await new.get(KEY)).value == b"one"
        await new.put(KEY, b"two")
        with pytest.raises(DecryptionError, match='unable to transform key "/registry/secrets/default/a"'):
            await old.get(KEY)
        page = await new.range("/registry/")
        assert [kv.value for kv in page.items] == [b"two"]
        await new.put("/registry/configmaps/default/a", b"open")
        raw = await inner.get("/registry/configmaps/default/a")
        assert raw is not None
        assert raw.value == b"open"
        await inner.close()

    asyncio.run(main())


def _store(inner: MemoryStore, *resources: dict[str, Any]) -> Any:
    return EncryptedStore(inner, rules(*resources).transformer_of)


def test_a_watch_gives_a_writer_its_own_bytes() -> None:
    async def main() -> None:
        store = _store(MemoryStore(), {"resources": ["*.*"], "providers": [provider("aesgcm", ("k", SECRET))]})
        watch = store.watch("/registry/", after=Revision(0))
        value = b"its own"
        await store.put(KEY, value)
        (event,) = await anext(watch)
        assert event.kv.value is value
        await watch.aclose()
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("named", "key", "covered"),
    [
        ("secrets", KEY, True),
        ("secrets", "/registry/configmaps/default/a", False),
        ("services", "/registry/services/specs/default/a", True),
        ("*.", "/registry/configmaps/default/a", True),
        ("*.", "/registry/deployments/default/a", False),
        ("*.apps", "/registry/deployments/default/a", True),
        ("widgets.example.org", "/registry/example.org/widgets/default/a", True),
        ("*.example.org", "/registry/example.org/gadgets/a", True),
        ("*.*", "/registry/example.org/gadgets/a", True),
    ],
)
def test_which_keys_a_rule_covers(named: str, key: str, covered: bool) -> None:
    found = rules({"resources": [named], "providers": [provider("aesgcm", ("k", SECRET))]})
    assert (found.transformer_of(key) is not None) == covered


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        pytest.param({"resources": ["secrets"]}, "Required value", id="no providers"),
        pytest.param({"resources": ["secrets"], "providers": [{}]}, "expected providers", id="empty provider"),
        pytest.param({"resources": ["secrets"], "providers": [provider("aescbc")]}, "no valid keys", id="no keys"),
        pytest.param(
            {"resources": ["secrets"], "providers": [provider("aescbc", ("k", "YWJj"))]}, "key size", id="short"
        ),
        pytest.param(
            {"resources": ["secrets"], "providers": [provider("secretbox", ("k", "!"))]},
            "could not obtain",
            id="base64",
        ),
        pytest.param({"resources": ["secrets"], "providers": [{"kms": {}}]}, "not supported", id="kms"),
    ],
)
def test_configurations_that_cannot_be(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(EncryptionConfigError, match=words):
        rules(rule)


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "encryption.yaml"
    head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
    path.write_text(head + f"resources: [{{resources: [secrets], providers: [{{aesgcm: {{keys: [{{name: k, secret: {SECRET}}}]}}}}]}}]")  # fmt: skip
    assert read_encryption(path).transformer_of(KEY) is not None
    inner = MemoryStore()
    assert encrypted(inner, "") is inner
    path.write_text("kind: Policy")
    with pytest.raises(EncryptionConfigError, match='no kind "Policy"'):
        read_encryption(path)
    with pytest.raises(EncryptionConfigError, match="error opening"):
        read_encryption(tmp_path / "none")


def test_secrets_of_an_api_server_lie_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "encryption.yaml"
    keys = f"[{{name: k1, secret: {SECRET}}}]"
    path.write_text(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
        f"resources: [{{resources: [secrets], providers: [{{aescbc: {{keys: {keys}}}}}, {{identity: {{}}}}]}}]\n"
    )

    async def test(lab: Lab) -> None:
        meta = ObjectMeta(name="a", namespace="default")
        made = await lab.client.create(Secret(metadata=meta, data={"k": Base64("dg==")}))
        assert made.data == {"k": "dg=="}
        assert (await lab.client.get(Secret, "a", "default")) == made
        store = lab.plane.store
        assert isinstance(store, EncryptedStore)
        raw = await store._store.get(KEY)
        assert raw is not None
        assert raw.value.startswith(b"k8s:enc:aescbc:v1:k1:")
        assert not store._written  # the watch has shown it

    api_lab.run(test, options=ApiServerOptions(encryption_provider_config=str(path)))
