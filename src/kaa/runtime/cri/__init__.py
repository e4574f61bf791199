"""Any container runtime that serves the CRI (``runtime.v1``) on a Unix socket: containerd, CRI-O."""
