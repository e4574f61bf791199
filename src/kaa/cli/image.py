"""``kaa image``: the node's images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kaa.cluster.config import data_dir_of

from .options import existing, which_cluster


@click.group("image", short_help="Import, pull, list, remove and prune the node's images.")
def command() -> None:
    """The images of this machine's node.

    \b
    kaa image import app.tar         take what `docker save` wrote
    kaa image pull nginx:1.27        fetch from a registry
    kaa image ls                     what is there, and how large
    kaa image rm nginx:1.27          remove by name or id
    kaa image prune                  remove all that no container uses

    The agent must run: `kaa up` starts it. By itself the kubelet removes unused images only with a KubeletConfiguration
    (`kaa up --kubelet-config`). What was removed is pulled again when a pod needs it; an imported image must be imported again.
    """


def _ask(name: str, data_dir: str, **request: Any) -> Any:
    """The agent's last word; progress is shown on the way."""
    from kaa.cluster.images import ask

    folder = data_dir_of(name, data_dir)
    joined = (folder / "node.json").exists()  # a node of a cluster elsewhere: it has an agent, and no cluster
    socket = folder / "run/agent.sock" if joined else existing(name, data_dir).run_dir / "agent.sock"
    try:
        with _progress(f"{request['verb']} {request.get('image') or request.get('path') or ''}") as show:
            for answer in ask(socket, **request):
                if "progress" in answer:
                    show(answer["progress"])
                elif "error" in answer:
                    raise click.ClickException(answer["error"])
                else:
                    return answer["done"]
    except (ConnectionError, FileNotFoundError):
        raise click.ClickException(f"the agent of cluster {name} does not run; `kaa up` starts it") from None
    raise click.ClickException("the agent ended before it answered; see `kaa logs kubelet`")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A line on a terminal, gone at the end: what is done, and of a pull a bar, its bytes and their speed."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    console = Console(stderr=True, highlight=False)
    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def show(step: dict[str, Any]) -> None:
            bar.update(task, description=f"{what}: {step['status']}", completed=step["bytes"], total=step["of"] or None)

        yield show


@command.command("import")
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@which_cluster
def import_(archives: tuple[Path, ...], name: str, data_dir: str) -> None:
    """Take images from ARCHIVES: what `docker save` or an OCI layout in a tar holds."""
    for archive in archives:
        for image in _ask(name, data_dir, verb="import", path=str(archive.absolute())):
            click.echo("\n".join(image["tags"]) or image["id"])


@command.command("pull")
@click.argument("image")
@which_cluster
def pull(image: str, name: str, data_dir: str) -> None:
    """Fetch IMAGE from its registry."""
    found = _ask(name, data_dir, verb="pull", image=image)
    click.echo(f"{', '.join(found['tags']) or image}  {found['id']}")


@command.command("ls")
@which_cluster
def ls(name: str, data_dir: str) -> None:
    """List the images."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("IMAGE", "ID", "SIZE"):
        table.add_column(column, overflow="fold")
    for image in _ask(name, data_dir, verb="ls"):
        size = f"{image['size_bytes'] / 1e6:.1f} MB"
        for tag in image["tags"] or ["<none>"]:
            table.add_row(tag, image["id"].removeprefix("sha256:")[:12], size)
    Console(highlight=False).print(table)


@command.command("rm")
@click.argument("images", nargs=-1, required=True)
@which_cluster
def rm(images: tuple[str, ...], name: str, data_dir: str) -> None:
    """Remove IMAGES by name or id."""
    for image in images:
        click.echo(_ask(name, data_dir, verb="rm", image=image)["id"])


@command.command("prune")
@click.option(
    "--all", "also_ended", is_flag=True, help="Also those of containers that have ended and may be started again."
)
@which_cluster
def prune(also_ended: bool, name: str, data_dir: str) -> None:
    """Remove the images that no container uses, as `crictl rmi --prune` does, and say what that freed."""
    found = _ask(name, data_dir, verb="prune", all=also_ended)
    for image in found["images"]:
        click.echo("\n".join(image["tags"]) or image["id"])
    count = len(found["images"])
    click.echo(f"{count} image{'' if count == 1 else 's'} removed, {found['freed_bytes'] / 1e6:.1f} MB freed")
