"""Strategies of the certificates group."""
