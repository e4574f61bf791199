"""Dynamic resource allocation on the node: drivers make a pod's claimed devices ready, and take them back."""
