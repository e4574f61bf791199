"""``kaa agent``: a node in the foreground, of a cluster of this machine or of any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kaa.cluster.config import DEFAULT_NAME, ConfigError

from .options import credential_providers, existing, which_cluster

_FILE = click.Path(dir_okay=False)


@click.command("agent", short_help="Run a node's agent in the foreground.")
@which_cluster
@click.option(
    "--container-runtime-endpoint",
    default="",
    metavar="ENDPOINT",
    help="Where a CRI runtime listens: unix:///run/containerd/containerd.sock  [default: as `kaa up` was told, or none]",
)
@credential_providers
@click.option("--log-files", is_flag=True, help="Log to files, one a component, instead of standard error.")
@click.option("--hold", is_flag=True, hidden=True, help="Wait until standard input ends before doing anything.")
@click.option("--kubeconfig", type=_FILE, default="", help="Join the cluster of this kubeconfig, whoever runs it.")
@click.option(
    "--bootstrap-kubeconfig",
    type=_FILE,
    default="",
    help="Join with a bootstrap token: a certificate is asked for, and --kubeconfig is written.",
)
@click.option("--node-name", default="", metavar="NAME", help="What the node is called.  [default: the host's name]")
@click.option("--node-ip", default="", metavar="IP[,IP]", help="Its addresses.  [default: the one towards the server]")
@click.option("--config", "kubelet_config", type=_FILE, default="", help="A KubeletConfiguration for the node.")
@click.option("--pod-cidr", default="", metavar="CIDR[,CIDR]", help="Range of its pods.  [default: its spec.podCIDR]")
@click.option(
    "--cluster-cidr",
    default="",
    metavar="CIDR[,CIDR]",
    help="Where pods keep their own address.  [default: --pod-cidr]",
)
@click.option("--node-labels", default="", metavar="KEY=VALUE,...", help="Labels of the node as it registers.")
@click.option("--register-with-taints", default="", metavar="KEY=VALUE:EFFECT,...", help="Taints as it registers.")
@click.option("--register-node/--no-register-node", default=True, help="Make the node object.  [default: yes]")
@click.option("--provider-id", default="", metavar="ID", help="What the cloud calls this machine.")
@click.option(
    "--cloud-provider",
    type=click.Choice(["", "external"]),
    default="",
    help="external: a cloud's controller finishes the node.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=10250, help="Of the kubelet's server.  [default: 10250]")
@click.option("--cgroup-root", default="", metavar="PATH", help="Above the pods' cgroups.  [default: /kaa-NODE]")
@click.option(
    "--runtime", type=click.Choice(["oci", "simulated"]), default="oci", help="Real containers, or pretended ones."
)
@click.option(
    "--proxy/--no-proxy", default=False, help="Run a service proxy too.  [default: no, clusters bring theirs]"
)
@click.option(
    "--proxy-kubeconfig", type=_FILE, default="", help="What the proxy asks with; a kubelet may not list endpoints."
)
@click.option("--leave", is_flag=True, help="Take a node that joined off this machine: containers, network, files.")
def command(name: str, data_dir: str, log_files: bool, hold: bool, **flags: Any) -> None:
    """Run the kubelet of a node, until interrupted. Containers stay, and the next start finds them.

    \b
    Of a cluster that `kaa up` has made on this machine, with its service proxy and DNS:
        kaa agent --name NAME
    \b
    Of any cluster, upstream's too, with credentials of the group system:nodes:
        kaa agent --kubeconfig /etc/kubernetes/kubelet.conf
    \b
    With a bootstrap token instead, which is exchanged for a certificate that renews itself:
        kaa agent --bootstrap-kubeconfig bootstrap.conf --kubeconfig /etc/kubernetes/kubelet.conf
    \b
    Off again:
        kubectl drain NODE --ignore-daemonsets && kubectl delete node NODE
        kaa agent --leave --node-name NODE

    A node that joins keeps its files in /var/lib/kaa/nodes/NODE unless --data-dir names another folder. Its pods get
    addresses of spec.podCIDR, once the cluster has given it one, or of --pod-cidr; with --container-runtime-endpoint the
    runtime's CNI connects them. The kubelet's server believes client certificates of authentication.x509.clientCAFile, or of
    the kubeconfig's CA if that has signed the node's own certificate.
    """
    from kaa.cluster.lean import leave_out

    leave_out()
    joins = flags["kubeconfig"] or flags["bootstrap_kubeconfig"] or flags["leave"]
    if joins:
        _join(name, data_dir, flags, log_files=log_files)
    else:
        _of_this_machine(name, data_dir, flags, log_files=log_files, hold=hold)


def _of_this_machine(name: str, data_dir: str, flags: dict[str, Any], *, log_files: bool, hold: bool) -> None:
    from kaa.cluster import node
    from kaa.cluster.processes import pass_gate
    from kaa.cluster.runner import run

    if hold:
        pass_gate()
    config = existing(name, data_dir)
    if flags["container_runtime_endpoint"]:
        from kaa.cluster.lifecycle import with_endpoint

        config = with_endpoint(config, flags["container_runtime_endpoint"])
    file, programs = flags["image_credential_provider_config"], flags["image_credential_provider_bin_dir"]
    if file or programs:
        from kaa.cluster.lifecycle import with_credential_providers

        config = with_credential_providers(config, file, programs)
    run(node.serve(config), config, "kubelet", log_files=log_files)


def _join(name: str, data_dir: str, flags: dict[str, Any], *, log_files: bool) -> None:
    from kaa.cluster.joined import leave, serve
    from kaa.cluster.joined_config import claim, default_name, node_folder
    from kaa.cluster.joined_flags import asked
    from kaa.cluster.runner import run

    if name != DEFAULT_NAME:
        raise ConfigError("--name is for clusters of this machine; a node that joins is named by --node-name")
    called = flags["node_name"] or default_name()
    folder = Path(data_dir).absolute() if data_dir else node_folder(called)
    if flags["leave"]:
        left = leave(folder)
        click.echo(f"node {left.node_name} is off this machine; its object: kubectl delete node {left.node_name}")
        return
    config = asked(called, folder, flags)
    claim(config)
    run(serve(config), config, "kubelet", log_files=log_files)
