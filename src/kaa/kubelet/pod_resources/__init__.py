"""Who has which CPUs, memory and devices of the node, told to monitors and schedulers on it: the gRPC service PodResourcesLister."""
