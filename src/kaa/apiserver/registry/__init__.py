"""A strategy per resource: what its defaults are, what may change, what is selected and shown."""
