"""internal.apiserver.k8s.io."""
