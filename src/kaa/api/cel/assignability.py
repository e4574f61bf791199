"""Which type may stand where another is asked for, and what that says about type parameters.

Source: cel-go checker/types.go.
"""

from __future__ import annotations

from .types import DYN, Kind, ObjectType, Type

#: {type parameter's name: what it was found to be}
Substitutions = dict[str, Type]

_NULLABLE = frozenset((Kind.NULL, Kind.OBJECT, Kind.OPAQUE, Kind.OPTIONAL, Kind.TIMESTAMP, Kind.DURATION, Kind.ANY))
_NESTED = frozenset((Kind.LIST, Kind.MAP, Kind.OPAQUE, Kind.OPTIONAL))


def is_dyn(type_: Type) -> bool:
    return type_.kind in (Kind.DYN, Kind.ERROR, Kind.ANY)


def with_parameters(type_: Type, parameters: tuple[Type, ...]) -> Type:
    return Type(type_.kind, type_.name, parameters, type_.max_elements)


def substitute(found: Substitutions, type_: Type, *, to_dyn: bool = False) -> Type:
    """The type with its parameters replaced by what they were found to be; with ``to_dyn`` unknown ones by dyn."""
    if type_.kind is Kind.PARAMETER:
        known = found.get(type_.name)
        if known is not None:
            return substitute(found, known, to_dyn=to_dyn)
        return DYN if to_dyn else type_
    if not type_.parameters or isinstance(type_, ObjectType):
        return type_
    return with_parameters(type_, tuple(substitute(found, inner, to_dyn=to_dyn) for inner in type_.parameters))


def assignable_all(found: Substitutions, wanted: list[Type], given: list[Type]) -> Substitutions | None:
    """What parameters must be for ``given`` to be assignable to ``wanted``; None where they are not."""
    if len(wanted) != len(given):
        return None
    trial = dict(found)
    for one, other in zip(wanted, given, strict=True):
        if not _assignable(trial, one, other):
            return None
    return trial


def assignable(found: Substitutions, one: Type, other: Type) -> bool:
    """Whether ``other`` may stand for ``one``; if so, ``found`` learns what that says of parameters."""
    trial = dict(found)
    if not _assignable(trial, one, other):
        return False
    found.update(trial)
    return True


def _assignable(found: Substitutions, one: Type, other: Type) -> bool:
    if other.kind is Kind.PARAMETER:
        fits, known = _substitutable(found, one, other)
        if fits or known:
            return fits
    if one.kind is Kind.PARAMETER:
        return _substitutable(found, other, one)[0]
    if is_dyn(one) or is_dyn(other):
        return True
    if one.kind is Kind.NULL:
        return other.kind in _NULLABLE
    if other.kind is Kind.NULL:
        return one.kind in _NULLABLE
    if one.kind is not other.kind:
        return False
    if one.kind in _NESTED:
        return (
            one.name == other.name
            and len(one.parameters) == len(other.parameters)
            and all(_assignable(found, a, b) for a, b in zip(one.parameters, other.parameters, strict=True))
        )
    return one.kind is not Kind.OBJECT or one.name == other.name


def _substitutable(found: Substitutions, type_: Type, parameter: Type) -> tuple[bool, bool]:
    """Whether the parameter may be ``type_``, and whether it already is known to be something."""
    if type_ == parameter:
        return True, True
    known = found.get(parameter.name)
    if known is None:
        if _occurs(found, parameter, type_):
            return False, False
        found[parameter.name] = type_
        return True, False
    if type_ == known:
        return True, True
    if not _assignable(found, type_, known):
        return False, True
    general = most_general(type_, known)
    if not _occurs(found, parameter, general):
        found[parameter.name] = general
    return True, True


def _occurs(found: Substitutions, parameter: Type, type_: Type) -> bool:
    if type_ == parameter:
        return True
    if type_.kind is Kind.PARAMETER:
        known = found.get(type_.name)
        return known is not None and _occurs(found, parameter, known)
    return any(_occurs(found, parameter, inner) for inner in type_.parameters)


def most_general(one: Type, other: Type) -> Type:
    return one if _as_general(one, other) else other


def _as_general(one: Type, other: Type) -> bool:
    if is_dyn(one) or one.kind is Kind.PARAMETER:
        return True
    if is_dyn(other) or other.kind is Kind.PARAMETER:
        return False
    if other.kind is Kind.NULL:
        return one.kind in _NULLABLE
    if one.kind is not other.kind:
        return False
    if one.kind in _NESTED or one.kind is Kind.TYPE:
        return (
            one.name == other.name
            and len(one.parameters) == len(other.parameters)
            and all(_as_general(a, b) for a, b in zip(one.parameters, other.parameters, strict=True))
        )
    return one.name == other.name
