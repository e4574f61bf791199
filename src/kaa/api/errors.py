"""What a Kubernetes API says when it says no: one exception a decision for its catcher, each carrying its Status.

::

    ApiError            an answer the server means to give
    ├─ BadRequest 400   ├─ Unauthorized 401     ├─ Forbidden 403     ├─ NotFound 404      ├─ MethodNotAllowed 405
    ├─ NotAcceptable 406  ├─ AlreadyExists 409  ├─ Conflict 409      read again, then retry
    ├─ Expired 410      relist from scratch     ├─ TooLarge 413      ├─ UnsupportedMediaType 415
    ├─ Invalid 422      every field at fault    ├─ TooManyRequests 429
    ├─ InternalError 500  ├─ Unclassified 500   ├─ ServiceUnavailable 503                  └─ Timeout 504

Texts and reasons are upstream's (apimachinery pkg/api/errors).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from .fields import FieldError, joined
from .resources import Resource
from .types.meta_v1 import ListMeta, Status, StatusCause, StatusDetails


class ApiError(Exception):
    """An answer that is not success. ``status`` is what goes on the wire."""

    code = 500
    reason = "InternalError"
    #: Whether the wire shows ``details: {}`` where there are none, as upstream does for answers that name no object.
    bare_details = False
    #: A webhook or a policy said so, or could not be asked: it is not this server's own no.
    dynamic = False
    #: Texts for Warning headers.
    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        name: str = "",
        group: str = "",
        kind: str = "",
        uid: str = "",
        causes: Iterable[StatusCause] = (),
        retry_after_s: int | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        details = StatusDetails(
            name=name or None,
            group=group or None,
            kind=kind or None,
            uid=uid or None,
            causes=tuple(causes),
            retry_after_seconds=retry_after_s,
        )
        self.status = Status(
            metadata=ListMeta(),
            status="Failure",
            message=message,
            reason=(self.reason if reason is None else reason) or None,
            details=details if details != StatusDetails() else None,
            code=self.code if code is None else code,
        )

    @property
    def details(self) -> StatusDetails:
        return self.status.details or StatusDetails()

    @classmethod
    def about(cls, resource: Resource[Any], name: str, message: str, **more: Any) -> ApiError:
        """An error that names an object: details carry its group, plural and name."""
        return cls(message, name=name, group=resource.group, kind=resource.plural, **more)


class BadRequest(ApiError):
    code, reason = 400, "BadRequest"


class Unclassified(ApiError):
    """A client's mistake, or the store's trouble, for which upstream has no reason: a bare 500."""

    code, reason = 500, ""


class Unauthorized(ApiError):
    code, reason = 401, "Unauthorized"

    def __init__(self, message: str = "Unauthorized", **more: Any) -> None:
        super().__init__(message, **more)


class Forbidden(ApiError):
    code, reason = 403, "Forbidden"

    @classmethod
    def of(cls, resource: Resource[Any], name: str, why: str) -> Forbidden:
        subject = f'{resource.group_resource} "{name}"' if name else resource.group_resource
        return cls(f"{subject} is forbidden: {why}", name=name, group=resource.group, kind=resource.plural)


class NotFound(ApiError):
    code, reason = 404, "NotFound"

    @classmethod
    def of(cls, resource: Resource[Any], name: str) -> NotFound:
        message = f'{resource.group_resource} "{name}" not found'
        return cls(message, name=name, group=resource.group, kind=resource.plural)


class MethodNotAllowed(ApiError):
    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(ApiError):
    code, reason = 406, "NotAcceptable"


class AlreadyExists(ApiError):
    code, reason = 409, "AlreadyExists"

    @classmethod
    def of(cls, resource: Resource[Any], name: str) -> AlreadyExists:
        message = f'{resource.group_resource} "{name}" already exists'
        return cls(message, name=name, group=resource.group, kind=resource.plural)


class Conflict(ApiError):
    code, reason = 409, "Conflict"

    @classmethod
    def of(cls, resource: Resource[Any], name: str, why: str = "") -> Conflict:
        why = why or ("the object has been modified; please apply your changes to the latest version and try again")
        message = f'Operation cannot be fulfilled on {resource.group_resource} "{name}": {why}'
        return cls(message, name=name, group=resource.group, kind=resource.plural)


class Expired(ApiError):
    """The revision asked for is gone. ``Gone`` is the same answer under its older reason."""

    code, reason = 410, "Expired"


class Gone(Expired):
    reason = "Gone"


class TooLarge(ApiError):
    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(ApiError):
    code, reason = 415, "UnsupportedMediaType"


class Invalid(ApiError):
    """Some fields are at fault; every one of them is named."""

    code, reason = 422, "Invalid"

    @classmethod
    def of(cls, group: str, kind: str, name: str, errors: Sequence[FieldError]) -> Invalid:
        qualified = f"{kind}.{group}" if group else kind
        causes = [StatusCause(reason=e.type, message=e.body, field=e.field) for e in errors]
        return cls(
            f'{qualified} "{name}" is invalid: {joined(errors)}', name=name, group=group, kind=kind, causes=causes
        )


class TooManyRequests(ApiError):
    code, reason = 429, "TooManyRequests"


class InternalError(ApiError):
    code, reason = 500, "InternalError"


class ServiceUnavailable(ApiError):
    code, reason = 503, "ServiceUnavailable"


class Timeout(ApiError):
    code, reason = 504, "Timeout"


_CLASSES: tuple[type[ApiError], ...] = (
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Expired,
    Gone,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
)
_BY_REASON = {cls.reason: cls for cls in _CLASSES}
_BY_CODE = {cls.code: cls for cls in reversed(_CLASSES)}


def from_status(status: Status) -> ApiError:
    """The exception that a Status read off the wire stands for."""
    code = status.code or 500
    cls = _BY_REASON.get(status.reason or "") or _BY_CODE.get(code, ApiError)
    error = cls.__new__(cls)
    Exception.__init__(error, status.message or "")
    error.message = status.message or ""
    error.status = msgspec.structs.replace(status, code=code)
    return error
