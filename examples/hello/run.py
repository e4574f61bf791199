"""Applies hello.yaml to a cluster that `kaa up` started, waits until it is served, and prints the page.

    python examples/hello/run.py [--name CLUSTER]

It shows how a Python program drives a cluster: kubeconfig, server-side apply, waiting on a watch. The image is made on the
spot from Debian's busybox-static and imported, so that the first run needs no registry.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from kaa.api import scheme, yaml
from kaa.api.types.apps_v1 import Deployment
from kaa.api.types.core_v1 import Service
from kaa.client import kubeconfig
from kaa.client.client import PatchType
from kaa.client.http import HttpClient
from kaa.cluster.config import data_dir_of, read_config
from kaa.cluster.images import ask
from kaa.runtime.oci.build import busybox_archive

HERE = Path(__file__).parent
NAMESPACE = "default"
IMAGE = "kaa.dev/hello:latest"
PATIENCE_S = 60.0


def import_image(agent_socket: Path) -> None:
    """Build the sample's image and give it to the node."""
    with tempfile.TemporaryDirectory() as folder:
        script = (HERE / "serve.sh").read_bytes()
        archive = busybox_archive(
            Path(folder) / "hello.tar", (IMAGE,), files={"serve.sh": (script, 0o755)}, command=("/serve.sh",)
        )
        for answer in ask(agent_socket, verb="import", path=str(archive)):
            if "error" in answer:
                raise SystemExit(f"the image was not imported: {answer['error']}")


def client_of(path: Path) -> HttpClient:
    access = kubeconfig.load([path])
    tls = ssl.create_default_context(cadata=access.ca.decode())
    with tempfile.NamedTemporaryFile() as pair:  # ssl reads certificates from files only
        pair.write(access.credentials.certificate + access.credentials.key)
        pair.flush()
        tls.load_cert_chain(pair.name)
    return HttpClient(access.server, tls, "hello")


async def apply(client: HttpClient, document: dict[str, Any]) -> None:
    resource = scheme.resource_by_kind(document["apiVersion"], document["kind"])
    assert resource is not None
    name = document["metadata"]["name"]
    await client.patch(resource, name, document, NAMESPACE, type=PatchType.APPLY, field_manager="hello", force=True)
    print(f"  {document['kind'].lower()}/{name} applied")


async def rolled_out(client: HttpClient, name: str) -> None:
    """Wait until every wanted replica is available, told by a watch."""
    async with asyncio.timeout(PATIENCE_S):
        async for event in client.watch(Deployment, NAMESPACE, field_selector=f"metadata.name={name}"):
            found = event.object
            if found is None or found.status.observed_generation != found.metadata.generation:
                continue
            if (found.status.available_replicas or 0) >= (found.spec.replicas or 1):
                return


async def run(name: str) -> str:
    config = read_config(data_dir_of(name))
    if config is None:
        sys.exit("there is no cluster; `kaa up` makes one")
    import_image(config.run_dir / "agent.sock")
    client = client_of(config.admin_kubeconfig)
    try:
        for document in yaml.load_all((HERE / "hello.yaml").read_bytes()):
            await apply(client, document)
        await rolled_out(client, "hello")
        service = await client.get(Service, "hello", NAMESPACE)
    finally:
        await client.close()
    return f"http://{config.node_ip}:{service.spec.ports[0].node_port}/"


def fetch(url: str) -> str:
    """The page, once the service proxy has heard of the pods."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with opener.open(url, timeout=10) as answer:
                return str(answer.read().decode().strip())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="kaa", help="which cluster")
    url = asyncio.run(run(parser.parse_args().name))
    print(f"  {url} answers:\n\n    {fetch(url)}\n")
    print("next: kubectl get pods -o wide · kubectl scale deployment hello --replicas=5 · make down")


if __name__ == "__main__":
    main()
