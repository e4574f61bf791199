"""The outermost frame of a long-running process: event loop, logs, signals."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from typing import Any

import structlog

from .config import ClusterConfig
from .logs import log_to


def run(work: Coroutine[Any, Any, None], config: ClusterConfig, component: str, *, log_files: bool) -> None:
    """Run until it ends or a TERM or INT comes; then it is cancelled and given its time to clean up."""
    import uvloop

    log_to(config.log_dir if log_files else None, component)
    settle_garbage()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_signalled(work))


def settle_garbage() -> None:
    """Have the collector look less often, and never again at what stands now: modules, classes and whatever was loaded.

    Objects here live long and seldom stand in cycles; the default walks all of them over and over.
    """
    gc.set_threshold(50_000, 20, 100)
    gc.collect()
    gc.freeze()


async def _until_signalled(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for sent in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sent, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        structlog.get_logger(__name__).info("stopped")
