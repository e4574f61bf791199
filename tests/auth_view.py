"""A View over a dict, for tests of authentication, authorization and admission."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

from kaa.api.clock import VirtualClock

T = TypeVar("T")


class DictView:
    """Objects by kind, namespace and name; ``put`` and ``drop`` change the kind's version."""

    def __init__(self, *objects: Any) -> None:
        self.clock = VirtualClock()
        self._objects: dict[type, dict[tuple[str, str], Any]] = defaultdict(dict)
        self._versions: dict[type, int] = defaultdict(int)
        for obj in objects:
            self.put(obj)

    def put(self, obj: Any) -> None:
        self._objects[type(obj)][obj.metadata.namespace or "", obj.metadata.name] = obj
        self._versions[type(obj)] += 1

    def drop(self, obj: Any) -> None:
        del self._objects[type(obj)][obj.metadata.namespace or "", obj.metadata.name]
        self._versions[type(obj)] += 1

    def get(self, kind: type[T], name: str, namespace: str = "") -> T | None:
        return self._objects[kind].get((namespace, name))

    def list(self, kind: type[T], namespace: str = "") -> Iterable[T]:
        return [obj for (ns, _), obj in self._objects[kind].items() if namespace in ("", ns)]

    def changes(self, kind: type[T], namespace: str, after: int) -> Iterable[tuple[str, T | None]] | None:
        return None

    def version(self, kind: type[T]) -> int:
        return self._versions[kind]
