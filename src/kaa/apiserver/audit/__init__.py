"""Audit: who did what to the API, written down as the policy says. Nothing of it is loaded or run unless it is on."""
