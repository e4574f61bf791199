"""The kubelet's servers: who may ask, and what is answered; logs and streams of containers."""
