"""What long-running processes do without: called before anything else is imported.

structlog imports rich where it is installed, for coloured tracebacks that no log file shows: 60 ms of every start and 8 MB of
every process.
"""

from __future__ import annotations

import sys
from typing import cast

LEFT_OUT = ("rich", "better_exceptions")


def leave_out() -> None:
    """Make the optional imports of libraries fail, as if what they look for was not installed."""
    modules = cast("dict[str, object]", sys.modules)
    for name in LEFT_OUT:
        modules.setdefault(name, None)  # None: "import" raises ImportError
