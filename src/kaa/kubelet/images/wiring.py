"""A node's images, put together as its configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kaa.api.clock import Clock
from kaa.client.client import Client
from kaa.runtime.base import Runtime

from ..metrics.images import ImageMetrics
from .manager import Images, Providers
from .records import Verification

if TYPE_CHECKING:
    from ..config import KubeletConfig


def node_images(client: Client, runtime: Runtime, clock: Clock, config: KubeletConfig, metrics: ImageMetrics) -> Images:
    """Raises ValueError for credential providers that cannot be used."""
    pulls = config.pulls
    providers: Providers | None = None
    if pulls.provider_config is not None and pulls.provider_programs is not None:
        from .providers import CredentialProviders  # few nodes have them

        providers = CredentialProviders(client, clock, pulls.provider_config, pulls.provider_programs, metrics)
    return Images(
        runtime,
        clock,
        config.root / "image_manager",
        serialize=config.serialize_image_pulls,
        parallel=config.max_parallel_image_pulls,
        rate=(pulls.per_second, pulls.burst),
        verification=Verification(pulls.verification, pulls.allowlist),
        node_files=(config.root / "config.json", Path.home() / ".docker" / "config.json"),
        providers=providers,
        metrics=metrics,
    )
