"""Files that must not go wrong: state written whole or not at all, and trees removed without leaving them."""

from __future__ import annotations

import os
from pathlib import Path

from .. import files


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` in one step. A crash of the process leaves the old or the new content, never a mixture."""
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    os.replace(part, path)


def remove_tree(path: Path) -> None:
    """Remove a tree of the runtime's own; what is gone is fine. Raises as ``runtime.files.remove_tree``."""
    files.remove_tree(path, root=path.parent)
