"""CustomResourceDefinitions; their schemas are looked at in ``schemas``.

Source: apiextensions-apiserver pkg/registry/customresourcedefinition/strategy.go; ValidateCustomResourceDefinition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
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
from .conversions import bundle_problem, conversion_faults
from .field_paths import field_at
from .schemas import every_schema, root_faults, schema_faults

#: Held until no object of the resource is left.
CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
TERMINATING = "Terminating"
APPROVAL = "api-approved.kubernetes.io"
MISSING, INVALID = "MissingAnnotation", "InvalidAnnotation"
UNAPPROVED, APPROVED = "UnapprovedAnnotation", "ApprovedAnnotation"
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
            singular = given.singular or given.kind.lower()
            list_kind = given.list_kind or (f"{given.kind}List" if given.kind else "")
            changes["names"] = replace(given, singular=singular, list_kind=list_kind)
        if spec.conversion is None:
            changes["conversion"] = CustomResourceConversion(strategy="None")
        else:
            changes["conversion"] = _default_conversion(spec.conversion)
        return replace(obj, spec=replace(_with_whole_numbers(spec), **changes))

    def prepare_create(self, obj: CustomResourceDefinition) -> CustomResourceDefinition:
        stored = tuple(version.name for version in obj.spec.versions if version.storage)[:1]
        status = CustomResourceDefinitionStatus(accepted_names=_BLANK_NAMES, stored_versions=stored or None)
        return replace(obj, status=status)

    def prepare_update(self, new: CustomResourceDefinition, old: CustomResourceDefinition) -> CustomResourceDefinition:
        status = old.status or CustomResourceDefinitionStatus(accepted_names=_BLANK_NAMES)
        known = status.stored_versions or ()
        added = tuple(version.name for version in new.spec.versions if version.storage and version.name not in known)
        return replace(new, status=replace(status, stored_versions=known + added or None))

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
        return list(_faults(obj, None))

    def validate_update(self, new: CustomResourceDefinition, old: CustomResourceDefinition) -> list[FieldError]:
        found = list(_faults(new, old))
        if found:
            found = _still_told(found, list(_faults(old, old)))
        if is_established(old):
            found += immutable(SPEC.child("scope"), new.spec.scope, old.spec.scope)
            found += immutable(SPEC.child("names", "kind"), new.spec.names.kind, old.spec.names.kind)
        found += immutable(SPEC.child("group"), new.spec.group, old.spec.group)
        found += immutable(SPEC.child("names", "plural"), new.spec.names.plural, old.spec.names.plural)
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
    conditions = status.conditions or ()
    held = next((one for one in conditions if one.type == wanted.type), None)
    if held is None:
        return replace(status, conditions=(*conditions, replace(wanted, last_transition_time=now)))
    moment = held.last_transition_time if held.status == wanted.status else now
    made = replace(wanted, last_transition_time=moment)
    return replace(status, conditions=tuple(made if one is held else one for one in conditions))


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


def is_established(obj: CustomResourceDefinition) -> bool:
    conditions = obj.status.conditions if obj.status is not None else None
    return any(one.type == "Established" and one.status == "True" for one in conditions or ())


def _faults(obj: CustomResourceDefinition, old: CustomResourceDefinition | None) -> Iterator[FieldError]:
    """Everything that is wrong with a definition; ``old`` is what stands, of which some faults may be kept."""
    spec = obj.spec
    if obj.metadata.name != f"{spec.names.plural}.{spec.group}":
        yield fields.invalid(METADATA.child("name"), obj.metadata.name, 'must be spec.names.plural+"."+spec.group')
    yield from _group(spec.group, SPEC.child("group"))
    if not spec.scope:
        yield fields.required(SPEC.child("scope"))
    elif spec.scope not in _SCOPES:
        yield fields.not_supported(SPEC.child("scope"), spec.scope, _SCOPES)
    yield from _versions(spec)
    if spec.conversion is not None:
        any_bundle = old is None or not is_established(old) or _has_odd_bundle(old.spec)
        yield from conversion_faults(spec.conversion, SPEC.child("conversion"), any_bundle=any_bundle)
    yield from _stored_versions(obj)
    yield from _unapproved(obj, old)
    if spec.preserve_unknown_fields and not (old is not None and old.spec.preserve_unknown_fields):
        detail = (
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        )
        yield fields.invalid(SPEC.child("preserveUnknownFields"), True, detail)


def _has_odd_bundle(spec: CustomResourceDefinitionSpec) -> bool:
    hook = spec.conversion.webhook if spec.conversion is not None else None
    bundle = hook.client_config.ca_bundle if hook is not None and hook.client_config is not None else None
    return bool(bundle) and bool(bundle_problem(bundle or ""))


def _unapproved(obj: CustomResourceDefinition, old: CustomResourceDefinition | None) -> Iterator[FieldError]:
    """A group of Kubernetes' own needs an annotation; one that lacked it may lack it still."""
    state, reason = approval_of(obj)
    if old is not None and approval_of(old)[0] == state:
        return
    path, said = METADATA.child("annotations").key(APPROVAL), obj.metadata.annotations.get(APPROVAL, "")
    if state == MISSING:
        yield fields.required(path, reason)
    elif state == INVALID:
        yield fields.invalid(path, said, reason)


def approval_of(obj: CustomResourceDefinition) -> tuple[str, str]:
    """The reason of the condition ``KubernetesAPIApprovalPolicyConformant``, and its message; none for other groups."""
    group, said = obj.spec.group, obj.metadata.annotations.get(APPROVAL, "")
    if not f".{group}".endswith((".k8s.io", ".kubernetes.io")):
        return "", ""
    see = "see https://github.com/kubernetes/enhancements/pull/1111"
    if not said:
        return MISSING, f'protected groups must have approval annotation "{APPROVAL}", {see}'
    if said.startswith("unapproved"):
        return UNAPPROVED, f"not approved: {shown(said)}"
    scheme, found, rest = said.partition("://")
    if scheme and found and rest.partition("/")[0]:
        return APPROVED, f"approved in {said}"
    either = 'with either a URL or a reason starting with "unapproved"'
    return INVALID, f'protected groups must have approval annotation "{APPROVAL}" {either}, {see}'


#: Faults that a definition may have still, when any such stood in it: upstream came to refuse them later.
_KEPT = tuple(
    re.compile(pattern)
    for pattern in (
        r"must not have unknown fields$",
        r"must be atomic as item of a list with x-kubernetes-list-type=set$",
        r"cannot be nullable when x-kubernetes-list-type is|this property is in x-kubernetes-list-map-keys",
        r"^\S+\.type: Unsupported value",
        r"conversionReviewVersions: Invalid value: .*must include at least one of",
        r"schemas are required$",
    )
)
_COSTLY = re.compile(r"estimated (?:rule|messageExpression) cost exceeds budget")


def _still_told(found: list[FieldError], held: list[FieldError]) -> list[FieldError]:
    """The faults of an update that did not stand before."""
    words = [str(fault) for fault in held]
    kept = [pattern for pattern in _KEPT if any(pattern.search(text) for text in words)]

    def is_kept(text: str) -> bool:
        return any(pattern.search(text) for pattern in kept) or (text in words and _COSTLY.search(text) is not None)

    return [fault for fault in found if not is_kept(str(fault))]


def _group(group: str, path: Path) -> Iterator[FieldError]:
    if not group:
        yield fields.required(path)
    elif wrong := names.dns_subdomain(group):
        yield fields.invalid(path, group, ",".join(wrong))
    elif "." not in group:
        yield fields.invalid(path, group, "should be a domain with at least one dot")


def _versions(spec: CustomResourceDefinitionSpec) -> Iterator[FieldError]:
    """The versions. What is the same in all of them is spoken of once, at the fields where older definitions had it."""
    at, versions = SPEC.child("versions"), spec.versions
    for n, version in enumerate(versions):
        if _schema(version) is None:
            yield fields.required(at.index(n).child("schema", "openAPIV3Schema"), "schemas are required")
    one_schema, one_subresources = _all_same(v.schema for v in versions), _all_same(v.subresources for v in versions)
    one_table = _all_same(v.additional_printer_columns for v in versions)
    one_choice = one_schema and _all_same(v.selectable_fields for v in versions)
    for n, version in enumerate(versions):
        here = at.index(n)
        if wrong := names.dns_1035_label(version.name):
            yield fields.invalid(here.child("name"), version.name, ",".join(wrong))
        for detail in _warning_faults(version):
            yield fields.invalid(here.child("deprecationWarning"), version.deprecation_warning or "", detail)
        if not one_schema:
            yield from _schema_faults(version, here.child("schema", "openAPIV3Schema"))
        if not one_subresources:
            yield from _subresources(version, here)
        if not one_table:
            yield from _columns(version, here)
        if not one_choice:
            yield from _selectable_of(version, here)
    shown_versions = [version.name for version in versions]
    if len(set(shown_versions)) < len(versions):
        yield fields.invalid(at, shown_versions, "must contain unique version names")
    if sum(version.storage for version in versions) != 1:
        yield fields.invalid(at, shown_versions, "must have exactly one version marked as storage version")
    if versions and (wrong := names.dns_1035_label(versions[0].name)):
        yield fields.invalid(SPEC.child("version"), versions[0].name, ",".join(wrong))
    yield from _names(spec.names, SPEC.child("names"))
    for version in versions[:1]:
        if one_schema:
            yield from _schema_faults(version, SPEC.child("validation", "openAPIV3Schema"))
        if one_subresources:
            yield from _subresources(version, SPEC)
        if one_table:
            yield from _columns(version, SPEC)
        if one_choice:
            yield from _selectable_of(version, SPEC)


def _all_same(values: Iterable[object]) -> bool:
    listed = list(values)
    return all(one == listed[0] for one in listed)


def _schema(version: CustomResourceDefinitionVersion) -> JSONSchemaProps | None:
    return version.schema.open_apiv3_schema if version.schema is not None else None


def _schema_faults(version: CustomResourceDefinitionVersion, path: Path) -> list[FieldError]:
    schema = _schema(version)
    if schema is None:
        return []
    has_status = version.subresources is not None and version.subresources.status is not None
    found = [*(root_faults(schema, path) if has_status else ()), *schema_faults(schema, path)]
    return found or _rule_faults(schema, path)


def _subresources(version: CustomResourceDefinitionVersion, path: Path) -> Iterator[FieldError]:
    if version.subresources is not None and version.subresources.scale is not None:
        yield from _scale(version.subresources.scale, path.child("subresources"))


def _columns(version: CustomResourceDefinitionVersion, path: Path) -> Iterator[FieldError]:
    for n, column in enumerate(version.additional_printer_columns):
        yield from _column(column, path.child("additionalPrinterColumns").index(n))


def _selectable_of(version: CustomResourceDefinitionVersion, path: Path) -> Iterator[FieldError]:
    schema = _schema(version)
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
    kinds = (("kind", given.kind), ("listKind", given.list_kind))
    plain = (("plural", given.plural), ("singular", given.singular))
    for wire, text in (*plain, *kinds):
        if not text:
            yield fields.required(path.child(wire))
    for wire, text in plain:
        if text:
            yield from faults_of(path.child(wire), text, names.dns_1035_label(text))
    for wire, kind in kinds:
        if kind and (wrong := names.dns_1035_label(kind.lower())):
            detail = f"may have mixed case, but should otherwise match: {','.join(wrong)}"
            yield fields.invalid(path.child(wire), kind, detail)
    if given.kind and given.kind == given.list_kind:
        yield fields.invalid(path.child("listKind"), given.list_kind, "kind and listKind may not be the same")
    for wire, listed in (("shortNames", given.short_names), ("categories", given.categories)):
        for n, text in enumerate(listed):
            yield from faults_of(path.child(wire).index(n), text, names.dns_1035_label(text))


def _stored_versions(obj: CustomResourceDefinition) -> Iterator[FieldError]:
    at = STATUS.child("storedVersions")
    stored = obj.status.stored_versions if obj.status is not None else ()
    if not stored:
        yield fields.invalid(at, None, "must have at least one stored version")
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
