"""The client of a component that runs in the API server's own process: calls, not HTTP; objects, not JSON.

It carries an identity like any other client, and is authorized by it. Left to others: everything that the pipeline does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar

from kaa.api import scheme
from kaa.api.resources import Resource
from kaa.api.types.meta_v1 import DeleteOptions

from .client import Kind, Listing, PatchType, WatchEvent
from .pipeline import Answer, Pipeline, Request, User

T = TypeVar("T")


class InProcessClient:
    """``client.Client`` on a pipeline, as ``user``. ``agent`` is its name in audit and managedFields."""

    def __init__(self, pipeline: Pipeline, user: User, agent: str) -> None:
        self._pipeline, self._user, self._agent = pipeline, user, agent

    def _request(
        self,
        verb: str,
        kind: Any,
        namespace: str | None = None,
        name: str = "",
        *,
        subresource: str = "",
        body: Any = None,
        options: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Request:
        resource = scheme.resource_of(kind)
        return Request(
            user=self._user,
            verb=verb,
            resource=resource,
            namespace=(namespace or "") if resource.namespaced else "",
            name=name,
            subresource=subresource,
            body=body,
            content_type=content_type,
            options=options or {},
            user_agent=self._agent,
        )

    async def get(self, kind: Kind[T], name: str, namespace: str | None = None) -> T:
        found: T = (await self._pipeline.call(self._request("get", kind, namespace, name))).object
        return found

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
        options = list_options(label_selector, field_selector, limit, continue_token, resource_version)
        answer: Answer = await self._pipeline.call(self._request("list", kind, namespace, options=options))
        return Listing(answer.items, answer.resource_version, answer.continue_token, answer.remaining)

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
        options = watch_options(label_selector, field_selector, resource_version, bookmarks, timeout_s)
        return self._pipeline.watch(self._request("watch", kind, namespace, options=options))

    async def create(
        self,
        obj: T,
        *,
        namespace: str | None = None,
        subresource: str = "",
        name: str = "",
        resource: Resource[Any] | None = None,
    ) -> T:
        metadata = obj.metadata  # type: ignore[attr-defined]  # every object has it
        where = namespace if namespace is not None else metadata.namespace
        if subresource:
            resource = resource or parent_of(obj, subresource)
            request = self._request("create", resource, where, name, subresource=subresource, body=obj)
        else:
            request = self._request("create", resource or obj, where, body=obj)
        made: T = (await self._pipeline.call(request)).object
        return made

    async def update(self, obj: T, *, subresource: str = "", resource: Resource[Any] | None = None) -> T:
        metadata = obj.metadata  # type: ignore[attr-defined]
        request = self._request(
            "update", resource or obj, metadata.namespace, metadata.name or "", subresource=subresource, body=obj
        )
        made: T = (await self._pipeline.call(request)).object
        return made

    async def update_status(self, obj: T, *, resource: Resource[Any] | None = None) -> T:
        return await self.update(obj, subresource="status", resource=resource)

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
    ) -> T:
        options = {**({"fieldManager": field_manager} if field_manager else {}), **({"force": "true"} if force else {})}
        request = self._request(
            "patch",
            kind,
            namespace,
            name,
            subresource=subresource,
            body=patch,
            options=options,
            content_type=type.value,
        )
        made: T = (await self._pipeline.call(request)).object
        return made

    async def delete(
        self, kind: Kind[Any], name: str, namespace: str | None = None, *, options: DeleteOptions | None = None
    ) -> None:
        await self._pipeline.call(self._request("delete", kind, namespace, name, body=options))

    async def delete_collection(
        self,
        kind: Kind[Any],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        options: DeleteOptions | None = None,
    ) -> None:
        query = list_options(label_selector, field_selector, 0, "", "")
        await self._pipeline.call(self._request("deletecollection", kind, namespace, body=options, options=query))

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
        request = self._request(verb, resource, namespace, name, subresource=subresource, body=body)
        made: T = (await self._pipeline.call(request)).object
        return made

    async def raw(self, method: str, path: str, body: bytes = b"", *, content_type: str = "application/json") -> bytes:
        return await self._pipeline.raw(self._user, method, path, body, content_type)

    async def close(self) -> None:
        """Nothing is held."""


def parent_of(obj: Any, subresource: str) -> Resource[Any]:
    """The resource on whose subresource an object of another kind is posted: a Binding is a pod's."""
    parents = {("Binding", "binding"): ("v1", "Pod"), ("Eviction", "eviction"): ("v1", "Pod")}
    owner = parents.get((obj.KIND, subresource))
    if owner is None:
        return scheme.resource_of(obj)
    found = scheme.resource_by_kind(*owner)
    assert found is not None
    return found


def list_options(labels: str, fields: str, limit: int, token: str, version: str) -> dict[str, str]:
    """The query of a list, without what is empty."""
    options = {
        "labelSelector": labels,
        "fieldSelector": fields,
        "limit": str(limit) if limit else "",
        "continue": token,
        "resourceVersion": version,
    }
    return {name: value for name, value in options.items() if value}


def watch_options(labels: str, fields: str, version: str, bookmarks: bool, timeout_s: float | None) -> dict[str, str]:
    options = list_options(labels, fields, 0, "", version)
    if bookmarks:
        options["allowWatchBookmarks"] = "true"
    if timeout_s is not None:
        options["timeoutSeconds"] = str(int(timeout_s))
    return options
