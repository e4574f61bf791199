"""Ingresses.

Source: pkg/registry/networking/ingress/strategy.go; ValidateIngress.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.networking_v1 import HTTPIngressPath, Ingress, IngressBackend, IngressStatus

from ...validation.common import SPEC, faults_of, wildcard_subdomain
from ..strategy import Strategy
from ..tables import NONE, age, first_few, shape

_CLASS = "kubernetes.io/ingress.class"
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_BAD_SEQUENCES = ("//", "/./", "/../", "%2f", "%2F")
_BAD_ENDINGS = ("/..", "/.")


def _cells(obj: Ingress, now: float) -> Sequence[Any]:
    ingress_class = obj.spec.ingress_class_name or obj.metadata.annotations.get(_CLASS) or NONE
    hosts = first_few(rule.host for rule in obj.spec.rules if rule.host) or "*"
    points = sorted({point.ip or point.hostname or "" for point in obj.status.load_balancer.ingress} - {""})
    ports = "80, 443" if obj.spec.tls else "80"
    return obj.metadata.name, ingress_class, hosts, ",".join(points), ports, age(obj.metadata, now)


class IngressStrategy(Strategy[Ingress]):
    kind = Ingress
    counts_generation = True
    table = shape("networking/ingresses", "Class|Hosts|Address|Ports|Age", _cells)

    def prepare_create(self, obj: Ingress) -> Ingress:
        return replace(obj, status=IngressStatus())

    def validate(self, obj: Ingress) -> list[FieldError]:
        found = list(_faults(obj))
        noted = obj.metadata.annotations.get(_CLASS)
        if noted and obj.spec.ingress_class_name is not None and noted != obj.spec.ingress_class_name:
            detail = "must match `ingressClassName` when both are specified"
            found.insert(0, fields.invalid(Path("annotations").key(_CLASS), noted, detail))
        return found

    def validate_update(self, new: Ingress, old: Ingress) -> list[FieldError]:
        return list(_faults(new))


def _faults(obj: Ingress) -> Iterator[FieldError]:
    spec = obj.spec
    if not spec.rules and spec.default_backend is None:
        yield fields.invalid(SPEC, None, "either `defaultBackend` or `rules` must be specified")
    if spec.default_backend is not None:
        yield from _backend(spec.default_backend, SPEC.child("defaultBackend"))
    for n, rule in enumerate(spec.rules):
        at = SPEC.child("rules").index(n)
        if rule.host:
            yield from _host(rule.host, at.child("host"))
        if rule.http is not None:
            here = at.child("http", "paths")
            if not rule.http.paths:
                yield fields.required(here)
            for m, path in enumerate(rule.http.paths):
                yield from _path(path, here.index(m))
    for n, tls in enumerate(spec.tls):
        for m, host in enumerate(tls.hosts):
            at = SPEC.child("tls").index(n).child("hosts").index(m)
            check = wildcard_subdomain if "*" in host else names.dns_subdomain
            yield from faults_of(at, host, check(host))
        if tls.secret_name:
            at = SPEC.child("tls").index(n).child("secretName")
            yield from faults_of(at, tls.secret_name, names.dns_subdomain(tls.secret_name))
    if spec.ingress_class_name is not None:
        at = SPEC.child("ingressClassName")
        yield from faults_of(at, spec.ingress_class_name, names.dns_subdomain(spec.ingress_class_name))


def _host(host: str, path: Path) -> Iterator[FieldError]:
    if not names.ip_address(host):
        yield fields.invalid(path, host, "must be a DNS name, not an IP address")
    check = wildcard_subdomain if "*" in host else names.dns_subdomain
    yield from faults_of(path, host, check(host))


def _path(path: HTTPIngressPath, at: Path) -> Iterator[FieldError]:
    text = path.path or ""
    match path.path_type:
        case "Exact" | "Prefix":
            if not text.startswith("/"):
                yield fields.invalid(at.child("path"), text, "must be an absolute path")
            for bad in _BAD_SEQUENCES:
                if bad in text:
                    yield fields.invalid(at.child("path"), text, f"must not contain '{bad}'")
            for bad in _BAD_ENDINGS:
                if text.endswith(bad):
                    yield fields.invalid(at.child("path"), text, f"cannot end with '{bad}'")
        case "ImplementationSpecific":
            if text and not text.startswith("/"):
                yield fields.invalid(at.child("path"), text, "must be an absolute path")
            if re.search(r"\s|[\"{};\\]", text):
                yield fields.invalid(at.child("path"), text, "must be a valid path")
        case "" | None:
            yield fields.required(at.child("pathType"), "pathType must be specified")
        case other:
            yield fields.not_supported(at.child("pathType"), other, _PATH_TYPES)
    yield from _backend(path.backend, at.child("backend"))


def _backend(backend: IngressBackend, path: Path) -> Iterator[FieldError]:
    resource, service = backend.resource, backend.service
    if resource is not None and service is not None:
        yield fields.invalid(path, "", "cannot set both resource and service backends")
    elif resource is not None:
        if not resource.kind:
            yield fields.required(path.child("resource", "kind"))
        if not resource.name:
            yield fields.required(path.child("resource", "name"))
    elif service is not None:
        at = path.child("service")
        if not service.name:
            yield fields.required(at.child("name"))
        else:
            yield from faults_of(at.child("name"), service.name, names.dns_1035_label(service.name))
        port = service.port
        if port.name and port.number:
            yield fields.invalid(path, "", "cannot set both port name & port number")
        elif port.name:
            yield from faults_of(at.child("port", "name"), port.name, names.port_name(port.name))
        elif port.number:
            yield from faults_of(at.child("port", "number"), port.number, names.port_number(port.number))
        else:
            yield fields.required(path, "port name or number is required")
    else:
        yield fields.invalid(path, "", "resource or service backend is required")


STRATEGY = IngressStrategy()
