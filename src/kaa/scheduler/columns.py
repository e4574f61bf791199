"""The vocabulary of columns: arrays over the rows of a snapshot, and what changed in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .template import Template

Mask = NDArray[np.bool_]
#: The rows of one correction: a slice for one row, an index array for several.
Rows = slice | NDArray[np.intp]
Vector = NDArray[np.int64]


class Move(NamedTuple):
    """A pod of ``template`` came to (+1) or left (-1) a row."""

    row: int
    template: Template
    sign: int
