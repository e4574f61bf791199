"""``serviceaccounts/token``: a token on request, for an audience, a time, and bound to an object.

Source: pkg/registry/core/serviceaccount/storage/token.go; pkg/apis/authentication/validation.
"""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api import fields
from kaa.api.clock import format_time
from kaa.api.errors import BadRequest, Conflict, Invalid, NotFound
from kaa.api.fields import Path
from kaa.api.resources import Resource
from kaa.api.scheme import resource_of
from kaa.api.types.authentication_v1 import BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus
from kaa.api.types.core_v1 import Node, Pod, Secret, ServiceAccount
from kaa.client.pipeline import User

from ..view import View
from .tokens import EXTENDED_S, WARN_AFTER_S, Bound, TokenIssuer

GROUP = "authentication.k8s.io"
SHORTEST_S, LONGEST_S, DEFAULT_S = 600, 1 << 32, 3600


def default(request: TokenRequest) -> TokenRequest:
    if request.spec.expiration_seconds is not None:
        return request
    return replace(request, spec=replace(request.spec, expiration_seconds=DEFAULT_S))


def faults(spec: TokenRequestSpec) -> list[fields.FieldError]:
    path, seconds = Path("spec.expirationSeconds"), spec.expiration_seconds or 0
    if seconds < SHORTEST_S:
        return [fields.invalid(path, seconds, "may not specify a duration less than 10 minutes")]
    if seconds > LONGEST_S:
        return [fields.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")]
    return []


def answer(
    request: TokenRequest,
    namespace: str,
    name: str,
    issuer: TokenIssuer,
    view: View,
    *,
    audiences: tuple[str, ...],
    user: User | None = None,
) -> TokenRequest:
    """The request with its token. ``audiences``: the API server's own, used when none are asked for.

    Raises: NotFound (the account or what it is bound to), Conflict (another uid), Invalid, BadRequest.
    """
    account = view.get(ServiceAccount, name, namespace)
    if account is None:
        raise NotFound.of(resource_of(ServiceAccount), name)
    request = default(request)
    if request.metadata.name and request.metadata.name != name:
        raise BadRequest(
            f"metadata.name must match the service account name, got: {request.metadata.name}, expected: {name}"
        )
    found = faults(request.spec)
    if found:
        raise Invalid.of(GROUP, "TokenRequest", "", found)
    wanted = request.spec.audiences or audiences
    bound = _bound(request.spec.bound_object_ref, namespace, account, view)
    seconds = request.spec.expiration_seconds or DEFAULT_S
    extend = seconds == WARN_AFTER_S and wanted == audiences and any(b.kind == "pod" for b in bound)
    token = issuer.issue(
        account,
        wanted,
        EXTENDED_S if extend else seconds,
        view.clock,
        bound=bound,
        warn_after=seconds if extend else 0,
    )
    expires = format_time(int(view.clock.now()) + seconds)
    meta = replace(request.metadata, name=name, namespace=namespace, creation_timestamp=format_time(view.clock.now()))
    return replace(
        request,
        metadata=meta,
        spec=replace(request.spec, audiences=tuple(wanted)),
        status=TokenRequestStatus(token=token, expiration_timestamp=expires),
    )


def _bound(ref: BoundObjectReference | None, namespace: str, account: ServiceAccount, view: View) -> tuple[Bound, ...]:
    """What the token is bound to: a pod brings its node along."""
    if ref is None:
        return ()
    name = ref.name or ""
    match ref.api_version, ref.kind:
        case "v1", "Pod":
            pod = view.get(Pod, name, namespace)
            if pod is None:
                raise NotFound.of(resource_of(Pod), name)
            _check_uid(resource_of(Pod), ref, pod.metadata.uid)
            if pod.spec.service_account_name != account.metadata.name:
                used = pod.spec.service_account_name or ""
                raise BadRequest(
                    f'cannot bind token for serviceaccount "{account.metadata.name}" to pod running with '
                    f'different serviceaccount name "{used}".'
                )
            return (Bound("pod", name, pod.metadata.uid or ""), *_node_of(pod, view))
        case "v1", "Secret":
            secret = view.get(Secret, name, namespace)
            if secret is None:
                raise NotFound.of(resource_of(Secret), name)
            _check_uid(resource_of(Secret), ref, secret.metadata.uid)
            return (Bound("secret", name, secret.metadata.uid or ""),)
        case "v1", "Node":
            node = view.get(Node, name)
            if node is None:
                raise NotFound.of(resource_of(Node), name)
            _check_uid(resource_of(Node), ref, node.metadata.uid)
            return (Bound("node", name, node.metadata.uid or ""),)
    group, _, version = (ref.api_version or "").rpartition("/")
    raise BadRequest(f"cannot bind token to object of type {group}/{version}, Kind={ref.kind or ''}")


def _node_of(pod: Pod, view: View) -> tuple[Bound, ...]:
    if not pod.spec.node_name:
        return ()
    node = view.get(Node, pod.spec.node_name)
    return (Bound("node", pod.spec.node_name, (node.metadata.uid or "") if node is not None else ""),)


def _check_uid(resource: Resource[object], ref: BoundObjectReference, uid: str | None) -> None:
    if ref.uid and ref.uid != uid:
        why = f"the UID in the bound object reference ({ref.uid}) does not match the UID in record. The object might have been deleted and then recreated"
        raise Conflict.of(resource, ref.name or "", why)
