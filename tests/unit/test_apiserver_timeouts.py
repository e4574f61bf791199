"""``?timeout=``: what it may say, and what comes of a request that takes longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kaa.api.durations import parse_seconds
from kaa.apiserver.timeouts import time_limit
from tests import api_lab
from tests.api_lab import Lab

MAPS = "/api/v1/namespaces/default/configmaps"
BODY = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h15m30.5s", 4530.5), ("0", 0), ("-1.5ms", -0.0015), (".5s", 0.5), ("+2us", 2e-6), ("100ns", 1e-7)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("5", 'time: missing unit in duration "5"'),
        ("5y", 'time: unknown unit "y" in duration "5y"'),
        ("-", 'time: invalid duration "-"'),
        ("1s.", 'time: invalid duration "1s."'),
    ],
)
def test_what_is_no_duration(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # the words are compared below
        parse_seconds(text)
    assert str(caught.value) == words


@pytest.mark.parametrize(("text", "seconds"), [("", 60), ("0s", 60), ("-5s", 60), ("5s", 5), ("2m", 60)])
def test_the_server_has_the_last_word(text: str, seconds: float) -> None:
    assert time_limit(text, 60.0) == seconds


def test_a_request_that_takes_too_long_is_504() -> None:
    async def test(lab: Lab) -> None:
        put = lab.plane.store.put

        async def slow(*given: Any, **more: Any) -> Any:
            await asyncio.sleep(5)
            return await put(*given, **more)

        lab.plane.store.put = slow  # type: ignore[method-assign]  # a disk that hangs
        answer = await lab.ask("POST", MAPS + "?timeout=50ms", BODY)
        status = answer.json()
        assert (answer.status, status["reason"], status["details"]) == (504, "Timeout", {})
        assert status["message"] == "Timeout: request did not complete within the allotted timeout"

    api_lab.run(test, http=True)


def test_a_timeout_that_cannot_be_read_is_400() -> None:
    async def test(lab: Lab) -> None:
        answer = await lab.ask("GET", MAPS + "?timeout=soon")
        assert answer.status == 400
        words = 'invalid timeout specified in the request URL - time: invalid duration "soon"'
        assert answer.json()["message"] == words
        assert (await lab.ask("GET", MAPS + "?timeout=5s")).status == 200

    api_lab.run(test, http=True)
