"""Making a typed object of a patched document, and what upstream says when that cannot be done.

Two decoders, two tongues: a strategic merge ends in a map, from which fields are set one by one; the other patches end in
JSON, which is decoded. Either way the patch is at fault, not the request: 422, in the field ``patch``.

Source: apiserver pkg/endpoints/handlers (patch); apimachinery pkg/runtime (converter).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kaa.api import fields
from kaa.api.errors import Invalid
from kaa.api.fields import Path

from .strategic import go_text

#: What Go's JSON decoder says of a value of another type.
_UNFIT = re.compile(r"json: cannot unmarshal (\w+) into Go (?:struct field \S+|value) of type (.+)", re.DOTALL)
#: {JSON's word for a value: the kind it has in a map}
_KINDS = {"string": "string", "bool": "bool", "number": "int64", "array": "slice", "object": "map"}
_SIMPLE = re.compile(r"string|bool|u?int\d*|float\d+")


def not_restored(problem: str, *, document: Any, patch: dict[str, Any] | None) -> Invalid:
    """The refusal of a document that is no object. ``problem`` is the JSON decoder's complaint; ``patch`` is a strategic
    one, and None of any other kind."""
    if patch is None:
        value, text = msgspec.json.encode(document).decode(), problem
    else:
        value, text = go_text(patch), in_words_of_maps(problem)
    return Invalid.of("", "", "", [fields.invalid(Path("patch"), value, text)])


def in_words_of_maps(problem: str) -> str:
    """The complaint as it is where fields are set from a map: ``cannot restore map from string``."""
    found = _UNFIT.fullmatch(problem)
    if found is None:
        return problem
    kind, wanted = _KINDS.get(found[1], found[1]), found[2]
    if wanted.startswith("map["):
        return f"cannot restore map from {kind}"
    if wanted.startswith("[]"):
        return f"cannot restore slice from {kind}"
    if not _SIMPLE.fullmatch(wanted):
        return f"cannot restore struct from: {kind}"
    if kind == "int64" and wanted != "bool":  # Go could convert it; JSON must not
        return f"cannot convert {kind} to {wanted}"
    return f"unrecognized type: {wanted}"
