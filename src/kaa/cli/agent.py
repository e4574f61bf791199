"""``kaa agent``: a node in the foreground."""

from __future__ import annotations

import click

from .options import credential_providers, existing, which_cluster


@click.command("agent", short_help="Run a node's agent in the foreground.")
@which_cluster
@click.option(
    "--container-runtime-endpoint",
    default="",
    metavar="ENDPOINT",
    help="Where the CRI runtime of this cluster listens now.  [default: as `kaa up` was told]",
)
@credential_providers
@click.option("--log-files", is_flag=True, help="Log to files, one a component, instead of standard error.")
@click.option("--hold", is_flag=True, hidden=True, help="Wait until standard input ends before doing anything.")
def command(
    name: str,
    data_dir: str,
    container_runtime_endpoint: str,
    image_credential_provider_config: str,
    image_credential_provider_bin_dir: str,
    log_files: bool,
    hold: bool,
) -> None:
    """Run the kubelet, the service proxy and the DNS of this machine's node, until interrupted. Containers stay."""
    from kaa.cluster.lean import leave_out

    leave_out()
    from kaa.cluster import node
    from kaa.cluster.processes import pass_gate
    from kaa.cluster.runner import run

    if hold:
        pass_gate()
    config = existing(name, data_dir)
    if container_runtime_endpoint:
        from kaa.cluster.lifecycle import with_endpoint

        config = with_endpoint(config, container_runtime_endpoint)
    if image_credential_provider_config or image_credential_provider_bin_dir:
        from kaa.cluster.lifecycle import with_credential_providers

        config = with_credential_providers(config, image_credential_provider_config, image_credential_provider_bin_dir)
    run(node.serve(config), config, "kubelet", log_files=log_files)
