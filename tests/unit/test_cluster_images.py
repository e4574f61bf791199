"""The agent's image service, on the simulated runtime."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kaa.api.clock import SystemClock
from kaa.cli import image as verbs
from kaa.cluster.images import ImageService, ask
from kaa.runtime.base import ContainerConfig, SandboxConfig
from kaa.runtime.simulated import SimulatedRuntime

MB = SimulatedRuntime.IMAGE_BYTES


async def asked(runtime: SimulatedRuntime, path: Path, *requests: dict[str, Any]) -> list[Any]:
    serving = asyncio.create_task(ImageService(runtime, path).run())
    while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - nobody tells that it listens
        await asyncio.sleep(0.01)
    try:
        return [(await asyncio.to_thread(lambda one=one: list(ask(path, **one))))[-1] for one in requests]
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize(
    ("also_ended", "gone"),
    [(False, ["docker.io/library/idle:1"]), (True, ["docker.io/library/ended:1", "docker.io/library/idle:1"])],
)
def test_prune_takes_what_no_container_uses(tmp_path: Path, also_ended: bool, gone: list[str]) -> None:
    async def go() -> tuple[list[Any], list[str]]:
        runtime = SimulatedRuntime(SystemClock())
        for name in ("used", "ended", "idle"):
            runtime.add_image(f"docker.io/library/{name}:1")
        box = await runtime.run_sandbox(SandboxConfig("web", "d", "1"))
        for name in ("used", "ended"):
            made = await runtime.create_container(box, ContainerConfig(name, f"docker.io/library/{name}:1"))
            await runtime.start_container(made)
        await runtime.stop_container(made, 0)
        answers = await asked(runtime, tmp_path / "s", {"verb": "prune", "all": also_ended})
        left = [tag for one in await runtime.list_images() for tag in one.repo_tags]
        await runtime.close()
        return answers, left

    (answer,), left = asyncio.run(go())
    assert sorted(tag for row in answer["done"]["images"] for tag in row["tags"]) == gone
    assert answer["done"]["freed_bytes"] == MB * len(gone)
    assert not set(left) & set(gone)
    assert len(left) == 3 - len(gone)


def test_the_command_says_what_it_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(name: str, data_dir: str, **request: Any) -> Any:
        assert request == {"verb": "prune", "all": True}
        return {
            "images": [{"tags": ["a:1"], "id": "sha256:1"}, {"tags": [], "id": "sha256:2"}],
            "freed_bytes": 2_500_000,
        }

    monkeypatch.setattr(verbs, "_ask", answer)
    done = CliRunner().invoke(verbs.command, ["prune", "--all"])
    assert done.output == "a:1\nsha256:2\n2 images removed, 2.5 MB freed\n"


def test_help_suffices() -> None:
    said = CliRunner().invoke(verbs.command, ["--help"]).output
    assert all(verb in said for verb in ("import", "pull", "ls", "rm", "prune"))
