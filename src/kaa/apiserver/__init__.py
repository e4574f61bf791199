"""The API server: requests in, bytes out, one pipeline for every transport."""
