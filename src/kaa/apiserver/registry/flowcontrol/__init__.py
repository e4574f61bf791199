"""Strategies of the flowcontrol group."""
