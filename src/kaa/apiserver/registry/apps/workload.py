"""What deployments, replica sets, stateful sets, daemon sets and replication controllers have in common.

Source: pkg/apis/apps/validation; pkg/registry/apps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kaa.api import fields, selectors
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import PodTemplateSpec
from kaa.api.types.meta_v1 import LabelSelector

from ...validation import pods
from ...validation.common import SPEC
from ...validation.selectors import is_empty

TEMPLATE = SPEC.child("template")
MISMATCH = "`selector` does not match template `labels`"


def template_faults(template: PodTemplateSpec, selector: LabelSelector | None) -> Iterator[FieldError]:
    """A template that the selector matches and that restarts always."""
    labels: Mapping[str, str] = template.metadata.labels
    if selector is not None and not _matches(selector, labels):
        yield fields.invalid(TEMPLATE.child("metadata", "labels"), dict(labels) or None, MISMATCH)
    yield from pods.pod_template(template, TEMPLATE)
    yield from restart_faults(template, TEMPLATE)


def restart_faults(template: PodTemplateSpec, path: Path) -> Iterator[FieldError]:
    if template.spec.restart_policy != "Always":
        policy = template.spec.restart_policy
        yield fields.not_supported(path.child("spec", "restartPolicy"), policy, ("Always",))
    if template.spec.active_deadline_seconds is not None:
        detail = "activeDeadlineSeconds in ReplicaSet is not Supported"
        yield fields.forbidden(path.child("spec", "activeDeadlineSeconds"), detail)


def _matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """A selector that selects nothing in particular matches no template; one that is none at all is another fault."""
    if is_empty(selector):
        return False
    try:
        return selectors.from_label_selector(selector).matches(labels)
    except selectors.SelectorError:
        return True


def counts_not_negative(path: Path, **counts: int | None) -> Iterator[FieldError]:
    for wire, value in counts.items():
        if value is not None and value < 0:
            yield fields.invalid(path.child(wire), value, "must be greater than or equal to 0")
