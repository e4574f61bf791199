"""Asking containers how they are, and hooks at their start and end."""
