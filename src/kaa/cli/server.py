"""``kaa server``: the control plane in the foreground."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click
import msgspec

from kaa.apiserver.options import ApiServerOptions

from .options import existing, which_cluster


def api_server_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The API server's options as flags; one that is not given leaves what the cluster's config says."""
    for field in reversed(msgspec.structs.fields(ApiServerOptions)):
        flag = f"--{field.encode_name.replace('_', '-')}"
        kind, says = get_args(field.type)
        default = f"  [default: {field.default}]" if field.default != "" else ""
        option = click.option(flag, field.name, type=kind, default=None, help=says.description + default)
        function = option(function)
    return function


@click.command("server", short_help="Run the control plane in the foreground.")
@which_cluster
@click.option("--log-files", is_flag=True, help="Log to files, one a component, instead of standard error.")
@click.option("--hold", is_flag=True, hidden=True, help="Wait until standard input ends before doing anything.")
@api_server_flags
def command(name: str, data_dir: str, log_files: bool, hold: bool, **flags: Any) -> None:
    """Run the API server, the controllers and the scheduler of a cluster that `kaa up` has made, until interrupted."""
    from kaa.cluster.lean import leave_out

    leave_out()
    from kaa.cluster import control_plane
    from kaa.cluster.processes import pass_gate
    from kaa.cluster.runner import run

    if hold:
        pass_gate()
    config = existing(name, data_dir)
    given = {flag: value for flag, value in flags.items() if value is not None}
    if given:
        config = msgspec.structs.replace(config, api_server=msgspec.structs.replace(config.api_server, **given))
    run(control_plane.serve(config), config, "kube-apiserver", log_files=log_files)
