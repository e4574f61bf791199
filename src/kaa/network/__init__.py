"""Pods reach each other, services, names and the world."""
