"""``kaa logs``: what a component said."""

from __future__ import annotations

import time

import click

from .options import existing, which_cluster


@click.command("logs", short_help="Show a component's log.")
@click.argument("component", default="")
@which_cluster
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows.")
@click.option("--tail", "lines", type=int, default=100, show_default=True, help="How many lines to begin with.")
def command(component: str, name: str, data_dir: str, follow: bool, lines: int) -> None:
    """Show what COMPONENT said; without it, list the components that have a log."""
    from kaa.cluster.logs import tail

    config = existing(name, data_dir)
    known = sorted(path.stem for path in config.log_dir.glob("*.log"))
    if not component:
        click.echo("\n".join(known))
        return
    if component not in known:
        raise click.ClickException(f"no component {component!r}; there are: {', '.join(known) or 'none yet'}")
    path = config.log_dir / f"{component}.log"
    for line in tail(path, lines):
        click.echo(line)
    if not follow:
        return
    with path.open() as file:
        file.seek(0, 2)
        while True:  # until Ctrl-C
            chunk = file.read()
            if chunk:
                click.echo(chunk, nl=False)
            else:
                time.sleep(0.2)
