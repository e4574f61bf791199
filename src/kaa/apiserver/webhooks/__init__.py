"""Webhooks: HTTPS servers that have a say in what is stored."""
