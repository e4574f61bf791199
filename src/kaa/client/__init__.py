"""One client, two transports: everything that talks to a Kubernetes API server talks through here."""
