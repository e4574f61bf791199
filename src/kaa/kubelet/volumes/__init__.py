"""A pod's volumes on this node: folders made, filled, kept up to date and taken away."""

from .claims import VolumeError
from .manager import Volumes

__all__ = ["VolumeError", "Volumes"]
