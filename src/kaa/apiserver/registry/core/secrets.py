"""Secrets: ``stringData`` flows into ``data`` on the way in and is never kept.

Source: pkg/registry/core/secret/strategy.go; ValidateSecret.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.core_v1 import Secret

from ...bodies import json_value
from ..strategy import Strategy
from ..tables import age, shape
from .configmaps import LIMIT_BYTES, locked

_ACCOUNT = "kubernetes.io/service-account.name"
_DATA = Path("data")


def _cells(obj: Secret, now: float) -> Sequence[Any]:
    return obj.metadata.name, obj.type or "", len(obj.data), age(obj.metadata, now)


class SecretStrategy(Strategy[Secret]):
    kind = Secret
    table = shape("core/secrets", "Type|Data|Age", _cells)
    field_names = frozenset(("type",))

    def default(self, obj: Secret) -> Secret:
        changes: dict[str, Any] = {}
        if not obj.type:
            changes["type"] = "Opaque"
        if obj.string_data:
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in obj.string_data.items()}
            changes["data"], changes["string_data"] = {**obj.data, **encoded}, {}
        return replace(obj, **changes) if changes else obj

    def prepare_update(self, new: Secret, old: Secret) -> Secret:
        return new if new.type else replace(new, type=old.type)

    def validate(self, obj: Secret) -> list[FieldError]:
        return list(_faults(obj))

    def validate_update(self, new: Secret, old: Secret) -> list[FieldError]:
        found = []
        if new.type != old.type:
            found.append(fields.invalid(Path("type"), new.type or "", "field is immutable"))
        return [*found, *locked(new, old, ("data",)), *_faults(new)]

    def fields(self, obj: Secret) -> Mapping[str, str]:
        return {"type": obj.type or ""}


def _faults(obj: Secret) -> Iterator[FieldError]:
    size = 0
    for key, value in obj.data.items():
        for fault in names.config_key(key):
            yield fields.invalid(_DATA.key(key), key, fault)
        size += len(value) * 3 // 4
    if size > LIMIT_BYTES:
        yield fields.too_long(_DATA, LIMIT_BYTES)
    match obj.type:
        case "kubernetes.io/service-account-token":
            if not obj.metadata.annotations.get(_ACCOUNT):
                yield fields.required(Path("metadata").child("annotations").key(_ACCOUNT))
        case "kubernetes.io/dockercfg":
            yield from _json_key(obj, ".dockercfg")
        case "kubernetes.io/dockerconfigjson":
            yield from _json_key(obj, ".dockerconfigjson")
        case "kubernetes.io/basic-auth":
            if "username" not in obj.data and "password" not in obj.data:
                yield fields.required(_DATA.key("username"))
                yield fields.required(_DATA.key("password"))
        case "kubernetes.io/ssh-auth":
            if not obj.data.get("ssh-privatekey"):
                yield fields.required(_DATA.key("ssh-privatekey"))
        case "kubernetes.io/tls":
            for key in ("tls.crt", "tls.key"):
                if key not in obj.data:
                    yield fields.required(_DATA.key(key))


def _json_key(obj: Secret, key: str) -> Iterator[FieldError]:
    if key not in obj.data:
        yield fields.required(_DATA.key(key))
        return
    try:
        msgspec.convert(json_value(base64.b64decode(obj.data[key])), dict[str, Any])
    except (binascii.Error, msgspec.DecodeError) as err:
        yield fields.invalid(_DATA.key(key), "<secret contents redacted>", str(err))
    except RecursionError:
        yield fields.invalid(_DATA.key(key), "<secret contents redacted>", "exceeded max depth")


STRATEGY = SecretStrategy()
