"""The selector of a pod's workload: what the system's default spreading counts as "pods of the same kind".

Source: kubernetes/kubernetes pkg/scheduler/framework/plugins/helper/spread.go (DefaultSelector).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaa.api.selectors import Selector, from_label_selector, from_labels
from kaa.api.types.apps_v1 import ReplicaSet, StatefulSet
from kaa.api.types.core_v1 import ReplicationController, Service
from kaa.client.informer import Informers

from .template import Template


class Workloads:
    """Services and owners, looked up by template. ``changed`` is called when an answer may differ from before."""

    def __init__(self, informers: Informers, changed: Callable[[], None]) -> None:
        self._services = informers.of(Service)
        self._owners: dict[str, Any] = {
            "ReplicaSet": informers.of(ReplicaSet),
            "StatefulSet": informers.of(StatefulSet),
            "ReplicationController": informers.of(ReplicationController),
        }
        self._changed = changed
        for informer in (self._services, *self._owners.values()):
            informer.add_handler(self._on_change)

    def _on_change(self, old: Any, new: Any) -> None:
        if old is None or new is None or old.spec.selector != new.spec.selector:
            self._changed()

    async def synced(self) -> None:
        for informer in (self._services, *self._owners.values()):
            await informer.synced.wait()

    def selector(self, template: Template) -> Selector:
        """All of what the matching Services and the owner select by; empty when there is neither."""
        labels: dict[str, str] = {}
        for service in self._services.in_namespace(template.namespace):
            wanted = service.spec.selector
            if wanted and all(template.labels.get(key) == value for key, value in wanted.items()):
                labels.update(wanted)
        owner = next((o for o in template.pod.metadata.owner_references if o.controller), None)
        found = None
        if owner is not None and owner.kind in self._owners:
            found = self._owners[owner.kind].get(owner.name, template.namespace)
        if found is None or found.spec is None:
            return from_labels(labels)
        if isinstance(found, ReplicationController):
            return from_labels({**labels, **found.spec.selector})
        mine = from_label_selector(found.spec.selector)
        return Selector(from_labels(labels).requirements + mine.requirements)
