"""The certificate that a node's server shows, where ``serverTLSBootstrap`` has the cluster issue it.

A CertificateSigningRequest for ``kubernetes.io/kubelet-serving`` is made, which somebody must approve: the controllers do not, for
they cannot know whose names and addresses those are. Until then the server goes on with what it has.
Source: pkg/kubelet/certificate/kubelet.go; "Kubelet serving certificates".
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from kaa.api.clock import Clock
from kaa.client.access import load_certificate
from kaa.client.client import Client
from kaa.kubelet.bootstrap import SERVING_SIGNER, Pair, Rotation, Store, node_identity
from kaa.kubelet.config import KubeletConfig

log = structlog.get_logger("kaa.kubelet")


def is_asked_for(told: KubeletConfig) -> bool:
    return told.certificates.server_bootstrap and not told.serving.cert_file


def issued(told: KubeletConfig, folder: Path, clock: Clock) -> Path | None:
    """The file with certificate and key that was issued before, if it still holds."""
    store = Store(folder, "kubelet-server")
    held = store.load() if is_asked_for(told) else None
    return store.current if held is not None and held.ends > clock.now() else None


def kept_valid(
    told: KubeletConfig, folder: Path, client: Client, clock: Clock, tls: ssl.SSLContext, waiting: Callable[[str], None]
) -> Coroutine[Any, Any, None]:
    """Ask for the certificate, and for each next one in time, and show it; ``waiting`` is told a request's name."""

    def show(pair: Pair) -> None:
        log.info("serving certificate received", hosts=",".join(pair.hosts))
        load_certificate(tls, pair.certificate, pair.key)

    wanted = node_identity(told.node_name, (told.hostname or told.node_name, *told.node_ips))
    store = Store(folder, "kubelet-server")
    return Rotation(client, clock, store, SERVING_SIGNER, lambda: wanted, show, waiting=waiting).run()
