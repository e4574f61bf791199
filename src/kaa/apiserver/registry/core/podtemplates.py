"""PodTemplates.

Source: pkg/registry/core/podtemplate/strategy.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import PodTemplate

from ...validation.pods import pod_template
from ..strategy import Strategy
from ..tables import containers_and_images, labels, shape
from . import pod_defaults


def _cells(obj: PodTemplate, now: float) -> Sequence[Any]:
    listed = containers_and_images(obj.template.spec.containers)
    return obj.metadata.name, *listed, labels(obj.template.metadata.labels)


class PodTemplateStrategy(Strategy[PodTemplate]):
    kind = PodTemplate
    counts_generation = True
    table = shape("core/podtemplates", "Containers|Images|Pod Labels", _cells)

    def default(self, obj: PodTemplate) -> PodTemplate:
        return replace(obj, template=pod_defaults.template(obj.template))

    def spec_changed(self, new: PodTemplate, old: PodTemplate) -> bool:
        return new.template != old.template

    def validate(self, obj: PodTemplate) -> list[FieldError]:
        return list(pod_template(obj.template, Path("template")))


STRATEGY = PodTemplateStrategy()
