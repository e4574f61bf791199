"""Strategies of the rbac group."""
