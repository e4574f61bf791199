"""exec, attach and port-forward as kubectl speaks them: channels over WebSocket, streams over SPDY/3.1."""
