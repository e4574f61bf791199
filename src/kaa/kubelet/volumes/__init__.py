"""A pod's volumes on this node: folders made, filled, kept up to date and taken away."""

from .manager import VolumeError, Volumes

__all__ = ["VolumeError", "Volumes"]
