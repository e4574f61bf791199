"""What is counted of images: asked for, pulled, mounted, collected; and of the programs that give credentials for them.

Source: pkg/kubelet/metrics/metrics.go, pkg/credentialprovider/plugin/metrics.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kaa.api.clock import Clock

from .exposition import Counter, Family, Histogram

_PULL_BUCKETS = (1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0)
_MIB = 1024 * 1024
#: An image's size as a label: ``<lower>-<upper>``.
_SIZES = (
    (10, "0-10MB"),
    (100, "10MB-100MB"),
    (500, "100MB-500MB"),
    (1024, "500MB-1GB"),
    (5 * 1024, "1GB-5GB"),
    (10 * 1024, "5GB-10GB"),
    (20 * 1024, "10GB-20GB"),
    (30 * 1024, "20GB-30GB"),
    (40 * 1024, "30GB-40GB"),
    (60 * 1024, "40GB-60GB"),
    (100 * 1024, "60GB-100GB"),
)


def size_class(size_bytes: int) -> str:
    """The class that an image's size is counted in."""
    return next((name for limit, name in _SIZES if size_bytes <= limit * _MIB), "GT100GB")


class ImageMetrics:
    """Names of attributes are those of the metrics, without ``kubelet_``."""

    def __init__(self, clock: Clock) -> None:
        self.image_manager_ensure_image_requests_total = Counter(
            "kubelet_image_manager_ensure_image_requests_total",
            "[ALPHA] Number of ensure-image requests processed by the kubelet.",
            ("present_locally", "pull_policy", "pull_required"),
        )
        self.image_pull_duration_seconds = Histogram(
            "kubelet_image_pull_duration_seconds",
            "[ALPHA] Duration in seconds to pull an image.",
            ("image_size_in_bytes",),
            _PULL_BUCKETS,
        )
        self.image_garbage_collected_total = Counter(
            "kubelet_image_garbage_collected_total",
            "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
            ("reason",),
        )
        self.image_volume_requested_total = Counter(
            "kubelet_image_volume_requested_total", "[ALPHA] Number of requested image volumes."
        )
        self.image_volume_mounted_succeed_total = Counter(
            "kubelet_image_volume_mounted_succeed_total", "[ALPHA] Number of successful image volume mounts."
        )
        self.image_volume_mounted_errors_total = Counter(
            "kubelet_image_volume_mounted_errors_total", "[ALPHA] Number of failed image volume mounts."
        )
        self.credential_provider_plugin_duration = Histogram(
            "kubelet_credential_provider_plugin_duration",
            "[ALPHA] Duration of execution in seconds for credential provider plugin",
            ("plugin_name",),
        )
        self.credential_provider_plugin_errors_total = Counter(
            "kubelet_credential_provider_plugin_errors_total",
            "[ALPHA] Number of errors from credential provider plugin",
            ("plugin_name",),
        )
        self._counted = tuple(self.__dict__.values())
        self._clock = clock

    def families(self) -> Iterator[Family]:
        return (one.family() for one in self._counted)

    def ensured(self, policy: str, *, present: bool | None, pulls: bool) -> None:
        """A pod asked for an image; ``present`` is None where the policy does not ask."""
        there = "unknown" if present is None else str(present).lower()
        self.image_manager_ensure_image_requests_total.inc(there, policy.lower(), str(pulls).lower())

    def pulled(self, size_bytes: int, seconds: float) -> None:
        self.image_pull_duration_seconds.observe(seconds, size_class(size_bytes))

    @contextmanager
    def volume(self) -> Iterator[None]:
        """An image is brought for a volume."""
        self.image_volume_requested_total.inc()
        try:
            yield
        except Exception:
            self.image_volume_mounted_errors_total.inc()
            raise
        self.image_volume_mounted_succeed_total.inc()

    @contextmanager
    def plugin(self, name: str) -> Iterator[None]:
        """A program is asked for credentials."""
        began = self._clock.monotonic()
        try:
            yield
        except Exception:
            self.credential_provider_plugin_errors_total.inc(name)
            raise
        finally:
            self.credential_provider_plugin_duration.observe(self._clock.monotonic() - began, name)
