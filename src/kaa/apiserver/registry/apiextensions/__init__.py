"""Strategies of the apiextensions group."""
