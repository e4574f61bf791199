"""What is begun for one pod: its sandbox and its containers, beside its turns; and what failed, and until when it waits.

    volumes, claims, cgroup ──> sandbox;  images, config, devices ──> container created ──> started ──> postStart

Source: pkg/kubelet/kuberuntime startContainer, createPodSandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from kaa.api.errors import ApiError
from kaa.api.types.core_v1 import LifecycleHandler, Pod
from kaa.runtime.base import RuntimeFailure, Sandbox

from .allocation import Allocation
from .claims import ClaimFailure
from .container_config import container_config, pod_dns, sandbox_config
from .env import ConfigError
from .images import ImageError
from .metrics.starts import PodStart
from .pod_host import (
    PodHost,
    container_sources,
    features_of,
    image_volumes,
    own_users,
    pull_secrets,
    runtime_handler,
    why_no_sandbox,
)
from .pod_plan import SANDBOX, CreateSandbox, Failure, PodView, StartContainer, StopContainer, grace_of
from .pod_volumes import RETRY_MAX_S, PodVolumes
from .probing import hooks
from .retries import Retries
from .stops import PreStop, Say, Stops
from .volumes import VolumeError

log = structlog.get_logger(__name__)
_RETRY_START_S = 10.0


class Starts:
    """``failures`` {container name, or SANDBOX: what went wrong} is what plans go by."""

    def __init__(
        self,
        host: PodHost,
        allocation: Allocation,
        volumes: PodVolumes,
        stops: Stops,
        retries: Retries,
        view: Callable[[], PodView],
        say: Say,
        wake: Callable[[], None],
    ) -> None:
        self._host, self._allocation, self._volumes, self._stops = host, allocation, volumes, stops
        self._retries, self._view, self._say, self._wake = retries, view, say, wake
        self.failures: dict[str, Failure] = {}
        self.seen = PodStart(host.metrics, allocation.pod, host.clock)

    @property
    def _pod(self) -> Pod:
        return self._allocation.pod

    def objects_changed(self) -> None:
        """Something that the pod refers to is another now: what failed for it need not wait."""
        for name in [n for n, f in self.failures.items() if f.reason in ("", "CreateContainerConfigError")]:
            del self.failures[name]

    def network_changed(self) -> None:
        """A sandbox that could not be made need not wait any longer."""
        self.failures.pop(SANDBOX, None)

    # ------------------------------------------------------------------------------------------------ the sandbox

    async def sandbox(self, action: CreateSandbox) -> None:
        """Make it, and what it needs before."""
        now = self._host.clock.now
        try:
            await self._make_sandbox(action)
            self.failures.pop(SANDBOX, None)
            self._retries.worked(SANDBOX)
        except VolumeError as err:
            self._say("Warning", err.reason, str(err))
            wait = self._retries.failed(SANDBOX, at_most_s=RETRY_MAX_S)
            self.failures[SANDBOX] = Failure("", str(err), now() + wait)
        except ClaimFailure as err:
            self._say("Warning", "FailedPrepareDynamicResources", f"Failed to prepare dynamic resources: {err}")
            self.failures[SANDBOX] = Failure("", str(err), now() + min(self._retries.failed(SANDBOX), _RETRY_START_S))
        except (RuntimeFailure, ApiError, ConfigError, OSError, TimeoutError) as err:
            reason, text = await why_no_sandbox(self._host, self._pod, err)
            self._say("Warning", reason, text)
            self.failures[SANDBOX] = Failure("", str(err), now() + self._retries.failed(SANDBOX))

    async def _make_sandbox(self, action: CreateSandbox) -> None:
        host = self._host
        if action.attempt:
            self._say("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        await self._volumes.ready()
        await host.plugins.prepare(self._pod)
        cgroups = host.config.cgroups
        parent = await self._allocation.ensure_cgroup(cgroups) if cgroups is not None else ""
        handler = await runtime_handler(host, self._pod)
        users = await own_users(host, self._pod, handler)
        config = sandbox_config(self._pod, host.config, action.attempt, parent, handler, users)
        for reason, message in pod_dns(self._pod, host.config).warnings:
            self._say("Warning", reason, message)
        await host.runtime.run_sandbox(config)

    # ------------------------------------------------------------------------------------------------ containers

    async def container(self, action: StartContainer) -> None:
        """Get its image, create it, let it go, and run its postStart hook."""
        spec = spec_of(self._pod, action.name)
        try:
            await self._start(action, spec)
            self.failures.pop(action.name, None)
        except ImageError as err:
            self._say("Warning", "Failed", f"Error: {err.reason}", container=action.name)
            self.failures[action.name] = Failure(err.reason, str(err), err.retry_at)
        except (ConfigError, VolumeError) as err:
            self._failed(action.name, "CreateContainerConfigError", err)
        except (RuntimeFailure, ApiError, OSError, TimeoutError) as err:
            self._failed(action.name, "CreateContainerError", err)

    def _failed(self, name: str, reason: str, err: Exception) -> None:
        self._host.metrics.container_failed(self._pod, name, reason)
        self._say("Warning", "Failed", f"Error: {err}", container=name)
        self.failures[name] = Failure(reason, str(err), self._host.clock.now() + _RETRY_START_S)

    async def _start(self, action: StartContainer, spec: Any) -> None:
        host, sandbox = self._host, self._view().sandbox
        assert sandbox is not None
        secrets, missing = await pull_secrets(host, self._pod)
        if missing:
            text = f"Unable to retrieve some image pull secrets ({', '.join(missing)})"
            full = f"{text}; attempting to pull the image may not succeed."
            self._say("Warning", "FailedToRetrieveImagePullSecret", full)
        mounted = await image_volumes(host, self._pod, spec, secrets, self._say_of_image)
        image = await host.images.ensure(
            spec.image or "",
            spec.image_pull_policy,
            secrets,
            pod=self._pod,
            say=partial(self._say_of_image, container=spec.name),
        )
        volumes = await self._volumes.ready()
        sources = await container_sources(host, self._pod, self._view(), spec)
        config = await asyncio.to_thread(
            container_config,
            self._pod,
            spec,
            action,
            host.config,
            image=image,
            sources=sources,
            volumes=volumes,
            pod_dir=host.volumes.pod_dir(self._pod.metadata.uid or ""),
            memory_capacity_bytes=host.memory_capacity_bytes,
            pid_target=self._pid_target(spec),
            image_volumes=mounted,
            features=await features_of(host, sandbox.runtime_handler),
            memory=host.memory,
        )
        await host.plugins.before_start(self._pod, spec)
        config = host.hardware.equipped(self._pod, spec, config)
        container_id = await host.runtime.create_container(sandbox.id, config)
        self._say("Normal", "Created", "Container created", container=spec.name)
        try:
            await host.runtime.start_container(container_id)
        except RuntimeFailure as err:  # it has ended before it began: the runtime shows it exited, with StartError
            self._say("Warning", "Failed", f"Error: {err}", container=spec.name)
            host.metrics.container_failed(self._pod, spec.name, "RunContainerError")
            self._wake()
            return
        host.metrics.container_started(self._pod, spec.name)
        self._say("Normal", "Started", "Container started", container=spec.name)
        self._wake()
        if spec.lifecycle is not None and spec.lifecycle.post_start is not None:
            await self._post_start(spec, container_id, sandbox)

    def _say_of_image(self, type: str, reason: str, message: str, *, container: str = "") -> None:
        self.seen.image(reason)
        self._say(type, reason, message, container=container)

    def _pid_target(self, spec: Any) -> str:
        target = getattr(spec, "target_container_name", None)
        found = self._view().latest(target) if target else None
        return found.id if found is not None else ""

    # ------------------------------------------------------------------------------------------------ hooks

    async def _post_start(self, spec: Any, container_id: str, sandbox: Sandbox) -> None:
        try:
            await self._hook(spec, spec.lifecycle.post_start, container_id, address_of(self._host, self._pod, sandbox))
        except hooks.HookFailed as err:  # what it said may be a secret: it goes to the log alone
            meta = self._pod.metadata
            log.warning(
                "PostStartHook failed", pod=f"{meta.namespace}/{meta.name}", container=spec.name, error=str(err)
            )
            self._say("Warning", "FailedPostStartHook", "PostStartHook failed", container=spec.name)
            action = StopContainer(container_id, spec.name, grace_of(self._pod), "FailedPostStartHook")
            await self._stops.stop(action, self.pre_stop(action))

    def pre_stop(self, action: StopContainer) -> PreStop | None:
        """The hook of a container that is to be stopped."""
        spec, sandbox = spec_of(self._pod, action.name), self._view().sandbox
        hook = spec.lifecycle.pre_stop if spec is not None and spec.lifecycle is not None and action.hooks else None
        if hook is None:
            return None
        ip = address_of(self._host, self._pod, sandbox) if sandbox is not None else ""
        return PreStop(partial(self._hook, spec, hook, action.container_id, ip), hook.exec is not None)

    async def _hook(self, spec: Any, hook: LifecycleHandler, container_id: str, ip: str) -> None:
        await hooks.run_hook(self._host.runtime, self._host.clock, self._pod, spec, hook, container_id, ip)


def spec_of(pod: Pod, name: str) -> Any:
    """What the pod says of one of its containers, of any kind; None for one that it does not have."""
    every: list[Any] = [*pod.spec.init_containers, *pod.spec.containers, *pod.spec.ephemeral_containers]
    return next((c for c in every if c.name == name), None)


def address_of(host: PodHost, pod: Pod, sandbox: Sandbox) -> str:
    """Where the pod is reached from its node."""
    return host.config.node_ips[0] if pod.spec.host_network or not sandbox.ips else sandbox.ips[0]
