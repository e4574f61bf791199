"""CEL values that Python has no exact word for: unsigned ints, instants, durations, optionals.

Everything else is plain: bool, int, float, str, bytes, None, list or tuple, dict or any Mapping. Instants and durations
count nanoseconds, as Go does; Python's datetime stops at microseconds and knows no year 0001 with an offset.

Source: CEL specification "Values"; cel-go common/types; Go's time.Duration.String.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, final

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
UINT_MAX: Final = 2**64 - 1
NANOS: Final = 1_000_000_000
#: seconds since 1970 of 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z
TIMESTAMP_MIN_S: Final = -62135596800
TIMESTAMP_MAX_S: Final = 253402300799


@final
class Uint(int):
    """An unsigned 64-bit integer: ``1u``. Arithmetic on it is the functions' work; Python's own gives plain ints."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{int(self)}u"


@final
@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """An instant, in nanoseconds since 1970 UTC, from year 1 to 9999.

    ``offset_s`` is that of the zone it was written in, seconds east of UTC; it only shows when it becomes text.
    """

    nanos: int
    offset_s: int = field(default=0, compare=False)


@final
@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A span in nanoseconds; at most what 64 signed bits hold (some 292 years)."""

    nanos: int


@final
@dataclass(frozen=True, slots=True)
class OptionalValue:
    """``optional.of(value)``, or `NOTHING` for ``optional.none()``."""

    value: Any = None
    present: bool = True


NOTHING: Final = OptionalValue(None, False)
