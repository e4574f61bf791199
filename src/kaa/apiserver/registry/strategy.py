"""What is particular about one resource; everything else the handlers do alike for all.

A strategy is pure: objects in, objects or faults out. The handlers call it in this order.

====================  ===========================================================================================
create                ``default`` · ``prepare_create`` · ``asked_by`` · (admission) · ``allocate`` · ``validate``
                      · store
update, patch, apply  ``default`` · ``prepare_update`` · (admission) · ``allocate`` · ``validate_update`` · store
status                ``default`` · ``prepare_status_update`` · ``validate_status_update`` · store
====================  ===========================================================================================

A resource's module ends with its one instance, and ``registry.STRATEGIES`` names the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from msgspec.structs import replace

from kaa.api import names
from kaa.api.fields import FieldError
from kaa.api.resources import Resource
from kaa.api.scheme import resource_of
from kaa.api.types.autoscaling_v1 import Scale
from kaa.client.pipeline import User

from ..view import View
from .scale import scale_of, with_scale

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of kubectl's table. ``priority`` above 0 shows with ``-o wide`` only."""

    name: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class TableShape(Generic[T]):
    """How a resource is printed: its columns, and the cells of one object at ``now`` (seconds since 1970)."""

    columns: tuple[Column, ...]
    cells: Callable[[T, float], Sequence[Any]]


class Strategy(Generic[T]):
    """The behaviour that most resources share; a resource overrides what it does differently."""

    #: The Struct; its resource follows from it.
    kind: type[T]
    #: Whether ``metadata.generation`` counts changes of the spec.
    counts_generation: ClassVar[bool] = False
    #: May PUT create the object, as upstream allows for some kinds.
    allows_create_on_update: ClassVar[bool] = False
    #: May an update come without a resourceVersion.
    allows_unconditional_update: ClassVar[bool] = True
    #: None: the columns Name and Age.
    table: TableShape[T] | None = None

    @property
    def resource(self) -> Resource[T]:
        return resource_of(self.kind)

    @staticmethod
    def name_faults(name: str, /) -> list[str]:
        """What is wrong with a name of this kind."""
        return names.dns_subdomain(name)

    #: How the fields of a document are told apart, where no Struct says it: ``patch.type_view.Node``.
    type_view: Any = None
    #: Whether other versions of the resource can be shown, and their fields told apart, without asking anyone.
    converts_here: bool = True

    def unknown_fields(self, document: Mapping[str, Any]) -> list[str]:
        """The paths of what a document has and its kind does not, where no Struct says it."""
        return []

    def default(self, obj: T) -> T:
        """Fill what the API fills when a field is absent."""
        return obj

    def prepare_create(self, obj: T) -> T:
        """Drop what a creator may not set (status) and set what the server sets."""
        return obj

    def asked_by(self, obj: T, user: User) -> T:
        """Write down who creates it, for kinds that say so; runs after ``prepare_create``."""
        return obj

    def prepare_update(self, new: T, old: T) -> T:
        """Carry over what an update of the main resource may not change (status)."""
        return obj_with_status_of(new, old)

    def prepare_status_update(self, new: T, old: T) -> T:
        """Carry over everything but the status and the metadata that a status update may change."""
        return obj_with_spec_of(new, old)

    def allocate(self, new: T, old: T | None, view: View) -> T:
        """Fill what depends on other objects (cluster IPs, node ports). Raises ApiError; runs without an await, right
        before the object is stored, so what it saw as free is free."""
        return new

    def validate(self, obj: T) -> list[FieldError]:
        return []

    def validate_update(self, new: T, old: T) -> list[FieldError]:
        return self.validate(new)

    def validate_status_update(self, new: T, old: T) -> list[FieldError]:
        return []

    #: Texts for Warning headers of whoever uses the resource.
    deprecation: tuple[str, ...] = ()

    def warnings(self, obj: T, old: T | None) -> Sequence[str]:
        """Texts for Warning headers."""
        return ()

    def fields(self, obj: T) -> Mapping[str, str]:
        """Selectable fields besides ``metadata.name`` and ``metadata.namespace``: {path: text}."""
        return {}

    #: The paths that ``fields`` answers.
    field_names: ClassVar[frozenset[str]] = frozenset()

    #: Whether finalizers need no domain in their names.
    free_finalizers: ClassVar[bool] = False
    #: Finalizers that an object gets when it is first asked to go.
    deletion_finalizers: ClassVar[tuple[str, ...]] = ()

    #: Where an object says how many it wants, for its scale.
    replicas_path: Sequence[str] = ("spec", "replicas")

    def scale(self, obj: T) -> Scale:
        """The scale subresource of an object."""
        return scale_of(obj)

    def scaled(self, obj: T, scale: Scale) -> T:
        """The object with what its scale asks for."""
        return with_scale(obj, scale)

    def stored(self, obj: T) -> T:
        """An object that was read from the store, as it is shown now."""
        return obj

    def grace_s(self, obj: T, asked: int | None) -> int:
        """How long a deletion leaves the object to end; 0 for kinds that end at once."""
        return 0

    def prepare_deletion(self, obj: T) -> T:
        """What else changes when an object is marked for deletion."""
        return obj

    def subresource_update(self, subresource: str, new: T, old: T) -> T | None:
        """The object that an update of a subresource other than status makes (``resize``, ``approval``, ``finalize``);
        None when there is no such subresource."""
        return None

    def validate_subresource_update(self, subresource: str, new: T, old: T) -> list[FieldError]:
        """The faults of what ``subresource_update`` made."""
        return []

    def spec_changed(self, new: T, old: T) -> bool:
        """Whether the generation counts this update."""
        return bool(getattr(new, "spec", None) != getattr(old, "spec", None))


def obj_with_status_of(new: T, old: T) -> T:
    if hasattr(new, "status"):
        return replace(new, status=old.status)  # type: ignore[type-var,attr-defined]
    return new


def obj_with_spec_of(new: T, old: T) -> T:
    """``old`` with the status of ``new``."""
    if hasattr(new, "status"):
        return replace(old, status=new.status, metadata=new.metadata)  # type: ignore[type-var,attr-defined]
    return new
