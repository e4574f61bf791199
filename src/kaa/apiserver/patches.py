"""PATCH: from a patch document to a change of the newest object.

The four formats themselves are pure functions in ``patch``; here is what is around them: the media type, reading the
document, the retry on conflict, and making a typed object of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.errors import BadRequest, Invalid, UnsupportedMediaType
from kaa.api.fields import Path, invalid
from kaa.api.resources import Resource
from kaa.api.types.autoscaling_v1 import Scale
from kaa.client.client import PatchType
from kaa.client.pipeline import Request

from . import bodies
from .patch.json_patch import apply_json_patch
from .patch.merge import merge_patch
from .patch.restore import not_restored
from .patch.strategic import go_text, strategic_merge
from .patch.type_view import zero_of
from .registry.scale import checked
from .writes import Change, Writer, Written

#: An apply patch in CBOR instead of YAML.
APPLY_CBOR = "application/apply-patch+cbor"

Convert = Callable[[Any], Any]


def _same(obj: Any) -> Any:
    return obj


class Patcher:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def patch(
        self,
        request: Request,
        shown: Resource[Any] | None = None,
        *,
        convert_in: Convert = _same,
        convert_out: Convert = _same,
        remote: bool = False,
    ) -> Written:
        """Patch an object. ``convert_in`` shows the stored object as the version that the patch speaks of, ``shown``.
        ``remote``: both are coroutines."""
        kind = patch_type(request)
        if kind is PatchType.APPLY:
            from .patch.apply import Applier  # the one format that needs the field sets

            applier = Applier(self._writer)
            return await applier.apply(request, shown, convert_in, convert_out, remote=remote)
        patch = read_patch(request, kind)
        resource = shown or request.resource
        unknown = self._writer.strategy_for(resource).unknown_fields
        twice = own_faults(request, kind, patch)
        warnings: list[str] = []

        def patched(view: Any) -> Any:
            if resource.custom:
                document = apply_patch(kind, view.document(), patch, None)
                warnings[:] = strictness(request, kind, patch, document, twice, unknown(document))
                made = bodies.make(resource, None, document, None)
                bodies.refuse_other_type(made, resource)
                return made
            touched = touched_fields(kind, patch, resource.type)
            document = apply_patch(kind, scheme.document(only(view, touched)), patch, resource.type)
            fields = scheme.unknown_fields(resource.type, document)
            warnings[:] = strictness(request, kind, patch, document, twice, fields)
            try:
                made = scheme.convert(resource.type, document)
            except scheme.DecodeError as err:
                problem = bodies.go_decode_error(str(err), resource.type)
                whole = apply_patch(kind, scheme.document(view), patch, resource.type)
                strategic = patch if kind is PatchType.STRATEGIC else None
                raise not_restored(problem, document=whole, patch=strategic) from None
            return replace(view, **{name: getattr(made, name) for name in touched})

        written = await self._writer.change(request, _between(convert_in, patched, convert_out, remote))
        written.warnings[:0] = warnings
        return written

    async def patch_scale(self, request: Request) -> Written:
        kind = patch_type(request)
        if kind is PatchType.APPLY:
            from .patch.apply import Applier

            return await Applier(self._writer).apply_scale(request)
        patch = read_patch(request, kind)
        strategy = self._writer.strategy_for(request.resource)

        def change(old: Any) -> Any:
            document = apply_patch(kind, scheme.document(strategy.scale(old)), patch, Scale)
            return strategy.scaled(old, checked(bodies.make(request.resource, Scale, document, None)))

        return await self._writer.change(request, change)


def _between(convert_in: Convert, step: Convert, convert_out: Convert, remote: bool) -> Change:
    """A change of the stored object that is made in another version of it."""

    async def across(old: Any) -> Any:
        return await convert_out(step(await convert_in(old)))

    if remote:
        return across
    return lambda old: None if old is None else convert_out(step(convert_in(old)))


def touched_fields(kind: PatchType, patch: Any, struct: type) -> Sequence[str]:
    """The attributes of an object that a patch can change: what it does not speak of stays the very Struct that it is,
    and costs nothing further on."""
    known = scheme.field_types(struct)
    if kind is PatchType.JSON:
        paths = [step.get(end) for step in patch if isinstance(step, dict) for end in ("path", "from")]
        names = {path.split("/")[1] if path.startswith("/") else "" for path in paths if isinstance(path, str)}
    else:
        names = set(patch)
    whole = any(name.startswith("$") or not name for name in names)
    return [row[0] for wire, row in known.items() if whole or wire in names]


def only(obj: Any, names: Sequence[str]) -> Any:
    """An object of the same type with these attributes only."""
    return replace(zero_of(type(obj)), **{name: getattr(obj, name) for name in names})


def apply_patch(kind: PatchType, document: dict[str, Any], patch: Any, struct: type | None) -> dict[str, Any]:
    if kind is PatchType.JSON:
        return apply_json_patch(document, patch)
    if kind is PatchType.STRATEGIC:
        assert struct is not None
        return strategic_merge(document, patch, struct)
    return merge_patch(document, patch)


# ------------------------------------------------------------------------------------------------------ strictness

_OPERATION = frozenset({"op", "path", "from", "value"})


def own_faults(request: Request, kind: PatchType, patch: Any) -> list[str]:
    """What a strict reader says of the patch itself: members that stand twice, and that operations do not have."""
    body = request.body
    if not isinstance(body, (bytes, bytearray)) or request.options.get("fieldValidation") == "Ignore":
        return []
    twice = [f'duplicate field "{path}"' for path in bodies.duplicate_fields(bytes(body), patch)]
    if kind is not PatchType.JSON:
        return twice
    for n, step in enumerate(patch):
        names = step if isinstance(step, dict) else ()
        twice += [f'unknown field "[{n}].{name}"' for name in names if name not in _OPERATION]
    return [f"json patch {text}" for text in twice]


def strictness(
    request: Request, kind: PatchType, patch: Any, document: Any, own: Sequence[str], unknown: Iterable[str]
) -> list[str]:
    """The faults of a patch and of what it makes as warnings; nothing where they are ignored. Raises Invalid where they
    are not taken."""
    level = request.options.get("fieldValidation") or "Warn"
    if level == "Ignore":
        return []
    faults = [*own, *(f'unknown field "{path}"' for path in unknown)]
    if faults and level == "Strict":
        fault = invalid(Path("patch"), _shown(kind, patch, document), f"strict decoding error: {', '.join(faults)}")
        raise Invalid.of("", "", "", [fault])
    return faults


def _shown(kind: PatchType, patch: Any, document: Any) -> str:
    """What a refusal quotes: the patch as Go prints it, or the document that it made."""
    return go_text(patch) if kind is PatchType.STRATEGIC else msgspec.json.encode(document).decode()


def patch_type(request: Request) -> PatchType:
    """The format by its media type. Strategic merge is for kinds with a Struct only."""
    name = bodies.media_type(request.content_type)
    resource: Resource[Any] = request.resource
    kind: PatchType | None
    try:
        kind = PatchType.APPLY if name == APPLY_CBOR else PatchType(name)
    except ValueError:
        kind = None
    if resource.custom and (kind is None or kind is PatchType.STRATEGIC):
        listed = ", ".join(one for one in PatchType if one is not PatchType.STRATEGIC)
        raise UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {listed}"
        )
    if kind is None:
        error = UnsupportedMediaType("415: Unsupported Media Type")
        error.bare_details = True
        raise error
    return kind


def read_patch(request: Request, kind: PatchType) -> Any:
    body = request.body
    if not isinstance(body, (bytes, bytearray)):
        return body
    try:
        patch = bodies.json_value(bytes(body))
    except msgspec.DecodeError as err:
        raise BadRequest(f"error decoding patch: {err}") from None
    except RecursionError:
        raise BadRequest("error decoding patch: exceeded max depth") from None
    if kind is PatchType.JSON and not isinstance(patch, list):
        raise BadRequest(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        )
    if kind is not PatchType.JSON and not isinstance(patch, dict):
        raise BadRequest(
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        )
    return patch
