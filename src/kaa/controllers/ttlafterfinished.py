"""Jobs that are over and named a time to live are deleted when it has passed, and their pods with them.

Source: kubernetes pkg/controller/ttlafterfinished.
"""

from __future__ import annotations

from kaa.api.clock import parse_time
from kaa.api.errors import NotFound
from kaa.api.types.batch_v1 import Job
from kaa.api.types.meta_v1 import DeleteOptions, Preconditions
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .job import condition_of


def expires_in(job: Job, now: float) -> float | None:
    """Seconds until a job may be deleted; None when it is not over, or lives on."""
    over = condition_of(job, "Complete") or condition_of(job, "Failed")
    ttl = job.spec.ttl_seconds_after_finished
    if ttl is None or over is None or not over.last_transition_time or job.metadata.deletion_timestamp is not None:
        return None
    return parse_time(over.last_transition_time) + ttl - now


class TTLAfterFinished(Controller[Key]):
    name = "ttl-after-finished-controller"
    workers = 2

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.jobs = self.watch(Job, self._on_job)

    def _on_job(self, old: Job | None, new: Job | None) -> None:
        if new is not None and expires_in(new, self.clock.now()) is not None:
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> float | None:
        job = self.jobs.by_key(key)
        left = expires_in(job, self.clock.now()) if job is not None else None
        if job is None or left is None or left > 0:
            return left
        try:
            fresh = await self.client.get(Job, key.name, key.namespace)  # its time to live may just have been changed
            left = expires_in(fresh, self.clock.now())
            if left is None or left > 0:
                return left
            options = DeleteOptions(
                propagation_policy="Foreground", preconditions=Preconditions(uid=fresh.metadata.uid)
            )
            await self.client.delete(Job, key.name, key.namespace, options=options)
        except NotFound:
            return None
        return None
