"""RuntimeClasses.

Source: pkg/registry/node/runtimeclass/strategy.go; ValidateRuntimeClass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaa.api import names
from kaa.api.fields import FieldError, Path
from kaa.api.types.node_v1 import RuntimeClass

from ...validation.common import amount, faults_of, immutable
from ...validation.meta import label_faults
from ...validation.resources import container_resource_name
from ...validation.selectors import tolerations
from ..strategy import Strategy
from ..tables import age, shape


def _cells(obj: RuntimeClass, now: float) -> Sequence[Any]:
    return obj.metadata.name, obj.handler, age(obj.metadata, now)


class RuntimeClassStrategy(Strategy[RuntimeClass]):
    kind = RuntimeClass
    allows_create_on_update = True
    allows_unconditional_update = False
    table = shape("node/runtimeclasses", "Handler|Age", _cells)

    def validate(self, obj: RuntimeClass) -> list[FieldError]:
        found = list(faults_of(Path("handler"), obj.handler, names.dns_label(obj.handler)))
        if obj.overhead is not None:
            at = Path("overhead").child("podFixed")
            for name in sorted(obj.overhead.pod_fixed):
                found += container_resource_name(at.key(name), name)
                found += amount(at.key(name), name, obj.overhead.pod_fixed[name])
        if obj.scheduling is not None:
            found += label_faults(obj.scheduling.node_selector, Path("scheduling").child("nodeSelector"))
            found += tolerations(obj.scheduling.tolerations, Path("scheduling").child("tolerations"))
        return found

    def validate_update(self, new: RuntimeClass, old: RuntimeClass) -> list[FieldError]:
        return list(immutable(Path("handler"), new.handler, old.handler))


STRATEGY = RuntimeClassStrategy()
