"""CEL in admission: what expressions see of a write, and how several of them share a budget.

Variables are evaluated when first asked for, once an evaluation of expressions, and charged to whoever asked. Compiling is
`kaa.api.cel.admission`'s.

Source: apiserver pkg/admission/plugin/cel (condition.go, composition.go); pkg/apis/cel/config.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from kaa.api.cel import DYN, TIMESTAMP, CelError, Environment, EvaluationError, ObjectType, Type
from kaa.api.cel.admission import Expression, Variables, names
from kaa.api.cel.instants import parse_timestamp
from kaa.api.cel.library import KUBERNETES, MUTATING
from kaa.api.cel.limits import PER_CALL, PER_OBJECT
from kaa.api.cel.mutation import named_type
from kaa.api.cel.structs import view as struct_view
from kaa.api.cel.variables import NAMESPACE
from kaa.api.custom import CustomObject
from kaa.api.types.core_v1 import Namespace

from ..webhooks.review import kind_of, resource_of, user_info
from ..webhooks.sight import Shape, Sight

NO_BUDGET = "validation failed due to running out of cost budget, no further validation rules will be run"


@lru_cache(maxsize=16)
def environment(*, params: bool, authorizer: bool, mutating: bool = False) -> Environment:
    """Where an expression stands. ``params``: its policy has a kind of parameters."""
    found = names(params=DYN if params else None, authorizer=authorizer)
    if not mutating:
        return Environment(found, KUBERNETES)
    return Environment(found, MUTATING, types=named_type)


# ------------------------------------------------------------------------------------------------------ evaluating


class BudgetSpent(Exception):
    """The expressions cost more than they may."""

    def __init__(self) -> None:
        super().__init__(NO_BUDGET)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an expression gave, or why it gave nothing. An absent expression gives neither."""

    value: Any = None
    error: str = ""


@dataclass(slots=True)
class Purse:
    """What is left to spend."""

    left: int = PER_OBJECT

    def pay(self, cost: int) -> None:
        """Raises BudgetSpent."""
        if cost > self.left:
            raise BudgetSpent
        self.left -= cost


@dataclass(slots=True)
class _Lazy(Mapping[str, Any]):
    """``variables``, evaluated when asked for. ``cost`` is what has not been charged yet."""

    expressions: Mapping[str, Expression]
    scope: Mapping[str, Any]
    cost: int = 0
    known: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if name not in self.known:
            self.known[name] = self._evaluated(name, self.expressions[name])
        found = self.known[name]
        if isinstance(found, EvaluationError):
            raise found
        return found

    def _evaluated(self, name: str, expression: Expression) -> Any:
        quoted = msgspec.json.encode(name).decode()
        if expression.program is None:
            return EvaluationError(f"composited variable {quoted} fails to compile: {expression.error}")
        try:
            value, cost = expression.program.evaluate(self.scope, PER_CALL)
        except EvaluationError as err:
            self.cost += err.cost
            return EvaluationError(f"composited variable {quoted} fails to evaluate: {err}")
        self.cost += cost
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.expressions)

    def __len__(self) -> int:
        return len(self.expressions)


def evaluate(
    expressions: Iterable[Expression | None],
    values: Mapping[str, Any],
    purse: Purse,
    variables: Variables | None = None,
) -> list[Outcome]:
    """Evaluate expressions one after the other, out of one purse. Raises BudgetSpent."""
    lazy: _Lazy | None = None
    if variables is not None and variables.expressions:
        values = dict(values)
        lazy = values["variables"] = _Lazy(variables.expressions, values)
    return [Outcome() if one is None else _evaluated(one, values, purse, lazy) for one in expressions]


def _evaluated(expression: Expression, values: Mapping[str, Any], purse: Purse, lazy: _Lazy | None) -> Outcome:
    if expression.program is None:
        return Outcome(error=f"compilation error: {expression.error}")
    error = ""
    value = None
    try:
        value, cost = expression.program.evaluate(values, PER_CALL)
    except EvaluationError as err:
        error, cost = f"expression '{expression.source}' resulted in error: {err}", err.cost
    except CelError as err:
        error, cost = f"expression '{expression.source}' resulted in error: {err}", 0
    if lazy is not None:
        purse.pay(lazy.cost)
        lazy.cost = 0
    purse.pay(cost)
    return Outcome(value, error)


# ------------------------------------------------------------------------------------------------------ values


def object_value(obj: Any) -> Any:
    """An object as expressions see it; None is null."""
    if obj is None:
        return None
    return obj.document() if isinstance(obj, CustomObject) else struct_view(obj)


def request_value(sight: Sight, shape: Shape) -> dict[str, Any]:
    """``request``: an AdmissionRequest without its objects."""
    mine = sight.shape
    return {
        "kind": kind_of(shape),
        "resource": resource_of(shape),
        "subResource": sight.subresource,
        "requestKind": kind_of(mine),
        "requestResource": resource_of(mine),
        "requestSubResource": sight.subresource,
        "name": sight.name,
        "namespace": sight.namespace,
        "operation": sight.operation,
        "userInfo": user_info(sight.user),
        "dryRun": sight.dry_run,
        "options": sight.options(),
    }


def namespace_value(namespace: Namespace | None) -> Any:
    """``namespaceObject``, made once a revision of the namespace."""
    if namespace is None:
        return None
    key = namespace.metadata.uid or "", namespace.metadata.resource_version or ""
    found = _namespaces.get(key)
    if found is None:
        if len(_namespaces) >= KEPT_NAMESPACES:
            _namespaces.clear()
        found = _namespaces[key] = _namespace_value(namespace)
    return found


KEPT_NAMESPACES = 256
_namespaces: dict[tuple[str, str], dict[str, Any]] = {}


def _namespace_value(namespace: Namespace) -> dict[str, Any]:
    document: dict[str, Any] = {
        key: inner for key, inner in _plain(struct_view(namespace)).items() if key in NAMESPACE.fields
    }
    document["metadata"] = _timed(document["metadata"], NAMESPACE.fields["metadata"])
    status = document.get("status", {})
    if "conditions" in status:
        kind = NAMESPACE.fields["status"].fields["conditions"].parameters[0]  # type: ignore[attr-defined]  # an ObjectType
        document["status"] = {**status, "conditions": [_timed(one, kind) for one in status["conditions"]]}
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _timed(document: Mapping[str, Any], kind: Type) -> dict[str, Any]:
    """The fields that a type names, with its times as times."""
    assert isinstance(kind, ObjectType)
    fields = kind.fields
    return {
        key: parse_timestamp(inner) if fields[key] == TIMESTAMP else inner
        for key, inner in document.items()
        if key in fields
    }
