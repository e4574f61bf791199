"""Who asks: client certificates, bearer tokens, and nobody."""
