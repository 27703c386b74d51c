"""Limits of keys beyond this host: what gateways share, and what is counted in days."""
