"""CustomResourceDefinitions; their schemas are looked at in ``schemas``.

Source: apiextensions-apiserver pkg/registry/customresourcedefinition/strategy.go; ValidateCustomResourceDefinition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import fields, names, scheme
from kaa.api.fields import FieldError, Path, shown
from kaa.api.types.apiextensions_v1 import (
    CustomResourceColumnDefinition,
    CustomResourceConversion,
    CustomResourceDefinition,
    CustomResourceDefinitionCondition,
    CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec,
    CustomResourceDefinitionStatus,
    CustomResourceDefinitionVersion,
    CustomResourceSubresourceScale,
    JSONSchemaProps,
    SelectableField,
)
from kaa.api.values import whole

from ...validation.common import METADATA, SPEC, STATUS, faults_of, immutable
from ..strategy import Strategy
from ..tables import created
from .field_paths import field_at
from .schemas import every_schema, schema_faults

#: Held until no object of the resource is left.
CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
TERMINATING = "Terminating"
_SCOPES = ("Cluster", "Namespaced")
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_PLAIN_PATH = "must be a simple json path starting with ."
_POINTED = re.compile(rb"\d\.0[,}\]]")
_MOST_SELECTABLE = 8
_BLANK_NAMES = CustomResourceDefinitionNames(kind="", plural="")


class CustomResourceDefinitionStrategy(Strategy[CustomResourceDefinition]):
    kind = CustomResourceDefinition
    allows_unconditional_update = False
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
        return replace(obj, spec=replace(_with_whole_numbers(spec), **changes))

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

    def warnings(self, obj: CustomResourceDefinition, old: CustomResourceDefinition | None) -> list[str]:
        """Formats that values are not held to, unless they stood there before."""
        known = set(_odd_formats(old)) if old is not None else set()
        return [f"unrecognized format {shown(name)}" for name in _odd_formats(obj) if name not in known]

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


def _odd_formats(obj: CustomResourceDefinition) -> list[str]:
    """The formats in a definition's schemas that do not count, each once."""
    from ...custom.formats import known_format

    tops = [version.schema.open_apiv3_schema for version in obj.spec.versions if version.schema is not None]
    found = ((one.type or "", one.format) for top in tops if top is not None for one in every_schema(top) if one.format)
    return list(dict.fromkeys(format for type, format in found if format and not known_format(type, format)))


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


def _with_whole_numbers(spec: CustomResourceDefinitionSpec) -> CustomResourceDefinitionSpec:
    """``9.0`` in a schema is ``9``, as it is after Go has read it."""
    text = scheme.encode_inner(spec)
    if not _POINTED.search(text):
        return spec
    decoder = msgspec.json.Decoder(float_hook=lambda word: whole(float(word)))
    return scheme.convert(CustomResourceDefinitionSpec, decoder.decode(text))


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
    yield from _group(spec.group, SPEC.child("group"))
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


def _group(group: str, path: Path) -> Iterator[FieldError]:
    if not group:
        yield fields.required(path)
    elif wrong := names.dns_subdomain(group):
        yield fields.invalid(path, group, ",".join(wrong))
    elif "." not in group:
        yield fields.invalid(path, group, "should be a domain with at least one dot")


def _versions(spec: CustomResourceDefinitionSpec) -> Iterator[FieldError]:
    at = SPEC.child("versions")
    for n, version in enumerate(spec.versions):
        here = at.index(n)
        yield from faults_of(here.child("name"), version.name, names.dns_1035_label(version.name))
        yield from _version(version, here)
    if len({version.name for version in spec.versions}) < len(spec.versions):
        shown = [version.name for version in spec.versions]
        yield fields.invalid(at, shown, "must contain unique version names")
    if sum(version.storage for version in spec.versions) != 1:
        shown = [] if not spec.versions else [version.name for version in spec.versions]
        yield fields.invalid(at, shown, "must have exactly one version marked as storage version")


def _version(version: CustomResourceDefinitionVersion, path: Path) -> Iterator[FieldError]:
    for detail in _warning_faults(version):
        yield fields.invalid(path.child("deprecationWarning"), version.deprecation_warning or "", detail)
    at = path.child("schema", "openAPIV3Schema")
    schema = version.schema.open_apiv3_schema if version.schema is not None else None
    if schema is None:
        yield fields.required(at, "schemas are required")
    else:
        faults = schema_faults(schema, at)
        yield from faults or _rule_faults(schema, at)
    if version.subresources is not None and version.subresources.scale is not None:
        yield from _scale(version.subresources.scale, path.child("subresources"))
    for n, column in enumerate(version.additional_printer_columns):
        yield from _column(column, path.child("additionalPrinterColumns").index(n))
    if schema is not None:
        yield from _selectable(version.selectable_fields, schema, path.child("selectableFields"))


def _warning_faults(version: CustomResourceDefinitionVersion) -> Iterator[str]:
    text = version.deprecation_warning
    if text is None:
        return
    if not version.deprecated:
        yield "can only be set for deprecated versions"
        return
    if len(text.encode()) > 256:
        yield "must be <= 256 characters long"
    if not text:
        yield "must not be an empty string"
    odd = next((n for n, char in enumerate(text) if not char.isprintable()), None)
    if odd is not None:
        at = len(text[:odd].encode())
        yield f"must only contain printable UTF-8 characters; non-printable character found at index {at}"


def _scale(scale: CustomResourceSubresourceScale, path: Path) -> Iterator[FieldError]:
    for wire, text, root in (
        ("specReplicasPath", scale.spec_replicas_path, ".spec"),
        ("statusReplicasPath", scale.status_replicas_path, ".status"),
    ):
        here = path.child("scale", wire)
        if not text:
            yield fields.required(here)
        elif not text.startswith("."):
            yield fields.invalid(here, text, _PLAIN_PATH)
        elif not text.startswith(f"{root}."):
            yield fields.invalid(here, text, f"should be a json path under {root}")
    label, here = scale.label_selector_path, path.child("scale", "labelSelectorPath")
    if label and not label.startswith("."):
        yield fields.invalid(here, label, _PLAIN_PATH)
    elif label and not label.startswith((".status.", ".spec.")):
        yield fields.invalid(here, label, "should be a json path under either .spec or .status")


def _column(column: CustomResourceColumnDefinition, path: Path) -> Iterator[FieldError]:
    if not column.name:
        yield fields.required(path.child("name"))
    if not column.type:
        yield fields.required(path.child("type"), f"must be one of {','.join(_COLUMN_TYPES)}")
    elif column.type not in _COLUMN_TYPES:
        yield fields.invalid(path.child("type"), column.type, f"must be one of {','.join(_COLUMN_TYPES)}")
    if column.format and column.format not in _COLUMN_FORMATS:
        yield fields.invalid(path.child("format"), column.format, f"must be one of {','.join(_COLUMN_FORMATS)}")
    if not column.json_path:
        yield fields.required(path.child("JSONPath"))
    elif not column.json_path.startswith("."):
        yield fields.invalid(path.child("JSONPath"), column.json_path, _PLAIN_PATH)


def _selectable(given: Sequence[SelectableField], schema: JSONSchemaProps, path: Path) -> Iterator[FieldError]:
    seen: set[str] = set()
    for n, one in enumerate(given):
        here, text = path.index(n).child("jsonPath"), one.json_path
        if not text:
            yield fields.required(here)
            continue
        found = field_at(schema, text, brackets=False)
        if isinstance(found, str):
            yield fields.invalid(here, text, f"is an invalid path: {found}")
            continue
        if text.split(".")[1] == "metadata":
            yield fields.invalid(here, text, "must not point to fields in metadata")
        if found.type not in ("string", "boolean", "integer"):
            detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
            yield fields.invalid(here, text, detail)
        if text in seen:
            yield fields.duplicate(here, text)
        seen.add(text)
    if len(seen) > _MOST_SELECTABLE:
        yield fields.too_many(path, len(seen), _MOST_SELECTABLE)


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
    if not given.strategy:
        yield fields.required(at.child("strategy"))
    elif given.strategy not in ("None", "Webhook"):
        yield fields.not_supported(at.child("strategy"), given.strategy, ("None", "Webhook"))
    config = given.webhook.client_config if given.webhook is not None else None
    versions = given.webhook.conversion_review_versions if given.webhook is not None else ()
    if given.strategy == "Webhook":
        if config is None:
            yield fields.required(at.child("webhookClientConfig"), "required when strategy is set to Webhook")
        elif (config.url is None) == (config.service is None):
            yield fields.required(at.child("webhookClientConfig"), "exactly one of url or service is required")
        yield from _review_versions(versions, at.child("conversionReviewVersions"))
        return
    for wire, set_ in (("webhookClientConfig", config is not None), ("conversionReviewVersions", bool(versions))):
        if set_:
            yield fields.forbidden(at.child(wire), "should not be set when strategy is not set to Webhook")


def _review_versions(versions: Sequence[str], path: Path) -> Iterator[FieldError]:
    if not versions:
        yield fields.required(path)
        return
    for n, version in enumerate(versions):
        if version in versions[:n]:
            yield fields.invalid(path.index(n), version, "duplicate version")
        else:
            yield from faults_of(path.index(n), version, names.dns_1035_label(version))
    if not {"v1", "v1beta1"} & set(versions):
        yield fields.invalid(path, list(versions), "must include at least one of v1, v1beta1")


def _stored_versions(obj: CustomResourceDefinition) -> Iterator[FieldError]:
    at = STATUS.child("storedVersions")
    stored = obj.status.stored_versions if obj.status is not None else ()
    if not stored:
        yield fields.invalid(at, [], "must have at least one stored version")
        return
    for version in obj.spec.versions:
        if version.storage and version.name not in stored:
            yield fields.invalid(at, list(stored), f"must have the storage version {version.name}")
    known = {version.name for version in obj.spec.versions}
    for n, name in enumerate(stored):
        if name not in known:
            detail = (
                f"missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until"
                f" a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            )
            yield fields.invalid(at.index(n), name, detail)


STRATEGY = CustomResourceDefinitionStrategy()
