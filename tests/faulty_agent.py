"""``kaa agent`` that is shot at a chosen moment: ``python faulty_agent.py MODULE:ATTRIBUTE:before|after agent --name …``.

It is the agent in all else. The shot is SIGKILL, as a crash or the kernel's OOM killer gives it: nothing is tidied up.
``inotify:ERROR`` instead of a moment: the kernel has no instances (EMFILE) or no watches (ENOSPC) left for it.
"""

from __future__ import annotations

import ctypes
import errno
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


#: {error: the call that the kernel answers with it}
_REFUSING = {"EMFILE": "inotify_init1", "ENOSPC": "inotify_add_watch"}


def exhaust_inotify(error: str) -> None:
    """Have libc's call fail as it does for a user who has used up ``fs.inotify.max_user_instances`` or ``_watches``."""
    real = ctypes.CDLL.__getitem__

    def refused(*_: Any) -> int:
        ctypes.set_errno(getattr(errno, error))
        return -1

    def named(library: ctypes.CDLL, name: str) -> Any:
        return refused if name == _REFUSING[error] else real(library, name)

    ctypes.CDLL.__getitem__ = named  # type: ignore[method-assign]  # __getattr__ asks it, too


if __name__ == "__main__":
    kind, _, error = (moment := sys.argv.pop(1)).partition(":")
    if kind == "inotify":
        exhaust_inotify(error)
    else:
        arm(moment)
    from kaa.cli.main import main

    main()
