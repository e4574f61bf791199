"""Our own container runtime: images, snapshots and bundles here; runc or crun runs containers, conmon keeps them.

Start at ``runtime.OciRuntime``. Pure: ``reference``, ``bundle``, ``usage``. On disk: ``images``, ``snapshots``, ``state``.
"""
