"""``kaa up``: from nothing to a Ready node, with progress."""

from __future__ import annotations

import time

import click

from .options import credential_providers, which_cluster


@click.command("up", short_help="Start a cluster, or bring it back.")
@which_cluster
@click.option(
    "--kubeconfig",
    default="",
    metavar="FILE",
    help="Merge the context into FILE.  [default: $KUBECONFIG or ~/.kube/config]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=None,
    help="Port of the API server.  [default: 6443 or the next free one]",
)
@click.option(
    "--runtime",
    type=click.Choice(["oci", "simulated"]),
    default=None,
    help="Real containers, or a node that only pretends (needs no root).  [default: oci]",
)
@click.option(
    "--container-runtime-endpoint",
    default="",
    metavar="ENDPOINT",
    help="Containers by a CRI runtime: unix:///run/containerd/containerd.sock",
)
@click.option(
    "--kubelet-config",
    type=click.Path(exists=True, dir_okay=False),
    default=None,
    metavar="FILE",
    help="A KubeletConfiguration (kubelet.config.k8s.io/v1beta1) for the node; it is kept.",
)
@credential_providers
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="Address of the API server; may be repeated.  [default: loopback and the node's own]",
)
@click.option(
    "--runtime-config",
    default=None,
    metavar="KEY=VALUE,...",
    help="APIs to serve or not, as kube-apiserver has it (api/beta=true); it is kept.",
)
@click.option(
    "--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for the node to be Ready."
)
def command(
    name: str,
    data_dir: str,
    kubeconfig: str,
    port: int | None,
    runtime: str | None,
    container_runtime_endpoint: str,
    kubelet_config: str | None,
    image_credential_provider_config: str,
    image_credential_provider_bin_dir: str,
    listen: tuple[str, ...],
    runtime_config: str | None,
    timeout: float,
) -> None:
    """Start a cluster, or bring it back as it was.

    Returns when the node is Ready. Running it again is harmless: what runs stays, what is missing is started, and
    containers that outlived their agent are adopted.
    """
    from rich.console import Console

    from kaa.cluster import lifecycle

    began = time.monotonic()
    console = Console(stderr=True, highlight=False)
    with console.status("starting ...") as status:
        result = lifecycle.up(
            name,
            data_dir,
            kubeconfig=kubeconfig,
            port=port or 0,
            runtime=runtime,
            container_runtime_endpoint=container_runtime_endpoint,
            kubelet_config=kubelet_config or "",
            credential_providers=(image_credential_provider_config, image_credential_provider_bin_dir),
            listen=listen,
            runtime_config=runtime_config,
            timeout_s=timeout,
            progress=lambda text: status.update(text),
        )
    seconds = time.monotonic() - began
    context = result.context
    console.print(f"[green]✓[/] {'up' if result.started else 'already up'} in {seconds:.2f} s: node {result.config.node_name} is Ready, API server at {result.config.server_url}")  # fmt: skip
    console.print(f"  context [bold]{context}[/] is in {result.kubeconfig} and is the current one")
    console.print("  next: [bold]kubectl get pods -A[/] · [bold]kaa status[/] · [bold]kaa down[/]")
