"""postStart and preStop hooks. Source: pkg/kubelet/lifecycle/handlers.go."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from kaa.api.clock import Clock
from kaa.api.types.core_v1 import LifecycleHandler
from kaa.runtime.base import Runtime, RuntimeFailure

from .probes import ProbeFailed, http_get

_HTTP_TIMEOUT_S = 600.0


class HookFailed(Exception):
    """The hook ran and said no, or could not run."""


async def run_hook(
    runtime: Runtime, clock: Clock, spec: Any, hook: LifecycleHandler, container_id: str, ip: str
) -> None:
    """Run a hook to its end. Raises HookFailed."""
    try:
        if hook.exec is not None:
            result = await runtime.exec_sync(container_id, hook.exec.command, 0)
            if result.exit_code != 0:
                shown = (result.stdout + result.stderr).decode("utf-8", "replace")
                raise HookFailed(f"Exec lifecycle hook exited with {result.exit_code}: {shown}")
        elif hook.http_get is not None:
            await http_get(hook.http_get, spec, ip, _HTTP_TIMEOUT_S)
        elif hook.sleep is not None:
            await clock.sleep(float(hook.sleep.seconds))
    except (RuntimeFailure, ProbeFailed, OSError) as err:
        raise HookFailed(str(err)) from err


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``, but no longer than so many seconds on the clock."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        else:
            raise HookFailed(f"PreStopHook did not end within its grace period of {seconds:g}s")
    finally:
        task.cancel()
        timer.cancel()
        await asyncio.gather(task, timer, return_exceptions=True)
