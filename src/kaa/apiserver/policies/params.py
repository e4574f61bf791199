"""The parameters that a binding gives to its policy: objects of a kind, by name or by labels.

Source: apiserver pkg/admission/plugin/policy/generic/plugin.go, CollectParams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaa.api.resources import Resource
from kaa.api.selectors import from_label_selector
from kaa.api.types.admissionregistration_v1 import ParamKind, ParamRef

from .. import keys
from ..cacher import Cacher

#: Finds a served resource by apiVersion and kind.
FindKind = Callable[[str, str], Resource[Any] | None]


class BadParams(Exception):
    """The parameters cannot be had: a fault of the configuration. The text is upstream's."""


def param_resource(kind: ParamKind, find_kind: FindKind) -> Resource[Any]:
    """Raises BadParams."""
    version, name = kind.api_version or "", kind.kind or ""
    found = find_kind(version, name)
    if found is None:
        group_version = version if "/" in version else f"/{version}"
        raise BadParams(f"failed to find resource referenced by paramKind: '{group_version}, Kind={name}'")
    return found


def collect(resource: Resource[Any] | None, ref: ParamRef | None, namespace: str, cacher: Cacher) -> list[Any]:
    """The parameters to run a policy with, once for each; None stands for no parameters.

    ``resource`` is that of the policy's kind of parameters; ``namespace`` is the write's. Raises BadParams.
    """
    if resource is None or ref is None:
        return [None]
    if ref.namespace and not resource.namespaced:
        raise BadParams("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
    where = (ref.namespace or namespace) if resource.namespaced else ""
    if resource.namespaced and not where:
        raise BadParams("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
    found = _found(resource, ref, where, cacher)
    if not found and ref.parameter_not_found_action == "Deny":
        raise BadParams("no params found for policy binding with `Deny` parameterNotFoundAction")
    return found


def _found(resource: Resource[Any], ref: ParamRef, namespace: str, cacher: Cacher) -> list[Any]:
    cache = cacher.of(resource)
    if ref.name:
        entry = cache.entries.get(keys.object_key(cache.resource, namespace, ref.name))
        return [] if entry is None else [entry.object(keep=True)]
    selector = from_label_selector(ref.selector)
    entries = cache.select(namespace, selector, ())
    return [entry.object(keep=True) for entry in entries]
