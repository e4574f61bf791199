"""Requests of kubelets for pods' certificates go a quarter of an hour after they were made, settled or not.

Source: kubernetes pkg/controller/certificates/cleaner/pcrcleaner.go.
"""

from __future__ import annotations

from kaa.api.clock import parse_time
from kaa.api.errors import NotFound
from kaa.api.types.certificates_v1beta1 import PodCertificateRequest
from kaa.api.types.meta_v1 import DeleteOptions, Preconditions
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller

KEPT_S = 15 * 60.0


def expires_in(request: PodCertificateRequest, now: float) -> float | None:
    """Seconds until a request may go; None for one that is going."""
    meta = request.metadata
    if meta.deletion_timestamp is not None or meta.creation_timestamp is None:
        return None
    return parse_time(meta.creation_timestamp) + KEPT_S - now


class PodCertificateRequestCleaner(Controller[Key]):
    name = "podcertificaterequestcleaner"
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.requests = self.watch(PodCertificateRequest, self._on_request)

    def _on_request(self, old: PodCertificateRequest | None, new: PodCertificateRequest | None) -> None:
        if old is None and new is not None:
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> float | None:
        request = self.requests.by_key(key)
        left = expires_in(request, self.clock.now()) if request is not None else None
        if request is None or left is None or left > 0:
            return left
        options = DeleteOptions(preconditions=Preconditions(uid=request.metadata.uid))
        try:
            await self.client.delete(PodCertificateRequest, key.name, key.namespace, options=options)
        except NotFound:
            return None
        return None
