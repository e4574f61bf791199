"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kaa.cluster.config import DEFAULT_NAME, ClusterConfig, ConfigError, data_dir_of, read_config

F = TypeVar("F", bound=Callable[..., Any])


def which_cluster(function: F) -> F:
    """``--name`` and ``--data-dir``."""
    function = click.option(
        "--data-dir", default="", metavar="DIR", help="Where the cluster lives.  [default: /var/lib/kaa/NAME as root]"
    )(function)
    return click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which cluster; several can stand.")(
        function
    )


def credential_providers(function: F) -> F:
    """``--image-credential-provider-config`` and ``--image-credential-provider-bin-dir``, as a kubelet has them."""
    function = click.option(
        "--image-credential-provider-bin-dir",
        default="",
        metavar="DIR",
        help="Where the programs are that know credentials for images.",
    )(function)
    return click.option(
        "--image-credential-provider-config",
        default="",
        metavar="PATH",
        help="A CredentialProviderConfig, or a folder of them: which program is asked for which images.",
    )(function)


def existing(name: str, data_dir: str) -> ClusterConfig:
    """The cluster that the options name. Raises ConfigError when there is none."""
    folder: Path = data_dir_of(name, data_dir)
    config = read_config(folder)
    if config is None:
        again = f" --name {name}" if name != DEFAULT_NAME else ""
        raise ConfigError(f"there is no cluster {name!r} in {folder}; `kaa up{again}` makes one")
    return config
