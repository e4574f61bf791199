"""This API server's Lease, and the StorageVersions that say what it writes. Only where those are served.

Source: pkg/controlplane/instance.go (identity leases); apiserver pkg/storageversion manager.go. The Lease lasts an hour and is
renewed every ten minutes; upstream renews it every ten seconds.
"""

from __future__ import annotations

import base64
import hashlib

import structlog
from msgspec.structs import replace

from kaa.api.clock import Clock, format_micro_time, format_time, moment_of
from kaa.api.errors import ApiError
from kaa.api.resources import OPTIONAL, RESOURCES
from kaa.api.storage_versions import IDENTITY, NAMESPACE, SERVER, servers, status_of
from kaa.api.types.apiserverinternal_v1alpha1 import ServerStorageVersion, StorageVersion
from kaa.api.types.coordination_v1 import Lease, LeaseSpec
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.client import Client

from . import keys
from .cacher import Cacher
from .serving import Serving

log = structlog.get_logger(__name__)

LEASE_S, RENEW_S, RETRY_S = 3600, 600.0, 5.0


def name_of(host: str) -> str:
    """``apiserver-`` and a digest of the machine's name."""
    digest = hashlib.sha256(host.encode()).digest()[:16]
    return f"apiserver-{base64.b32encode(digest).decode().rstrip('=').lower()}"


def told(serving: Serving, server: str) -> dict[str, ServerStorageVersion]:
    """{``apps.deployments``: in which version this server writes it, and which it reads and serves}"""
    found: dict[str, ServerStorageVersion] = {}
    for stored in serving.kept():
        shown = [one.api_version for one in serving.resources if keys.storage_resource(one) is stored]
        known = [one.api_version for one in (*RESOURCES, *OPTIONAL) if keys.storage_resource(one) is stored]
        if shown:
            found[f"{stored.group or 'core'}.{stored.plural}"] = ServerStorageVersion(
                api_server_id=server,
                encoding_version=stored.api_version,
                decodable_versions=tuple(known),
                served_versions=tuple(shown),
            )
    return found


class Identity:
    """``host`` is the machine's name."""

    def __init__(self, view: Cacher, client: Client, clock: Clock, serving: Serving, host: str) -> None:
        self._view, self._client, self._clock = view, client, clock
        self._serving, self._host = serving, host
        self.name = name_of(host)

    async def run(self) -> None:
        """Be there, until cancelled."""
        while True:
            try:
                await self._renew()
                await self._collect()
                for name, entry in told(self._serving, self.name).items():
                    await self._tell(name, entry)
            except ApiError as err:
                log.warning("the server's identity was not written", lease=self.name, error=str(err))
                await self._clock.sleep(RETRY_S)
                continue
            await self._clock.sleep(RENEW_S)

    async def _renew(self) -> None:
        held = self._view.get(Lease, self.name, NAMESPACE)
        spec = LeaseSpec(
            holder_identity=f"{self.name}_{self._host}",
            lease_duration_seconds=LEASE_S,
            renew_time=format_micro_time(self._clock.now()),
        )
        if held is not None:
            await self._client.update(replace(held, spec=spec))
            return
        labels = {IDENTITY: SERVER, "kubernetes.io/hostname": self._host}
        meta = ObjectMeta(name=self.name, namespace=NAMESPACE, labels=labels)
        await self._client.create(Lease(metadata=meta, spec=spec))

    async def _collect(self) -> None:
        """Take away the Leases of servers that have not renewed them."""
        now = self._clock.now()
        for lease in list(self._view.list(Lease, NAMESPACE)):
            lasts = lease.spec.lease_duration_seconds or LEASE_S
            if (moment_of(lease.spec.renew_time) or 0.0) + lasts < now and lease.metadata.labels.get(
                IDENTITY
            ) == SERVER:
                await self._client.delete(Lease, lease.metadata.name or "", NAMESPACE)

    async def _tell(self, name: str, entry: ServerStorageVersion) -> None:
        """Have a StorageVersion say what this server does; nothing is written where it says so."""
        held = self._view.get(StorageVersion, name)
        if held is None:
            held = await self._client.create(StorageVersion(metadata=ObjectMeta(name=name)))
        others = tuple(one for one in servers(held) if one.api_server_id != self.name)
        if entry not in servers(held):
            status = status_of(held, (*others, entry), format_time(self._clock.now()))
            await self._client.update_status(replace(held, status=status))
