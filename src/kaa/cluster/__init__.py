"""Puts the pieces together: wiring, and no decisions."""
