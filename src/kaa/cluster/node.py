"""A node in one process: kubelet, service proxy and name server, each with its own certificate.

Containers, mounts and rules outlive this process; its next life finds them again.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import structlog

from kaa import __version__
from kaa.api.clock import Clock, SystemClock
from kaa.api.errors import ApiError
from kaa.api.types.core_v1 import Pod
from kaa.client.events import LATE_S, EventRecorder
from kaa.client.http import HttpClient
from kaa.client.informer import Informers
from kaa.kubelet.cgroups import CgroupManager
from kaa.kubelet.config import Eviction, HostProcess, ImageCollection, ImagePulls, KubeletConfig, Serving
from kaa.kubelet.image_gc import Policy
from kaa.kubelet.kubelet import Kubelet
from kaa.kubelet.machine import Machine, has_cgroup_v2, look
from kaa.kubelet.resolv import Resolved, parse_resolv_conf, pod_dns
from kaa.kubelet.serving import servers
from kaa.kubelet.serving.tls import server_context
from kaa.kubelet.volumes.mounts import PlainFolders, SystemMounter
from kaa.runtime.base import DNS, Runtime

from .config import ClusterConfig
from .images import ImageService
from .pki import Pki
from .processes import running_pid, started_at

log = structlog.get_logger("kaa.kubelet")

KUBELET_VERSION = "v1.36.2"
SERVER_RETRY_S = 0.03


def client_context(pki: Pki, name: str) -> ssl.SSLContext:
    """TLS as one of the cluster's own users."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.load_cert_chain(pki.cert(name), pki.key(name))
    return context


def serving_context(pki: Pki, told: KubeletConfig, clock: Clock) -> ssl.SSLContext:
    """The kubelet's own server, with the cluster's certificates unless it was given, or has asked for, others."""
    name = f"nodes/{told.node_name}-serving"
    cert, key = pki.cert(name), pki.key(name)
    if told.certificates.server_bootstrap:
        from .serving_certificate import issued

        held = issued(told, told.root / "pki", clock)
        cert, key = (held, held) if held is not None else (cert, key)
    return server_context(told.serving, cert=str(cert), key=str(key), client_ca=str(pki.ca))


async def serve(config: ClusterConfig) -> None:
    """Run this machine's node until cancelled."""
    clock = SystemClock()
    pki = Pki(config.pki_dir, clock)
    client = HttpClient(config.server_url, client_context(pki, f"nodes/{config.node_name}-client"), "kubelet")
    async with asyncio.TaskGroup() as tasks:
        runtime, networked = await _runtime(config, clock)
        await _server_answers(client, clock)
        try:
            told = kubelet_config(config, clock)
            events = (told.event_qps, told.event_burst)
            recorder = EventRecorder(client, clock, "kubelet", host=config.node_name, pace=events, late_s=LATE_S)
            kubelet = Kubelet(client, runtime, clock, told, recorder)
            tls = serving_context(pki, told, clock)
            tasks.create_task(servers.serve(kubelet, client, tls), name="kubelet/servers")
            tasks.create_task(recorder.run(), name="kubelet/recorder")
            tasks.create_task(ImageService(runtime, config.run_dir / "agent.sock").run(), name="images")
            tasks.create_task(kubelet.run(), name="kubelet")
            if told.certificates.server_bootstrap:
                tasks.create_task(_certificate(told, client, clock, tls), name="kubelet/certificate")
            log.info("node started", node=config.node_name, runtime=config.runtime, address=config.node_ip)
            if networked:
                tasks.create_task(_network(config, clock, pki), name="network")
            await asyncio.Event().wait()
        finally:
            await runtime.close()
            await client.close()


async def _certificate(told: KubeletConfig, client: HttpClient, clock: Clock, tls: ssl.SSLContext) -> None:
    """Have the server's certificate issued by the cluster, and go on with the cluster's own until it is."""
    from .serving_certificate import is_asked_for, kept_valid

    def waiting(name: str) -> None:
        log.info(f"waiting for the certificate request of the node's server: kubectl certificate approve {name}")

    if is_asked_for(told):
        await kept_valid(told, told.root / "pki", client, clock, tls, waiting)


async def _server_answers(client: HttpClient, clock: Clock) -> None:
    """Wait for the API server: node and control plane start together, and nothing here can begin before it."""
    while True:
        try:
            await client.raw("GET", "/readyz")
            return
        except ApiError:
            await clock.sleep(SERVER_RETRY_S)


async def _runtime(config: ClusterConfig, clock: Clock) -> tuple[Runtime, bool]:
    """The container runtime, and whether its pods have a network that services and names are for."""
    if config.runtime == "simulated":
        from kaa.runtime.simulated import SimulatedRuntime

        return SimulatedRuntime(clock), False
    if config.runtime == "cri":
        return await _cri_runtime(config, clock), True
    from kaa.network.pods import BridgePodNetwork
    from kaa.runtime.oci.linux import keep_in_memory
    from kaa.runtime.oci.runtime import OciRuntime

    network = BridgePodNetwork(
        config.bridge, (config.node_pod_cidr,), config.root / "network", cluster_cidrs=(config.pod_cidr,)
    )
    await network.setup()
    folders = config.root / "containers", config.run_dir / "containers"
    keep_in_memory(folders[1])
    runtime = OciRuntime(*folders, clock, network=network, registries=config.root / "registries")
    await runtime.start()
    return runtime, True


async def _cri_runtime(config: ClusterConfig, clock: Clock) -> Runtime:
    """Its network is the runtime's own; the address at which our name server listens is made here instead."""
    from kaa.network.pods import hold_address
    from kaa.runtime.cri.runtime import CriRuntime

    await hold_address(config.bridge, f"{config.gateway_ip}/32")
    runtime = CriRuntime(config.container_runtime_endpoint, clock, owner=config.name)
    try:
        await runtime.start(pod_cidr=config.node_pod_cidr)
    except BaseException:
        await runtime.close()
        raise
    return runtime


async def _network(config: ClusterConfig, clock: Clock, pki: Pki) -> None:
    """Services and names."""
    from kaa.network.dns import DnsServer
    from kaa.network.forward import read_upstreams
    from kaa.network.proxy import Proxy

    proxying = HttpClient(config.server_url, client_context(pki, "kube-proxy"), "kube-proxy")
    naming = HttpClient(config.server_url, client_context(pki, "coredns"), "coredns")
    proxy_informers, dns_informers = Informers(proxying, clock), Informers(naming, clock)
    proxy = Proxy(
        proxy_informers, clock, node_name=config.node_name, table=config.table, cluster_cidrs=(config.pod_cidr,)
    )
    dns = DnsServer(
        dns_informers,
        clock,
        listen=((config.gateway_ip, 53),),
        cluster_domain=config.domain,
        upstreams=read_upstreams(),
        server_ips=(config.dns_service_ip,),
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            for work, name in (
                (proxy_informers.run(), "proxy/informers"),
                (dns_informers.run(), "dns/informers"),
                (proxy.run(), "proxy"),
                (dns.run(), "dns"),
            ):
                tasks.create_task(work, name=name)
    finally:
        await proxying.close()
        await naming.close()


def kubelet_config(config: ClusterConfig, clock: Clock) -> KubeletConfig:
    """What this cluster tells its kubelet."""
    simulated = config.runtime == "simulated"
    manifests = config.root / "manifests"
    manifests.mkdir(parents=True, exist_ok=True)
    made = KubeletConfig(
        node_name=config.node_name,
        root=config.root / "kubelet",
        pod_log_root=config.root / "pod-logs",
        node_ips=(config.node_ip,),
        port=config.kubelet_port,
        version=KUBELET_VERSION,
        labels={"kaa.dev/runtime": config.runtime},
        cluster_dns=(config.dns_service_ip,),
        cluster_domain=config.domain,
        host_dns=host_dns(),
        pod_dns=resolve_pod,
        static_pod_path=manifests,
        host_processes=host_processes(config),
        cgroups=None if simulated else CgroupManager(root=config.cgroup_root),
        mounter=PlainFolders() if simulated else SystemMounter(),
        machine=Machine() if simulated else look(cgroup_v2=has_cgroup_v2()),
        network_probes=not simulated,
        pod_resources=not simulated,
        eviction=None if simulated else Eviction(hard={"memory.available": "100Mi"}),
        pulls=pulls(config),
        serving=Serving(healthz_port=config.kubelet_port - 2, system_log_root=config.log_dir),
        images=ImageCollection(Policy(high=100, low=100)),  # the disk is its owner's, as kind has it
    )
    return _as_the_file_says(made, config)


def pulls(config: ClusterConfig) -> ImagePulls:
    if config.credential_providers is None:
        return ImagePulls()
    file, programs = map(Path, config.credential_providers)
    return ImagePulls(provider_config=file, provider_programs=programs)


def _as_the_file_says(made: KubeletConfig, config: ClusterConfig) -> KubeletConfig:
    """With the cluster's KubeletConfiguration, if it has one: what that leaves out is upstream's default."""
    if not config.kubelet_file.exists():
        return made
    from kaa.kubelet.config_file import configured

    plain = KubeletConfig(made.node_name)
    made = replace(made, eviction=made.eviction and plain.eviction, images=plain.images)
    found, without_effect = configured(made, config.kubelet_file.read_text())
    if found.certificates.rotate:
        log.warning(
            "the certificate that the node calls with is the cluster's own: rotateCertificates does nothing here"
        )
    if without_effect:
        log.warning("fields of the kubelet's configuration that mean nothing here", fields=", ".join(without_effect))
    return found


def resolve_pod(pod: Pod, *, cluster_dns: tuple[str, ...], cluster_domain: str, host: DNS) -> Resolved:
    return pod_dns(pod, host, cluster_dns=cluster_dns, cluster_domain=cluster_domain)


def host_dns() -> DNS:
    try:
        return parse_resolv_conf(Path("/etc/resolv.conf").read_text())
    except OSError:
        return DNS()


def host_processes(config: ClusterConfig) -> tuple[HostProcess, ...]:
    """The cluster's own components, shown in kube-system as what they are: processes of the host."""
    logs, image = config.log_dir, f"kaa.dev/kaa:{__version__}"
    server, agent = (started_at(running_pid(config.run_dir / f"{part}.pid")) for part in ("server", "agent"))
    parts = [
        ("kube-apiserver", "kube-apiserver", server),
        ("kube-controller-manager", "kube-controller-manager", server),
        ("kube-scheduler", "kube-scheduler", server),
        ("etcd", "etcd", server),
    ]
    if config.runtime != "simulated":
        parts += [("kube-proxy", "kube-proxy", agent), ("coredns", "kube-dns", agent)]
    return tuple(
        HostProcess(
            name=name,
            component=component,
            log_path=logs / f"{name}.log",
            image=image,
            started_at=began,
            labels={"component": component, "tier": "control-plane"}
            if began == server and component not in ("kube-proxy", "kube-dns")
            else {"k8s-app": component},
        )
        for name, component, began in parts
    )
