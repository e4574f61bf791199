"""The objects every cluster starts with, and keeping them as they should be."""
