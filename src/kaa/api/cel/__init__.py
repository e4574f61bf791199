"""The Common Expression Language, as Kubernetes 1.36 speaks it.

An `Environment` declares variables and libraries. It compiles an expression once to a `Program`, a tree of Python
closures that count their cost as they run, exactly as upstream counts:

    environment = Environment({"self": schema.type_of_schema(openapi)})
    program = environment.compile("self.minReplicas <= self.replicas", BOOL)      # raises CompileError
    program.evaluate({"self": {...}}, budget=1_000_000)                           # -> Result(value=True, cost=4)
    program.references                                                            # frozenset({"self"})
    program.estimate()                                                            # -> CostEstimate(minimum=4, maximum=4)

Values are plain: dict (or any Mapping), list and tuple, str, int, float, bool, None, bytes, and for what Python has no
exact word `Uint`, `Timestamp`, `Duration` and `OptionalValue` from `values`. A Mapping may compute what it holds when it is
asked, as the variables of a policy do.

| module | for whoever runs expressions |
|---|---|
| `schema` | a CRD's schema as a type; its JSON values as CEL values (numbers, dates, sets in lists) |
| `structs` | a frozen Struct as a map under its wire names; a CEL value as JSON again |
| `variables` | the types of ``request`` and ``namespaceObject``; ``device`` |
| `mutation` | the types that mutating policies write out |
| `authorizer` | what the API server answers to ``authorizer`` |
| `library` | which functions there are: `KUBERNETES` everywhere, `MUTATING`, `DEVICES` |
| `limits` | budgets, as Kubernetes sets them |
| `escaping` | ``foo-bar`` is ``foo__dash__bar`` |

How it works: `parser` (over `lexer`, with `macros`) makes a tree of `syntax`; `checker` writes types into it, over
`assignability`; `validators` look at literals; `compiler` makes closures over a `frame`, out of `selection`, `operators`,
`calls`, `comprehensions` and `literals`, charging what `costs` says; `estimate` walks the tree with `prices`.

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
