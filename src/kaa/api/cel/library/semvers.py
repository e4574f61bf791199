"""Semantic versions: ``semver(device.driverVersion).isGreaterThan(semver('1.2.0'))``.

Source: apiserver pkg/cel/library/semverlib.go; github.com/blang/semver/v4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..declarations import Library, function, member
from ..errors import EvaluationError
from ..types import BOOL, INT, STRING, OpaqueType, Type
from ..values import UINT_MAX

SEMVER = OpaqueType("kubernetes.Semver")
_DIGITS = frozenset("0123456789")
_WORDS = _DIGITS | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-")


@dataclass(frozen=True)
class SemverValue:
    """Build metadata is read and plays no part in comparing."""

    cel_type: ClassVar[Type] = SEMVER
    major: int
    minor: int
    patch: int
    pre: tuple[int | str, ...] = ()
    build: tuple[str, ...] = field(default=(), compare=False)


def _number(text: str, name: str) -> int:
    if not text or not set(text) <= _DIGITS:
        raise EvaluationError(f'Invalid character(s) found in {name} number "{text}"')
    if len(text) > 1 and text[0] == "0":
        raise EvaluationError(f'{name.capitalize()} number must not contain leading zeroes "{text}"')
    value = int(text)
    if value > UINT_MAX:
        raise EvaluationError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return value


def _identifier(text: str) -> int | str:
    if text == "":
        raise EvaluationError("prerelease is empty")
    if set(text) <= _DIGITS:
        if len(text) > 1 and text[0] == "0":
            raise EvaluationError(f'Numeric PreRelease version must not contain leading zeroes "{text}"')
        return int(text)
    if not set(text) <= _WORDS:
        raise EvaluationError(f'Invalid character(s) found in prerelease "{text}"')
    return text


def _build(text: str) -> str:
    if text == "":
        raise EvaluationError("build meta data is empty")
    if not set(text) <= _WORDS:
        raise EvaluationError(f'Invalid character(s) found in build meta data "{text}"')
    return text


def parse(text: str, normalize: bool = False) -> SemverValue:
    """Read a version, strictly; ``normalize`` takes ``v1.2`` for 1.2.0. Raises EvaluationError."""
    if normalize:
        text = _normalized(text)
    if not text:
        raise EvaluationError("Version string empty")
    parts = text.split(".", 2)
    if len(parts) != 3:
        raise EvaluationError("No Major.Minor.Patch elements found")
    rest, plus, build = parts[2].partition("+")
    patch, dash, pre = rest.partition("-")
    return SemverValue(
        _number(parts[0], "major"),
        _number(parts[1], "minor"),
        _number(patch, "patch"),
        tuple(map(_identifier, pre.split("."))) if dash else (),
        tuple(map(_build, build.split("."))) if plus else (),
    )


def _normalized(text: str) -> str:
    parts = text.removeprefix("v").split(".", 2)
    for at, part in enumerate(parts):
        if len(part) > 1:
            part = part.lstrip("0")
            parts[at] = part if part[:1] in _DIGITS and part else "0" + part
    if len(parts) < 3:
        if "+" in parts[-1] or "-" in parts[-1]:
            raise EvaluationError("short version cannot contain PreRelease/Build meta data")
        parts += ["0"] * (3 - len(parts))
    return ".".join(parts)


def _is_semver(text: str, normalize: bool = False) -> bool:
    try:
        parse(text, normalize)
    except EvaluationError:
        return False
    return True


def rank(version: SemverValue) -> tuple[object, ...]:
    """Sorts as semver does: a release after its pre-releases, numbers before words."""
    words = tuple((1, 0, one) if isinstance(one, str) else (0, one, "") for one in version.pre)
    return version.major, version.minor, version.patch, not version.pre, words


def compare(one: SemverValue, other: SemverValue) -> int:
    mine, theirs = rank(one), rank(other)
    return (mine > theirs) - (mine < theirs)


_S, _SS = (SEMVER,), (SEMVER, SEMVER)

LIBRARY = Library(
    "kubernetes.Semver",
    (
        function("semver", "string_to_semver", (STRING,), SEMVER, parse),
        function("semver", "string_bool_to_semver", (STRING, BOOL), SEMVER, parse),
        function("isSemver", "is_semver_string", (STRING,), BOOL, _is_semver),
        function("isSemver", "is_semver_string_bool", (STRING, BOOL), BOOL, _is_semver),
        member("isGreaterThan", "semver_is_greater_than", _SS, BOOL, lambda a, b: compare(a, b) == 1),
        member("isLessThan", "semver_is_less_than", _SS, BOOL, lambda a, b: compare(a, b) == -1),
        member("compareTo", "semver_compare_to", _SS, INT, compare),
        member("major", "semver_major", _S, INT, lambda version: version.major),
        member("minor", "semver_minor", _S, INT, lambda version: version.minor),
        member("patch", "semver_patch", _S, INT, lambda version: version.patch),
    ),
    types={"kubernetes.Semver": SEMVER},
)
