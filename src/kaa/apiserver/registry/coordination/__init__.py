"""Strategies of the coordination group."""
