"""Strategies of the node group."""
