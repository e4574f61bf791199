"""``kaa down``: stop, and keep everything."""

from __future__ import annotations

import click

from .options import existing, which_cluster


@click.command("down", short_help="Stop the cluster; data stays.")
@which_cluster
def command(name: str, data_dir: str) -> None:
    """Stop the cluster: its containers, its agent and its control plane. `kaa up` brings it back with every object."""
    from rich.console import Console

    from kaa.cluster import lifecycle

    config = existing(name, data_dir)
    with Console(stderr=True, highlight=False).status("stopping ...") as status:
        stopped = lifecycle.down(config, lambda text: status.update(text))
    click.echo(f"cluster {name} stopped" if stopped else f"cluster {name} was not running")
