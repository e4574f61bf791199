"""A container's image, and those of image volumes: whether to pull, with whose credentials, how often to try again.

``manager`` is what pods use. ``keyring`` finds credentials in secrets, in the node's own files and (``providers``) by asking
programs; ``records`` remembers who pulled what, so that one tenant's private image is not handed to another.
"""

from .manager import ImageError, Images, Say

__all__ = ["ImageError", "Images", "Say"]
