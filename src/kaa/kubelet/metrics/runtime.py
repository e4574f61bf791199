"""A runtime whose verbs are counted and timed, under the names that the kubelet's metrics have for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from kaa.api.clock import Clock
from kaa.runtime.base import Runtime

from .counters import KubeletMetrics

#: {verb of ours: what upstream calls the operation}
OPERATIONS = {
    "info": "status",
    "run_sandbox": "run_podsandbox",
    "stop_sandbox": "stop_podsandbox",
    "remove_sandbox": "remove_podsandbox",
    "list_sandboxes": "list_podsandbox",
    "create_container": "create_container",
    "start_container": "start_container",
    "stop_container": "stop_container",
    "remove_container": "remove_container",
    "list_containers": "list_containers",
    "container": "container_status",
    "update_resources": "update_container",
    "reopen_log": "reopen_container_log",
    "checkpoint": "checkpoint_container",
    "exec_sync": "exec_sync",
    "exec": "exec",
    "attach": "attach",
    "port_forward": "port_forward",
    "usage": "list_container_stats",
    "pull_image": "pull_image",
    "image": "image_status",
    "list_images": "list_images",
    "remove_image": "remove_image",
    "image_fs_bytes": "image_fs_info",
}


def measured(runtime: Runtime, metrics: KubeletMetrics, clock: Clock) -> Runtime:
    """``runtime``, counted. What is no operation (events, progress) goes straight through."""
    return cast(Runtime, _Measured(runtime, metrics, clock))


class _Measured:
    def __init__(self, runtime: Runtime, metrics: KubeletMetrics, clock: Clock) -> None:
        self._runtime, self._metrics, self._clock = runtime, metrics, clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._runtime, name)
        operation = OPERATIONS.get(name)
        return found if operation is None else _counted(found, operation, self._metrics, self._clock)


def _counted(
    verb: Callable[..., Awaitable[Any]], operation: str, metrics: KubeletMetrics, clock: Clock
) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **options: Any) -> Any:
        metrics.runtime_operations_total.inc(operation)
        began, failed = clock.monotonic(), False
        try:
            answer = await verb(*args, **options)
            if operation == "pull_image":
                metrics.images.pulled(answer.size_bytes, clock.monotonic() - began)
            return answer
        except Exception:
            failed = True
            metrics.runtime_operations_errors_total.inc(operation)
            raise
        finally:
            seconds = clock.monotonic() - began
            metrics.runtime_operations_duration_seconds.observe(seconds, operation)
            if operation == "run_podsandbox":
                metrics.pod_made(args[0].runtime_handler, seconds, failed=failed, users=bool(args[0].namespaces.users))

    return call
