"""What a URL means: a resource, a subresource and a verb, or a path that is none.

``/api/v1/namespaces/default/pods/web-0/log`` is verb ``get`` on ``pods``, subresource ``log``, of ``web-0`` in
``default``. Source: API concepts "Resource URIs".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_plus

from kaa.api.resources import Resource

from .queries import is_true

FindResource = Callable[[str, str, str], Resource[Any] | None]

_COLLECTION_VERBS = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}
_OBJECT_VERBS = {
    "GET": "get",
    "HEAD": "get",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
#: What a request connects to, or reads from a kubelet: it may last as long as the client likes.
CONNECTS = frozenset({"attach", "exec", "log", "portforward", "proxy"})
#: What can be asked of a namespaced resource without a namespace.
ACROSS_NAMESPACES = frozenset({"list", "watch"})


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A request's path, understood; one that is kept is known by its identity. ``resource`` None: a URL that is no resource (``path`` says which), or one whose
    group-version is served but whose resource is not (``unknown_resource``). ``rest`` is what follows a proxy."""

    path: str
    resource: Resource[Any] | None = None
    verb: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    unknown_resource: str = ""
    group: str = ""
    version: str = ""


def parse_query(query: str) -> dict[str, str]:
    """The first value of each parameter, as Go's ``url.Values.Get`` sees them."""
    found: dict[str, str] = {}
    for pair in query.split("&"):
        if pair:
            key, _, value = pair.partition("=")
            found.setdefault(unquote_plus(key), unquote_plus(value))
    return found


def resolve(method: str, path: str, options: dict[str, str], find: FindResource) -> Target:
    """Understand a path. ``find(group, version, plural)`` says what is served."""
    parts = [unquote(part) for part in path.split("/")[1:]]
    if parts and parts[-1] == "":
        parts.pop()
    match parts:
        case ["api", version, plural, *rest]:
            return _resource(method, path, "", version, [plural, *rest], options, find)
        case ["apis", group, version, plural, *rest]:
            return _resource(method, path, group, version, [plural, *rest], options, find)
    return Target(path, verb=method.lower())


def _resource(
    method: str, path: str, group: str, version: str, parts: list[str], options: dict[str, str], find: FindResource
) -> Target:
    watched = parts[0] == "watch" and len(parts) > 1
    if watched:
        parts = parts[1:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource = (*parts, "", "")[:3]
    resource = find(group, version, plural)
    verb = _verb(method, name)
    if verb in ("get", "list") and (watched or is_true(options, "watch")) and not subresource:
        verb = "watch"
    if resource is None or not _is_there(resource, namespace, name, verb):
        return Target(path, verb=verb, unknown_resource=plural, namespace=namespace, name=name,
                      subresource=subresource, group=group, version=version)  # fmt: skip
    if plural == "namespaces" and name and not group:
        namespace = name
    return Target(path, resource, verb, namespace, name, subresource, "/".join(parts[3:]), group=group, version=version)


def _is_there(resource: Resource[Any], namespace: str, name: str, verb: str) -> bool:
    """Whether a resource is served in this scope: what no namespace holds has no path below one, and objects that
    namespaces hold are listed and watched across all, no more. (For built-in ones the path across all is there, and
    refuses other verbs: ``front``.)"""
    if not resource.namespaced:
        return not namespace
    return bool(namespace) or (not name and (not resource.custom or verb in ACROSS_NAMESPACES))


def _verb(method: str, name: str) -> str:
    return (_OBJECT_VERBS if name else _COLLECTION_VERBS).get(method, method.lower())
