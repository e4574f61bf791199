"""What a KubeletConfiguration says of the kubelet's servers, logs, events and shutdown, and what of it is refused.

Source: API reference "Kubelet Configuration (v1beta1)", pkg/kubelet/apis/config/validation/validation.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from kaa.api.durations import parse_seconds

from .config import KubeletConfig, Period, Serving
from .images.names import go_seconds
from .serving.tls import CIPHERS, VERSIONS

Json = Mapping[str, Any]
SYSTEM_CRITICAL = 2_000_000_000
#: The minor version before ours: only what was hidden in it can be shown again.
_PREVIOUS_MINOR = "1.35"

#: {field of the file: (field of Serving, how it is read)}
_SERVING: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "enableServer": ("enabled", bool),
    "address": ("address", str),
    "readOnlyPort": ("read_only_port", int),
    "healthzPort": ("healthz_port", int),
    "healthzBindAddress": ("healthz_address", str),
    "enableDebuggingHandlers": ("debugging", bool),
    "enableProfilingHandler": ("profiling", bool),
    "enableDebugFlagsHandler": ("debug_flags", bool),
    "enableSystemLogHandler": ("system_logs", bool),
    "enableSystemLogQuery": ("system_log_query", bool),
    "streamingConnectionIdleTimeout": ("idle_s", parse_seconds),
    "tlsCertFile": ("cert_file", str),
    "tlsPrivateKeyFile": ("key_file", str),
    "tlsCipherSuites": ("cipher_suites", tuple),
    "tlsMinVersion": ("min_tls", str),
}
_OTHERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "port": ("port", int),
    "containerLogMaxWorkers": ("log_workers", int),
    "containerLogMonitorInterval": ("log_period_s", parse_seconds),
    "eventRecordQPS": ("event_qps", int),
    "eventBurst": ("event_burst", int),
    "podLogsDir": ("pod_log_root", Path),
    "volumeStatsAggPeriod": ("volume_stats_s", parse_seconds),
}
_SHUTDOWN = frozenset({"shutdownGracePeriod", "shutdownGracePeriodCriticalPods", "shutdownGracePeriodByPodPriority"})
FIELDS = frozenset(_SERVING) | frozenset(_OTHERS) | _SHUTDOWN | {"authentication", "authorization"}
#: Taken and checked, but there is nothing that it could show.
CHECKED = frozenset({"showHiddenMetricsForVersion"})


def changes(given: Json, config: KubeletConfig) -> dict[str, Any]:
    """Fields of KubeletConfig that the file sets. Raises ValueError with every fault, in upstream's words."""
    made = {name: read(given[wire]) for wire, (name, read) in _OTHERS.items() if wire in given}
    set_ = {name: read(given[wire]) for wire, (name, read) in _SERVING.items() if wire in given}
    serving = replace(config.serving, **set_, **_who(given))
    if "shutdownGracePeriod" in given or "shutdownGracePeriodByPodPriority" in given:
        made["shutdown"] = shutdown_periods(given)
    faults = list(_faults(given, serving))
    if faults:
        raise ValueError(", invalid configuration: ".join(faults))
    return {**made, "serving": serving, "given": dict(given)}


def _who(given: Json) -> dict[str, Any]:
    """Authentication and authorization."""
    found: dict[str, Any] = {}
    authentication, authorization = given.get("authentication") or {}, given.get("authorization") or {}
    webhook, verdicts = authentication.get("webhook") or {}, authorization.get("webhook") or {}
    for where, wire, name, read in (
        (authentication.get("anonymous") or {}, "enabled", "anonymous", bool),
        (authentication.get("x509") or {}, "clientCAFile", "client_ca_file", str),
        (webhook, "enabled", "token_webhook", bool),
        (webhook, "cacheTTL", "token_s", parse_seconds),
        (authorization, "mode", "authorization", str),
        (verdicts, "cacheAuthorizedTTL", "allowed_s", parse_seconds),
        (verdicts, "cacheUnauthorizedTTL", "denied_s", parse_seconds),
    ):
        if wire in where:
            found[name] = read(where[wire])
    return found


def shutdown_periods(given: Json) -> tuple[Period, ...]:
    """How long pods of which priority have, lowest first. Two periods are a short way to say it for critical pods."""
    by_priority = given.get("shutdownGracePeriodByPodPriority") or ()
    if by_priority:
        periods = (Period(int(one.get("priority", 0)), int(one["shutdownGracePeriodSeconds"])) for one in by_priority)
        return tuple(sorted(periods, key=lambda one: one.priority))
    whole = _seconds(given, "shutdownGracePeriod")
    critical = _seconds(given, "shutdownGracePeriodCriticalPods")
    if not whole:
        return ()
    return Period(0, int(whole - critical)), Period(SYSTEM_CRITICAL, int(critical))


def _seconds(given: Json, name: str) -> float:
    return parse_seconds(given.get(name) or "0s")


def _faults(given: Json, serving: Serving) -> Iterator[str]:
    yield from _number_faults(given)
    yield from _shutdown_faults(given)
    yield from _log_faults(given)
    if serving.system_log_query and not serving.system_logs:
        yield "enableSystemLogHandler is required for enableSystemLogQuery"
    hidden = given.get("showHiddenMetricsForVersion") or _PREVIOUS_MINOR
    if hidden != _PREVIOUS_MINOR:
        yield (
            f"--show-hidden-metrics-for-version must be omitted or have the value '{_PREVIOUS_MINOR}'. Only the previous"
            " minor version is allowed"
        )
    if serving.authorization not in ("AlwaysAllow", "Webhook"):
        yield f"unknown authorization mode {serving.authorization}"
    unknown = [one for one in serving.cipher_suites if one not in CIPHERS]
    if unknown:
        yield f"Cipher suite {unknown[0]} not supported or doesn't exist"
    if serving.min_tls and serving.min_tls not in VERSIONS:
        yield f'unknown tls version "{serving.min_tls}"'


def _number_faults(given: Json) -> Iterator[str]:
    for name, flag in (("eventBurst", "--event-burst"), ("eventRecordQPS", "--event-qps")):
        if given.get(name, 0) < 0:
            yield f"{name} ({flag}) {given[name]} must not be a negative number"
    for name, flag, least, off in (
        ("healthzPort", "--healthz-port", 1, True),
        ("port", "--port", 1, False),
        ("readOnlyPort", "--read-only-port", 0, True),
    ):
        port = given.get(name)
        if port is not None and not (1 <= port <= 65535 or (off and port == 0)):
            yield f"{name} ({flag}) {port} must be between {least} and 65535, inclusive"


def _shutdown_faults(given: Json) -> Iterator[str]:
    whole, critical = _seconds(given, "shutdownGracePeriod"), _seconds(given, "shutdownGracePeriodCriticalPods")
    if critical > whole:
        shown, of = go_seconds(critical), go_seconds(whole)
        yield f"shutdownGracePeriodCriticalPods {{{shown}}} must be <= shutdownGracePeriod {{{of}}}"
    for name, seconds in (("shutdownGracePeriod", whole), ("shutdownGracePeriodCriticalPods", critical)):
        if seconds < 0 or 0 < seconds < 1:
            yield f"{name} {{{go_seconds(seconds)}}} must be either zero or otherwise >= 1 sec"
    if given.get("shutdownGracePeriodByPodPriority") and (whole > 0 or critical > 0):
        yield "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time"


def _log_faults(given: Json) -> Iterator[str]:
    if given.get("containerLogMaxWorkers", 1) < 1:
        yield "containerLogMaxWorkers must be greater than or equal to 1"
    if "containerLogMonitorInterval" in given and parse_seconds(given["containerLogMonitorInterval"]) < 3:
        yield "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s"
    if given.get("containerLogMaxFiles", 5) <= 1:
        yield "containerLogMaxFiles must be greater than 1"
    folder = given.get("podLogsDir", "/var/log/pods")
    if not folder:
        yield "podLogsDir was not specified"
    elif not folder.startswith("/"):
        yield f'pod logs path "{folder}" must be absolute path'
    elif str(Path(folder)) != folder or ".." in folder.split("/"):
        yield f'pod logs path "{folder}" must be normalized'
    if not folder.isascii():
        yield f'pod logs path "{folder}" mut contains ASCII characters only'
