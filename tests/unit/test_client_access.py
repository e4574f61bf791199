"""A client by a kubeconfig: credentials that are renewed, and what an API server that says no means for a node that joins."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kaa.api.clock import VirtualClock, format_time
from kaa.api.errors import ApiError, Forbidden, ServiceUnavailable, Unauthorized
from kaa.client.access import Session
from kaa.client.kubeconfig import Access, Credentials, ExecPlugin
from kaa.cluster.config import ConfigError
from kaa.cluster.joined_config import JoinConfig
from kaa.cluster.joined_credentials import check_identity, server_answers
from kaa.kubelet.bootstrap import self_signed


def session(clock: VirtualClock, credentials: Credentials, server: str = "https://192.0.2.1:6443") -> Session:
    return Session(Access(context="x", server=server, credentials=credentials), clock, "kubelet")


def play(story: Callable[[VirtualClock], Awaitable[None]]) -> None:
    asyncio.run(story(VirtualClock()))


@contextlib.asynccontextmanager
async def kept_fresh(made: Session, clock: VirtualClock) -> Any:
    running = asyncio.create_task(made.run())
    await clock.settle()
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await made.close()


async def later(clock: VirtualClock, seconds: float) -> None:
    await clock.advance(seconds)
    await asyncio.sleep(0.3)  # a plugin is a process, run by a thread
    await clock.settle()


def token_of(made: Session) -> str:
    return made.client._headers("")["Authorization"]


def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    async def story(clock: VirtualClock) -> None:
        file = tmp_path / "token"
        file.write_text("one\n")
        made = session(clock, Credentials(token_file=str(file)))
        async with kept_fresh(made, clock):
            assert token_of(made) == "Bearer one"
            file.write_text("two\n")
            await later(clock, 61)
            assert token_of(made) == "Bearer two"
            file.unlink()
            await later(clock, 61)
            assert token_of(made) == "Bearer two", "what it had stands"

    play(story)


def test_a_plugin_is_run_again_before_its_answer_ends(tmp_path: Path) -> None:
    async def story(clock: VirtualClock) -> None:
        plugin = tmp_path / "plugin"
        plugin.write_text('#!/bin/sh\necho x >> "$0.runs"\ncat "$0.json"\n')
        plugin.chmod(0o700)
        certificate, key = (pem.decode() for pem in self_signed("me", (), clock.now()))
        ends = format_time(clock.now() + 600)
        status = {"clientCertificateData": certificate, "clientKeyData": key, "expirationTimestamp": ends}
        answer = tmp_path / "plugin.json"
        answer.write_text(json.dumps({"status": status}))
        made = session(clock, Credentials(exec=ExecPlugin(command=str(plugin))))
        async with kept_fresh(made, clock):
            assert made.certificate.decode() == certificate
            other, its_key = (pem.decode() for pem in self_signed("other", (), clock.now()))
            answer.write_text(json.dumps({"status": {"clientCertificateData": other, "clientKeyData": its_key}}))
            await later(clock, 530)
            assert made.certificate.decode() == certificate
            await later(clock, 20)
            assert made.certificate.decode() == other, "a minute before the end"
            await later(clock, 60)
            assert (tmp_path / "plugin.runs").read_text().count("x") == 2, "it named no end: once an hour"

    play(story)


class Answers:
    """An API server that answers what it is told to, in turn."""

    def __init__(self, made: Session, *answers: Exception | str) -> None:
        self.left = list(answers)
        made.client.raw = self.answer  # type: ignore[method-assign]
        made.client.create = self.answer  # type: ignore[method-assign, assignment]

    async def answer(self, *_: Any, **__: Any) -> Any:
        found = self.left.pop(0)
        if isinstance(found, ApiError):
            raise found
        from kaa.api.types.authentication_v1 import SelfSubjectReview, SelfSubjectReviewStatus, UserInfo

        return SelfSubjectReview(status=SelfSubjectReviewStatus(user_info=UserInfo(username=str(found))))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Unauthorized("Unauthorized"), "does not accept the credentials of conf"),
        (ServiceUnavailable("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), "put the cluster's CA into its"),
        (Forbidden("no"), ""),
        ("ok", ""),
    ],
)
def test_what_waiting_does_not_mend_is_said(answer: Exception | str, message: str) -> None:
    async def story(clock: VirtualClock) -> None:
        made = session(clock, Credentials(token="t"))
        asked = Answers(
            made, ServiceUnavailable("connection refused"), ServiceUnavailable("connection refused"), answer
        )
        waiting = asyncio.create_task(server_answers(made, clock, "conf"))
        await clock.advance(10)
        assert asked.left == []
        if message:
            with pytest.raises(ConfigError, match=message):
                await waiting
        else:
            await waiting
        await made.close()

    play(story)


@pytest.mark.parametrize(
    ("user", "message"), [("system:node:n2", "give --node-name n2"), ("system:node:n1", ""), ("admin", "")]
)
def test_whose_credentials_they_are_is_asked(user: str, message: str) -> None:
    async def story(clock: VirtualClock) -> None:
        made = session(clock, Credentials(token="t"))
        Answers(made, user)
        config = JoinConfig(name="n", data_dir="/nowhere", node_name="n1")
        if message:
            with pytest.raises(ConfigError, match=message):
                await check_identity(made, config)
        else:
            await check_identity(made, config)
        await made.close()

    play(story)
