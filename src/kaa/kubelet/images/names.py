"""Names of images as pods write them, and the words of pull events."""

from __future__ import annotations

from kaa.runtime.oci.reference import Reference, parse_reference

__all__ = ["Reference", "go_seconds", "parse_reference", "pull_policy", "repository", "with_tag"]


def with_tag(image: str) -> str:
    """``nginx`` -> ``nginx:latest``: a reference with neither tag nor digest means ``latest``."""
    last = image.rsplit("/", 1)[-1]
    return image if ":" in last or "@" in last else f"{image}:latest"


def repository(image: str) -> str:
    """``nginx:1`` -> ``docker.io/library/nginx``. Raises ValueError."""
    return parse_reference(image).name


def pull_policy(image: str, policy: str | None) -> str:
    """The spec's policy; without one Always for ``latest``, IfNotPresent for the rest."""
    if policy:
        return policy
    return "Always" if with_tag(image).endswith(":latest") else "IfNotPresent"


def go_seconds(seconds: float) -> str:
    """As Go prints a Duration in whole milliseconds: ``0s``, ``12ms``, ``1.204s``, ``1m3.5s``."""
    millis = int(seconds * 1000 + 1e-6)
    if millis < 1000:
        return f"{millis}ms" if millis else "0s"
    minutes, rest = divmod(millis, 60_000)
    text = f"{rest / 1000:g}s"
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60}m{text}"
    return f"{minutes}m{text}" if minutes else text
