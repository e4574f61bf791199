"""Programs that know credentials: what they are asked, what of their answers is kept, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from kaa.api.clock import VirtualClock
from kaa.api.errors import NotFound
from kaa.api.types.authentication_v1 import TokenRequest, TokenRequestStatus
from kaa.api.types.core_v1 import Pod, PodSpec, ServiceAccount
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.kubelet.images.keyring import Credential, Keyring
from kaa.kubelet.images.provider_config import V1, read_providers
from kaa.kubelet.images.providers import CredentialProviders

IMAGE = "reg.example.com/team/app"
TOKEN = {"serviceAccountTokenAudience": "reg", "cacheType": "ServiceAccount", "requireServiceAccount": True}


class Accounts:
    """The API server's part: service accounts and their tokens."""

    def __init__(self) -> None:
        self.annotations: dict[str, str] = {}
        self.asked: list[TokenRequest] = []
        self.missing = False

    async def get(self, kind: type[Any], name: str, namespace: str) -> ServiceAccount:
        assert kind is ServiceAccount
        if self.missing:
            raise NotFound("no such service account")
        return ServiceAccount(
            metadata=ObjectMeta(name=name, namespace=namespace, uid="sa-uid", annotations=self.annotations)
        )

    async def call(
        self, resource: Any, name: str, verb: str, body: TokenRequest, kind: type[Any], namespace: str
    ) -> TokenRequest:
        self.asked.append(body)
        assert (resource.name if hasattr(resource, "name") else "serviceaccounts", verb) == ("serviceaccounts", "token")
        return TokenRequest(
            spec=body.spec, status=TokenRequestStatus(token=f"token-{len(self.asked)}", expiration_timestamp="")
        )


class Lab:
    """A program whose answers are files, and which notes what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.accounts = folder, VirtualClock(), Accounts()
        (folder / "bin").mkdir()
        self.write(
            "acme", 'cat > "$LAB/asked.$$"; cat "$LAB/answer"; echo "$0 $*" >> "$LAB/words"; exit $(cat "$LAB/code")'
        )
        (folder / "code").write_text("0")
        self.answers()

    def write(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def answers(self, user: str = "u", **fields: Any) -> None:
        answer = {
            "kind": "CredentialProviderResponse",
            "apiVersion": V1,
            "cacheKeyType": "Image",
            "auth": {"*.example.com": {"username": user, "password": "p"}},
            **fields,
        }
        (self.folder / "answer").write_text(
            json.dumps({key: value for key, value in answer.items() if value is not None})
        )

    def config(self, **fields: Any) -> Path:
        provider = {
            "name": "acme",
            "apiVersion": V1,
            "matchImages": ["*.example.com", "other.dev/x"],
            "defaultCacheDuration": "10m",
            "args": ["get", "it"],
            "env": [{"name": "LAB", "value": str(self.folder)}],
            **fields,
        }
        document = {
            "apiVersion": "kubelet.config.k8s.io/v1",
            "kind": "CredentialProviderConfig",
            "providers": [provider],
        }
        path = self.folder / "config.yaml"
        path.write_text(json.dumps(document))
        return path

    def providers(self, **fields: Any) -> CredentialProviders:
        return CredentialProviders(self.accounts, self.clock, self.config(**fields), self.folder / "bin")  # type: ignore[arg-type]  # the verbs it uses

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [
            json.loads(path.read_text())
            for path in sorted(self.folder.glob("asked.*"), key=lambda one: one.stat().st_mtime_ns)
        ]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def a_pod(account: str = "builder", uid: str = "pod-uid") -> Pod:
    meta = ObjectMeta(name="p", namespace="n", uid=uid)
    return Pod(metadata=meta, spec=PodSpec(containers=(), service_account_name=account or None))


async def found(providers: CredentialProviders, image: str = IMAGE, pod: Pod | None = None) -> list[Credential]:
    ring = Keyring()
    await providers.add(ring, image, pod or a_pod())
    return ring.lookup(image)


def test_a_program_is_asked_for_images_that_it_knows(lab: Lab) -> None:
    async def go() -> None:
        providers = lab.providers()
        (one,) = await found(providers)
        assert (one.auth.username, one.auth.password, one.secret, one.account) == ("u", "p", None, None)
        assert await found(providers, "docker.io/library/app") == []
        assert await found(providers, "other.dev/y") == []

    asyncio.run(go())
    assert lab.asked == [{"kind": "CredentialProviderRequest", "apiVersion": V1, "image": IMAGE}]
    assert (lab.folder / "words").read_text() == f"{lab.folder}/bin/acme get it\n"


@pytest.mark.parametrize(
    ("scope", "same", "another", "elsewhere"),
    [("Image", 1, 2, 2), ("Registry", 1, 1, 2), ("Global", 1, 1, 1)],
)
def test_an_answer_is_kept_for_what_it_says(lab: Lab, scope: str, same: int, another: int, elsewhere: int) -> None:
    lab.answers(cacheKeyType=scope)

    async def go() -> None:
        providers = lab.providers()
        await found(providers)
        await found(providers)
        assert len(lab.asked) == same
        await found(providers, "reg.example.com/other")
        assert len(lab.asked) == another
        await found(providers, "two.example.com/app")
        assert len(lab.asked) == elsewhere + (another - same)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("said", "default", "kept_s"),
    [("5m", "10m", 300), (None, "10m", 600), ("0s", "10m", 0), (None, "0s", 0), ("1h", "0s", 3600)],
)
def test_how_long_an_answer_is_kept(lab: Lab, said: str | None, default: str, kept_s: float) -> None:
    lab.answers(cacheDuration=said)

    async def go() -> None:
        providers = lab.providers(defaultCacheDuration=default)
        await found(providers)
        await lab.clock.advance(kept_s)
        await found(providers)
        assert len(lab.asked) == (1 if kept_s else 2)
        await lab.clock.advance(1)
        await found(providers)
        assert len(lab.asked) == (2 if kept_s else 3)

    asyncio.run(go())


def test_those_who_ask_at_once_share_an_answer(lab: Lab) -> None:
    async def go() -> None:
        providers = lab.providers()
        answers = await asyncio.gather(*(found(providers) for _ in range(4)))
        assert all(answer == answers[0] for answer in answers)

    asyncio.run(go())
    assert len(lab.asked) == 1


def test_a_service_accounts_token_goes_with_the_question(lab: Lab) -> None:
    lab.accounts.annotations = {"acme/role": "r", "acme/opt": "o", "other": "x"}
    wanted = {
        **TOKEN,
        "requiredServiceAccountAnnotationKeys": ["acme/role"],
        "optionalServiceAccountAnnotationKeys": ["acme/opt", "acme/none"],
    }

    async def go() -> None:
        providers = lab.providers(tokenAttributes=wanted)
        (one,) = await found(providers)
        assert one.account is not None
        assert (one.account.namespace, one.account.name, one.account.uid) == ("n", "builder", "sa-uid")
        await found(providers, pod=a_pod(uid="another"))
        assert len(lab.asked) == 1  # one answer for all pods of the account
        lab.accounts.annotations = {"acme/role": "another"}
        await found(providers)
        assert len(lab.asked) == 2
        lab.accounts.annotations = {}
        assert await found(providers) == []
        assert await found(providers, pod=a_pod("")) == []
        assert len(lab.asked) == 2

    asyncio.run(go())
    assert lab.asked[0]["serviceAccountToken"] == "token-1"
    assert lab.asked[0]["serviceAccountAnnotations"] == {"acme/role": "r", "acme/opt": "o"}
    spec = lab.accounts.asked[0].spec
    assert (spec.audiences, spec.expiration_seconds) == (("reg",), None)
    assert spec.bound_object_ref is not None
    assert (spec.bound_object_ref.kind, spec.bound_object_ref.name, spec.bound_object_ref.uid) == (
        "Pod",
        "p",
        "pod-uid",
    )


def test_an_answer_by_token_is_kept_for_that_token(lab: Lab) -> None:
    async def go() -> None:
        providers = lab.providers(tokenAttributes={**TOKEN, "cacheType": "Token", "requireServiceAccount": False})
        await found(providers)
        await found(providers)
        assert len(lab.asked) == 2
        (one,) = await found(providers, pod=a_pod(""))
        assert one.account is None

    asyncio.run(go())
    assert "serviceAccountToken" not in lab.asked[-1]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"apiVersion": f"{V1}beta1"}, id="another version"),
        pytest.param({"kind": "Pod"}, id="another kind"),
        pytest.param({"cacheKeyType": "Moon"}, id="another scope"),
        pytest.param({"cacheDuration": "soon"}, id="no duration"),
        pytest.param({"auth": ["secret"]}, id="no answer"),
    ],
)
def test_answers_that_are_none(lab: Lab, answer: dict[str, Any]) -> None:
    lab.answers(**answer)
    assert asyncio.run(found(lab.providers())) == []


def test_programs_that_fail_give_nothing(lab: Lab) -> None:
    async def go() -> None:
        providers = lab.providers(tokenAttributes=TOKEN)
        (lab.folder / "code").write_text("3")
        assert await found(providers) == []
        (lab.folder / "code").write_text("0")
        lab.accounts.missing = True
        assert await found(providers) == []
        lab.accounts.missing = False
        assert len(await found(providers)) == 1
        (lab.folder / "bin" / "acme").unlink()
        assert await found(providers, "two.example.com/x") == []

    asyncio.run(go())


def test_a_folder_of_files(lab: Lab) -> None:
    folder = lab.folder / "conf.d"
    folder.mkdir()
    for number, name in enumerate(("second", "first")):
        lab.write(name, "exit 1")
        lab.config(name=name).rename(folder / f"{9 - number}.yaml")
    (folder / "ignored.txt").write_text("{")
    assert [one.name for one in read_providers(folder, lab.folder / "bin")] == ["first", "second"]
    lab.config(name="first").rename(folder / "0.json")
    with pytest.raises(ValueError, match='duplicate provider name "first" found in configuration file'):
        read_providers(folder, lab.folder / "bin")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"name": "a/b"}, "providers.name: Invalid value: \"a/b\": provider name cannot contain '/'"),
        ({"name": "a b"}, 'providers.name: Invalid value: "a b": provider name cannot contain spaces'),
        ({"name": ".."}, "providers.name: Invalid value: \"..\": provider name cannot be '..'"),
        ({"apiVersion": ""}, "providers.apiVersion: Required value"),
        ({"apiVersion": "v2"}, 'providers.apiVersion: Unsupported value: "v2": supported values: '),
        ({"matchImages": []}, "providers.matchImages: Required value: at least 1 item in matchImages is required"),
        ({"matchImages": ["a:b"]}, 'providers.matchImages: Invalid value: "a:b": match image is invalid: '),
        ({"defaultCacheDuration": None}, "providers.defaultCacheDuration: Required value"),
        ({"defaultCacheDuration": "-1s"}, "defaultCacheDuration must be greater than or equal to 0"),
        ({"defaultCacheDuration": "x"}, 'error decoding config .*: time: invalid duration "x"'),
        ({"surprise": 1}, "error decoding config .*: .*unknown field"),
        ({"name": "absent"}, "plugin binary executable .*/bin/absent did not exist"),
        ({"tokenAttributes": {}}, "providers.tokenAttributes.serviceAccountTokenAudience: Required value"),
        (
            {"tokenAttributes": {**TOKEN, "cacheType": "Pod"}},
            'cacheType: Unsupported value: "Pod": supported values: "ServiceAccount", "Token"',
        ),
        (
            {
                "tokenAttributes": {
                    **TOKEN,
                    "requireServiceAccount": False,
                    "requiredServiceAccountAnnotationKeys": ["a"],
                }
            },
            "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set",
        ),
        (
            {
                "tokenAttributes": {
                    **TOKEN,
                    "requiredServiceAccountAnnotationKeys": ["a", "a"],
                    "optionalServiceAccountAnnotationKeys": ["a", "-"],
                }
            },
            'requiredServiceAccountAnnotationKeys: Duplicate value: "a".*annotation keys cannot be both required and optional',
        ),
        (
            {"apiVersion": f"{V1}beta1", "tokenAttributes": TOKEN},
            "tokenAttributes is only supported for .*/v1 API version",
        ),
    ],
)
def test_configurations_that_are_none(lab: Lab, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_providers(lab.config(**fields), lab.folder / "bin")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "error decoding config"),
        ("kind: Pod", 'no kind "Pod" is registered for version "None"'),
        ("[]", "no kind"),
        (
            "{apiVersion: kubelet.config.k8s.io/v1, kind: CredentialProviderConfig}",
            "at least 1 item in plugins is required",
        ),
    ],
)
def test_files_that_are_none(lab: Lab, text: str, fault: str) -> None:
    path = lab.folder / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=fault):
        read_providers(path, lab.folder / "bin")
    with pytest.raises(ValueError, match="unable to access path"):
        read_providers(lab.folder / "none", lab.folder / "bin")
    with pytest.raises(ValueError, match=r"plugin binary directory .* did not exist"):
        read_providers(path, lab.folder / "none")
    (lab.folder / "empty").mkdir()
    with pytest.raises(ValueError, match="no configuration files found in directory"):
        read_providers(lab.folder / "empty", lab.folder / "bin")
