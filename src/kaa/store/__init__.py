"""A revisioned key-value log with watch, as etcd defines it. Knows keys and bytes, and nothing of Kubernetes."""
