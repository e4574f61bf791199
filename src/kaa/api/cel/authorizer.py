"""What the API server supplies for the ``authorizer`` variable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Check:
    """A question that an expression asks: ``authorizer.group('apps').resource('deployments').check('create')``.

    Exactly one of ``path`` (a non-resource URL) and ``resource`` is set. ``user`` None is the request's own user.
    """

    verb: str
    path: str | None = None
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    field_selector: str | None = None
    label_selector: str | None = None
    #: ``(namespace, name)`` of ``authorizer.serviceAccount(...)``
    service_account: tuple[str, str] | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer. ``error`` is the authorizer's failure, where it had one; ``allowed`` is then False."""

    allowed: bool
    reason: str = ""
    error: str | None = None


class Authorizer(Protocol):
    """Answers at once: evaluation does not wait."""

    def __call__(self, check: Check) -> Verdict: ...
