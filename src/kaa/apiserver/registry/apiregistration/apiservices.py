"""APIServices.

Source: kube-aggregator pkg/registry/apiservice/strategy.go; ValidateAPIService.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError
from kaa.api.types.apiregistration_v1 import APIService, APIServiceStatus

from ...validation.common import METADATA, SPEC, faults_of
from ..strategy import Strategy
from ..tables import age, shape


def _cells(obj: APIService, now: float) -> Sequence[Any]:
    service = obj.spec.service
    where = f"{service.namespace}/{service.name}" if service is not None else "Local"
    available = next((c for c in obj.status.conditions if c.type == "Available"), None)
    word = available.status if available is not None else "Unknown"
    if available is not None and available.status != "True" and available.reason:
        word = f"{word} ({available.reason})"
    return obj.metadata.name, where, word, age(obj.metadata, now)


class APIServiceStrategy(Strategy[APIService]):
    kind = APIService
    allows_unconditional_update = False
    table = shape("apiregistration/apiservices", "Service|Available|Age", _cells)

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        return names.path_segment(name)

    def default(self, obj: APIService) -> APIService:
        service = obj.spec.service
        if service is None or service.port is not None:
            return obj
        return replace(obj, spec=replace(obj.spec, service=replace(service, port=443)))

    def prepare_create(self, obj: APIService) -> APIService:
        return replace(obj, status=APIServiceStatus())

    def validate(self, obj: APIService) -> list[FieldError]:
        return list(_faults(obj))

    def fields(self, obj: APIService) -> Mapping[str, str]:
        return {}


def _faults(obj: APIService) -> Iterator[FieldError]:
    spec = obj.spec
    wanted = f"{spec.version or ''}.{spec.group or ''}"
    if obj.metadata.name != wanted:
        yield fields.invalid(
            METADATA.child("name"), obj.metadata.name, 'must be `spec.version+"."+spec.group`: "' + wanted + '"'
        )
    if spec.group:
        yield from faults_of(SPEC.child("group"), spec.group, names.dns_subdomain(spec.group))
    elif spec.version != "v1":
        yield fields.required(SPEC.child("group"), "only v1 may have an empty group and it better be legacy kube")
    if spec.version:
        yield from faults_of(SPEC.child("version"), spec.version, names.dns_1035_label(spec.version))
    else:
        yield fields.required(SPEC.child("version"))
    for wire, value, most in (
        ("groupPriorityMinimum", spec.group_priority_minimum, 20000),
        ("versionPriority", spec.version_priority, 1000),
    ):
        if not 0 < value <= most:
            yield fields.invalid(SPEC.child(wire), value, f"must be positive and less than {most}")
    service = spec.service
    if service is None:
        if spec.ca_bundle:
            detail = "must be empty when service is null"
            yield fields.invalid(SPEC.child("caBundle"), f"{len(spec.ca_bundle)} bytes", detail)
        if spec.insecure_skip_tls_verify:
            yield fields.invalid(SPEC.child("insecureSkipTLSVerify"), True, "must be false when service is null")
        return
    at = SPEC.child("service")
    if not service.namespace:
        yield fields.required(at.child("namespace"))
    if not service.name:
        yield fields.required(at.child("name"))
    if not 1 <= (service.port or 0) <= 65535:
        yield fields.invalid(
            at.child("port"), service.port, "port is not valid: must be between 1 and 65535, inclusive"
        )
    if spec.insecure_skip_tls_verify and spec.ca_bundle:
        detail = "may not be true if caBundle is present"
        yield fields.invalid(SPEC.child("insecureSkipTLSVerify"), True, detail)


STRATEGY = APIServiceStrategy()
