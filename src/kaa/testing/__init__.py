"""Builders and fixtures for tests against kaa."""
