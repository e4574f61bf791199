"""What a CEL expression costs to compile and to evaluate: ``python bench/cel.py``, CPU microseconds, the smallest of several rounds."""

from __future__ import annotations

import time
from collections.abc import Callable

from kaa.api.cel import BOOL, Environment
from kaa.api.cel.schema import type_of_schema

ROUNDS = 5
INTEGER, STRING = {"type": "integer"}, {"type": "string"}
SCHEMA = {
    "type": "object",
    "properties": {
        "replicas": INTEGER,
        "maxReplicas": INTEGER,
        "name": STRING,
        "ports": {"type": "array", "items": {"type": "object", "properties": {"port": INTEGER, "name": STRING}}},
    },
}
VALUE = {
    "replicas": 3,
    "maxReplicas": 5,
    "name": "x-web",
    "ports": [{"port": 8000 + n, "name": f"port-{n}"} for n in range(20)],
}
RULES = (
    "self.replicas <= self.maxReplicas",
    "self.replicas <= self.maxReplicas && self.name.startsWith('x')",
    "self.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "self.ports.all(p, p.port > 1024 && p.name != '')",
    "self.ports.exists_one(p, p.name == 'port-7')",
)


def smallest(work: Callable[[], object], times: int) -> float:
    """CPU microseconds of one call."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time_ns()
        for _ in range(times):
            work()
        found.append((time.process_time_ns() - began) / times / 1000)
    return min(found)


def main() -> None:
    declared = type_of_schema(SCHEMA)
    assert declared is not None
    environment = Environment({"self": declared})
    values = {"self": VALUE}
    print(f"{'compile':>9}{'evaluate':>10}{'cost':>7}")
    for rule in RULES:
        program = environment.compile(rule, BOOL)
        compiling = smallest(lambda rule=rule: environment.compile(rule, BOOL), 100)  # type: ignore[misc]  # bound now
        evaluating = smallest(lambda program=program: program.evaluate(values), 5000)  # type: ignore[misc]
        print(f"{compiling:>9.0f}{evaluating:>10.2f}{program.evaluate(values).cost:>7}  {rule}")


if __name__ == "__main__":
    main()
