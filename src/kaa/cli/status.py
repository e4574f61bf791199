"""``kaa status``: what runs, and how it is."""

from __future__ import annotations

import sys

import click

from .options import existing, which_cluster


@click.command("status", short_help="What runs, and how it is.")
@which_cluster
def command(name: str, data_dir: str) -> None:
    """Show the processes, the node and the pods of a cluster. Exit status 1 when it is not up."""
    from rich.console import Console
    from rich.table import Table

    from kaa.cluster import lifecycle

    config = existing(name, data_dir)
    state = lifecycle.status(config)
    table = Table(box=None, pad_edge=False)
    for column in ("PART", "STATE", "PID", "MEMORY", "DETAIL"):
        table.add_column(column)
    for part in state.parts:
        memory = f"{part.rss_bytes / 2**20:.0f} MB" if part.rss_bytes else ""
        table.add_row(part.name, part.state, str(part.pid or ""), memory, part.detail)
    Console(highlight=False).print(table)
    sys.exit(0 if state.healthy else 1)
