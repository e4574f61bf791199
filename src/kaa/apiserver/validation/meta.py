"""ObjectMeta: names, labels, annotations, owners, finalizers.

Source: apimachinery pkg/api/validation/objectmeta.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.meta_v1 import ManagedFieldsEntry, ObjectMeta, OwnerReference

from .common import IMMUTABLE, METADATA, NOT_NEGATIVE

NameFaults = Callable[[str], list[str]]

#: Bytes that all annotations of an object may take together.
ANNOTATIONS_LIMIT_BYTES = 262144
_STANDARD_FINALIZERS = frozenset(("orphan", "foregroundDeletion"))
_PLAIN_FINALIZERS = _STANDARD_FINALIZERS | {"kubernetes"}


def validate_meta(
    metadata: ObjectMeta,
    *,
    namespaced: bool,
    name_faults: NameFaults,
    path: Path = METADATA,
    free_finalizers: bool = False,
) -> list[FieldError]:
    """The faults of an object's metadata, as a create checks it. ``free_finalizers``: they need no domain."""
    found: list[FieldError] = []
    if metadata.generate_name:
        faults = name_faults(_without_trailing_dash(metadata.generate_name))
        found += (fields.invalid(path.child("generateName"), metadata.generate_name, fault) for fault in faults)
    if metadata.name:
        faults = name_faults(metadata.name)
        if faults:
            found += (fields.invalid(path.child("name"), metadata.name, fault) for fault in faults)
    else:
        found.append(fields.required(path.child("name"), "name or generateName is required"))
    if namespaced:
        found += _namespace_faults(metadata.namespace, path)
    elif metadata.namespace:
        found.append(fields.forbidden(path.child("namespace"), "not allowed on this type"))
    found += _content_faults(metadata, path, free_finalizers)
    return found


def validate_meta_update(
    new: ObjectMeta, old: ObjectMeta, path: Path = METADATA, *, free_finalizers: bool = False
) -> list[FieldError]:
    """What an update of the metadata may not change; the handlers have filled absent system fields from ``old``."""
    found: list[FieldError] = []
    if (new.generation or 0) < (old.generation or 0):
        found.append(fields.invalid(path.child("generation"), new.generation or 0, "must not be decremented"))
    if old.deletion_timestamp is not None and new.finalizers != old.finalizers:
        added = sorted(set(new.finalizers) - set(old.finalizers))
        if added:
            detail = "no new finalizers can be added if the object is being deleted, found new finalizers " + _strings(
                added
            )
            found.append(fields.forbidden(path.child("finalizers"), detail))
    for name, wire in _FIXED:
        value = getattr(new, name)
        if value != getattr(old, name):
            found.append(fields.invalid(path.child(wire), value, IMMUTABLE))
    found += _content_faults(new, path, free_finalizers)
    return found


_FIXED = (
    ("name", "name"),
    ("namespace", "namespace"),
    ("uid", "uid"),
    ("creation_timestamp", "creationTimestamp"),
    ("deletion_timestamp", "deletionTimestamp"),
    ("deletion_grace_period_seconds", "deletionGracePeriodSeconds"),
)


def _strings(words: Sequence[str]) -> str:
    """As Go prints a []string with ``%#v``."""
    return "[]string{" + ", ".join(fields.shown(word) for word in words) + "}"


def _without_trailing_dash(text: str) -> str:
    """A generated name may end in what only a name's end may not have."""
    return text[:-1] + "a" if len(text) > 1 and text.endswith("-") else text


def _namespace_faults(namespace: str | None, path: Path) -> Iterator[FieldError]:
    if not namespace:
        yield fields.required(path.child("namespace"))
        return
    for fault in names.dns_label(namespace):
        yield fields.invalid(path.child("namespace"), namespace, fault)


def _content_faults(metadata: ObjectMeta, path: Path, free_finalizers: bool) -> list[FieldError]:
    found: list[FieldError] = []
    if metadata.generation is not None and metadata.generation < 0:
        found.append(fields.invalid(path.child("generation"), metadata.generation, NOT_NEGATIVE))
    if metadata.labels:
        found += label_faults(metadata.labels, path.child("labels"))
    if metadata.annotations:
        found += annotation_faults(metadata.annotations, path.child("annotations"))
    if metadata.owner_references:
        found += owner_faults(metadata.owner_references, path.child("ownerReferences"))
    if metadata.finalizers:
        found += _finalizer_faults(metadata.finalizers, path.child("finalizers"), free_finalizers)
    if metadata.managed_fields:
        found += _managed_faults(metadata.managed_fields, path.child("managedFields"))
    return found


def label_faults(labels: Mapping[str, str], path: Path) -> Iterator[FieldError]:
    for key in sorted(labels):
        for fault in names.qualified_name(key):
            yield fields.invalid(path, key, fault)
        for fault in names.label_value(labels[key]):
            yield fields.invalid(path, labels[key], fault)


def annotation_faults(annotations: Mapping[str, str], path: Path) -> Iterator[FieldError]:
    for key in sorted(annotations):
        for fault in names.qualified_name(key.lower()):
            yield fields.invalid(path, key, fault)
    if sum(len(key) + _bytes(value) for key, value in annotations.items()) > ANNOTATIONS_LIMIT_BYTES:
        yield fields.too_long(path, ANNOTATIONS_LIMIT_BYTES)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def owner_faults(owners: Sequence[OwnerReference], path: Path) -> Iterator[FieldError]:
    controller = ""
    for n, owner in enumerate(owners):
        at = path.index(n)
        if not owner.api_version or owner.api_version.count("/") > 1:
            yield fields.invalid(at.child("apiVersion"), owner.api_version, "version must not be empty")
        if not owner.kind:
            yield fields.invalid(at.child("kind"), owner.kind, "must not be empty")
        if not owner.name:
            yield fields.invalid(at.child("name"), owner.name, "must not be empty")
        if not owner.uid:
            yield fields.invalid(at.child("uid"), owner.uid, "must not be empty")
        if (owner.api_version, owner.kind) == ("v1", "Event"):
            yield fields.invalid(at, "/v1, Kind=Event", "/v1, Kind=Event is disallowed from being an owner")
        if owner.controller:
            if controller:
                detail = (
                    'Only one reference can have Controller set to true. Found "true" in references for'
                    f" {controller} and {owner.name}"
                )
                yield fields.invalid(path, [_plain(o) for o in owners], detail)
            controller = owner.name


def _plain(owner: OwnerReference) -> dict[str, Any]:
    shown = {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
    if owner.controller is not None:
        shown["controller"] = owner.controller  # type: ignore[assignment]
    return shown


def _finalizer_faults(finalizers: Sequence[str], path: Path, free: bool) -> Iterator[FieldError]:
    for text in finalizers:
        faults = names.qualified_name(text)
        for fault in faults:
            yield fields.invalid(path, text, fault)
        if not free and not faults and "/" not in text and text not in _PLAIN_FINALIZERS:
            yield fields.invalid(path, text, "name is neither a standard finalizer name nor is it fully qualified")
    if set(finalizers) >= _STANDARD_FINALIZERS:
        detail = "finalizer orphan and foregroundDeletion cannot be both set"
        yield fields.invalid(path, list(finalizers), detail)


def _managed_faults(entries: Sequence[ManagedFieldsEntry], path: Path) -> Iterator[FieldError]:
    for n, entry in enumerate(entries):
        at = path.index(n)
        if entry.operation not in ("Apply", "Update"):
            yield fields.invalid(at.child("operation"), entry.operation or "", "must be `Apply` or `Update`")
        if entry.fields_type and entry.fields_type != "FieldsV1":
            yield fields.invalid(at.child("fieldsType"), entry.fields_type, "must be `FieldsV1`")
        if len(entry.manager or "") > 128:
            yield fields.too_long(at.child("manager"), 128)
        if len(entry.subresource or "") > 256:
            yield fields.too_long(at.child("subresource"), 256)
