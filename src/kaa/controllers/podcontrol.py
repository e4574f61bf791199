"""Making and deleting an owner's pods: in batches, with the events that tell of it, until the cache shows it.

Source: kubernetes pkg/controller/controller_utils.go (RealPodControl), replica_set.go (slowStartBatch).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaa.api.errors import ApiError, NotFound
from kaa.api.types.core_v1 import Pod
from kaa.api.types.meta_v1 import DeleteOptions, Preconditions
from kaa.client.client import Client, PatchType
from kaa.client.events import EventRecorder
from kaa.client.informer import Informer

from .controller import in_parallel, refused_since_it_ends
from .owners import newest

SLOW_START = 1


class PodControl:
    """One controller's hand on pods."""

    def __init__(self, client: Client, events: EventRecorder, pods: Informer[Pod]) -> None:
        self._client, self._events, self._pods = client, events, pods

    async def create(self, owner: Any, wanted: Sequence[Pod]) -> tuple[list[Pod], Exception | None]:
        """Create pods in batches that double while all goes well: a quota that is used up costs one request.

        Returns the pods made, which the cache shows by then, and the first failure. That the namespace ends is none.
        """
        made: list[Pod] = []
        failures: list[Exception] = []
        batch, at = SLOW_START, 0
        while at < len(wanted) and not failures:
            for result in await in_parallel(self._client.create(pod) for pod in wanted[at : at + batch]):
                if isinstance(result, Exception):
                    failures.append(result)
                    self._complain(owner, result)
                else:
                    made.append(result)
                    self._events.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {result.metadata.name}")
            at, batch = at + batch, batch * 2
        await self._pods.shows(newest([pod.metadata.resource_version for pod in made]))
        told = [error for error in failures if not refused_since_it_ends(error)]
        return made, told[0] if told else None

    def _complain(self, owner: Any, error: Exception) -> None:
        if not refused_since_it_ends(error):
            self._events.event(owner, "Warning", "FailedCreate", f"Error creating: {error}")

    async def delete(self, owner: Any, doomed: Sequence[Pod]) -> Exception | None:
        """Delete pods, and wait until the cache shows that they go. Returns the first failure."""
        results = await in_parallel(self._delete(owner, pod) for pod in doomed)
        failures = [result for result in results if isinstance(result, Exception)]
        if not failures:
            await self._pods.gone(doomed)
        return failures[0] if failures else None

    async def _delete(self, owner: Any, pod: Pod) -> None:
        name = pod.metadata.name or ""
        options = DeleteOptions(preconditions=Preconditions(uid=pod.metadata.uid))
        try:
            await self._client.delete(Pod, name, pod.metadata.namespace, options=options)
        except NotFound:
            return
        except ApiError as err:
            self._events.event(owner, "Warning", "FailedDelete", f"Error deleting: {err}")
            raise
        self._events.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {name}")

    async def drop_finalizer(self, pods: Sequence[Pod], finalizer: str) -> Exception | None:
        """Take a finalizer off pods, and wait until the cache shows it. Returns the first failure."""
        results = await in_parallel(self._drop_finalizer(pod, finalizer) for pod in pods)
        written = [each for each in results if isinstance(each, Pod)]
        await self._pods.shows(newest([pod.metadata.resource_version for pod in written]))
        return next((each for each in results if isinstance(each, Exception)), None)

    async def _drop_finalizer(self, pod: Pod, finalizer: str) -> Pod | None:
        patch = {"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [finalizer]}}
        try:
            name = pod.metadata.name or ""
            return await self._client.patch(Pod, name, patch, pod.metadata.namespace, type=PatchType.STRATEGIC)
        except NotFound:
            return None


async def end_disrupted(client: Client, pod: Pod, reason: str, message: str, now: str) -> None:
    """Say on a pod why it is disrupted, then delete it with its own grace. One that is gone already is fine."""
    name, namespace, uid = pod.metadata.name or "", pod.metadata.namespace, pod.metadata.uid
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": now,
    }
    patch = {"metadata": {"uid": uid}, "status": {"conditions": [condition]}}
    options = DeleteOptions(preconditions=Preconditions(uid=uid))
    try:
        await client.patch(Pod, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")
        await client.delete(Pod, name, namespace, options=options)
    except NotFound:
        return
