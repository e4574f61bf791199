"""A node of a cluster that is not ours: an agent that knows an address, an authority and credentials, and nothing else.

The idea: what the cluster says of its nodes is asked for (who we are, which pods' range is ours), what the machine says is
found (name, addresses), and everything else stands in flags and a KubeletConfiguration. So the same process joins
upstream's API server, another's, or `kaa server`.

Order of a start: credentials (made by TLS bootstrap where there are none yet), the API server, the runtime, the kubelet and
its server; the pods' network when the node has a range; services and names only where asked.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from kaa.api.clock import Clock, SystemClock
from kaa.client.access import Session
from kaa.client.events import LATE_S, EventRecorder
from kaa.client.informer import Informers
from kaa.kubelet import bootstrap
from kaa.kubelet.bootstrap import CLIENT_SIGNER, Pair, Rotation, Store, node_identity
from kaa.kubelet.cgroups import CgroupManager
from kaa.kubelet.config import KubeletConfig, Serving
from kaa.kubelet.config_file import ConfigFileError, configured, said
from kaa.kubelet.kubelet import Kubelet
from kaa.kubelet.machine import Machine, has_cgroup_v2, look
from kaa.kubelet.serving import servers
from kaa.kubelet.serving.tls import server_context
from kaa.kubelet.volumes.mounts import PlainFolders, SystemMounter

from . import node, serving_certificate, teardown
from .config import KUBELET_PORT, ConfigError, endpoint_socket
from .images import ImageService
from .joined_config import JoinConfig, claim, read_config, write_config
from .joined_credentials import (
    ask_for_approval,
    bootstrapped,
    check_identity,
    lives_by,
    read_access,
    server_answers,
    session_of,
)

log = structlog.get_logger("kaa.kubelet")
PATIENCE_S = 3.0
#: Fields of a KubeletConfiguration that a joined node takes beyond those that every kubelet does.
_OURS = frozenset({"cgroupRoot", "containerRuntimeEndpoint", "podCIDR"})


# ------------------------------------------------------------------------------------------------ what it is told


def with_file(config: JoinConfig) -> JoinConfig:
    """With what the KubeletConfiguration says of the node as a whole; flags go before it. Raises ConfigError."""
    if not config.kubelet_config:
        return config
    try:
        told = said(config.kubelet_file.read_text())
    except (OSError, ConfigFileError) as err:
        raise ConfigError(f"--config {config.kubelet_config}: {err}") from err
    changes: dict[str, object] = {}
    if told.get("cgroupRoot") and not config.cgroups:
        changes["cgroups"] = str(told["cgroupRoot"])
    if told.get("podCIDR") and not config.pod_cidrs:
        changes["pod_cidrs"] = tuple(str(told["podCIDR"]).split(","))
    if told.get("containerRuntimeEndpoint") and not config.container_runtime_endpoint:
        changes |= {"container_runtime_endpoint": str(told["containerRuntimeEndpoint"]), "runtime": "cri"}
        endpoint_socket(str(told["containerRuntimeEndpoint"]))
    return msgspec.structs.replace(config, **changes)


def kubelet_config(config: JoinConfig) -> KubeletConfig:
    """What the kubelet is told: upstream's defaults, the file over them, the flags over both. Raises ConfigError."""
    simulated = config.runtime == "simulated"
    plain = KubeletConfig(config.node_name)
    made = KubeletConfig(
        node_name=config.node_name,
        root=config.root / "kubelet",
        pod_log_root=config.root / "pod-logs",
        node_ips=config.node_ips,
        port=config.kubelet_port,
        serving=Serving(address="0.0.0.0", healthz_port=config.kubelet_port - 2),
        version=node.KUBELET_VERSION,
        host_dns=node.host_dns(),
        pod_dns=node.resolve_pod,
        cgroups=None if simulated else CgroupManager(root=config.cgroup_root),
        mounter=PlainFolders() if simulated else SystemMounter(),
        network_probes=not simulated,
        machine=Machine() if simulated else look(cgroup_v2=has_cgroup_v2()),
        eviction=None if simulated else plain.eviction,
        certificates=msgspec.structs.replace(plain.certificates, rotate=bool(config.bootstrap_kubeconfig)),
        pulls=node.pulls(config),
    )
    if config.kubelet_config:
        try:
            made, without_effect = configured(made, config.kubelet_file.read_text())
        except (OSError, ConfigFileError) as err:
            raise ConfigError(f"--config {config.kubelet_config}: {err}") from err
        nothing = [name for name in without_effect if name not in _OURS]
        if nothing:
            log.warning("fields of the kubelet's configuration that mean nothing here", fields=", ".join(nothing))
    return replace(
        made,
        labels={**made.labels, **config.labels},
        taints=config.taints or made.taints,
        register=config.register_node and made.register,
        provider_id=config.provider_id or made.provider_id,
        external_cloud=config.external_cloud,
        port=made.port if config.kubelet_port == KUBELET_PORT else config.kubelet_port,
    )


def client_authority(trusted: bytes, own: bytes) -> bytes:
    """Whose client certificates the kubelet's server believes where ``authentication.x509.clientCAFile`` names nobody, PEM.

    That is the kubeconfig's CA (``trusted``), if that has signed our ``own`` certificate, by which the API server knows us:
    then it is the cluster's authority for clients, as kubeadm has it. A CA that only vouches for the server's own name is not
    believed: then it is nobody's, and callers need tokens.
    """
    return trusted if own and trusted and bootstrap.issued_by(own, trusted) else b""


def serving_context(config: KubeletConfig, pki: Path, authority: bytes, clock: Clock) -> ssl.SSLContext:
    """The kubelet's server: the certificate of its configuration, or the one that was issued, or a self-signed one."""
    believed = pki / "client-ca.crt"
    if authority:
        bootstrap.write_private(believed, authority)
    issued = serving_certificate.issued(config, pki, clock)
    cert, key = (issued, issued) if issued is not None else _own_certificate(config, pki, clock)
    try:
        return server_context(
            config.serving, cert=str(cert), key=str(key), client_ca=str(believed) if authority else ""
        )
    except OSError as err:
        files = ", ".join(
            filter(None, (config.serving.cert_file, config.serving.key_file, config.serving.client_ca_file))
        )
        raise ConfigError(f"--config: the kubelet's server cannot use its files ({files}): {err}") from err


def _own_certificate(config: KubeletConfig, pki: Path, clock: Clock) -> tuple[Path, Path]:
    """``kubelet.crt`` and ``kubelet.key``: made when they are missing or have ended."""
    certificate, key = pki / "kubelet.crt", pki / "kubelet.key"
    try:
        pair = Pair.read(certificate.read_bytes(), key.read_bytes())
        if pair.ends > clock.now() and set(config.node_ips) <= set(pair.hosts):
            return certificate, key
    except (OSError, ValueError):
        pass
    made = bootstrap.self_signed(config.hostname or config.node_name, config.node_ips, clock.now())
    bootstrap.write_private(certificate, made[0])
    bootstrap.write_private(key, made[1])
    return certificate, key


# ------------------------------------------------------------------------------------------------ running


async def serve(config: JoinConfig) -> None:
    """Run the node until cancelled. Raises ConfigError: it cannot be what was asked."""
    clock = SystemClock()
    config = with_file(config)
    told = kubelet_config(config)
    access = lives_by(config) or await bootstrapped(config, clock)
    session = session_of(access, clock, config.client_config)
    try:
        _newest_certificate(config, told, session, clock)
        await _met(session, config, told, clock)
        config = msgspec.structs.replace(config, server=access.server)
        await _run(config, told, session, clock)
    finally:
        await session.close()


async def _met(session: Session, config: JoinConfig, told: KubeletConfig, clock: Clock) -> None:
    """Wait for the API server, unless it may be among the static pods of this very node. Raises ConfigError."""
    alone = told.static_pod_path is not None or bool(told.static_pod_url)
    try:
        async with asyncio.timeout(PATIENCE_S if alone else None):
            await server_answers(session, clock, str(config.client_config))
            await check_identity(session, config)
    except TimeoutError:
        log.warning("the API server does not answer yet; static pods run without it", server=session.access.server)


async def _run(config: JoinConfig, told: KubeletConfig, session: Session, clock: Clock) -> None:
    from .joined_network import known_range, network_when_ranged, runtime_of

    client = session.client
    authority = client_authority(session.access.ca, session.certificate)
    if not (authority or told.serving.client_ca_file):
        log.warning(
            "no authority for client certificates is known, so callers of this kubelet need tokens: name the cluster's with"
            " authentication.x509.clientCAFile in --config, and kubectl logs and exec work"
        )
    tls = serving_context(told, config.pki_dir, authority, clock)
    config = await known_range(config, client)
    made = await runtime_of(config, clock)
    write_config(config)
    pace = told.event_qps, told.event_burst
    recorder = EventRecorder(client, clock, "kubelet", host=config.node_name, pace=pace, late_s=LATE_S)
    kubelet = Kubelet(client, made.runtime, clock, told, recorder)
    try:
        _can_listen(told)
        async with asyncio.TaskGroup() as tasks:
            works = {
                "kubelet/servers": servers.serve(kubelet, client, tls),
                "kubelet/recorder": recorder.run(),
                "images": ImageService(made.runtime, config.run_dir / "agent.sock").run(),
                "kubelet": kubelet.run(),
                "credentials": session.run(),
                "pod-network": network_when_ranged(config, made, client, clock, kubelet.network_changed),
                **_rotations(config, told, session, tls, clock),
            }
            if config.proxy_kubeconfig:
                works["proxy"] = _proxy(config, clock)
            for name, work in works.items():
                tasks.create_task(work, name=name)
            log.info("node started", node=config.node_name, server=config.server, address=",".join(config.node_ips))
            await kubelet.node.registered.wait()
            log.info(f"the node is registered; look at it with: kubectl get node {config.node_name}")
    finally:
        await made.runtime.close()


def _can_listen(told: KubeletConfig) -> None:
    """Raises ConfigError when somebody has a port of the kubelet's already."""
    serving = told.serving
    for address, port, flag in (
        (serving.address or told.node_ips[0], told.port if serving.enabled else 0, "--port"),
        (serving.healthz_address, serving.healthz_port, "healthzPort in --config"),
    ):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as err:
                raise ConfigError(
                    f"the kubelet's server cannot listen at {address}:{port}: {err.strerror or err}; another kubelet may run"
                    f" on this machine, {flag} gives another port"
                ) from err


def _newest_certificate(config: JoinConfig, told: KubeletConfig, session: Session, clock: Clock) -> None:
    """Go on with the certificate that was last rotated in, and keep a first one where rotation looks for it."""
    if not told.certificates.rotate or not session.certificate:
        return
    store = Store(config.pki_dir, "kubelet-client")
    held = store.load()
    if held is not None and bootstrap.fits(held, node_identity(config.node_name), clock.now()):
        session.reload(held.certificate, held.key)
        return
    given = session.access.credentials
    if given.certificate:
        store.save(given.certificate, bootstrap.key_of(given.certificate, given.key), clock.now())


def _rotations(
    config: JoinConfig, told: KubeletConfig, session: Session, tls: ssl.SSLContext, clock: Clock
) -> dict[str, Coroutine[Any, Any, None]]:
    """The certificates that are renewed: the one to call with, the one to serve with."""
    works: dict[str, Coroutine[Any, Any, None]] = {}
    if told.certificates.rotate and session.certificate:

        def show(pair: Pair) -> None:
            log.info("certificate rotated, connections begin anew", signer=CLIENT_SIGNER)
            session.reload(pair.certificate, pair.key)

        store = Store(config.pki_dir, "kubelet-client")
        identity = node_identity(config.node_name)
        works["certificates/client"] = Rotation(
            session.client, clock, store, CLIENT_SIGNER, lambda: identity, show, waiting=ask_for_approval
        ).run()
    if serving_certificate.is_asked_for(told):
        works["certificates/server"] = serving_certificate.kept_valid(
            told, config.pki_dir, session.client, clock, tls, ask_for_approval
        )
    return works


async def _proxy(config: JoinConfig, clock: Clock) -> None:
    """Services, by credentials that may list them: a kubelet's own may not."""
    from kaa.network.proxy import Proxy

    path = Path(config.proxy_kubeconfig)
    session = session_of(read_access(path, "proxy kubeconfig"), clock, path)
    informers = Informers(session.client, clock)
    proxy = Proxy(informers, clock, node_name=config.node_name, table=config.table, cluster_cidrs=config.cluster_cidrs)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(informers.run(), name="proxy/informers")
            tasks.create_task(proxy.run(), name="proxy")
            tasks.create_task(session.run(), name="proxy/credentials")
    finally:
        await session.close()


def leave(folder: Path) -> JoinConfig:
    """Take the node off this machine: its containers, network, mounts, cgroups and files. Raises ConfigError."""
    config = read_config(folder)
    if config is None:
        raise ConfigError(f"there is no node in {folder}")
    claim(config)
    teardown.remove_everything(config, lambda done: None)
    return config
