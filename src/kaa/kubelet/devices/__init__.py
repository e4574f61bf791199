"""Device plugins: programs of vendors that say over gRPC which devices a node has, and what a container needs for one."""
