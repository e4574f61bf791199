"""Sandboxes, containers and images behind one Protocol. Knows nothing of Kubernetes kinds."""
