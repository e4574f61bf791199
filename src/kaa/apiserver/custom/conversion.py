"""A definition's own webhook that turns its objects from one version into another.

Objects lie in the store in the version that was the storage version when they were written; ``definitions`` has those of an
older one converted before it serves them.

Source: apiextensions-apiserver pkg/apiserver/conversion/webhook_converter.go.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.clock import Clock
from kaa.api.custom import CustomObject, from_document
from kaa.api.errors import InternalError
from kaa.api.types.apiextensions_v1 import WebhookConversion

from ..webhooks.call import Caller, CallError

TIMEOUT_S = 30.0
GROUP = "apiextensions.k8s.io"


class Conversion:
    """Asks the webhook. Objects that are of the wanted version already are not shown to it."""

    def __init__(self, caller: Caller, given: WebhookConversion, clock: Clock) -> None:
        assert given.client_config is not None
        self._caller, self._config, self._clock = caller, given.client_config, clock
        self._review = next(one for one in given.conversion_review_versions if one in ("v1", "v1beta1"))

    async def convert(self, objects: Sequence[CustomObject], api_version: str) -> list[CustomObject]:
        """The objects in another version, in their order. Raises InternalError with upstream's words."""
        foreign = [obj for obj in objects if obj.api_version != api_version]
        if not foreign:
            return list(objects)
        made = iter(await self._asked(foreign, api_version))
        return [obj if obj.api_version == api_version else next(made) for obj in objects]

    async def _asked(self, objects: list[CustomObject], api_version: str) -> list[CustomObject]:
        kind = f"{objects[0].api_version}, Kind={objects[0].kind}"
        try:
            return await self._converted(objects, api_version)
        except (CallError, _Refused) as err:
            raise InternalError(f"conversion webhook for {kind} failed: {err}") from None

    async def _converted(self, objects: list[CustomObject], api_version: str) -> list[CustomObject]:
        uid = str(uuid.UUID(int=self._clock.random.getrandbits(128), version=4))
        request = {"uid": uid, "desiredAPIVersion": api_version, "objects": [obj.document() for obj in objects]}
        review = {"kind": "ConversionReview", "apiVersion": f"{GROUP}/{self._review}", "request": request}
        body = await self._caller.post(self._config, msgspec.json.encode(review), TIMEOUT_S, tells_timeout=False)
        converted = self._answered(body, uid)
        if len(converted) != len(objects):
            raise _Refused(f"webhook returned {len(converted)} objects, expected {len(objects)}")
        return [_checked(n, old, new, api_version) for n, (old, new) in enumerate(zip(objects, converted, strict=True))]

    def _answered(self, body: bytes, uid: str) -> list[Any]:
        try:
            answer = msgspec.json.decode(body)
            response = answer["response"]
            result = response.get("result") or {}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _Refused("the answer is no ConversionReview") from None
        if response.get("uid") != uid:
            raise _Refused(f"expected response.uid={uid}, got {response.get('uid') or ''}")
        if result.get("status") != "Success":
            raise _Refused(str(result.get("message") or "unknown reason"))
        return list(response.get("convertedObjects") or ())


class _Refused(Exception):
    """The webhook answered, and not well."""


def _checked(n: int, old: CustomObject, document: Any, api_version: str) -> CustomObject:
    """What the webhook made of an object. It may change labels and annotations; the other metadata stays."""
    where = f"in the converted object at index {n}"
    try:
        new = from_document(document)
    except (scheme.DecodeError, AttributeError) as err:
        raise _Refused(f"invalid object {where}: {err}") from None
    if new.api_version != api_version:
        raise _Refused(f"invalid groupVersion (expected {api_version}, received {new.api_version}) {where}")
    if new.kind != old.kind:
        raise _Refused(f"invalid kind (expected {old.kind}, received {new.kind}) {where}")
    for name in ("name", "namespace", "uid"):
        mine, theirs = getattr(old.metadata, name), getattr(new.metadata, name)
        if (mine or "") != (theirs or ""):
            raise _Refused(f'invalid metadata.{name} (expected "{mine or ""}", received "{theirs or ""}") {where}')
    metadata = replace(old.metadata, labels=new.metadata.labels, annotations=new.metadata.annotations)
    return replace(new, metadata=metadata)
