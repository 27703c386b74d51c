"""Whose key a request carries, and whether that key may send."""
