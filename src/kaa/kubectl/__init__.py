"""Reserved for kaa's own kubectl; until it stands, the original one drives kaa."""
