"""How a refusal reads. Source: apiserver pkg/endpoints/handlers/responsewriters errors.go."""

from __future__ import annotations

from kaa.api.errors import Forbidden

from .base import Question


def message(question: Question, reason: str = "") -> str:
    """``User "x" cannot list resource "pods" in API group "" in the namespace "y"``, and the authorizers' reason."""
    q = question
    user = f'User "{q.user.name}"'
    if q.path:
        text = f'{user} cannot {q.verb} path "{q.path}"'
    else:
        resource = f"{q.resource}/{q.subresource}" if q.subresource else q.resource
        text = f'{user} cannot {q.verb} resource "{resource}" in API group "{q.group}"'
        text += f' in the namespace "{q.namespace}"' if q.namespace else " at the cluster scope"
    return f"{text}: {reason}" if reason else text


def forbidden(question: Question, reason: str = "") -> Forbidden:
    """The 403 that answers a request whose question was not allowed."""
    q = question
    text = message(q, reason)
    if q.path:
        error = Forbidden(f"forbidden: {text}")
        error.bare_details = True
        return error
    group_resource = f"{q.resource}.{q.group}" if q.group else q.resource
    subject = f'{group_resource} "{q.name}"' if q.name else group_resource
    return Forbidden(f"{subject} is forbidden: {text}", name=q.name, group=q.group, kind=q.resource)
