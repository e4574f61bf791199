"""Whether the expressions of a configuration compile, asked when it is written.

Source: pkg/apis/admissionregistration/validation (the CEL parts).
"""

from __future__ import annotations

from kaa.api.cel import BOOL, NULL, STRING, ListType, Type
from kaa.api.cel.admission import Variables, compiled
from kaa.api.cel.mutation import JSON_PATCH
from kaa.api.types.admissionregistration_v1 import Variable

from .expressions import environment
from .mutating import root_type


class Check:
    """The expressions of one policy, or of a webhook's conditions. Each method says what is wrong; empty: nothing."""

    def __init__(self, *, params: bool = False, mutating: bool = False, variables: tuple[Variable, ...] = ()) -> None:
        where = environment(params=params, authorizer=True, mutating=mutating)
        self._variables = Variables(variables, where)
        self._where = self._variables.within(where)
        self._telling = self._variables.within(environment(params=params, authorizer=False))

    def variable(self, name: str) -> str:
        return self._variables.expressions[name].error

    def condition(self, source: str) -> str:
        return self._error(source, BOOL)

    def message(self, source: str) -> str:
        return compiled(self._telling, source, STRING).error

    def note(self, source: str) -> str:
        return self._error(source, STRING, NULL)

    def applied(self, source: str) -> str:
        return self._error(source, root_type())

    def patch(self, source: str) -> str:
        return self._error(source, ListType(JSON_PATCH))

    def _error(self, source: str, *returns: Type) -> str:
        return compiled(self._where, source, *returns).error
