"""All controllers together: one process, one set of informers, an identity each.

manager = ControllerManager(lambda name: client_of(f"system:serviceaccount:kube-system:{name}"), clock, root_ca=pem)
await manager.run()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kaa.api.clock import Clock
from kaa.api.resources import RESOURCES, Resource
from kaa.client.client import Client
from kaa.client.informer import Informers

from .attachdetach import AttachDetach
from .autoscaling_metrics import MetricsSource
from .bootstrap import BootstrapSigner, TokenCleaner
from .certificate_authority import Authority
from .certificates import CertificateApprover, CertificateCleaner, CertificateSigner
from .clusterrole_aggregation import ClusterRoleAggregation
from .controller import SHARED as SHARED
from .controller import Context, Controller
from .cronjob import CronJobs
from .daemonset import DaemonSets
from .deployment import Deployments
from .devicetainteviction import DeviceTaintEviction
from .disruption import Disruptions, StaleDisruptions
from .endpoints import EndpointsController
from .endpointslice import EndpointSlices
from .endpointslicemirroring import EndpointSliceMirroring
from .ephemeralvolume import EphemeralVolumes
from .expand import Expander
from .garbagecollector import GarbageCollector
from .horizontalpodautoscaler import HorizontalPodAutoscalers
from .job import Jobs
from .legacytokencleaner import LegacyTokenCleaner
from .namespace import Namespaces
from .nodeipam import NodeIPAM
from .nodelifecycle import NodeLifecycle
from .persistentvolume import PersistentVolumes
from .podgc import PodGC
from .replicaset import ReplicaSets, ReplicationControllers
from .resourceclaim import ResourceClaims
from .resourcequota import ResourceQuotas
from .rootca import RootCAPublisher
from .served import Served
from .service_loadbalancer import LoadBalancers, ServiceLoadBalancers
from .serviceaccount import ServiceAccounts
from .servicecidrs import ServiceCIDRs
from .statefulset import StatefulSets
from .storage_protection import AttributesClassProtection, ClaimProtection, VolumeProtection
from .tainteviction import TaintEviction
from .tokens import Issue, Tokens
from .ttl import TTL
from .ttlafterfinished import TTLAfterFinished
from .validatingadmissionpolicystatus import ValidatingAdmissionPolicyStatus


class ControllerManager:
    """``client_for(name)`` is a client with the identity of ``system:serviceaccount:kube-system:NAME``; for the name
    ``shared-informers`` that of ``system:kube-controller-manager``. ``root_ca`` is the PEM text that pods trust.
    ``issue_legacy(account, secret_name)`` signs the token of a Secret; without it such Secrets stay as they are.
    ``authority`` signs certificates; without it requests for them stay unsigned. ``metrics`` is what autoscalers go by: the
    metrics APIs, unless given. ``pod_ranges``: of which nodes get their parts, as ``NodeIPAM`` has them. ``load_balancers``
    makes those that Services ask for; without it such Services stay pending. ``serving`` are the built-in resources that the
    API server serves."""

    def __init__(
        self,
        client_for: Callable[[str], Client],
        clock: Clock,
        *,
        root_ca: bytes,
        issue_legacy: Issue | None = None,
        authority: Authority | None = None,
        metrics: MetricsSource | None = None,
        pod_ranges: tuple[tuple[str, int], ...] = (),
        load_balancers: LoadBalancers | None = None,
        serving: Sequence[Resource[Any]] = RESOURCES,
        events_late_s: float = 0.0,
    ) -> None:
        self.informers = Informers(client_for(SHARED), clock)
        context = Context(client_for, self.informers, clock, events_late_s)
        served = Served(client_for("namespace-controller"), self.informers, serving)
        self.controllers: list[Controller[Any]] = [
            *([Tokens(context, root_ca, issue_legacy)] if issue_legacy is not None else ()),
            ServiceAccounts(context),
            RootCAPublisher(context, root_ca),
            ClusterRoleAggregation(context),
            ReplicaSets(context),
            ReplicationControllers(context),
            Deployments(context),
            StatefulSets(context),
            DaemonSets(context),
            EndpointSlices(context),
            EndpointsController(context),
            EndpointSliceMirroring(context),
            PodGC(context),
            NodeLifecycle(context),
            *([NodeIPAM(context, pod_ranges)] if pod_ranges else ()),
            TaintEviction(context),
            DeviceTaintEviction(context),
            Disruptions(context, served),
            StaleDisruptions(context),
            CertificateApprover(context),
            *([CertificateSigner(context, authority)] if authority is not None else ()),
            CertificateCleaner(context),
            Jobs(context),
            CronJobs(context),
            TTLAfterFinished(context),
            ResourceQuotas(context, served),
            HorizontalPodAutoscalers(context, served, metrics),
            PersistentVolumes(context),
            ClaimProtection(context),
            VolumeProtection(context),
            AttributesClassProtection(context),
            EphemeralVolumes(context),
            Expander(context),
            AttachDetach(context),
            ResourceClaims(context),
            BootstrapSigner(context),
            TokenCleaner(context),
            LegacyTokenCleaner(context),
            ServiceCIDRs(context),
            *([ServiceLoadBalancers(context, load_balancers)] if load_balancers is not None else ()),
            TTL(context),
            ValidatingAdmissionPolicyStatus(context),
            *self._of_optional_kinds(context, served, serving),
            Namespaces(context, served),
            GarbageCollector(context, served),  # last: it shares the informers that the others made
        ]

    @staticmethod
    def _of_optional_kinds(
        context: Context, served: Served, serving: Sequence[Resource[Any]]
    ) -> Iterator[Controller[Any]]:
        """Those of kinds that are not served by default; their modules are read only then."""
        kinds = {row.kind for row in serving}
        if "StorageVersion" in kinds:
            from .storageversions import StorageVersionGC

            yield StorageVersionGC(context)
        if "StorageVersionMigration" in kinds:
            from .storageversionmigrator import StorageVersionMigrator

            yield StorageVersionMigrator(context, served)
        if "PodCertificateRequest" in kinds:
            from .podcertificates import PodCertificateRequestCleaner

            yield PodCertificateRequestCleaner(context)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.informers.run(), name="informers")
            for controller in self.controllers:
                tasks.create_task(controller.run(), name=controller.name)
