"""What an API server in the same process must be, for ``inprocess`` to call it.

The idea: a request is the same value however it came. The HTTP front parses one from the wire and writes the answer's
bytes; the in-process client makes one from a call and takes the answer's object. Between them stands one pipeline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kaa.api.resources import Resource

from .client import WatchEvent


@dataclass(frozen=True, slots=True)
class User:
    """Who asks: what authentication found."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.name)  # every request looks its user up: not over all fields


@dataclass(slots=True)
class Request:
    """One request on a resource, as authorization, admission and the handlers see it.

    ``verb`` is Kubernetes' own word (get, list, watch, create, update, patch, delete, deletecollection). ``body`` is bytes
    from the wire, or from a client in this process the Struct itself. ``options`` are the query parameters.
    """

    user: User
    verb: str
    resource: Resource[Any]
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    body: Any = None
    content_type: str = "application/json"
    options: Mapping[str, str] = field(default_factory=dict)
    user_agent: str = ""
    #: The version that the client speaks, where ``resource`` is another one, in which objects are stored.
    asked: Resource[Any] | None = None
    #: Takes notes for the audit log (key, value), where this request leaves a trail there.
    note: Callable[[str, str], None] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request. ``object`` is the Struct (or for lists the Structs, with ``resource_version`` and the
    continue token); handlers fill what the transport at hand needs."""

    code: int
    object: Any = None
    items: Sequence[Any] = ()
    resource_version: str = ""
    continue_token: str = ""
    remaining: int | None = None
    warnings: tuple[str, ...] = ()


class Pipeline(Protocol):
    """An API server, met in its own process: authorization, admission, flow control and audit included."""

    async def call(self, request: Request) -> Answer:
        """Everything but watch. Raises ApiError."""
        ...

    def watch(self, request: Request) -> AsyncIterator[WatchEvent[Any]]: ...

    async def raw(self, user: User, method: str, path: str, body: bytes, content_type: str) -> bytes: ...
