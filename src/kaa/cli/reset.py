"""``kaa reset``: remove the cluster and everything it made."""

from __future__ import annotations

import click

from .options import which_cluster


@click.command("reset", short_help="Remove the cluster and everything it made.")
@which_cluster
@click.option(
    "--kubeconfig",
    default="",
    metavar="FILE",
    help="Take the context out of FILE.  [default: $KUBECONFIG or ~/.kube/config]",
)
def command(name: str, data_dir: str, kubeconfig: str) -> None:
    """Remove the cluster: processes, containers, mounts, network, rules and data.

    Only kaa's own folders are removed. What users mounted from elsewhere (hostPath) is unmounted and left alone.
    """
    from rich.console import Console

    from kaa.cluster import lifecycle

    with Console(stderr=True, highlight=False).status("removing ...") as status:
        removed = lifecycle.reset(name, data_dir, kubeconfig=kubeconfig, progress=lambda text: status.update(text))
    click.echo(f"cluster {name} removed" if removed else f"there is no cluster {name}; nothing was removed")
