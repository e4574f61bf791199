"""PATCH: from a patch document to a change of the newest object.

The four formats themselves are pure functions in ``patch``; here is what is around them: the media type, reading the
document, the retry on conflict, and making a typed object of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from kaa.api import scheme
from kaa.api.custom import CustomObject
from kaa.api.errors import BadRequest, UnsupportedMediaType
from kaa.api.resources import Resource
from kaa.api.types.autoscaling_v1 import Scale
from kaa.client.client import PatchType
from kaa.client.pipeline import Request

from . import bodies
from .patch.json_patch import apply_json_patch
from .patch.merge import merge_patch
from .patch.strategic import strategic_merge
from .registry.scale import scale_of, with_scale
from .writes import Writer, Written

Convert = Callable[[Any], Any]


def _same(obj: Any) -> Any:
    return obj


class Patcher:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def patch(self, request: Request, *, convert_in: Convert = _same, convert_out: Convert = _same) -> Written:
        """Patch an object. ``convert_in`` shows the stored object as the version that the patch speaks of."""
        kind = patch_type(request)
        if kind is PatchType.APPLY:
            from .patch.apply import Applier  # the one format that needs the field sets

            same = convert_in is _same
            applier = Applier(self._writer)
            return await (applier.apply(request) if same else applier.apply(request, convert_in, convert_out))
        patch = read_patch(request, kind)
        shown = request.resource if convert_in is _same else None
        warnings: list[str] = []

        def change(old: Any) -> Any:
            if old is None:
                return None
            view = convert_in(old)
            resource = shown or scheme.resource_of(view)
            document = apply_patch(kind, plain(view), patch, None if resource.custom else resource.type)
            struct = None if resource.custom else resource.type
            warnings[:] = bodies.strictness(request, resource, struct, document, b"")
            return convert_out(bodies.make(resource, None, document, None))

        written = await self._writer.change(request, change)
        written.warnings[:0] = warnings
        return written

    async def patch_scale(self, request: Request) -> Written:
        kind = patch_type(request)
        patch = read_patch(request, kind)

        def change(old: Any) -> Any:
            document = apply_patch(kind, scheme.document(scale_of(old)), patch, Scale)
            return with_scale(old, bodies.make(request.resource, Scale, document, None))

        return await self._writer.change(request, change)


def plain(obj: Any) -> dict[str, Any]:
    """An object's document."""
    return obj.document() if isinstance(obj, CustomObject) else scheme.document(obj)


def apply_patch(kind: PatchType, document: dict[str, Any], patch: Any, struct: type | None) -> dict[str, Any]:
    if kind is PatchType.JSON:
        return apply_json_patch(document, patch)
    if kind is PatchType.STRATEGIC:
        assert struct is not None
        return strategic_merge(document, patch, struct)
    return merge_patch(document, patch)


def patch_type(request: Request) -> PatchType:
    """The format by its media type. Strategic merge is for kinds with a Struct only."""
    name = bodies.media_type(request.content_type)
    resource: Resource[Any] = request.resource
    kind: PatchType | None
    try:
        kind = PatchType(name)
    except ValueError:
        kind = None
    if kind is None or (kind is PatchType.STRATEGIC and resource.custom):
        error = UnsupportedMediaType("415: Unsupported Media Type")
        error.bare_details = True
        raise error
    return kind


def read_patch(request: Request, kind: PatchType) -> Any:
    body = request.body
    if not isinstance(body, (bytes, bytearray)):
        return body
    try:
        patch = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as err:
        raise BadRequest(f"error decoding patch: {err}") from None
    if kind is PatchType.JSON and not isinstance(patch, list):
        raise BadRequest(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        )
    if kind is not PatchType.JSON and not isinstance(patch, dict):
        raise BadRequest(
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        )
    return patch
