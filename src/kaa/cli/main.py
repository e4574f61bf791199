"""The ``kaa`` command. Each verb is a module, imported when it is used, so that ``kaa --help`` is instant."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from kaa import __version__
from kaa.cluster.config import ConfigError

#: {verb: its module}; the order is that of the help
VERBS = {
    "up": "up",
    "status": "status",
    "down": "down",
    "reset": "reset",
    "logs": "logs",
    "kubeconfig": "kubeconfig",
    "image": "image",
    "server": "server",
    "agent": "agent",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"kaa.cli.{VERBS[name]}").command
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kaa")
def cli() -> None:
    """Kubernetes, in Python.

    \b
    kaa up                      start a cluster, or bring it back
    kubectl get nodes           drive it with what you already have
    kaa down                    stop it; containers and data stay
    kaa reset                   remove it and everything it made
    """


def main(*arguments: Any) -> None:
    """Run the command; what a user can mend ends in one sentence, not in a traceback."""
    try:
        cli.main(args=list(arguments) or None, prog_name="kaa", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except ConfigError as err:
        click.echo(f"kaa: {err}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
