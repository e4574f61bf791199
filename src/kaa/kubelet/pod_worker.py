"""One pod's one writer: looks at the runtime, plans, does what the plan says, tells the API server.

The idea: every turn starts from what the runtime shows now. What takes long (pulls, starts, stops with grace) runs beside
the turns and wakes the next one when it is done; the plan is told what is under way.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from kaa.api.clock import parse_time
from kaa.api.errors import ApiError, NotFound
from kaa.api.types.core_v1 import Pod
from kaa.api.types.meta_v1 import DeleteOptions, Preconditions
from kaa.runtime.base import Container, ContainerState, RuntimeFailure

from .allocation import Allocation
from .container_config import log_directory
from .log_rotation import remove_logs
from .messages import termination_message
from .pod_host import PodHost
from .pod_plan import (
    SANDBOX,
    Action,
    CreateSandbox,
    Ending,
    Facts,
    Finish,
    Health,
    KillSandbox,
    Plan,
    PodView,
    RemoveContainer,
    ResizeContainer,
    StartContainer,
    StopContainer,
    Waiting,
    grace_of,
    plan,
    resize_key,
)
from .pod_volumes import PodVolumes
from .pressure import may_be_evicted
from .references import container_reference
from .retries import Retries
from .starts import Starts, address_of, spec_of
from .status import Seen, known_health, pod_status
from .status_writer import foreign_conditions, with_status
from .stops import Stops
from .tasks import Tasks

log = structlog.get_logger(__name__)


class PodWorker:
    """``update`` and ``wake`` from anywhere; ``run`` ends when the pod is gone for good."""

    def __init__(self, host: PodHost, pod: Pod, *, static: bool = False) -> None:
        self.host = host
        self.allocation = Allocation(host, pod, self._event, static=static)
        self._mirror: Pod | None = None
        self._static = static
        self.uid = pod.metadata.uid or ""
        self.view = PodView()
        self.removed = False  #: the API server has it no more
        self._wake = asyncio.Event()
        self._tasks = Tasks(f"kubelet/pod {pod.metadata.namespace}/{pod.metadata.name}", self._wake.set)
        self._retries = Retries()
        self._stops = Stops(host, self._tasks, self._event, self._retries.failed)
        self._volumes = PodVolumes(host, lambda: self.pod, lambda: self.view, self._event, self._retries)
        self._starts = Starts(
            host,
            self.allocation,
            self._volumes,
            self._stops,
            self._retries,
            lambda: self.view,
            self._event,
            self._wake.set,
        )
        self._messages: dict[str, str] = {}
        self._ending: Ending | None = None
        self._evicted: Ending | None = None
        self._gone = False
        self.finished = asyncio.Event()  #: nothing of it runs, nor will
        self._said_backoff: dict[str, str] = {}

    # ------------------------------------------------------------------------------------------------ from outside

    def update(self, pod: Pod) -> None:
        """The pod was changed at the API server; what our own patch made of its status is no news."""
        before = self.allocation.wanted
        if self.host.statuses.made(pod) and _differs_in_our_status_alone(pod, before):
            self.allocation.update(pod)
            return
        if pod.metadata.annotations != self.pod.metadata.annotations or pod.metadata.labels != self.pod.metadata.labels:
            self._volumes.changed()
        self.allocation.update(pod)
        self.host.prober.nudge(self.uid)
        self._wake.set()

    @property
    def pod(self) -> Pod:
        """As the API server has it, but with the resources that it was given."""
        return self.allocation.pod

    def _shown(self) -> Pod | None:
        """The pod's face at the API server."""
        return self._mirror if self._static else self.pod

    def mirrored(self, mirror: Pod) -> None:
        """A static pod's face at the API server was made or changed."""
        if self._mirror is not mirror:
            self._mirror = mirror
            self._wake.set()

    def remove(self) -> None:
        """The pod is gone at the API server: end what runs, tell nobody."""
        self.removed = True
        self._wake.set()

    def evict(self, message: str, grace_s: float) -> None:
        """End the pod as Failed, because the node needs what it uses."""
        self._event("Warning", "Evicted", message)
        self._end_as("Evicted", message, grace_s, disrupted=True)

    def shut_down(self, reason: str, message: str, grace_s: float) -> None:
        """End the pod as Failed, because the node goes down; ``finished`` tells when nothing of it is left."""
        self._end_as(reason, message, grace_s, disrupted=True)

    def _end_as(self, reason: str, message: str, grace_s: float, *, disrupted: bool = False) -> None:
        self._evicted = Ending(self.host.clock.now(), grace_s, reason, message, disrupted)
        self._wake.set()

    @property
    def static(self) -> bool:
        """Whether it runs from a manifest of the node's own."""
        return self._static

    @property
    def evictable(self) -> bool:
        """Whether the node may end it to help itself."""
        running = not (self._gone or self.removed or self._ending or self._evicted or self._static)
        return running and may_be_evicted(self.pod, static=self._static)

    @property
    def active(self) -> bool:
        """Whether it takes of the node's room."""
        return bool(self.allocation.taken)

    @property
    def lifecycle(self) -> str:
        """``sync``, ``terminating``, or ``terminated``: nothing of it runs, nor will."""
        return "terminated" if self._gone else "terminating" if self._ending is not None else "sync"

    @property
    def volume_paths(self) -> dict[str, Path]:
        """Where the pod's volumes are, by name; empty while they are not."""
        return self._volumes.paths

    def wake(self) -> None:
        self._wake.set()

    def objects_changed(self) -> None:
        """Something that the pod refers to is another now."""
        self._volumes.changed()
        self._starts.objects_changed()
        self._wake.set()

    def network_changed(self) -> None:
        """A sandbox that could not be made need not wait any longer."""
        self._starts.network_changed()
        self._wake.set()

    # ------------------------------------------------------------------------------------------------ turns

    async def run(self) -> None:
        try:
            while True:
                self._wake.clear()
                began = self.host.clock.monotonic()
                try:
                    again_at = await self._turn()
                    self._retries.worked("turn")
                except (RuntimeFailure, ApiError, OSError, TimeoutError) as err:
                    log.warning("pod turn failed", pod=self._name, error=str(err))
                    again_at = self.host.clock.now() + self._retries.failed("turn")
                self.host.metrics.pod_worker_duration_seconds.observe(self.host.clock.monotonic() - began, "sync")
                if self._gone and self._leaves:
                    await self._bury()
                    return
                await self._sleep_until(again_at)
        finally:
            self.finished.set()
            await self._tasks.close()
            for container in self.view.containers:
                self.host.prober.forget(container.id)

    @property
    def _leaves(self) -> bool:
        """Whether the pod is to be deleted, or is already."""
        return self.removed or bool(self.pod.metadata.deletion_timestamp)

    @property
    def _name(self) -> str:
        return f"{self.pod.metadata.namespace}/{self.pod.metadata.name}"

    async def _turn(self) -> float | None:
        await self._look()
        if self._ending is None:
            refusal = await self.allocation.let_in(self.view)
            if refusal is not None:
                self._end_as(refusal.reason, f"Pod was rejected: {refusal.message}", grace_of(self.pod))
        self._decide_ending()
        pin_at = None
        if self._ending is None:
            await self.allocation.settle(self.view)
            pin_at = await self.allocation.pin(self.view)
        decided = plan(self._facts())
        await self._read_messages()
        if any(isinstance(action, Finish) for action in decided.actions):
            await self._finish()
        self._publish(decided)
        for action in decided.actions:
            await self._do(action)
        if self._ending is None and not self._gone and "volumes" not in self._tasks:
            starting = any(key.startswith("start/") for key in self._tasks.keys)
            if self._volumes.due(unattended=self.view.sandbox is not None and not starting):
                self._tasks.start("volumes", self._volumes.refresh())
        return _earliest(decided.wake_at, self._deadline(), self._volumes.again_at, pin_at)

    async def _sleep_until(self, at: float | None) -> None:
        if self._wake.is_set():
            return
        if at is None:
            await self._wake.wait()
            return
        timer = asyncio.ensure_future(self.host.clock.sleep(max(at - self.host.clock.now(), 0.0)))
        woken = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((timer, woken), return_when=asyncio.FIRST_COMPLETED)
            if timer.done():
                self._volumes.time_passed()
        finally:
            timer.cancel()
            woken.cancel()

    async def _look(self) -> None:
        sandboxes = await self.host.runtime.list_sandboxes(uid=self.uid)
        containers: list[Container] = []
        for sandbox in sandboxes:
            containers += await self.host.runtime.list_containers(sandbox_id=sandbox.id)
        old, self.view = self.view, PodView.of(sandboxes, containers)
        running = {c.id: c for c in self.view.running()}
        for container in old.containers:
            if container.id not in running:
                self.host.prober.forget(container.id)
        self._stops.seen({container.id for container in containers}, running)
        if self._ending is None and self.view.sandbox is not None:
            ip = address_of(self.host, self.pod, self.view.sandbox)
            for container in running.values():
                spec = spec_of(self.pod, container.name)
                if spec is not None and f"start/{container.name}" not in self._tasks:
                    known = known_health(self._shown(), container.id)
                    self.host.prober.follow(
                        self.pod, spec, container.id, ip, began_at=container.started_at, known=known
                    )

    def _health(self) -> dict[str, Health]:
        """A container whose postStart hook still runs has not started."""
        return {
            c.id: Health(False, False) if f"start/{c.name}" in self._tasks else self.host.prober.health(c.id)
            for c in self.view.running()
        }

    def _facts(self) -> Facts:
        return Facts(
            pod=self.pod,
            view=self.view,
            now=self.host.clock.now(),
            health=self._health(),
            failures={**self._starts.failures, **self.allocation.failures},
            busy=frozenset(key[6:] for key in self._tasks.keys if key.startswith("start/")),
            stopping=self._stops.due,
            held=self._stops.held,
            again=self._stops.again,
            resizing=frozenset(key[7:] for key in self._tasks.keys if key.startswith("resize/")),
            ending=self._ending,
            longest_backoff_s=self.host.config.longest_backoff_s,
        )

    # ------------------------------------------------------------------------------------------------ ending

    def _deadline(self) -> float | None:
        limit, began = self.pod.spec.active_deadline_seconds, self.pod.status.start_time
        if limit is None or self._ending is not None:
            return None
        return (parse_time(began) if began else self.host.clock.now()) + limit

    def _decide_ending(self) -> None:
        now, meta = self.host.clock.now(), self.pod.metadata
        deadline = self._deadline()
        if self._evicted is not None:
            wanted: Ending | None = self._evicted
        elif self.removed or meta.deletion_timestamp or self.pod.status.phase in ("Succeeded", "Failed"):
            wanted = Ending(now, grace_of(self.pod))
        elif deadline is not None and now >= deadline:
            text = "Pod was active on the node longer than the specified deadline"
            self._event("Normal", "DeadlineExceeded", text)
            wanted = Ending(now, grace_of(self.pod), "DeadlineExceeded", text)
        else:
            return
        if self._ending is None:
            self._ending = wanted
            self.host.prober.ending(self.uid)
            for key in self._tasks.keys:  # what is half started is ended only once it is known what came of it
                if key.startswith(("start/", "volumes")):
                    self._tasks.end(key)
        elif wanted is not None and wanted.grace_s < self._ending.grace_s and meta.deletion_timestamp:
            self._ending = Ending(now, wanted.grace_s, self._ending.reason, self._ending.message)

    async def _finish(self) -> None:
        """Nothing runs and nothing will: volumes and cgroup go, the sandbox stays for its logs until deletion."""
        if self._gone:
            return
        await self.host.plugins.unprepare(self.pod)
        await self._volumes.remove()
        self.host.users.release(self.uid)
        self._gone = True
        self.finished.set()
        self.allocation.release()
        self.host.objects.release(self.uid)
        self.host.images.release(self.uid)
        if not self._leaves:
            self._tasks.start("tidy", self._tidy())

    async def _tidy(self) -> None:
        """Let go of what a pod has that has ended and stays."""
        async with self.host.clearing():
            try:
                for sandbox in self.view.sandboxes:
                    await self.host.runtime.stop_sandbox(sandbox.id)
            except (RuntimeFailure, OSError) as err:  # removing it will try again
                log.info("sandbox not released yet", pod=self._name, error=str(err))
            await self._remove_cgroup()

    async def _remove_cgroup(self) -> None:
        cgroups = self.host.config.cgroups
        if cgroups is not None:
            try:
                await asyncio.to_thread(cgroups.remove_pod, cgroups.pod_cgroup(self.pod))
            except OSError as err:  # something in it is still dying: housekeeping comes again
                log.info("pod cgroup not removed yet", pod=self._name, error=str(err))

    async def _bury(self) -> None:
        """Forget the pod: here, and (its last status being known) at the API server."""
        if not self.removed:
            waiting = asyncio.ensure_future(self.host.statuses.flushed(self.uid))
            removed = asyncio.ensure_future(self._until_removed())
            try:
                await asyncio.wait((waiting, removed), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                removed.cancel()
        while not self.removed:
            try:
                await self._delete()
                break
            except (ApiError, OSError, TimeoutError) as err:
                log.warning("pod not deleted", pod=self._name, error=str(err))
                await self._sleep_until(self.host.clock.now() + self._retries.failed("delete"))
                self._wake.clear()
        self.host.statuses.forget(self.uid)
        async with self.host.clearing():
            for sandbox in self.view.sandboxes:
                await self.host.runtime.remove_sandbox(sandbox.id)
            await self._remove_cgroup()
            await asyncio.to_thread(remove_logs, self.host.config, log_directory(self.host.config, self.pod).name)

    async def _until_removed(self) -> None:
        while not self.removed:
            self._wake.clear()
            await self._wake.wait()

    async def _delete(self) -> None:
        options = DeleteOptions(grace_period_seconds=0, preconditions=Preconditions(uid=self.uid))
        try:
            await self.host.client.delete(
                Pod, self.pod.metadata.name or "", self.pod.metadata.namespace, options=options
            )
        except NotFound:
            return

    # ------------------------------------------------------------------------------------------------ telling

    def _publish(self, decided: Plan) -> None:
        waiting = dict(decided.waiting)
        for name, failure in self._starts.failures.items():
            if failure.reason and name != SANDBOX:
                waiting.setdefault(name, Waiting(failure.reason, failure.message))
        self._say_backoffs(decided)
        shown = self._shown()
        if shown is None or self.removed:
            return
        known = with_status(shown, self.host.statuses.last(shown.metadata.uid or ""))
        status = pod_status(
            known,
            Seen(
                view=self.view,
                now=self.host.clock.now(),
                waiting=waiting,
                health=self._health(),
                messages=self._messages,
                host_ips=self.host.config.node_ips,
                ending=self._ending,
                again=self._stops.again,
                gone=self._gone,
                pending=self.allocation.pending,
                resizing=self.allocation.resizing,
                resize_error=self.allocation.error,
                devices=self.host.plugins.health(self.pod),
                recursive_read_only=self.host.info is not None
                and any(one.recursive_read_only for one in self.host.info.features.values()),
            ),
        )
        self._starts.seen.phase_is(status.phase or "", self.view.containers)
        self.host.statuses.set(shown, status)

    def _say_backoffs(self, decided: Plan) -> None:
        for name, waiting in decided.waiting.items():
            last = self.view.latest(name)
            run = f"{last.id if last else ''}{waiting.message}"
            if waiting.reason == "CrashLoopBackOff" and self._said_backoff.get(name) != run:
                self._said_backoff[name] = run
                where = f"{self.pod.metadata.name}_{self.pod.metadata.namespace}({self.uid})"
                text = f"Back-off restarting failed container {name} in pod {where}"
                self._event("Warning", "BackOff", text, container=name)

    def _event(self, type: str, reason: str, message: str, *, container: str = "") -> None:
        """An event of the pod, or of one of its containers."""
        if not self.removed:
            about = self._mirror or self.pod
            self.host.recorder.event(
                container_reference(about, container) if container else about, type, reason, message
            )

    async def _read_messages(self) -> None:
        pod_dir = self.host.volumes.pod_dir(self.uid)
        for container in self.view.containers:
            if container.state is ContainerState.EXITED and container.id not in self._messages:
                self._messages[container.id] = await asyncio.to_thread(termination_message, container, pod_dir)

    # ------------------------------------------------------------------------------------------------ doing

    async def _do(self, action: Action) -> None:
        match action:
            case CreateSandbox():
                self._tasks.start(f"start/{SANDBOX}", self._starts.sandbox(action))
            case StartContainer():
                self._tasks.start(f"start/{action.name}", self._starts.container(action))
            case StopContainer():
                self._stops.begin(action, self._starts.pre_stop(action))
            case ResizeContainer():
                self._tasks.start(
                    resize_key(action.container_id),
                    self.allocation.resize(action.container_id, spec_of(self.pod, action.name)),
                )
            case RemoveContainer():
                await self.host.runtime.remove_container(action.container_id)
                self._wake.set()
            case KillSandbox():
                if action.remove:
                    await self.host.runtime.remove_sandbox(action.sandbox_id)
                else:
                    await self.host.runtime.stop_sandbox(action.sandbox_id, leaving=action.ending)
                self._wake.set()
            case Finish():
                pass


def _differs_in_our_status_alone(pod: Pod, before: Pod) -> bool:
    new, old = pod.metadata, before.metadata
    words = new.annotations == old.annotations and new.labels == old.labels
    asked = new.deletion_timestamp == old.deletion_timestamp and pod.spec == before.spec
    return words and asked and foreign_conditions(pod.status) == foreign_conditions(before.status)


def _earliest(*times: float | None) -> float | None:
    return min((t for t in times if t is not None), default=None)
