"""A CRD's structural schema as a CEL type, and its JSON values as CEL values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .types import Type


def type_of_schema(schema: Mapping[str, Any], *, root: bool = False) -> Type | None:
    """The CEL type of values of a structural schema (its JSON form); None where CEL can name none.

    ``root``: the schema is a custom resource's own, with apiVersion, kind and metadata.
    """
    raise NotImplementedError


def converter(schema: Mapping[str, Any], *, root: bool = False) -> Callable[[Any], Any] | None:
    """What makes a JSON value of that schema a CEL value; None where the JSON value already is one.

    Numbers become floats, ``date-time`` strings Timestamps, sets and maps in lists compare and add as such.
    """
    raise NotImplementedError
