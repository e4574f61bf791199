"""The Common Expression Language, as Kubernetes 1.36 speaks it.

An `Environment` declares variables and libraries. It compiles an expression once to a `Program`, a tree of Python
closures that count their cost as they run, exactly as upstream counts:

    environment = Environment({"self": schema.type_of_schema(openapi)})
    program = environment.compile("self.minReplicas <= self.replicas", BOOL)      # raises CompileError
    program.evaluate({"self": {...}}, budget=1_000_000)                           # -> Result(value=True, cost=4)
    program.references                                                            # frozenset({"self"})
    program.estimate()                                                            # -> CostEstimate(minimum=4, maximum=4)

Values are plain: dict (or any Mapping), list and tuple, str, int, float, bool, None, bytes, and for what Python has no
exact word `Uint`, `Timestamp`, `Duration` and `OptionalValue` from `values`. A value that is not plain JSON under its
declared type (a ``format: date-time`` string, a whole number where a double is declared) goes through the schema's
own `schema.converter` first; a frozen Struct through `structs.view`.

Source: the CEL specification; google/cel-go; Kubernetes' apiserver pkg/cel.
"""

from .environment import CostEstimate, Environment, Program, Result
from .errors import CelError, CompileError, CostExceeded, EvaluationError, Issue
from .types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    TYPE,
    UINT,
    ListType,
    MapType,
    ObjectType,
    OpaqueType,
    OptionalType,
    Type,
)
from .values import NOTHING, Duration, OptionalValue, Timestamp, Uint

__all__ = [
    "BOOL",
    "BYTES",
    "DOUBLE",
    "DURATION",
    "DYN",
    "INT",
    "NOTHING",
    "NULL",
    "STRING",
    "TIMESTAMP",
    "TYPE",
    "UINT",
    "CelError",
    "CompileError",
    "CostEstimate",
    "CostExceeded",
    "Duration",
    "Environment",
    "EvaluationError",
    "Issue",
    "ListType",
    "MapType",
    "ObjectType",
    "OpaqueType",
    "OptionalType",
    "OptionalValue",
    "Program",
    "Result",
    "Timestamp",
    "Type",
    "Uint",
]
