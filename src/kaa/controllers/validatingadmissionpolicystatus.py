"""The types of a ValidatingAdmissionPolicy's expressions, checked against the kinds that its rules name.

What is found does not change what the policy does: it is written to ``status.typeChecking`` for its author. Rules with
wildcards are not checked, nor more kinds than ``MAX_KINDS``.

Source: kubernetes pkg/controller/validatingadmissionpolicystatus; apiserver pkg/admission/plugin/policy/validating
typechecking.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kaa.api import scheme
from kaa.api.types.admissionregistration_v1 import (
    ExpressionWarning,
    NamedRuleWithOperations,
    ValidatingAdmissionPolicy,
)
from kaa.api.types.apiextensions_v1 import CustomResourceDefinition
from kaa.client.client import PatchType
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller

if TYPE_CHECKING:
    from kaa.api.cel import Type

MAX_KINDS = 10


class Kind(NamedTuple):
    group: str
    version: str
    kind: str

    def __str__(self) -> str:
        """As Go prints it."""
        return f"{self.group}/{self.version}, Kind={self.kind}"


#: The type of a kind's objects; None when nobody knows the kind.
TypeOf = Callable[[Kind], "Type | None"]
#: The kind of a resource, by group, version and plural; None when it is not served.
KindOf = Callable[[str, str, str], Kind | None]


def kinds_of(rules: Sequence[NamedRuleWithOperations], kind_of: KindOf) -> list[Kind]:
    """The kinds that rules name, in order; of wildcards and subresources none."""
    found: dict[Kind, None] = {}
    for rule in rules:
        if any("*" in word for word in (*rule.api_groups, *rule.api_versions)):
            continue
        plurals = sorted(word for word in rule.resources if not set("*/") & set(word))
        for group in sorted(rule.api_groups):
            for version in sorted(rule.api_versions):
                for plural in plurals:
                    kind = kind_of(group, version, plural)
                    if kind is not None and len(found) < MAX_KINDS:
                        found[kind] = None
    return sorted(found)


def warnings_of(policy: ValidatingAdmissionPolicy, kind_of: KindOf, type_of: TypeOf) -> list[ExpressionWarning]:
    """What is wrong with the types of a policy's expressions, for each field and all kinds."""
    spec = policy.spec
    rules = spec.match_constraints.resource_rules if spec.match_constraints is not None else ()
    known = [(kind, found) for kind in kinds_of(rules, kind_of) if (found := type_of(kind)) is not None]
    params = None
    if spec.param_kind is not None:
        group, _, version = (spec.param_kind.api_version or "").rpartition("/")
        params = type_of(Kind(group, version, spec.param_kind.kind or ""))
    made = []
    for field, expression in _expressions(policy):
        texts = [text for kind, found in known if (text := _problem(policy, expression, kind, found, params))]
        if texts:
            made.append(ExpressionWarning(field_ref=field, warning="\n".join(texts)))
    return made


def _expressions(policy: ValidatingAdmissionPolicy) -> Iterator[tuple[str, str]]:
    for n, validation in enumerate(policy.spec.validations):
        yield f"spec.validations[{n}].expression", validation.expression
        if validation.message_expression:
            yield f"spec.validations[{n}].messageExpression", validation.message_expression


def _problem(policy: ValidatingAdmissionPolicy, expression: str, kind: Kind, obj: Type, params: Type | None) -> str:
    """Why an expression does not compile on objects of one kind; empty when it does."""
    from kaa.api.cel import CompileError, Environment  # CEL is for clusters that use it
    from kaa.api.cel.admission import Variables, names

    where = Environment(names(obj=obj, params=params, request_resource=False))
    try:
        Variables(policy.spec.variables, where).within(where).compile(expression)
    except CompileError as err:
        return f"{kind}: {err}\n"
    return ""


class ValidatingAdmissionPolicyStatus(Controller[Key]):
    """Keys are policies."""

    name = "validatingadmissionpolicy-status-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.policies = self.watch(ValidatingAdmissionPolicy, self._on_policy)
        self.definitions = self.watch(CustomResourceDefinition)

    def _on_policy(self, old: ValidatingAdmissionPolicy | None, new: ValidatingAdmissionPolicy | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    async def reconcile(self, key: Key) -> None:
        policy = self.policies.by_key(key)
        if policy is None:
            return
        generation = policy.metadata.generation or 0
        if generation <= (policy.status.observed_generation or 0):
            return
        warnings = warnings_of(policy, self._kind_of, self._type_of)
        checking = {"expressionWarnings": scheme.to_builtins(warnings)} if warnings else {}
        patch = {
            "kind": policy.KIND,
            "apiVersion": policy.API_VERSION,
            "metadata": {"name": key.name},
            "status": {"observedGeneration": generation, "typeChecking": checking},
        }
        await self.client.patch(
            ValidatingAdmissionPolicy,
            key.name,
            patch,
            type=PatchType.APPLY,
            subresource="status",
            field_manager=self.name,
            force=True,
        )

    def _kind_of(self, group: str, version: str, plural: str) -> Kind | None:
        resource = scheme.resource_by_path(group, version, plural)
        if resource is not None:
            return Kind(group, version, resource.kind)
        spec = self._definition(lambda s: s.group == group and s.names.plural == plural)
        return None if spec is None else Kind(group, version, spec.names.kind)

    def _type_of(self, kind: Kind) -> Type | None:
        from kaa.api.cel.schema import type_of_schema
        from kaa.api.cel.struct_types import type_of_struct

        api_version = f"{kind.group}/{kind.version}" if kind.group else kind.version
        resource = scheme.resource_by_kind(api_version, kind.kind)
        if resource is not None:
            return type_of_struct(resource.type)  # type: ignore[arg-type]  # classes are hashable
        spec = self._definition(lambda s: s.group == kind.group and s.names.kind == kind.kind)
        found = [v for v in spec.versions if v.name == kind.version and v.served] if spec is not None else []
        if not found or found[0].schema is None or found[0].schema.open_apiv3_schema is None:
            return None
        return type_of_schema(scheme.to_builtins(found[0].schema.open_apiv3_schema), root=True, name=kind.kind)

    def _definition(self, wanted: Callable[[Any], bool]) -> Any:
        return next((d.spec for d in self.definitions if wanted(d.spec)), None)
