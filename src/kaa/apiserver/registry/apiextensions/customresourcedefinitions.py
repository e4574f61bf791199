"""CustomResourceDefinitions; their schemas are looked at in ``schemas``.

Source: apiextensions-apiserver pkg/registry/customresourcedefinition/strategy.go; ValidateCustomResourceDefinition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import fields, names, scheme
from kaa.api.fields import FieldError, Path
from kaa.api.types.apiextensions_v1 import (
    CustomResourceConversion,
    CustomResourceDefinition,
    CustomResourceDefinitionCondition,
    CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec,
    CustomResourceDefinitionStatus,
    CustomResourceDefinitionVersion,
    JSONSchemaProps,
)

from ...validation.common import METADATA, SPEC, STATUS, faults_of, immutable, is_fully_qualified
from ..strategy import Strategy
from ..tables import created
from .schemas import schema_faults

#: Held until no object of the resource is left.
CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
TERMINATING = "Terminating"
_SCOPES = ("Cluster", "Namespaced")
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_BLANK_NAMES = CustomResourceDefinitionNames(kind="", plural="")


class CustomResourceDefinitionStrategy(Strategy[CustomResourceDefinition]):
    kind = CustomResourceDefinition
    counts_generation = True
    table = created("apiextensions/customresourcedefinitions")
    deletion_finalizers = (CLEANUP_FINALIZER,)
    free_finalizers = True

    def default(self, obj: CustomResourceDefinition) -> CustomResourceDefinition:
        spec = obj.spec
        given = spec.names
        changes: dict[str, Any] = {}
        if not given.singular or not given.list_kind:
            singular, list_kind = given.singular or given.kind.lower(), given.list_kind or f"{given.kind}List"
            changes["names"] = replace(given, singular=singular, list_kind=list_kind)
        if spec.conversion is None:
            changes["conversion"] = CustomResourceConversion(strategy="None")
        else:
            changes["conversion"] = _default_conversion(spec.conversion)
        if not spec.scope:
            changes["scope"] = "Namespaced"
        return replace(obj, spec=replace(spec, **changes))

    def prepare_create(self, obj: CustomResourceDefinition) -> CustomResourceDefinition:
        stored = tuple(version.name for version in obj.spec.versions if version.storage)[:1]
        status = CustomResourceDefinitionStatus(accepted_names=_BLANK_NAMES, stored_versions=stored)
        return replace(obj, status=status)

    def prepare_update(self, new: CustomResourceDefinition, old: CustomResourceDefinition) -> CustomResourceDefinition:
        status = old.status or CustomResourceDefinitionStatus(accepted_names=_BLANK_NAMES)
        added = tuple(
            version.name
            for version in new.spec.versions
            if version.storage and version.name not in status.stored_versions
        )
        return replace(new, status=replace(status, stored_versions=status.stored_versions + added))

    def prepare_deletion(self, obj: CustomResourceDefinition) -> CustomResourceDefinition:
        if obj.status is None:
            return obj
        text = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"
        pending = CustomResourceDefinitionCondition(
            type=TERMINATING, status="True", reason="InstanceDeletionPending", message=text
        )
        return replace(obj, status=with_condition(obj.status, pending, obj.metadata.deletion_timestamp or ""))

    def validate(self, obj: CustomResourceDefinition) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: CustomResourceDefinition, old: CustomResourceDefinition) -> list[FieldError]:
        found = list(_faults(new))
        established = any(
            c.type == "Established" and c.status == "True" for c in (old.status.conditions if old.status else ())
        )
        found += immutable(SPEC.child("group"), new.spec.group, old.spec.group)
        found += immutable(SPEC.child("names", "plural"), new.spec.names.plural, old.spec.names.plural)
        if established:
            found += immutable(SPEC.child("scope"), new.spec.scope, old.spec.scope)
            found += immutable(SPEC.child("names", "kind"), new.spec.names.kind, old.spec.names.kind)
        return found

    def validate_status_update(self, new: CustomResourceDefinition, old: CustomResourceDefinition) -> list[FieldError]:
        return list(_stored_versions(new))


def with_condition(
    status: CustomResourceDefinitionStatus, wanted: CustomResourceDefinitionCondition, now: str
) -> CustomResourceDefinitionStatus:
    """The status with a condition, whose time is ``now`` where its status is new."""
    held = next((one for one in status.conditions if one.type == wanted.type), None)
    if held is None:
        return replace(status, conditions=(*status.conditions, replace(wanted, last_transition_time=now)))
    moment = held.last_transition_time if held.status == wanted.status else now
    made = replace(wanted, last_transition_time=moment)
    return replace(status, conditions=tuple(made if one is held else one for one in status.conditions))


def _default_conversion(given: CustomResourceConversion) -> CustomResourceConversion:
    hook = given.webhook
    if hook is None or hook.client_config is None or hook.client_config.service is None:
        return given
    service = hook.client_config.service
    if service.port is not None:
        return given
    client = replace(hook.client_config, service=replace(service, port=443))
    return replace(given, webhook=replace(hook, client_config=client))


def _faults(obj: CustomResourceDefinition) -> Iterator[FieldError]:
    spec = obj.spec
    if obj.metadata.name != f"{spec.names.plural}.{spec.group}":
        yield fields.invalid(METADATA.child("name"), obj.metadata.name, 'must be spec.names.plural+"."+spec.group')
    yield from is_fully_qualified(SPEC.child("group"), spec.group)
    if spec.scope not in _SCOPES:
        yield fields.not_supported(SPEC.child("scope"), spec.scope, _SCOPES)
    yield from _versions(spec)
    yield from _names(spec.names, SPEC.child("names"))
    yield from _conversion(spec)
    if spec.preserve_unknown_fields:
        detail = (
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        )
        yield fields.invalid(SPEC.child("preserveUnknownFields"), True, detail)
    yield from _stored_versions(obj)


def _versions(spec: CustomResourceDefinitionSpec) -> Iterator[FieldError]:
    at = SPEC.child("versions")
    seen: set[str] = set()
    for n, version in enumerate(spec.versions):
        here = at.index(n)
        yield from faults_of(here.child("name"), version.name, names.dns_1035_label(version.name))
        if version.name in seen:
            yield fields.invalid(at, None, "must contain unique version names")
        seen.add(version.name)
        yield from _version(version, here)
    if sum(version.storage for version in spec.versions) != 1:
        shown = [] if not spec.versions else [version.name for version in spec.versions]
        yield fields.invalid(at, shown, "must have exactly one version marked as storage version")


def _version(version: CustomResourceDefinitionVersion, path: Path) -> Iterator[FieldError]:
    if version.deprecation_warning is not None and not version.deprecated:
        detail = "can only be set for deprecated versions"
        yield fields.invalid(path.child("deprecationWarning"), version.deprecation_warning, detail)
    at = path.child("schema", "openAPIV3Schema")
    if version.schema is None or version.schema.open_apiv3_schema is None:
        yield fields.required(at, "schemas are required")
    else:
        faults = list(schema_faults(version.schema.open_apiv3_schema, at))
        yield from faults or _rule_faults(version.schema.open_apiv3_schema, at)
    scale = version.subresources.scale if version.subresources is not None else None
    if scale is not None:
        here = path.child("subresources", "scale")
        for wire, text, start in (
            ("specReplicasPath", scale.spec_replicas_path, ".spec."),
            ("statusReplicasPath", scale.status_replicas_path, ".status."),
        ):
            if not text:
                yield fields.required(here.child(wire))
            elif not text.startswith(start):
                yield fields.invalid(here.child(wire), text, f"should be a json path under {start.rstrip('.')}")
        label = scale.label_selector_path
        if label and not label.startswith((".status.", ".spec.")):
            detail = "should be a json path under either .status or .spec"
            yield fields.invalid(here.child("labelSelectorPath"), label, detail)
    for n, column in enumerate(version.additional_printer_columns):
        here = path.child("additionalPrinterColumns").index(n)
        if not column.name:
            yield fields.required(here.child("name"))
        if not column.type:
            yield fields.required(here.child("type"), "must be one of boolean,date,integer,number,string")
        elif column.type not in _COLUMN_TYPES:
            yield fields.invalid(here.child("type"), column.type, f"must be one of {','.join(_COLUMN_TYPES)}")
        if not column.json_path:
            yield fields.required(here.child("jsonPath"))
    if len(version.selectable_fields) > 8:
        yield fields.too_many(path.child("selectableFields"), len(version.selectable_fields), 8)


def _rule_faults(schema: JSONSchemaProps, path: Path) -> list[FieldError]:
    text = scheme.encode_inner(schema)
    if b'"x-kubernetes-validations":' not in text:
        return []
    from ...validation.schema_rules import rule_faults  # CEL is loaded by the first definition that has rules

    return rule_faults(msgspec.json.decode(text), path)


def _names(given: CustomResourceDefinitionNames, path: Path) -> Iterator[FieldError]:
    if not given.plural:
        yield fields.required(path.child("plural"))
    else:
        yield from faults_of(path.child("plural"), given.plural, names.dns_1035_label(given.plural))
    if given.singular:
        yield from faults_of(path.child("singular"), given.singular, names.dns_1035_label(given.singular))
    for wire, kind in (("kind", given.kind), ("listKind", given.list_kind)):
        if not kind:
            yield fields.required(path.child(wire))
        elif names.dns_1035_label(kind.lower()):
            detail = "may have mixed case, but should otherwise match: " + names.dns_1035_label(kind.lower())[0]
            yield fields.invalid(path.child(wire), kind, detail)
    if given.kind and given.kind == given.list_kind:
        yield fields.invalid(path.child("listKind"), given.list_kind, "kind and listKind may not be the same")
    for wire, listed in (("shortNames", given.short_names), ("categories", given.categories)):
        for n, text in enumerate(listed):
            yield from faults_of(path.child(wire).index(n), text, names.dns_1035_label(text))


def _conversion(spec: CustomResourceDefinitionSpec) -> Iterator[FieldError]:
    given, at = spec.conversion, SPEC.child("conversion")
    if given is None:
        return
    if given.strategy not in ("None", "Webhook"):
        if given.strategy:
            yield fields.not_supported(at.child("strategy"), given.strategy, ("None", "Webhook"))
        else:
            yield fields.required(at.child("strategy"))
    elif given.strategy == "Webhook":
        if given.webhook is None or given.webhook.client_config is None:
            detail = "required when strategy is set to Webhook"
            yield fields.required(at.child("webhookClientConfig"), detail)
        elif not {"v1", "v1beta1"} & set(given.webhook.conversion_review_versions):
            versions = list(given.webhook.conversion_review_versions)
            detail = "must include at least one of v1, v1beta1"
            yield fields.invalid(at.child("conversionReviewVersions"), versions, detail)
    elif given.webhook is not None:
        yield fields.forbidden(at.child("webhookClientConfig"), "should not be set when strategy is not set to Webhook")


def _stored_versions(obj: CustomResourceDefinition) -> Iterator[FieldError]:
    at = STATUS.child("storedVersions")
    stored = obj.status.stored_versions if obj.status is not None else ()
    if not stored:
        yield fields.invalid(at, None, "must have at least one stored version")
    served = {version.name for version in obj.spec.versions}
    for n, name in enumerate(stored):
        if name not in served:
            detail = "missing from spec.versions; " + name
            yield fields.invalid(at.index(n), name, f"{detail.partition(';')[0]}")


STRATEGY = CustomResourceDefinitionStrategy()
