"""``/checkpoint``: a running container's state, kept as a tar file below the kubelet's folder. Source: KEP-2008."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kaa.api.clock import format_time
from kaa.runtime.base import ContainerState, RuntimeFailure

from ..kubelet import Kubelet
from .http import HttpError, Request
from .pods import Pods, specs

_DEFAULT_TIMEOUT_S = 120.0  # upstream's runtimeRequestTimeout


class CheckpointRoute:
    def __init__(self, kubelet: Kubelet, pods: Pods) -> None:
        self._kubelet, self._pods = kubelet, pods

    async def checkpoint(self, request: Request, parts: list[str]) -> None:
        """Answers with where the tar file lies."""
        if len(parts) != 3:
            raise HttpError(404, "404: Page Not Found")
        namespace, name, container = parts
        pod = self._pods.pod(namespace, name)
        if container not in {one.name for one in specs(pod)}:
            raise HttpError(404, f"container {container} does not exist")
        timeout_s = _timeout(request)
        folder = self._kubelet.config.root / "checkpoints"
        try:
            current = (await self._pods.view(pod)).latest(container)
            if current is None or current.state is not ContainerState.RUNNING:
                raise RuntimeFailure(f"container {container} not found")
            await asyncio.to_thread(_make_private, folder)
            stamp = format_time(self._kubelet.clock.now())
            target = folder / f"checkpoint-{name}_{namespace}-{container}-{stamp}.tar"
            await self._kubelet.runtime.checkpoint(current.id, str(target), timeout_s)
        except (RuntimeFailure, OSError, TimeoutError) as err:
            raise HttpError(500, f"checkpointing of {namespace}/{name}/{container} failed ({err})") from err
        request.answer_json({"items": [str(target)]})


def _timeout(request: Request) -> float:
    """The last ``timeout`` of the query, in seconds; 0 and none mean the default. Raises HttpError 404, as upstream does."""
    given = request.query.get("timeout", [""])[-1]
    try:
        return float(int(given or "0")) or _DEFAULT_TIMEOUT_S
    except ValueError as err:
        raise HttpError(404, "cannot parse value of timeout parameter") from err


def _make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
