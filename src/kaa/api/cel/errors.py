"""What can go wrong with an expression.

```text
CelError
├─ CompileError      the expression is wrong: `issues` say where, the text is cel-go's
└─ EvaluationError   these values make it fail: "no such key: x", "division by zero"
   └─ CostExceeded   it may not run on: stop, and charge the whole budget
```
"""

from __future__ import annotations

from dataclasses import dataclass

COST_EXCEEDED = "operation cancelled: actual cost limit exceeded"


class CelError(Exception):
    """Anything a CEL expression did wrong."""


@dataclass(frozen=True)
class Issue:
    """A fault and where it stands: ``line`` from 1, ``column`` from 0, counted in characters."""

    line: int
    column: int
    message: str

    def render(self, source: str) -> str:
        """The fault as cel-go prints it, with the line of the source and a caret below."""
        text = f"ERROR: <input>:{self.line}:{self.column + 1}: {self.message}"
        lines = source.split("\n")
        if self.line < 1 or self.line > len(lines):
            return text
        shown = lines[self.line - 1].replace("\t", " ")
        before = "".join(_WIDE_DOT if _is_wide(char) else "." for char in shown[: self.column])
        wide = self.column < len(shown) and _is_wide(shown[self.column])
        return f"{text}\n | {shown}\n | {before}{_WIDE_CARET if wide else '^'}"


_WIDE_DOT = "．"
_WIDE_CARET = "＾"


def _is_wide(char: str) -> bool:
    return len(char.encode("utf-8", "surrogatepass")) > 1


class CompileError(CelError):
    """The expression does not parse, or its types do not fit. ``str()`` is what cel-go prints for the whole of it."""

    def __init__(self, issues: tuple[Issue, ...], source: str, *, text: str | None = None) -> None:
        super().__init__(text or "\n".join(issue.render(source) for issue in issues))
        self.issues = issues
        self.source = source


class EvaluationError(CelError):
    """The expression failed on these values. ``str()`` is cel-go's text; ``cost`` is what was spent until then."""

    cost: int = 0


class CostExceeded(EvaluationError):
    """The evaluation's budget is spent. Nothing absorbs it, `||` neither."""

    def __init__(self) -> None:
        super().__init__(COST_EXCEEDED)
