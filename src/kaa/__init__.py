"""kaa: Kubernetes 1.36, in Python."""

__version__ = "0.1.0"
