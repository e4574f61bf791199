"""The kaa command: one module per verb."""
