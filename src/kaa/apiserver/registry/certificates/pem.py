"""The blocks of a PEM text, as Go reads them: what stands between them is passed over."""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

_BLOCK = re.compile(r"^-----BEGIN ([^\n]*)-----\s*\n(.*?)^-----END \1-----", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """``headers``: whether it has any (``Proc-Type: …``). ``data`` is empty where it is not base64."""

    kind: str
    headers: bool
    data: bytes


def blocks(text: str) -> list[Block]:
    return [Block(kind, ":" in body, _decoded(body)) for kind, body in _BLOCK.findall(text)]


def _decoded(body: str) -> bytes:
    try:
        return binascii.a2b_base64(body)
    except ValueError:
        return b""
