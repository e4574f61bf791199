"""Device plugins: programs of vendors that say over gRPC which devices a node has, and what a container needs for one."""


class RpcFailure(Exception):
    """A plugin refused or cannot be reached; the text is gRPC's own."""


class Refused(Exception):
    """What a plugin that asks something of us is told."""
