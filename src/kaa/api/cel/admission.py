"""What expressions in admission may name, and compiling them.

The API server evaluates them; the controller that checks their types compiles them only, against the types of the objects
that they are about. An expression that does not compile is kept with its error: who asked for it decides what comes of it.

Source: apiserver pkg/admission/plugin/cel (compile.go, composition.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..types.admissionregistration_v1 import Variable
from .environment import Environment, Program
from .errors import CompileError
from .library.authorization import AUTHORIZER, RESOURCE_CHECK
from .types import DYN, ObjectType, Type
from .variables import NAMESPACE, REQUEST


class _Variables(ObjectType):
    """The type of ``variables``. A variable that is null is null, not absent."""

    keeps_null = True


def names(
    *, obj: Type = DYN, params: Type | None = None, authorizer: bool = True, request_resource: bool = True
) -> dict[str, Type]:
    """The variables of an expression. ``obj`` and ``params``: the types of what it is about, where they are known."""
    found: dict[str, Type] = {"object": obj, "oldObject": obj, "request": REQUEST, "namespaceObject": NAMESPACE}
    if params is not None:
        found["params"] = params
    if authorizer:
        found["authorizer"] = AUTHORIZER
        if request_resource:
            found["authorizer.requestResource"] = RESOURCE_CHECK
    return found


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression, and what came of compiling it: a program, or ``error``."""

    source: str
    program: Program | None = None
    error: str = ""


def compiled(where: Environment, source: str, *returns: Type) -> Expression:
    """Compile an expression that must be of one of these types; none are given where any will do."""
    try:
        program = where.compile(source)
    except CompileError as err:
        return Expression(source, error=f"compilation failed: {err}")
    if returns and program.type not in returns:
        wanted = _go_text(returns[0]) if len(returns) == 1 else f"one of [{' '.join(map(_go_text, returns))}]"
        return Expression(source, error=f"must evaluate to {wanted} but got {_go_text(program.type)}")
    return Expression(source, program)


def _go_text(kind: Type) -> str:
    """A type as cel-go's ``Type.String`` prints it: by its runtime name."""
    inner = ", ".join(map(_go_text, kind.parameters))
    return f"{kind.name}({inner})" if inner else kind.name


class Variables:
    """A policy's variables. Each may use those before it."""

    def __init__(self, given: Iterable[Variable], where: Environment) -> None:
        self.expressions: dict[str, Expression] = {}
        types: dict[str, Type] = {}
        for variable in given:
            found = compiled(_with_variables(where, types), variable.expression)
            self.expressions[variable.name] = found
            types[variable.name] = found.program.type if found.program is not None else DYN
        self._types = types

    def within(self, where: Environment) -> Environment:
        """An environment in which the variables stand."""
        return _with_variables(where, self._types) if self._types else where


def _with_variables(where: Environment, types: Mapping[str, Type]) -> Environment:
    return where.extended({"variables": _Variables("kubernetes.variables", dict(types))}) if types else where
