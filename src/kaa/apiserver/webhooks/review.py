"""AdmissionReview: what a webhook is asked, and what its answer may say.

Source: k8s.io/api/admission/v1; apiserver pkg/admission/plugin/webhook/request, errors.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.custom import CustomObject
from kaa.api.errors import ApiError, from_status
from kaa.api.types.meta_v1 import ListMeta, Status
from kaa.api.values import Base64
from kaa.client.pipeline import User

from .sight import Shape, Sight

GROUP = "admission.k8s.io"
VERSIONS = ("v1", "v1beta1")


class BadAnswer(Exception):
    """A webhook's answer is none that can be followed; the text is upstream's."""


class Response(msgspec.Struct, frozen=True, rename="camel"):
    """``response`` of an AdmissionReview. ``patch`` is base64 of a JSON patch."""

    uid: str = ""
    allowed: bool = False
    status: Status | None = None
    patch: Base64 | None = None
    patch_type: str | None = None
    audit_annotations: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    kind: str = ""
    api_version: str = ""
    response: Response | None = None


def request_body(version: str, uid: str, sight: Sight, shape: Shape, obj: Any, old: Any) -> bytes:
    """The review that is sent. ``shape`` is the version that the webhook asked for; ``obj`` and ``old`` are in it."""
    mine = sight.shape
    request: dict[str, Any] = {"uid": uid, "kind": kind_of(shape), "resource": resource_of(shape)}
    if sight.subresource:
        request["subResource"] = sight.subresource
    request |= {"requestKind": kind_of(mine), "requestResource": resource_of(mine)}
    if sight.subresource:
        request["requestSubResource"] = sight.subresource
    if sight.name:
        request["name"] = sight.name
    if sight.namespace:
        request["namespace"] = sight.namespace
    request |= {
        "operation": sight.operation,
        "userInfo": user_info(sight.user),
        "object": _raw(obj),
        "oldObject": _raw(old),
        "dryRun": sight.dry_run,
        "options": sight.options(),
    }
    review = {"kind": "AdmissionReview", "apiVersion": f"{GROUP}/{version}", "request": request}
    return scheme.encode_inner(review)


def kind_of(shape: Shape) -> dict[str, str]:
    return {"group": shape.kind_group, "version": shape.kind_version, "kind": shape.kind}


def resource_of(shape: Shape) -> dict[str, str]:
    return {"group": shape.group, "version": shape.version, "resource": shape.plural}


def user_info(user: User) -> dict[str, Any]:
    made: dict[str, Any] = {"username": user.name, "uid": user.uid, "groups": list(user.groups)}
    made["extra"] = {key: list(values) for key, values in user.extra.items()}
    return {key: value for key, value in made.items() if value}


def _raw(obj: Any) -> msgspec.Raw | None:
    if obj is None:
        return None
    return msgspec.Raw(scheme.encode(obj.document() if isinstance(obj, CustomObject) else obj))


def read_answer(data: bytes, version: str, uid: str, *, mutating: bool) -> Response:
    """The response in an answer. Raises BadAnswer; scheme.DecodeError when it is no review at all."""
    answer = scheme.decode(_Answer, data)
    response = answer.response
    if response is None:
        raise BadAnswer("webhook response was absent")
    if version == "v1" and response.uid != uid:
        raise BadAnswer(f"expected response.uid={_quoted(uid)}, got {_quoted(response.uid)}")
    wanted = f"{GROUP}/{version}, Kind=AdmissionReview"
    api_version = answer.api_version if "/" in answer.api_version else f"/{answer.api_version}"
    found = f"{api_version}, Kind={answer.kind}"
    if found != wanted:
        raise BadAnswer(f"expected webhook response of {wanted}, got {found}")
    if version == "v1":
        _check_patch(response, mutating=mutating)
    elif response.patch:
        response = replace(response, patch_type="JSONPatch")
    return response


def _check_patch(response: Response, *, mutating: bool) -> None:
    patch, kind = response.patch, response.patch_type
    if not mutating:
        if patch:
            raise BadAnswer("validating webhook may not return response.patch")
        if kind is not None:
            raise BadAnswer("validating webhook may not return response.patchType")
    elif patch and kind is None:
        raise BadAnswer("webhook returned response.patch but not response.patchType")
    elif not patch and kind is not None:
        raise BadAnswer("webhook returned response.patchType but not response.patch")
    elif kind == "":
        raise BadAnswer('webhook returned invalid response.patchType of ""')


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def patch_of(response: Response) -> list[Any]:
    """The operations of a patch. Raises ValueError."""
    if not response.patch:
        return []
    found = msgspec.json.decode(base64.b64decode(response.patch))
    if found is not None and not isinstance(found, list):
        raise ValueError("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    return found or []


def rejection(name: str, status: Status | None) -> ApiError:
    """A webhook's no, as the client gets it."""
    status = status or Status()
    by = f"admission webhook {_quoted(name)} denied the request"
    reason = status.message or status.reason
    return from_status(
        replace(
            status,
            metadata=status.metadata or ListMeta(),
            code=max(status.code or 0, 400),
            status=status.status if status.status not in (None, "", "Success") else "Failure",
            message=f"{by}: {reason}" if reason else f"{by} without explanation",
        )
    )
