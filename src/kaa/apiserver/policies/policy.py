"""Policies with their bindings: which of them speak of a write, with which parameters.

What validating and mutating policies share. A policy without a binding does nothing; a fault in its configuration is
its failure policy's to judge.

Source: apiserver pkg/admission/plugin/policy/generic (policy_dispatcher.go, policy_source.go).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kaa.api.cel import BOOL, Environment
from kaa.api.cel.admission import Expression, compiled
from kaa.api.errors import ApiError, NotFound
from kaa.api.resources import Resource
from kaa.api.scheme import resource_of
from kaa.api.types.admissionregistration_v1 import MatchCondition
from kaa.api.types.core_v1 import Namespace

from ..authz.base import Authorizer
from ..cacher import Cacher
from ..webhooks.matching import Matcher
from ..webhooks.sight import Shape, Sight
from . import authorizer as authorization
from .expressions import namespace_value, object_value, request_value
from .params import BadParams, FindKind, collect, param_resource

E = TypeVar("E")

_CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}


def code_of(reason: str) -> int:
    """The HTTP code of a denial's reason."""
    return _CODES.get(reason, 422)


@dataclass(frozen=True)
class Surroundings:
    """What policies are held against besides the write itself."""

    cacher: Cacher
    authorizer: Authorizer
    find_kind: FindKind


@dataclass(frozen=True)
class Binding:
    object: Any
    matcher: Matcher | None

    @property
    def name(self) -> str:
        return self.object.metadata.name or ""


@dataclass(frozen=True)
class Policy(Generic[E]):
    """A policy that is bound. ``evaluator`` is what its expressions were compiled to."""

    object: Any
    matcher: Matcher
    bindings: tuple[Binding, ...]
    evaluator: E

    @property
    def name(self) -> str:
        return self.object.metadata.name or ""

    @property
    def ignores_failures(self) -> bool:
        return bool(self.object.spec.failure_policy == "Ignore")


@dataclass(frozen=True)
class Fault(Generic[E]):
    """A policy that cannot be followed; ``binding`` is None when it is the policy's own fault."""

    policy: Policy[E]
    binding: Binding | None
    message: str
    reason: str = "Forbidden"


@dataclass(frozen=True)
class Invocation(Generic[E]):
    """A policy to be run: for one binding, with one parameter, on the write seen as ``shape``."""

    policy: Policy[E]
    binding: Binding
    param: Any
    shape: Shape

    @property
    def key(self) -> tuple[str, str, str, str]:
        metadata = None if self.param is None else self.param.metadata
        where = ("", "") if metadata is None else (metadata.namespace or "", metadata.name or "")
        return self.policy.name, self.binding.name, *where


class Library(Generic[E]):
    """Compiles policies; what was compiled stays as long as the policy is of the same generation."""

    def __init__(self, compile: Callable[[Any], E]) -> None:
        self._compile = compile
        self._known: dict[tuple[str, int], tuple[Matcher, E]] = {}

    def bound(self, policies: Iterable[Any], bindings: Iterable[Any]) -> list[Policy[E]]:
        """The policies that some binding names, by name, each with its bindings by name."""
        by_policy: dict[str, list[Binding]] = {}
        for one in sorted(bindings, key=lambda b: b.metadata.name or ""):
            matcher = None if one.spec.match_resources is None else Matcher(one.spec.match_resources)
            by_policy.setdefault(one.spec.policy_name or "", []).append(Binding(one, matcher))
        known: dict[tuple[str, int], tuple[Matcher, E]] = {}
        found = []
        for policy in sorted(policies, key=lambda p: p.metadata.name or ""):
            mine = by_policy.get(policy.metadata.name or "")
            if mine and policy.spec.match_constraints is not None:
                key = policy.metadata.uid or "", policy.metadata.generation or 0
                made = self._known.get(key) or (Matcher(policy.spec.match_constraints), self._compile(policy))
                known[key] = made
                found.append(Policy(policy, made[0], tuple(mine), made[1]))
        self._known = known
        return found


def conditions_of(given: Iterable[MatchCondition], where: Environment) -> list[Expression]:
    return [compiled(where, one.expression, BOOL) for one in given]


def invocations(
    policies: Sequence[Policy[E]], sight: Sight, around: Surroundings
) -> Iterator[Invocation[E] | Fault[E]]:
    """What is to be run on a write, and which policies cannot be."""
    for policy in policies:
        try:
            shape = policy.matcher.shape(sight)
        except ApiError as err:
            yield Fault(policy, None, f"failed to configure policy: {err}")
            continue
        if shape is None:
            continue
        kind = policy.object.spec.param_kind
        try:
            resource = None if kind is None else param_resource(kind, around.find_kind)
        except BadParams as err:
            yield Fault(policy, None, f"failed to configure policy: {err}")
            continue
        for binding in policy.bindings:
            yield from _bound_invocations(policy, binding, shape, resource, sight, around)


def _bound_invocations(
    policy: Policy[E],
    binding: Binding,
    shape: Shape,
    resource: Resource[Any] | None,
    sight: Sight,
    around: Surroundings,
) -> Iterator[Invocation[E] | Fault[E]]:
    try:
        if binding.matcher is not None and binding.matcher.shape(sight) is None:
            return
        params = collect(resource, binding.object.spec.param_ref, sight.namespace, around.cacher)
    except (ApiError, BadParams) as err:
        yield Fault(policy, binding, f"failed to configure binding: {err}")
        return
    for param in params:
        yield Invocation(policy, binding, param, shape)


async def values_of(invocation: Invocation[Any], sight: Sight, around: Surroundings) -> dict[str, Any]:
    """The variables of a policy's expressions. Raises ApiError."""
    shape, obj = invocation.shape, sight.attributes.object
    kept = sight.variables.get(shape)
    if kept is None or kept[0] is not obj:
        kept = sight.variables[shape] = obj, await _values(shape, sight, around)
    if invocation.policy.object.spec.param_kind is None:
        return kept[1]
    return {**kept[1], "params": object_value(invocation.param)}


async def _values(shape: Shape, sight: Sight, around: Surroundings) -> dict[str, Any]:
    """What all policies see alike of a write."""
    return {
        "object": object_value(await sight.object(shape)),
        "oldObject": object_value(await sight.old(shape)),
        "request": request_value(sight, shape),
        "namespaceObject": namespace_value(_namespace(sight)),
        **authorization.values(around.authorizer, sight, shape),
    }


def _namespace(sight: Sight) -> Namespace | None:
    """The namespace that the object is in; a namespace is in none. Raises NotFound."""
    if sight.is_namespace or not sight.namespace:
        return None
    found = sight.view.get(Namespace, sight.namespace)
    if found is None:
        raise NotFound.of(resource_of(Namespace), sight.namespace)
    return found
