"""What is particular about one version of a custom resource, as its definition says it.

Source: apiextensions-apiserver pkg/registry/customresource/{strategy,status_strategy,validator}.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from kaa.api import fields, scheme, selectors
from kaa.api.custom import CustomObject
from kaa.api.errors import InternalError, MethodNotAllowed
from kaa.api.fields import FieldError, Path
from kaa.api.resources import Resource
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition, CustomResourceDefinitionVersion
from kaa.api.types.autoscaling_v1 import Scale, ScaleSpec, ScaleStatus

from ..bodies import refuse_other_type
from ..patch.type_view import Node, view_of_schema
from ..registry.scale import scale_metadata
from ..registry.strategy import Strategy
from .columns import as_text, selectable, steps_of, table_of, value_at, with_value
from .embedded import embedded_faults
from .ratcheting import is_old
from .structural import Structural
from .validation import Check, checker, list_checker

if TYPE_CHECKING:
    from ..validation.schema_rules import Place

_OF_OBJECTS = ("kind", "apiVersion", "metadata")
#: What every schema declares beside its own: with them it is no free-form object even when it says nothing.
_SAID_OF_ALL = {"kind": {"type": "string"}, "apiVersion": {"type": "string"}}
#: after such faults rules are not run: they may stumble over what is wrong
_BLOCKING = (fields.NOT_SUPPORTED, fields.REQUIRED, fields.TOO_LONG, fields.TOO_MANY, fields.TYPE_INVALID)


_FREE = {"x-kubernetes-preserve-unknown-fields": True}


def schema_of(version: CustomResourceDefinitionVersion) -> Mapping[str, Any]:
    """The schema of a version as plain JSON; a free object where it has none."""
    found: Mapping[str, Any] = msgspec.json.decode(schema_text(version))
    return found


def schema_text(version: CustomResourceDefinitionVersion) -> bytes:
    found = version.schema.open_apiv3_schema if version.schema is not None else None
    return scheme.encode_inner(found if found is not None else _FREE)


class CustomStrategy(Strategy[CustomObject]):
    allows_unconditional_update = False
    counts_generation = True
    free_finalizers = True

    def __init__(
        self,
        resource: Resource[CustomObject],
        definition: CustomResourceDefinition,
        version: CustomResourceDefinitionVersion,
    ) -> None:
        self._resource = resource
        self.definition, self.version = definition, version
        subresources = version.subresources
        self.has_status = subresources is not None and subresources.status is not None
        self._scale = subresources.scale if subresources is not None else None
        if self._scale is not None:
            self.replicas_path = steps_of(self._scale.spec_replicas_path)
        self.table = table_of(version)
        self._selectable = selectable(version)
        conversion = definition.spec.conversion
        self.converts_here = conversion is None or conversion.strategy == "None"
        self.deprecation = _deprecation(resource, version)
        self.terminating = False  #: the definition is being deleted: nothing new is taken

    # What a schema is made into costs ten times its text, and most definitions of a cluster have few objects or none: each
    # part is made when the first object asks for it.

    @cached_property
    def _schema(self) -> Mapping[str, Any]:
        """The schema of the content: what all objects have is looked at elsewhere."""
        return _without_metadata(schema_of(self.version))

    @cached_property
    def structural(self) -> Structural:
        return Structural(self._schema)

    @cached_property
    def _check(self) -> Check:
        return checker(self._schema)

    @cached_property
    def _check_embedded(self) -> Check | None:
        return embedded_faults(self._schema)

    @cached_property
    def _check_lists(self) -> Check | None:
        return list_checker(self._schema)

    @cached_property
    def _rules(self) -> Place | None:
        return _rules_of(schema_of(self.version))

    @cached_property
    def type_view(self) -> Node:
        return view_of_schema({**self._schema, "properties": {**self._schema["properties"], **_SAID_OF_ALL}})

    @property
    def resource(self) -> Resource[CustomObject]:
        return self._resource

    @property
    def field_names(self) -> frozenset[str]:  # type: ignore[override]  # a definition's own
        return frozenset(self._selectable)

    # ------------------------------------------------------------------------------------------------ reading

    def unknown_fields(self, document: Mapping[str, Any]) -> list[str]:
        """The paths of what the schema does not know, as strict decoding names them."""
        found: list[str] = []
        self.structural.pruned({k: v for k, v in document.items() if k not in _OF_OBJECTS}, "", found)
        return found

    def default(self, obj: CustomObject) -> CustomObject:
        content = self.structural.filled(self.structural.pruned(obj.content, "", []))
        return obj if content is obj.content else replace(obj, content=content)

    def stored(self, obj: CustomObject) -> CustomObject:
        """An object as it is shown now, of whatever version and schema it was stored under."""
        obj = self.default(obj)
        version = self._resource.api_version
        return obj if obj.api_version == version else replace(obj, api_version=version)

    # ------------------------------------------------------------------------------------------------ writing

    def prepare_create(self, obj: CustomObject) -> CustomObject:
        if self.terminating:
            raise MethodNotAllowed("create not allowed while custom resource definition is terminating")
        if self.has_status and "status" in obj.content:
            return replace(obj, content={k: v for k, v in obj.content.items() if k != "status"})
        return obj

    def prepare_update(self, new: CustomObject, old: CustomObject) -> CustomObject:
        return replace(new, content=_with(new.content, "status", old.content)) if self.has_status else new

    def prepare_status_update(self, new: CustomObject, old: CustomObject) -> CustomObject:
        metadata = replace(old.metadata, managed_fields=new.metadata.managed_fields)
        return replace(old, metadata=metadata, content=_with(old.content, "status", new.content))

    def spec_changed(self, new: CustomObject, old: CustomObject) -> bool:
        if not self.has_status:
            return new.content != old.content
        return _with(new.content, "status", {}) != _with(old.content, "status", {})

    def validate(self, obj: CustomObject) -> list[FieldError]:
        return self._validated(obj, None)

    def validate_update(self, new: CustomObject, old: CustomObject) -> list[FieldError]:
        return self._validated(new, old)

    def validate_status_update(self, new: CustomObject, old: CustomObject) -> list[FieldError]:
        return self._validated(new, old)

    def _validated(self, new: CustomObject, old: CustomObject | None) -> list[FieldError]:
        """The schema's faults; on an update, only of what the update changed."""
        refuse_other_type(new, self._resource)
        found: list[FieldError] = []
        self._check(new.content, "", found)
        if old is not None:
            found = [fault for fault in found if not is_old(fault, self._schema, new.content, old.content)]
        found += self._scale_faults(new)
        if self._check_embedded is not None:
            self._check_embedded(new.content, "", found)
        found += self._list_faults(new, old)
        if self._rules is None:
            return found
        from ..validation.schema_rules import ABSENT, NOT_CHECKED, Budget

        if any(fault.type in _BLOCKING for fault in found):
            return [*found, fields.invalid(Path("<nil>"), None, NOT_CHECKED)]
        before = _document(old) if old is not None else ABSENT
        return [*found, *self._rules.faults(_document(new), before, "", Budget())]

    def _list_faults(self, new: CustomObject, old: CustomObject | None) -> list[FieldError]:
        """Twins in sets and keyed lists; an object that had any may have them still."""
        if self._check_lists is None:
            return []
        found: list[FieldError] = []
        self._check_lists(new.content, "", found)
        held: list[FieldError] = []
        if found and old is not None:
            self._check_lists(old.content, "", held)
        return [] if held else found

    def fields(self, obj: CustomObject) -> Mapping[str, str]:
        if not self._selectable:
            return {}
        found = {name: find(obj.content) for name, find in self._selectable.items()}
        return {name: as_text(values[0]) if values else "" for name, values in found.items()}

    # ------------------------------------------------------------------------------------------------ scale

    def scale(self, obj: CustomObject) -> Scale:
        """The scale of an object. Raises InternalError when it does not say how many it wants."""
        given = self._scale
        assert given is not None
        wanted = value_at(obj.content, steps_of(given.spec_replicas_path))
        if wanted is None:
            message = f'Internal error occurred: the spec replicas field "{given.spec_replicas_path}" does not exist'
            raise InternalError(message)
        current = value_at(obj.content, steps_of(given.status_replicas_path))
        path = given.label_selector_path
        selector = value_at(obj.content, steps_of(path)) if path else None
        return Scale(
            metadata=scale_metadata(obj.metadata),
            spec=ScaleSpec(replicas=int(wanted)),
            status=ScaleStatus(
                replicas=int(current) if isinstance(current, (int, float)) else 0,
                selector=selector if isinstance(selector, str) and selector else None,
            ),
        )

    def scaled(self, obj: CustomObject, scale: Scale) -> CustomObject:
        assert self._scale is not None
        steps = steps_of(self._scale.spec_replicas_path)
        return replace(obj, content=with_value(obj.content, steps, scale.spec.replicas or 0))

    def _scale_faults(self, obj: CustomObject) -> list[FieldError]:
        """Replicas must be numbers from 0, whatever the schema says."""
        given = self._scale
        if given is None:
            return []
        found = []
        for path in (given.spec_replicas_path, given.status_replicas_path):
            value = value_at(obj.content, steps_of(path))
            if isinstance(value, int) and value < 0:
                detail = "should be a non-negative integer"
                found.append(fields.invalid(Path(path.removeprefix(".")), value, detail))
        label = value_at(obj.content, steps_of(given.label_selector_path)) if given.label_selector_path else None
        if isinstance(label, str) and label:
            try:
                selectors.parse_labels(label)
            except selectors.SelectorError as err:
                found.append(fields.invalid(Path((given.label_selector_path or "").removeprefix(".")), label, str(err)))
        return found


def _rules_of(schema: Mapping[str, Any]) -> Place | None:
    """The rules of a schema. CEL is loaded by the first that has any."""
    if b'"x-kubernetes-validations":' not in msgspec.json.encode(schema):
        return None
    from ..validation.schema_rules import place_of

    return place_of(schema, root=True)


def _without_metadata(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = {name: one for name, one in (schema.get("properties") or {}).items() if name not in _OF_OBJECTS}
    required = [name for name in schema.get("required") or () if name not in _OF_OBJECTS]
    return {**schema, "properties": properties, "required": required}


def _document(obj: CustomObject) -> dict[str, Any]:
    """What rules at the root see."""
    metadata: dict[str, Any] = {"name": obj.metadata.name or ""}
    if obj.metadata.generate_name:
        metadata["generateName"] = obj.metadata.generate_name
    return {"apiVersion": obj.api_version, "kind": obj.kind, "metadata": metadata, **obj.content}


def _with(content: Mapping[str, Any], name: str, of: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` with a field as another has it: absent if it is absent there."""
    made = {key: value for key, value in content.items() if key != name}
    if name in of:
        made[name] = of[name]
    return made


def _deprecation(resource: Resource[Any], version: CustomResourceDefinitionVersion) -> tuple[str, ...]:
    if not version.deprecated:
        return ()
    return (version.deprecation_warning or f"{resource.api_version} {resource.kind} is deprecated",)
