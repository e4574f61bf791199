"""What a node uses and counts, and how that is told: summary, metrics-server's, cAdvisor's and the kubelet's own figures."""
