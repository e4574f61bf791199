"""Probes and life cycle hooks, and the actions that both are made of.

Source: pkg/apis/core/validation/validation.go (validateProbe, validateHandler).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import Container, HTTPGetAction, LifecycleHandler, Probe

from .common import NOT_NEGATIVE, faults_of


def hooks_and_probes(given: Container, grace_period_s: int, path: Path) -> Iterator[FieldError]:
    cycle = given.lifecycle
    if cycle is not None:
        at = path.child("lifecycle")
        if cycle.post_start is not None:
            yield from _handler(cycle.post_start, grace_period_s, at.child("postStart"))
        if cycle.pre_stop is not None:
            yield from _handler(cycle.pre_stop, grace_period_s, at.child("preStop"))
    if given.liveness_probe is not None:
        yield from probe(given.liveness_probe, path.child("livenessProbe"), once=True)
    if given.readiness_probe is not None:
        at = path.child("readinessProbe")
        yield from probe(given.readiness_probe, at)
        if given.readiness_probe.termination_grace_period_seconds is not None:
            value = given.readiness_probe.termination_grace_period_seconds
            yield fields.invalid(
                at.child("terminationGracePeriodSeconds"), value, "must not be set for readinessProbes"
            )
    if given.startup_probe is not None:
        yield from probe(given.startup_probe, path.child("startupProbe"), once=True)


def probe(given: Probe, path: Path, *, once: bool = False) -> Iterator[FieldError]:
    """``once``: one success is all the kind of probe knows."""
    yield from _actions(given, path)
    for wire, value in (
        ("initialDelaySeconds", given.initial_delay_seconds),
        ("timeoutSeconds", given.timeout_seconds),
        ("periodSeconds", given.period_seconds),
        ("successThreshold", given.success_threshold),
        ("failureThreshold", given.failure_threshold),
    ):
        if value is not None and value < 0:
            yield fields.invalid(path.child(wire), value, NOT_NEGATIVE)
    grace = given.termination_grace_period_seconds
    if grace is not None and grace <= 0:
        yield fields.invalid(path.child("terminationGracePeriodSeconds"), grace, "must be greater than 0")
    if once and given.success_threshold != 1:
        yield fields.invalid(path.child("successThreshold"), given.success_threshold or 0, "must be 1")


def _handler(given: LifecycleHandler, grace_period_s: int, path: Path) -> Iterator[FieldError]:
    if given.sleep is not None and not 0 <= given.sleep.seconds <= grace_period_s:
        detail = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_period_s})"
        yield fields.invalid(path.child("sleep"), given.sleep.seconds, detail)
    yield from _actions(given, path)


def _actions(given: Probe | LifecycleHandler, path: Path) -> Iterator[FieldError]:
    grpc = given.grpc if isinstance(given, Probe) else None
    sleep = given.sleep if isinstance(given, LifecycleHandler) else None
    actions = [
        (wire, action)
        for wire, action in (
            ("exec", given.exec),
            ("httpGet", given.http_get),
            ("tcpSocket", given.tcp_socket),
            ("grpc", grpc),
            ("sleep", sleep),
        )
        if action is not None
    ]
    if not actions:
        yield fields.required(path, "must specify a handler type")
    for wire, _ in actions[1:]:
        yield fields.forbidden(path.child(wire), "may not specify more than 1 handler type")
    if given.exec is not None and not given.exec.command:
        yield fields.required(path.child("exec", "command"))
    if given.http_get is not None:
        yield from _http_get(given.http_get, path.child("httpGet"))
    if given.tcp_socket is not None:
        yield from port_number_or_name(given.tcp_socket.port, path.child("tcpSocket", "port"))
    if grpc is not None:
        yield from faults_of(path.child("grpc", "port"), grpc.port, names.port_number(grpc.port))


def _http_get(given: HTTPGetAction, path: Path) -> Iterator[FieldError]:
    if not given.path:
        yield fields.required(path.child("path"))
    yield from port_number_or_name(given.port, path.child("port"))
    if given.scheme not in ("HTTP", "HTTPS"):
        yield fields.not_supported(path.child("scheme"), given.scheme or "", ("HTTP", "HTTPS"))
    for n, header in enumerate(given.http_headers):
        if not re.fullmatch("[-A-Za-z0-9]+", header.name):
            message = "a valid HTTP header must consist of alphanumeric characters or '-'"
            fault = names.regex_error(message, "[-A-Za-z0-9]+", "X-Header-Name")
            yield fields.invalid(path.child("httpHeaders").index(n).child("name"), header.name, fault)


def port_number_or_name(port: int | str, path: Path) -> Iterator[FieldError]:
    yield from faults_of(path, port, names.port_name(port) if isinstance(port, str) else names.port_number(port))
