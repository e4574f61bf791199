"""``kaa kubeconfig``: print the administrator's kubeconfig."""

from __future__ import annotations

import click

from .options import existing, which_cluster


@click.command("kubeconfig", short_help="Print the administrator's kubeconfig.")
@which_cluster
def command(name: str, data_dir: str) -> None:
    """Print a kubeconfig that administers the cluster: `kaa kubeconfig > FILE; export KUBECONFIG=FILE`."""
    click.echo(existing(name, data_dir).admin_kubeconfig.read_text(), nl=False)
