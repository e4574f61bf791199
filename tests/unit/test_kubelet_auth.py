"""Who may ask the kubelet what."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from kaa.api.clock import VirtualClock
from kaa.api.types.authentication_v1 import TokenReview, TokenReviewStatus, UserInfo
from kaa.api.types.authorization_v1 import SubjectAccessReview, SubjectAccessReviewStatus
from kaa.client.client import Client
from kaa.kubelet.serving.auth import DelegatedAuth, subresources_of
from kaa.kubelet.serving.http import HttpError, Request


class Reviews:
    """An API server that knows one token, and lets one user do ``nodes/proxy`` and ``nodes/stats``."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def create(self, obj: Any) -> Any:
        self.asked.append(obj)
        if isinstance(obj, TokenReview):
            known = obj.spec.token == "good"
            return TokenReview(
                spec=obj.spec, status=TokenReviewStatus(authenticated=known, user=UserInfo(username="ann"))
            )
        wanted = obj.spec.resource_attributes
        allowed = obj.spec.user == "ann" and wanted.subresource in ("proxy", "stats") and wanted.verb == "get"
        return SubjectAccessReview(spec=obj.spec, status=SubjectAccessReviewStatus(allowed=allowed))


def request(path: str, *, method: str = "GET", token: str = "", user: str = "") -> Request:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    peer = {"subject": ((("commonName", user),),)} if user else {}
    nothing = cast(Any, None)
    return Request(method, path, {}, headers, b"", nothing, nothing, peer)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (request("/stats/summary", token="good"), 0),
        (request("/pods", token="good"), 0),
        (request("/stats/summary", user="ann"), 0),
        (request("/stats/summary", token="bad"), 401),
        (request("/stats/summary"), 401),
        (request("/exec/a/b/c", method="POST", token="good"), 403),
        (request("/stats/summary", user="bob"), 403),
    ],
    ids=["token", "pods-by-proxy", "certificate", "bad-token", "anonymous", "other-verb", "other-user"],
)
def test_access(asked: Request, code: int) -> None:
    async def go() -> None:
        await DelegatedAuth(cast(Client, Reviews()), VirtualClock(), "n1").check(asked)

    if code == 0:
        asyncio.run(go())
    else:
        with pytest.raises(HttpError) as caught:
            asyncio.run(go())
        assert caught.value.code == code


def test_answers_are_kept_a_while() -> None:
    async def go() -> None:
        reviews, clock = Reviews(), VirtualClock()
        auth = DelegatedAuth(cast(Client, reviews), clock, "n1")
        for _ in range(3):
            await auth.check(request("/stats/summary", token="good"))
        assert len(reviews.asked) == 2
        await clock.advance(121)
        await auth.check(request("/stats/summary", token="good"))
        assert len(reviews.asked) == 3

    asyncio.run(go())


@pytest.mark.parametrize(
    ("path", "subresources"),
    [
        ("/stats/summary", ("stats",)),
        ("/metrics/cadvisor", ("metrics",)),
        ("/containerLogs/a/b/c", ("proxy",)),
        ("/healthz/ping", ("healthz", "proxy")),
        ("/runningpods/", ("pods", "proxy")),
        ("/checkpoint/a/b/c", ("checkpoint",)),
        ("/logs/kubelet.log", ("log",)),
        ("/podsandmore", ("proxy",)),
    ],
)
def test_subresources(path: str, subresources: tuple[str, ...]) -> None:
    assert subresources_of(path) == subresources
