"""PodSecurity: the standards ``baseline`` and ``restricted``, asked for by labels of the namespace.

Source: pod-security-admission admission/admission.go; plugin/pkg/admission/security/podsecurity.
"""

from __future__ import annotations

from typing import Any

from kaa.api.types.core_v1 import Namespace, Pod, PodSpec
from kaa.api.types.meta_v1 import ObjectMeta

from ..view import View
from .base import Attributes
from .plugin import Passive, refuse
from .pod_security_checks import violations

PREFIX = "pod-security.kubernetes.io/"
LEVELS = ("privileged", "baseline", "restricted")
#: {plural: where its pod template stands}
_TEMPLATED = frozenset(
    {
        ("", "replicationcontrollers"),
        ("", "podtemplates"),
        ("apps", "daemonsets"),
        ("apps", "deployments"),
        ("apps", "replicasets"),
        ("apps", "statefulsets"),
        ("batch", "cronjobs"),
        ("batch", "jobs"),
    }
)


class PodSecurity(Passive):
    name = "PodSecurity"

    async def validate(self, attributes: Attributes, view: View) -> None:
        request = attributes.request
        if attributes.operation not in ("CREATE", "UPDATE"):
            return
        if attributes.on("pods") or attributes.on("pods", "", "ephemeralcontainers"):
            namespace = view.get(Namespace, request.namespace)
            if namespace is not None and not _unchanged(attributes):
                _pod(attributes, namespace)
        elif (request.resource.group, request.resource.plural) in _TEMPLATED and not request.subresource:
            namespace = view.get(Namespace, request.namespace)
            template = _template(attributes.object)
            if namespace is not None and template is not None:
                _warn(attributes, namespace, template.metadata, template.spec)


def level(namespace: Namespace, mode: str) -> tuple[str, str]:
    """The level and version that a namespace asks for. An unknown level is the strictest, as upstream has it."""
    labels = namespace.metadata.labels
    found = labels.get(PREFIX + mode, "privileged")
    version = labels.get(f"{PREFIX}{mode}-version", "latest")
    return (found if found in LEVELS else "restricted"), version


def _unchanged(attributes: Attributes) -> bool:
    """Whether an update leaves all that the standards look at; only new or changed pods are judged."""
    old = attributes.old
    return attributes.operation == "UPDATE" and isinstance(old, Pod) and old.spec == attributes.object.spec


def _pod(attributes: Attributes, namespace: Namespace) -> None:
    pod: Pod = attributes.object
    wanted, version = level(namespace, "enforce")
    if wanted != "privileged":
        found = violations(wanted, pod.metadata, pod.spec)
        if found:
            raise refuse(attributes, f'violates PodSecurity "{wanted}:{version}": {", ".join(found)}')
    _warn(attributes, namespace, pod.metadata, pod.spec)


def _warn(attributes: Attributes, namespace: Namespace, meta: ObjectMeta, spec: PodSpec) -> None:
    wanted, version = level(namespace, "warn")
    if wanted == "privileged":
        return
    found = violations(wanted, meta, spec)
    if found:
        attributes.warnings.append(f'would violate PodSecurity "{wanted}:{version}": {", ".join(found)}')


def _template(obj: Any) -> Any:
    """The pod template of an object that has one."""
    spec = getattr(obj, "spec", None)
    if spec is None:
        return getattr(obj, "template", None)
    if hasattr(spec, "job_template"):
        spec = spec.job_template.spec
    return getattr(spec, "template", None)
