"""``kaa agent`` that is shot at a chosen moment: ``python faulty_agent.py MODULE:ATTRIBUTE:before|after agent --name …``.

It is the agent in all else. The shot is SIGKILL, as a crash or the kernel's OOM killer gives it: nothing is tidied up.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
from typing import Any


def shot() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str) -> None:
    """Shoot when a function is called, or when it has returned."""
    module, path, when = moment.split(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)

    async def awaited(*given: Any, **more: Any) -> Any:
        if when == "after":
            await original(*given, **more)
        shot()

    def called(*given: Any, **more: Any) -> Any:
        if when == "after":
            original(*given, **more)
        shot()

    setattr(owner, name, awaited if inspect.iscoroutinefunction(original) else called)


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    from kaa.cli.main import main

    main()
