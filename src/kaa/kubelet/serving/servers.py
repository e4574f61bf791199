"""The kubelet's listeners together: its API, health on loopback, and the read-only port where it is asked for."""

from __future__ import annotations

import asyncio
import ssl

from kaa.client.client import Client

from ..kubelet import Kubelet
from .auth import DelegatedAuth
from .server import KubeletServer


async def serve(kubelet: Kubelet, client: Client, tls: ssl.SSLContext) -> None:
    """Listen until cancelled, at whatever the configuration names. ``client`` is asked who may do what."""
    config = kubelet.config
    serving = config.serving
    address = serving.address or config.node_ips[0]
    async with asyncio.TaskGroup() as tasks:
        if serving.enabled:
            auth = DelegatedAuth(client, kubelet.clock, config.node_name, serving)
            main = KubeletServer(kubelet, auth=auth, tls=tls)
            tasks.create_task(main.run(address, config.port), name="kubelet/server")
        if serving.enabled and serving.read_only_port:
            plain = KubeletServer(kubelet, auth=None, tls=None, read_only=True)
            tasks.create_task(plain.run(address, serving.read_only_port), name="kubelet/read-only-server")
        if serving.healthz_port:
            health = KubeletServer(kubelet, auth=None, tls=None, only_health=True)
            tasks.create_task(health.run(serving.healthz_address, serving.healthz_port), name="kubelet/healthz")
        await asyncio.Event().wait()
