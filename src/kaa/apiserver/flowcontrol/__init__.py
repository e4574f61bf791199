"""Priority and fairness: who waits when the API server is busy."""
