"""Deployments: a ReplicaSet for each template they had, and an orderly move from one to the next.

``plan`` decides one step: make the new set, or give sets new sizes, or forget old ones. The step's effects come back as
events of ReplicaSets, and the next step follows. The arithmetic is in ``rolling``, history in ``revisions``, the status in
``deployment_status``; pods belong to ``replicaset``.

Source: kubernetes pkg/controller/deployment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from kaa.api import selectors
from kaa.api.errors import AlreadyExists, ApiError, NotFound
from kaa.api.types.apps_v1 import Deployment, DeploymentStatus, ReplicaSet
from kaa.api.types.core_v1 import Pod
from kaa.api.types.meta_v1 import DeleteOptions, LabelSelector, Preconditions
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from . import deployment_status, revisions, rolling
from .controller import Context, Controller, refused_since_it_ends
from .owners import BY_CONTROLLER, ORPHANS, add_owner_indexes, claim, controller_of, newest, plan_claims
from .pods import is_finished

# ------------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True)
class Plan:
    """One step. ``create``: the new set to make; ``revise``: a set with other annotations; ``sizes``: {set: replicas};
    ``forget``: sets to delete."""

    create: ReplicaSet | None = None
    revise: ReplicaSet | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    forget: tuple[ReplicaSet, ...] = ()


def plan(deployment: Deployment, sets: Sequence[ReplicaSet], *, old_pods_run: bool) -> Plan:
    """Decide the next step of a deployment with these sets. ``old_pods_run``: pods of old sets still live or end."""
    new, old = revisions.split(deployment, sets)
    revision = revisions.next_revision(old)
    revise = None
    if new is not None:
        revise = revisions.revised(deployment, new, revision)
        revise = None if revise == new else revise
    if revise is not None:
        return Plan(revise=revise)
    if deployment.spec.paused:
        forget = tuple(revisions.forgettable(deployment, old))
        return Plan(sizes=rolling.rescale(deployment, new, old), forget=forget)
    if is_rescaled(deployment, sets):
        return Plan(sizes=rolling.rescale(deployment, new, old))
    if rolling.is_rolling(deployment):
        step = _roll(deployment, new, old, revision)
    else:
        step = _recreate(deployment, new, old, revision, old_pods_run)
    if step == Plan() and deployment_status.is_complete(deployment, deployment.status):
        return Plan(forget=tuple(revisions.forgettable(deployment, old)))
    return step


def is_rescaled(deployment: Deployment, sets: Sequence[ReplicaSet]) -> bool:
    """The deployment's size is another than its sets last heard of."""
    noted = (rolling.desired_of(each) for each in sets if rolling.size(each) > 0)
    return any(each is not None and each != rolling.wanted(deployment) for each in noted)


def _roll(deployment: Deployment, new: ReplicaSet | None, old: Sequence[ReplicaSet], revision: int) -> Plan:
    if new is None:
        replicas = rolling.size_of_new(deployment, rolling.total_size(old), 0)
        return Plan(create=revisions.new_set(deployment, revision, replicas))
    replicas = rolling.grow_new(deployment, new, old)
    if replicas != rolling.size(new):
        return Plan(sizes={new.metadata.name or "": replicas})
    return Plan(sizes=rolling.shrink_old(deployment, new, old))


def _recreate(
    deployment: Deployment, new: ReplicaSet | None, old: Sequence[ReplicaSet], revision: int, old_pods_run: bool
) -> Plan:
    """All old pods go before the first new one comes."""
    live = [each for each in old if rolling.size(each) > 0]
    if live:
        return Plan(sizes={each.metadata.name or "": 0 for each in live})
    if old_pods_run:
        return Plan()
    if new is None:
        return Plan(create=revisions.new_set(deployment, revision, rolling.wanted(deployment)))
    if rolling.size(new) != rolling.wanted(deployment):
        return Plan(sizes={new.metadata.name or "": rolling.wanted(deployment)})
    return Plan()


def resized(deployment: Deployment, each: ReplicaSet, replicas: int) -> ReplicaSet:
    """A set of another size, which notes the deployment's."""
    annotations = {**each.metadata.annotations, **revisions.size_annotations(deployment)}
    return replace(
        each,
        metadata=replace(each.metadata, annotations=annotations),
        spec=replace(each.spec, replicas=replicas),
    )


# ------------------------------------------------------------------------------------------------ doing


class Deployments(Controller[Key]):
    name = "deployment-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sets = context.informers.of(ReplicaSet)
        self.pods = context.informers.of(Pod)
        add_owner_indexes(self.sets)
        add_owner_indexes(self.pods)
        self.sets.add_index("uid", lambda each: (each.metadata.uid or "",))
        self.deployments = self.watch(Deployment, self._on_deployment)
        self.watch(ReplicaSet, self._on_set)
        self.watch(Pod, self._on_pod)

    # -- wiring: which keys an event concerns

    def _on_deployment(self, old: Deployment | None, new: Deployment | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    def _on_set(self, old: ReplicaSet | None, new: ReplicaSet | None) -> None:
        found = new or old
        assert found is not None
        for each in (old, new):
            owner = controller_of(each) if each is not None else None
            if owner is not None and owner.kind == "Deployment":
                self.queue.add(Key(found.metadata.namespace or "", owner.name))
        if new is not None and controller_of(new) is None:
            for deployment in self.deployments.in_namespace(new.metadata.namespace or ""):
                if selectors.from_label_selector(deployment.spec.selector).matches(new.metadata.labels):
                    self.queue.add(key_of(deployment))

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        """Recreate waits for pods to end; nothing else here looks at pods."""
        pod = new or old
        assert pod is not None
        owner = controller_of(pod)
        if owner is None or owner.kind != "ReplicaSet" or (new is not None and not is_finished(new)):
            return
        for replica_set in self.sets.by_index("uid", owner.uid):
            above = controller_of(replica_set)
            found = self.deployments.get(above.name, pod.metadata.namespace) if above is not None else None
            if found is not None and not rolling.is_rolling(found):
                self.queue.add(key_of(found))

    # -- reconcile

    async def reconcile(self, key: Key) -> float | None:
        deployment = self.deployments.by_key(key)
        if deployment is None:
            return None
        if deployment.spec.selector == LabelSelector():
            await self._refuse_everything(deployment)
            return None
        sets = await self._claim(deployment)
        if deployment.metadata.deletion_timestamp is not None:
            return await self._write(deployment, sets, counting=True)
        deployment = await self._note_pause(deployment)
        step = plan(deployment, sets, old_pods_run=self._old_pods_run(deployment, sets))
        counting = bool(deployment.spec.paused) or is_rescaled(deployment, sets)
        deployment, sets = await self._apply(deployment, sets, step)
        return await self._write(deployment, sets, counting=counting)

    async def _refuse_everything(self, deployment: Deployment) -> None:
        self.events.event(
            deployment,
            "Warning",
            "SelectingAll",
            "This deployment is selecting all pods. A non-empty selector is required.",
        )
        seen = deployment.metadata.generation
        if (deployment.status.observed_generation or 0) < (seen or 0):
            status = replace(deployment.status, observed_generation=seen)
            await self.client.update_status(replace(deployment, status=status))

    async def _claim(self, deployment: Deployment) -> list[ReplicaSet]:
        controlled = self.sets.by_index(BY_CONTROLLER, deployment.metadata.uid or "")
        orphans = self.sets.by_index(ORPHANS, deployment.metadata.namespace or "")
        selector = selectors.from_label_selector(deployment.spec.selector)
        claims = plan_claims(deployment, selector, controlled, orphans)
        if not claims.adopt and not claims.release:
            return list(claims.mine)
        sets = await claim(self.client, ReplicaSet, deployment, claims)
        await self.sets.shows(newest([each.metadata.resource_version for each in sets]))
        return sets

    def _old_pods_run(self, deployment: Deployment, sets: Sequence[ReplicaSet]) -> bool:
        _, old = revisions.split(deployment, sets)
        pods = (pod for each in old for pod in self.pods.by_index(BY_CONTROLLER, each.metadata.uid or ""))
        return any(not is_finished(pod) for pod in pods)

    async def _note_pause(self, deployment: Deployment) -> Deployment:
        conditions = deployment_status.pause_conditions(deployment, self.clock.now())
        if conditions == deployment.status.conditions:
            return deployment
        status = replace(deployment.status, conditions=conditions)
        return await self.client.update_status(replace(deployment, status=status))

    async def _apply(
        self, deployment: Deployment, sets: Sequence[ReplicaSet], step: Plan
    ) -> tuple[Deployment, list[ReplicaSet]]:
        """Carry out a step and wait until the cache shows it."""
        after = {each.metadata.name or "": each for each in sets}
        written: list[ReplicaSet] = []
        if step.create is not None:
            deployment, made = await self._create(deployment, step.create)
            written.append(made)
        if step.revise is not None:
            written.append(await self.client.update(step.revise))
        for name, replicas in step.sizes.items():
            changed = resized(deployment, after[name], replicas)
            if changed != after[name]:
                written.append(await self._resize(deployment, after[name], changed))
        for each in step.forget:
            after.pop(each.metadata.name or "", None)
            await self._forget(each)
        after.update({each.metadata.name or "": each for each in written})
        await self.sets.shows(newest([each.metadata.resource_version for each in written]))
        if step != Plan() and (written or step.forget):
            self.queue.add(key_of(deployment))
        return deployment, list(after.values())

    async def _create(self, deployment: Deployment, wanted: ReplicaSet) -> tuple[Deployment, ReplicaSet]:
        name = wanted.metadata.name or ""
        try:
            made = await self.client.create(wanted)
        except AlreadyExists:
            return deployment, await self._collided(deployment, wanted)
        except ApiError as err:
            if not refused_since_it_ends(err):
                text = f'Failed to create new replica set "{name}": {err}'
                failed = self._progress(deployment, "False", "ReplicaSetCreateError", text)
                await self._write_changed(failed)
            raise
        if rolling.size(made) > 0:
            text = f"Scaled up replica set {name} from 0 to {rolling.size(made)}"
            self.events.event(deployment, "Normal", "ScalingReplicaSet", text)
        text = f'Created new replica set "{name}"'
        return self._progress(deployment, "True", "NewReplicaSetCreated", text), made

    async def _collided(self, deployment: Deployment, wanted: ReplicaSet) -> ReplicaSet:
        """The name is taken: by ourselves a moment ago, or by another template with the same hash."""
        found = await self.client.get(ReplicaSet, wanted.metadata.name or "", wanted.metadata.namespace)
        owner = controller_of(found)
        ours = owner is not None and owner.uid == deployment.metadata.uid
        if ours and revisions.same_template(found.spec.template, deployment.spec.template):
            return found
        status = replace(deployment.status, collision_count=(deployment.status.collision_count or 0) + 1)
        await self.client.update_status(replace(deployment, status=status))
        raise AlreadyExists(f'hash collision on replica set "{wanted.metadata.name}"')

    def _progress(self, deployment: Deployment, status: str, reason: str, message: str) -> Deployment:
        if not deployment_status.has_deadline(deployment):
            return deployment
        conditions = deployment_status.with_condition(
            deployment.status.conditions, "Progressing", status, reason, message, self.clock.now()
        )
        return replace(deployment, status=replace(deployment.status, conditions=conditions))

    async def _resize(self, deployment: Deployment, before: ReplicaSet, changed: ReplicaSet) -> ReplicaSet:
        written = await self.client.update(changed)
        was, now = rolling.size(before), rolling.size(changed)
        if was != now:
            way = "up" if now > was else "down"
            text = f"Scaled {way} replica set {before.metadata.name} from {was} to {now}"
            self.events.event(deployment, "Normal", "ScalingReplicaSet", text)
        return written

    async def _forget(self, each: ReplicaSet) -> None:
        options = DeleteOptions(preconditions=Preconditions(uid=each.metadata.uid))
        try:
            await self.client.delete(ReplicaSet, each.metadata.name or "", each.metadata.namespace, options=options)
            await self.sets.gone([each])
        except NotFound:
            return

    async def _write(self, deployment: Deployment, sets: Sequence[ReplicaSet], *, counting: bool) -> float | None:
        """Write the status, and beside it the revision: annotations pass through ``/status``, labels and spec do not."""
        now = self.clock.now()
        new, _ = revisions.split(deployment, sets)
        deployment = self._found_new(deployment, new)
        make = deployment_status.counted if counting else deployment_status.rollout
        status = make(deployment, sets, new, now)
        cached = self.deployments.by_key(key_of(deployment)) or deployment
        annotations = dict(deployment.metadata.annotations)
        if new is not None and revisions.REVISION in new.metadata.annotations:
            annotations[revisions.REVISION] = new.metadata.annotations[revisions.REVISION]
        changed = replace(deployment, status=status, metadata=replace(deployment.metadata, annotations=annotations))
        if status != cached.status or annotations != cached.metadata.annotations:
            await self._write_changed(changed)
        return deployment_status.deadline_in(deployment, status, now)

    def _found_new(self, deployment: Deployment, new: ReplicaSet | None) -> Deployment:
        """A rollout that begins with a set that stands already has begun too."""
        missing = deployment_status.condition_of(deployment.status.conditions, "Progressing") is None
        if new is None or not missing or not deployment_status.has_deadline(deployment):
            return deployment
        conditions = deployment_status.with_condition(
            deployment.status.conditions,
            "Progressing",
            "True",
            "FoundNewReplicaSet",
            f'Found new replica set "{new.metadata.name}"',
            self.clock.now(),
        )
        return replace(deployment, status=replace(deployment.status, conditions=conditions))

    async def _write_changed(self, deployment: Deployment) -> DeploymentStatus:
        written = await self.client.update_status(deployment)
        await self.deployments.shows(written.metadata.resource_version)
        return written.status
