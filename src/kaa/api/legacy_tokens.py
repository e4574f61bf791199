"""What API server and token cleaner tell each other of tokens that stand in Secrets and never expire.

The server writes down the last day on which one was used, and since when it does; the cleaner marks those that nobody has
used for long, and the server refuses what is marked.

Source: kubernetes pkg/serviceaccount/legacy.go; pkg/controlplane/controller/legacytokentracking.
"""

from __future__ import annotations

from datetime import date

from .clock import format_time

LAST_USED = "kubernetes.io/legacy-token-last-used"
INVALID_SINCE = "kubernetes.io/legacy-token-invalid-since"
#: The ConfigMap in kube-system whose ``since`` is the day on which the server began to write uses down.
TRACKING = "kube-apiserver-legacy-service-account-token-tracking"
SINCE = "since"
DAY_S = 24 * 3600


def day_of(seconds: float) -> str:
    """The day (UTC) of a time in seconds since 1970: ``2026-07-31``. Days compare as text."""
    return format_time(seconds)[:10]


def is_day(text: str) -> bool:
    """Whether a text is a day as ``day_of`` writes it."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
