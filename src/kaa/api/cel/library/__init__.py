"""The libraries that Kubernetes gives to expressions, one module each."""

from __future__ import annotations

from .. import standard
from ..declarations import Library

#: what every expression may call
KUBERNETES: tuple[Library, ...] = (standard.LIBRARY, standard.OPTIONAL_TYPES)
