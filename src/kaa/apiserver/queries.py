"""The query of a request, checked before its verb is begun: what cannot be read, and what may not be asked.

Upstream converts the query into the verb's options (ListOptions, PatchOptions, ...) and validates those; so an option that
the verb does not have is not looked at, one that is no number is 400, and one that says what may not be said is 422.

Source: apimachinery pkg/runtime converter.go; pkg/apis/meta/v1/validation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kaa.api.errors import BadRequest, Invalid
from kaa.api.fields import FieldError, Path, forbidden, invalid, not_supported, required, too_long
from kaa.client.client import PatchType
from kaa.client.pipeline import Request

FIELD_VALIDATIONS = ("", "Ignore", "Strict", "Warn")
FIELD_MANAGER_MAX = 128  # bytes

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_DIGITS = 20  # of the largest 64-bit number
_OPTIONS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}


def check(request: Request) -> None:
    """Refuse a query that upstream refuses. Raises BadRequest, Invalid."""
    options = request.options
    if request.verb in _OPTIONS:
        faults = write_faults(request)
        if faults:
            raise Invalid.of("meta.k8s.io", _OPTIONS[request.verb], "", faults)
    elif request.verb in ("list", "watch", "deletecollection"):
        for name in ("timeoutSeconds", "limit"):
            if name in options:
                parse_int64(options[name])


def write_faults(request: Request) -> list[FieldError]:
    """What the options of a create, an update or a patch say and may not."""
    options = request.options
    faults: list[FieldError] = []
    manager = options.get("fieldManager", "")
    if request.verb == "patch":
        if request.content_type.startswith("application/apply-patch"):
            if not manager:
                faults.append(required(Path("fieldManager"), "is required for apply patch"))
        elif "force" in options and request.content_type.partition(";")[0] in tuple(PatchType):
            faults.append(forbidden(Path("force"), "may not be specified for non-apply patch"))
    if manager:
        faults += _manager_faults(manager)
    dry_run = options.get("dryRun", "")
    if dry_run and dry_run != "All":
        faults.append(not_supported(Path("dryRun"), [dry_run], ["All"]))
    validation = options.get("fieldValidation", "")
    if validation not in FIELD_VALIDATIONS:
        faults.append(not_supported(Path("fieldValidation"), validation, FIELD_VALIDATIONS))
    return faults


def _manager_faults(manager: str) -> list[FieldError]:
    path = Path("fieldManager")
    faults = [too_long(path, FIELD_MANAGER_MAX)] if len(manager.encode()) > FIELD_MANAGER_MAX else []
    place = 0  # in bytes, as Go counts them
    for letter in manager:
        if not (letter == " " or letter.isprintable()):
            shown = f"U+{ord(letter):04X}"
            faults.append(invalid(path, manager, f"invalid character {shown} (at position {place})"))
        place += len(letter.encode())
    return faults


def is_true(options: Mapping[str, str], name: str) -> bool:
    """A switch of the query: it is on when it is there, whatever it says but ``0`` and ``false``."""
    return name in options and options[name] != "0" and options[name].lower() != "false"


def parse_int64(text: str) -> int:
    """An integer of the query, as Go's ``strconv.ParseInt`` reads it. Raises BadRequest."""
    if not _INTEGER.fullmatch(text):
        raise BadRequest(f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax")
    if len(text.lstrip("+-0")) > _DIGITS or not -(1 << 63) <= int(text) < 1 << 63:
        raise BadRequest(f"strconv.ParseInt: parsing {quoted(text)}: value out of range")
    return int(text)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
