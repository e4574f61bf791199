"""Authentication: certificates, bound tokens, requests for them, reviews, impersonation; and the PKI behind."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
from auth_view import DictView

from kaa.api.errors import Forbidden, Invalid, Unauthorized
from kaa.api.scheme import convert
from kaa.api.types.authentication_v1 import (
    BoundObjectReference,
    TokenRequest,
    TokenRequestSpec,
    TokenReview,
    TokenReviewSpec,
)
from kaa.api.types.core_v1 import Node, Pod, ServiceAccount
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.apiserver.authn import token_request
from kaa.apiserver.authn.base import ANONYMOUS, Credentials
from kaa.apiserver.authn.chain import DefaultAuthenticator
from kaa.apiserver.authn.impersonation import impersonate, read_headers
from kaa.apiserver.authn.jwt import SigningKey, VerifyingKey, b64
from kaa.apiserver.authn.token_review import token_review
from kaa.apiserver.authn.tokens import ISSUER, TokenIssuer
from kaa.apiserver.authz.union import DefaultAuthorizer
from kaa.client.pipeline import User
from kaa.cluster.pki import DAY_S, Pki, api_server_hosts, control_plane_profiles, node_profiles

ACCOUNT = ServiceAccount(metadata=ObjectMeta(name="s", namespace="a", uid="u1"))
POD = convert(
    Pod,
    {
        "metadata": {"name": "p", "namespace": "a", "uid": "u2"},
        "spec": {"serviceAccountName": "s", "nodeName": "n", "containers": []},
    },
)
NODE = Node(metadata=ObjectMeta(name="n", uid="u3"))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("pki"), DictView().clock)
    profiles = (*control_plane_profiles(api_server_hosts()), *node_profiles("n1", ("10.0.0.1",)))
    made.ensure(profiles)
    assert made.ensure(profiles) == []
    return made


@pytest.fixture(scope="module")
def issuer(pki: Pki) -> TokenIssuer:
    return TokenIssuer(SigningKey(pki.token_key.read_bytes()))


@pytest.fixture(scope="module")
def key(pki: Pki) -> VerifyingKey:
    return VerifyingKey(pki.token_public_key.read_bytes())


def bearer(token: str | None) -> Credentials:
    return Credentials(authorization=f"Bearer {token}")


def requested(issuer: TokenIssuer, view: DictView, **spec: object) -> str:
    request = TokenRequest(spec=TokenRequestSpec(**spec))  # type: ignore[arg-type]  # fields by name
    made = token_request.answer(request, "a", "s", issuer, view, audiences=(ISSUER,)).status.token
    assert made is not None
    return made


def test_certificates_name_users(pki: Pki, key: VerifyingKey) -> None:
    def user(file: str) -> User:
        der = ssl.PEM_cert_to_DER_cert(pki.cert(file).read_text())
        return DefaultAuthenticator([key]).authenticate(Credentials(certificate=der), DictView())

    node = user("nodes/n1-client")
    assert (node.name, node.groups) == ("system:node:n1", ("system:nodes", "system:authenticated"))
    assert user("admin").groups == ("kubeadm:cluster-admins", "system:authenticated")
    assert node.extra["authentication.kubernetes.io/credential-id"][0].startswith("X509SHA256=")


def test_files_are_private_and_load(pki: Pki) -> None:
    assert {stat.S_IMODE(p.stat().st_mode) for p in pki.folder.rglob("*") if p.is_file()} == {0o600}
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.load_cert_chain(pki.cert("apiserver"), pki.key("apiserver"))


def test_renewal_is_timely(tmp_path: Path) -> None:
    view = DictView()
    profiles = node_profiles("n1")
    Pki(tmp_path, view.clock).ensure(profiles)
    view.clock._now += 300 * DAY_S
    assert Pki(tmp_path, view.clock).ensure(profiles) == []
    view.clock._now += 40 * DAY_S
    assert Pki(tmp_path, view.clock).ensure(profiles) == ["nodes/n1-client", "nodes/n1-serving"]


def test_a_token_lives_with_what_it_is_bound_to(issuer: TokenIssuer, key: VerifyingKey) -> None:
    view = DictView(ACCOUNT, POD, NODE)
    authenticator = DefaultAuthenticator([key])
    token = requested(issuer, view, bound_object_ref=BoundObjectReference(api_version="v1", kind="Pod", name="p"))
    user = authenticator.authenticate(bearer(token), view)
    assert user.name == "system:serviceaccount:a:s"
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated")
    assert user.extra["authentication.kubernetes.io/pod-uid"] == ("u2",)
    assert user.extra["authentication.kubernetes.io/node-name"] == ("n",)
    view.drop(POD)
    with pytest.raises(Unauthorized):
        authenticator.authenticate(bearer(token), view)


def test_tokens_expire(issuer: TokenIssuer, key: VerifyingKey) -> None:
    view, authenticator = DictView(ACCOUNT), DefaultAuthenticator([key])
    token = requested(issuer, view, expiration_seconds=600)
    authenticator.authenticate(bearer(token), view)
    view.clock._now += 601
    with pytest.raises(Unauthorized):
        authenticator.authenticate(bearer(token), view)


def test_wrong_tokens_are_refused_and_silence_is_anonymous(issuer: TokenIssuer, key: VerifyingKey) -> None:
    view, authenticator = DictView(ACCOUNT), DefaultAuthenticator([key])
    token = requested(issuer, view)
    head, body, signature = token.split(".")
    forged = "A" + signature[1:] if signature[0] != "A" else "B" + signature[1:]
    no_text = b64(b'{"alg":"ES256","iss":"\xff"}')
    other = requested(issuer, view, audiences=("other",))
    for wrong in ("nonsense", f"{head}.{body}.{forged}", f"{no_text}.{no_text}.{signature}", other):
        with pytest.raises(Unauthorized):
            authenticator.authenticate(bearer(wrong), view)
    assert authenticator.authenticate(Credentials(), view) is ANONYMOUS


def test_short_tokens_are_refused(issuer: TokenIssuer) -> None:
    with pytest.raises(Invalid) as caught:
        requested(issuer, DictView(ACCOUNT), expiration_seconds=60)
    assert caught.value.message == (
        'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 60: '
        "may not specify a duration less than 10 minutes"
    )


def test_token_reviews(issuer: TokenIssuer, key: VerifyingKey) -> None:
    view, authenticator = DictView(ACCOUNT), DefaultAuthenticator([key])
    good = token_review(TokenReview(spec=TokenReviewSpec(token=requested(issuer, view))), authenticator, view).status
    assert (good.authenticated, good.user.username) == (True, "system:serviceaccount:a:s")
    bad = token_review(TokenReview(spec=TokenReviewSpec(token="nonsense")), authenticator, view).status
    assert (bad.authenticated, bad.error) == (None, "invalid bearer token")


def test_impersonation_asks_first() -> None:
    wish = read_headers([("Impersonate-User", "system:serviceaccount:a:s")])
    assert wish is not None
    admin = User("root", groups=("system:masters",))
    became = impersonate(admin, wish, DefaultAuthorizer(), DictView())
    assert became.groups == ("system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated")
    wish = read_headers([("impersonate-user", "ann")])
    assert wish is not None
    with pytest.raises(Forbidden) as caught:
        impersonate(User("bob"), wish, DefaultAuthorizer(), DictView())
    assert caught.value.message == (
        'users "ann" is forbidden: User "bob" cannot impersonate resource "users" in API group "" at the cluster scope'
    )
