"""postStart and preStop hooks. Source: pkg/kubelet/lifecycle/handlers.go, kuberuntime_container.go (executePreStopHook)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import HTTPGetAction, LifecycleHandler, Pod
from kaa.runtime.base import Runtime, RuntimeFailure

from ..pod_plan import full_name
from .probes import ProbeErrored, port_number


class HookFailed(Exception):
    """The hook ran and said no, or could not run."""


async def run_hook(
    runtime: Runtime, clock: Clock, pod: Pod, spec: Any, hook: LifecycleHandler, container_id: str, ip: str
) -> None:
    """Run a hook to its end. Raises HookFailed."""
    where = f'for Container "{spec.name}" in Pod "{full_name(pod)}" failed'
    if hook.exec is not None:
        shown = f"[{' '.join(hook.exec.command)}]"
        try:
            result = await runtime.exec_sync(container_id, hook.exec.command, 0)
        except (RuntimeFailure, OSError) as err:
            raise HookFailed(f'Exec lifecycle hook ({shown}) {where} - error: {err}, message: ""') from err
        if result.exit_code != 0:
            errors, said = (text.decode("utf-8", "replace") for text in (result.stderr, result.stdout + result.stderr))
            failed = f"command '{' '.join(hook.exec.command)}' exited with {result.exit_code}: {errors}"
            raise HookFailed(f'Exec lifecycle hook ({shown}) {where} - error: {failed}, message: "{said}"')
    elif hook.http_get is not None:
        try:
            await _get(hook.http_get, spec, ip)
        except HookFailed as err:
            text = f'HTTP lifecycle hook ({hook.http_get.path or ""}) {where} - error: {err}, message: ""'
            raise HookFailed(text) from err
    elif hook.sleep is not None:
        await clock.sleep(float(hook.sleep.seconds))
    else:  # a tcpSocket is accepted by the API, and none of its hooks can run
        raise HookFailed("Cannot run handler: invalid handler: a hook is exec, httpGet or sleep")


async def _get(action: HTTPGetAction, spec: Any, ip: str) -> None:
    """GET, with all the time there is; any answer will do. Raises HookFailed."""
    from msgspec.structs import replace

    from .http import GetFailed, fetch, target_of

    if not (action.host or ip):
        raise HookFailed("failed to find networking container")
    try:
        port = port_number(spec, action.port)
        try:
            await fetch(target_of(action, ip, port, "kube-lifecycle"), None)
        except GetFailed as err:
            if "server gave HTTP response to HTTPS client" not in str(err):
                raise
            plain = replace(action, scheme="HTTP")  # as hooks were before schemes were heeded
            await fetch(target_of(plain, ip, port, "kube-lifecycle"), None)
    except (GetFailed, ProbeErrored) as err:
        raise HookFailed(str(err)) from err


async def within(clock: Clock, seconds: float, work: Awaitable[object]) -> bool:
    """Run ``work``, but no longer than so many seconds on the clock; whether it came to its end. It may raise."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(max(seconds, 0.0)))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        task.cancel()
        timer.cancel()
        await asyncio.gather(task, timer, return_exceptions=True)
