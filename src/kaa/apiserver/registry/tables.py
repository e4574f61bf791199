"""What tables of several kinds share: columns written as words, ages, lists of containers.

A column is written ``Ready``, ``Desired:integer`` or ``IP+`` (shown only with ``-o wide``); its description is found in
``column_docs`` under the table's key.

Source: pkg/printers/internalversion/printers.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from kaa.api import selectors
from kaa.api.clock import format_duration, parse_time
from kaa.api.types.core_v1 import Container
from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta

from .column_docs import AGE, COLUMNS, NAME
from .strategy import Column, TableShape

T = TypeVar("T")

NAME_COLUMN = Column("Name", "string", "name", NAME)
UNKNOWN = "<unknown>"
NONE = "<none>"
UNSET = "<unset>"


def shape(key: str, columns: str, cells: Callable[[Any, float], Sequence[Any]]) -> TableShape[Any]:
    """The table of ``key`` (``apps/deployments``); ``columns`` are separated by ``|`` and stand behind Name."""
    return TableShape((NAME_COLUMN, *(column(key, word) for word in columns.split("|"))), cells)


def column(key: str, word: str) -> Column:
    title, _, kind = word.rstrip("+").partition(":")
    described = AGE if title == "Age" else COLUMNS.get(key, {}).get(title, "")
    name = "name" if title == "Name" else ""
    return Column(title, kind or "string", name, NAME if name else described, int(word.endswith("+")))


def created(key: str) -> TableShape[Any]:
    """Kinds without a printer of their own: Name and Created At."""
    cells = lambda obj, now: (obj.metadata.name, obj.metadata.creation_timestamp)  # noqa: E731
    return TableShape((NAME_COLUMN, Column("Created At", "date", "", AGE)), cells)


def since(time: str | None, now: float) -> str:
    return format_duration(now - parse_time(time)) if time else UNKNOWN


def age(metadata: ObjectMeta, now: float) -> str:
    return since(metadata.creation_timestamp, now)


def containers_and_images(containers: Sequence[Container]) -> tuple[str, str]:
    return ",".join(c.name for c in containers), ",".join(c.image or "" for c in containers)


def labels(given: Mapping[str, str]) -> str:
    return ",".join(f"{key}={given[key]}" for key in sorted(given)) or NONE


def label_selector(given: LabelSelector | None) -> str:
    """As ``metav1.FormatLabelSelector``: none for both the absent and the empty one."""
    try:
        return str(selectors.from_label_selector(given)) or NONE
    except selectors.SelectorError:
        return "<error>"


def first_few(words: Iterable[str], limit: int = 3) -> str:
    """``a,b,c + 2 more...``"""
    listed = list(words)
    if len(listed) <= limit:
        return ",".join(listed)
    return ",".join(listed[:limit]) + f" + {len(listed) - limit} more..."
