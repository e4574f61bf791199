"""Reserved for the dashboard."""
