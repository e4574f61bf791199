"""CSIStorageCapacities.

Source: pkg/registry/storage/csistoragecapacity/strategy.go.
"""

from __future__ import annotations

from kaa.api import fields, names, quantity
from kaa.api.fields import FieldError, Path
from kaa.api.types.storage_v1 import CSIStorageCapacity

from ...validation.common import faults_of, immutable
from ...validation.selectors import label_selector
from ..strategy import Strategy
from ..tables import created


class CSIStorageCapacityStrategy(Strategy[CSIStorageCapacity]):
    kind = CSIStorageCapacity
    allows_unconditional_update = False
    table = created("storage/csistoragecapacities")

    def validate(self, obj: CSIStorageCapacity) -> list[FieldError]:
        found = list(label_selector(obj.node_topology, Path("nodeTopology")))
        at = Path("storageClassName")
        found += faults_of(at, obj.storage_class_name, names.dns_subdomain(obj.storage_class_name))
        for wire, amount in (("capacity", obj.capacity), ("maximumVolumeSize", obj.maximum_volume_size)):
            if amount is not None and quantity.parse(amount) < 0:
                found.append(fields.invalid(Path(wire), amount, "must be greater than or equal to 0"))
        return found

    def validate_update(self, new: CSIStorageCapacity, old: CSIStorageCapacity) -> list[FieldError]:
        found = self.validate(new)
        found += immutable(Path("nodeTopology"), new.node_topology, old.node_topology)
        found += immutable(Path("storageClassName"), new.storage_class_name, old.storage_class_name)
        return found


STRATEGY = CSIStorageCapacityStrategy()
