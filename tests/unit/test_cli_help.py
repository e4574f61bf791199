"""``--help`` suffices: each verb and each of its options says what it is for."""

from __future__ import annotations

import click
import pytest

from kaa.cli.main import VERBS, cli


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_is_for(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert command.help
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    assert [one.name for one in options if not (one.help or "").split("[default")[0].strip()] == []
