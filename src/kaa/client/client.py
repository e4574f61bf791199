"""The one client: typed calls on any Kubernetes API server, whatever carries them.

``http`` carries them over TLS, ``inprocess`` hands them to an API server in the same process. Nobody can tell which from
the answers. Objects are immutable Structs (``Pod``, ``Deployment``); of a resource without a Struct they are
``api.custom.CustomObject``. Every call raises the ``api.errors`` tree.

    pod = await client.get(Pod, "web-0", namespace="default")
    await client.update_status(replace(pod, status=replace(pod.status, phase="Running")))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from kaa.api.resources import Resource
from kaa.api.types.meta_v1 import DeleteOptions

T = TypeVar("T")
#: What names a resource in a call: its Struct class, or its row.
Kind = type[T] | Resource[T]


class PatchType(StrEnum):
    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class WatchType(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """One step of a watch. On BOOKMARK ``object`` is None; ``resource_version`` always says how far the watch is."""

    type: WatchType
    object: T | None
    resource_version: str


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """Objects as of one resource version. ``continue_token`` is empty on the last page."""

    items: Sequence[T]
    resource_version: str
    continue_token: str = ""
    remaining: int | None = None


class Client(Protocol):
    """``namespace`` None means "all" for lists and watches, and "has none" for cluster-scoped objects."""

    async def get(self, kind: Kind[T], name: str, namespace: str | None = None) -> T: ...

    async def list(
        self,
        kind: Kind[T],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_token: str = "",
        resource_version: str = "",
    ) -> Listing[T]:
        """One page (everything, without ``limit``)."""
        ...

    def watch(
        self,
        kind: Kind[T],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        bookmarks: bool = True,
        timeout_s: float | None = None,
    ) -> AsyncIterator[WatchEvent[T]]:
        """Changes after ``resource_version``. Ends quietly when the server ends it; raises Expired when it is too old."""
        ...

    async def create(
        self,
        obj: T,
        *,
        namespace: str | None = None,
        subresource: str = "",
        name: str = "",
        resource: Resource[Any] | None = None,
    ) -> T:
        """Create an object. With ``subresource`` and ``name``: POST to ``pods/NAME/binding`` and its kin.

        ``resource`` serves the object, where its class does not say which does: that of a ``CustomObject``."""
        ...

    async def update(self, obj: T, *, subresource: str = "", resource: Resource[Any] | None = None) -> T:
        """Replace an object, at the resource version it carries. Raises Conflict when that is not the current one."""
        ...

    async def update_status(self, obj: T, *, resource: Resource[Any] | None = None) -> T: ...

    async def patch(
        self,
        kind: Kind[T],
        name: str,
        patch: Mapping[str, Any] | Sequence[Any],
        namespace: str | None = None,
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> T: ...

    async def delete(
        self, kind: Kind[Any], name: str, namespace: str | None = None, *, options: DeleteOptions | None = None
    ) -> None: ...

    async def delete_collection(
        self,
        kind: Kind[Any],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        options: DeleteOptions | None = None,
    ) -> None: ...

    async def call(
        self,
        resource: Resource[Any],
        name: str,
        subresource: str,
        body: Any,
        answer: type[T],
        namespace: str | None = None,
        *,
        verb: str = "create",
    ) -> T:
        """Ask a subresource that answers with another type: POST to eviction or token; ``get`` and ``update`` a scale."""
        ...

    async def raw(self, method: str, path: str, body: bytes = b"", *, content_type: str = "application/json") -> bytes:
        """Any other request: discovery, ``/version``, ``/metrics``."""
        ...

    async def close(self) -> None: ...
