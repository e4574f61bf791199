"""What an authorizer is asked and answers."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

from kaa.client.pipeline import User

from ..view import View


class Decision(Enum):
    ALLOW = "allow"
    DENY = "deny"  #: no later authorizer is asked
    NO_OPINION = "no opinion"


class Question(NamedTuple):
    """May ``user`` do ``verb``? On a resource, or (``path`` set) on a URL that is none. Hashable: answers may be kept."""

    user: User
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    label_selector: str = ""
    field_selector: str = ""


class Authorizer(Protocol):
    def authorize(self, question: Question, view: View) -> tuple[Decision, str]:
        """The decision and its reason (shown to the user when everything says no)."""
        ...
