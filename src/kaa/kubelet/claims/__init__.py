"""Dynamic resource allocation on the node: drivers make a pod's claimed devices ready, and take them back."""

from kaa.runtime.base import RuntimeFailure


class ClaimFailure(RuntimeFailure):
    """Claims could not be prepared or taken back; to be tried again."""
