"""Plugins that see every write before it is stored: first those that change it, then those that refuse it."""
