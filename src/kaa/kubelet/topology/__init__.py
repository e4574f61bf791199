"""Which CPUs, memory and devices of the node a container gets, near each other where a policy asks for it."""
