"""Audit events: what is said of a request, in upstream's shape (audit.k8s.io/v1 Event).

Source: apiserver pkg/audit request.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kaa.client.pipeline import User

from .policy import Attributes

Raw = msgspec.Raw


class UserInfo(msgspec.Struct, omit_defaults=True, frozen=True):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[str]] = {}

    @classmethod
    def of(cls, user: User) -> UserInfo:
        return cls(user.name, user.uid, user.groups, user.extra)


class ObjectReference(msgspec.Struct, omit_defaults=True, rename="camel"):
    resource: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_group: str = ""
    api_version: str = ""
    resource_version: str = ""
    subresource: str = ""


class Event(msgspec.Struct, omit_defaults=True, rename="camel"):
    """One stage of a request. ``kind`` and ``apiVersion`` come first, then in upstream's order."""

    kind: str
    api_version: str
    level: str
    audit_id: str = msgspec.field(name="auditID")
    stage: str
    request_uri: str = msgspec.field(name="requestURI")
    verb: str
    user: UserInfo
    impersonated_user: UserInfo | None = None
    source_ips: tuple[str, ...] = msgspec.field(default=(), name="sourceIPs")
    user_agent: str = ""
    object_ref: ObjectReference | None = None
    response_status: dict[str, Any] | None = None
    request_object: Raw | None = None
    response_object: Raw | None = None
    request_received_timestamp: str = ""
    stage_timestamp: str = ""
    annotations: dict[str, str] = {}


encode = msgspec.json.Encoder().encode


def reference(request: Attributes) -> ObjectReference | None:
    """The object that a request is about; None for URLs that are no resource."""
    if request.path:
        return None
    return ObjectReference(
        resource=request.resource,
        namespace=request.namespace,
        name=request.name,
        api_group=request.group,
        api_version=request.version,
        subresource=request.subresource,
    )


class _Metadata(msgspec.Struct, rename="camel"):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None


class _Object(msgspec.Struct):
    metadata: _Metadata | None = None


def complete(ref: ObjectReference, data: bytes) -> None:
    """Fill in what only the object that was sent says: the name of one that is created, its uid and version."""
    try:
        found = msgspec.json.decode(data, type=_Object).metadata
    except msgspec.DecodeError:
        return  # no object: a patch that is a list, a body that will be refused
    if found is not None:
        ref.name = ref.name or found.name or ""
        ref.namespace = ref.namespace or found.namespace or ""
        ref.uid = ref.uid or found.uid or ""
        ref.resource_version = ref.resource_version or found.resource_version or ""


def status_of(code: int, body: bytes) -> dict[str, Any]:
    """``responseStatus``: of a refusal all that its Status says."""
    shown: dict[str, Any] = {"metadata": {}, "code": code}
    if code >= 400:
        try:
            found = msgspec.json.decode(body)
        except msgspec.DecodeError:
            return shown
        if isinstance(found, dict) and found.get("kind") == "Status":
            shown |= {key: found[key] for key in ("status", "message", "reason", "details") if found.get(key)}
    return shown


def without_managed_fields(data: bytes) -> bytes:
    """An object or a list without its managedFields."""
    if b'"managedFields"' not in data:
        return data
    value = msgspec.json.decode(data)
    for one in (value, *(value.get("items") or ())) if isinstance(value, dict) else ():
        if isinstance(one, dict) and isinstance(one.get("metadata"), dict):
            one["metadata"].pop("managedFields", None)
    return msgspec.json.encode(value)
