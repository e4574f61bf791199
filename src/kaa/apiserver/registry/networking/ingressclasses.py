"""IngressClasses.

Source: pkg/registry/networking/ingressclass/strategy.go; ValidateIngressClass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.fields import FieldError
from kaa.api.types.networking_v1 import IngressClass, IngressClassSpec

from ...validation.common import SPEC, immutable, is_domain_prefixed
from ..strategy import Strategy
from ..tables import NONE, age, shape

_CONTROLLER_LIMIT = 250


def _cells(obj: IngressClass, now: float) -> Sequence[Any]:
    found = obj.spec.parameters
    parameters = NONE
    if found is not None:
        parameters = f"{found.kind}.{found.api_group}/{found.name}" if found.api_group else f"{found.kind}/{found.name}"
    return obj.metadata.name, obj.spec.controller or "", parameters, age(obj.metadata, now)


class IngressClassStrategy(Strategy[IngressClass]):
    kind = IngressClass
    counts_generation = True
    table = shape("networking/ingressclasses", "Controller|Parameters|Age", _cells)

    def default(self, obj: IngressClass) -> IngressClass:
        parameters = obj.spec.parameters
        if parameters is None or parameters.scope is not None:
            return obj
        return replace(obj, spec=replace(obj.spec, parameters=replace(parameters, scope="Cluster")))

    def validate(self, obj: IngressClass) -> list[FieldError]:
        return list(_faults(obj.spec))

    def validate_update(self, new: IngressClass, old: IngressClass) -> list[FieldError]:
        return [*immutable(SPEC.child("controller"), new.spec.controller, old.spec.controller), *_faults(new.spec)]


def _faults(spec: IngressClassSpec) -> Iterator[FieldError]:
    controller = spec.controller or ""
    if len(controller) > _CONTROLLER_LIMIT:
        yield fields.too_long(SPEC.child("controller"), _CONTROLLER_LIMIT)
    yield from is_domain_prefixed(SPEC.child("controller"), controller)
    parameters = spec.parameters
    if parameters is None:
        return
    at = SPEC.child("parameters")
    if not parameters.kind:
        yield fields.required(at.child("kind"), "kind is required")
    if not parameters.name:
        yield fields.required(at.child("name"), "name is required")
    match parameters.scope:
        case "Namespace":
            if not parameters.namespace:
                yield fields.required(at.child("namespace"), "`parameters.scope` is set to 'Namespace'")
        case "Cluster":
            if parameters.namespace is not None:
                yield fields.forbidden(at.child("namespace"), "`parameters.scope` is set to 'Cluster'")
        case other:
            yield fields.not_supported(at.child("scope"), other or "", ("Cluster", "Namespace"))


STRATEGY = IngressClassStrategy()
