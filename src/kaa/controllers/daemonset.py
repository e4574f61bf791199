"""DaemonSets: a pod on every node where one belongs.

What belongs where, and what to add and drop, is decided in ``daemon_pods``; here it is carried out.

Source: kubernetes pkg/controller/daemon.
"""

from __future__ import annotations

from math import inf

from msgspec.structs import replace

from kaa.api import selectors
from kaa.api.errors import NotFound
from kaa.api.types.apps_v1 import ControllerRevision, DaemonSet, DaemonSetStatus
from kaa.api.types.core_v1 import Node, Pod
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .daemon_pods import BURST, Plan, View, by_node, new_pod, plan, roll, status_of
from .history import REVISION_HASH, History
from .owners import BY_CONTROLLER, ORPHANS, add_owner_indexes, claim, controller_of, newest, plan_claims
from .podcontrol import PodControl

#: A daemon that fails again and again is replaced later and later.
BACKOFF_S, BACKOFF_MAX_S = 1.0, 900.0


class DaemonSets(Controller[Key]):
    """Keys are sets; one is one holder, until the cache shows what it wrote."""

    name = "daemon-set-controller"
    component = "daemonset-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sets = self.watch(DaemonSet, self._on_set)
        self.pods = self.informers.of(Pod)
        add_owner_indexes(self.pods)
        self.watch(Pod, self._on_pod)
        self.nodes = self.watch(Node, self._on_node)
        self.history = History(self.client, self.watch(ControllerRevision), hash_label=REVISION_HASH)
        self.control = PodControl(self.client, self.events, self.pods)
        #: {(uid of a set, node): (failures in a row, when the last was dealt with)}
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}

    def _on_set(self, old: DaemonSet | None, new: DaemonSet | None) -> None:
        found = new or old
        assert found is not None
        if new is None:
            self._failures = {key: kept for key, kept in self._failures.items() if key[0] != found.metadata.uid}
        self.queue.add(key_of(found))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        for owner in (controller_of(each) for each in (old, new) if each is not None):
            if owner is not None and owner.kind == "DaemonSet":
                parts = self.pods.count(BY_CONTROLLER, owner.uid)
                self.look_soon(Key(pod.metadata.namespace or "", owner.name), parts)
        if new is not None and controller_of(new) is None and (old is None or old.metadata != new.metadata):
            for each in self.sets.in_namespace(new.metadata.namespace or ""):
                if selectors.from_label_selector(each.spec.selector).matches(new.metadata.labels):
                    self.queue.add(key_of(each))

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        """Only what decides who belongs there matters: not the heartbeats."""
        if old is not None and new is not None:
            same = old.metadata.labels == new.metadata.labels and old.spec.taints == new.spec.taints
            if same and old.spec.unschedulable == new.spec.unschedulable:
                return
        for each in self.sets:
            self.queue.add(key_of(each))

    async def reconcile(self, key: Key) -> float | None:
        owner = self.sets.by_key(key)
        if owner is None or selectors.from_label_selector(owner.spec.selector).empty:
            return None
        pods = await self._claim(owner)
        revisions = await self.history.of(owner)
        collisions = (owner.status.collision_count or 0) if owner.status else 0
        revision, collisions = await self.history.settle(owner, revisions, collisions)
        word = revision.metadata.labels.get(REVISION_HASH, "")
        wait, error = inf, None
        if owner.metadata.deletion_timestamp is None:
            wait, error = await self._manage(owner, pods, word)
        view = self._view(owner, self.pods.by_index(BY_CONTROLLER, owner.metadata.uid or ""), word)
        status, soonest = status_of(view, collisions)
        await self._write(owner, status)
        live = {r.metadata.name or "" for r in revisions if self._is_used(r, view)} | {revision.metadata.name or ""}
        await self.history.truncate(revisions, live, owner.spec.revision_history_limit)
        if error is not None:
            raise error
        wait = min(wait, soonest)
        return wait if wait < inf else None

    def _view(self, owner: DaemonSet, pods: list[Pod], word: str) -> View:
        return View(owner, list(self.nodes), by_node(pods), word, self.clock.now())

    @staticmethod
    def _is_used(revision: ControllerRevision, view: View) -> bool:
        word = revision.metadata.labels.get(REVISION_HASH)
        return any(pod.metadata.labels.get(REVISION_HASH) == word for pods in view.pods.values() for pod in pods)

    async def _manage(self, owner: DaemonSet, pods: list[Pod], word: str) -> tuple[float, Exception | None]:
        """Put daemons where they belong; when all are there, roll. Returns (seconds to wait, a failure)."""
        wanted = plan(self._view(owner, pods, word))
        wait, error = await self._apply(owner, wanted, word)
        if error is not None or owner.spec.update_strategy.type == "OnDelete":
            return wait, error
        pods = self.pods.by_index(BY_CONTROLLER, owner.metadata.uid or "")
        _, error = await self._apply(owner, roll(self._view(owner, pods, word)), word)
        return wait, error

    async def _claim(self, owner: DaemonSet) -> list[Pod]:
        controlled = self.pods.by_index(BY_CONTROLLER, owner.metadata.uid or "")
        orphans = self.pods.by_index(ORPHANS, owner.metadata.namespace or "")
        claims = plan_claims(owner, selectors.from_label_selector(owner.spec.selector), controlled, orphans)
        if not claims.adopt and not claims.release:
            return list(claims.mine)
        pods = await claim(self.client, Pod, owner, claims)
        await self.pods.shows(newest([pod.metadata.resource_version for pod in pods]))
        return pods

    async def _apply(self, owner: DaemonSet, wanted: Plan, word: str) -> tuple[float, Exception | None]:
        """Carry out a plan, and wait until the cache shows it."""
        if wanted.empty():
            return inf, None
        failed, wait = self._due(owner, wanted.failed)
        for pod in failed:
            self._tell(owner, pod, "Warning", "FailedDaemonPod", "failed", "kill")
        for pod in wanted.succeeded:
            self._tell(owner, pod, "Normal", "SucceededDaemonPod", "succeeded", "delete")
        doomed = [*wanted.delete, *failed, *wanted.succeeded][:BURST]
        error = await self.control.delete(owner, doomed)
        made = [new_pod(owner, node, word) for node in wanted.create[:BURST]]
        _, refused = await self.control.create(owner, made)
        if len(wanted.create) > BURST or len(doomed) == BURST:
            self.queue.add(key_of(owner))
        return wait, error or refused

    def _tell(self, owner: DaemonSet, pod: Pod, type: str, reason: str, what: str, verb: str) -> None:
        where = f"{pod.metadata.namespace}/{pod.metadata.name} on node {pod.spec.node_name or ''}"
        self.events.event(owner, type, reason, f"Found {what} daemon pod {where}, will try to {verb} it")

    def _due(self, owner: DaemonSet, failed: list[Pod]) -> tuple[list[Pod], float]:
        """The failed pods to replace now, and the seconds until the next is due."""
        now, due, wait = self.clock.now(), [], inf
        for pod in failed:
            key = (owner.metadata.uid or "", pod.spec.node_name or "")
            failures, last = self._failures.get(key, (0, -inf))
            if now - last > 2 * BACKOFF_MAX_S:
                failures = 0
            pause = min(BACKOFF_S * 2 ** (failures - 1), BACKOFF_MAX_S) if failures else 0.0
            if last + pause > now:
                wait = min(wait, last + pause - now)
                continue
            self._failures[key] = (min(failures + 1, 20), now)
            due.append(pod)
        return due, wait

    async def _write(self, owner: DaemonSet, status: DaemonSetStatus) -> None:
        if status == owner.status:
            return
        try:
            written = await self.client.update_status(replace(owner, status=status))
        except NotFound:
            return
        await self.sets.shows(written.metadata.resource_version)
